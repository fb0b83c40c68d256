//! A strict parser of JSON (RFC 8259). It keeps everything that a verifier must see: duplicate
//! members, the text of numbers, lone surrogates.

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Array(Vec<Json>),
    Literal(&'static str),
    Number(String),
    Object(Vec<(Text, Json)>),
    String(Text),
    /// An array or object inside more than [`DEPTH`] others.
    TooDeep,
}

/// Returns `None` if there is a lone surrogate, which a string cannot contain.
pub type Text = Option<String>;

const DEPTH: usize = 40;

enum Open {
    Array(Vec<Json>),
    Object(Vec<(Text, Json)>, Text),
}

/// Parses a text that is exactly one value.
pub fn read(text: &str) -> Option<Json> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    // Not recursive, because a text can nest deeper than the stack allows.
    let mut open = Vec::new();
    'values: loop {
        reader.skip_space();
        let mut value = match reader.peek()? {
            b'[' => {
                reader.at += 1;
                reader.skip_space();
                if !reader.eat(b']') {
                    open.push(Open::Array(Vec::new()));
                    continue 'values;
                }
                Json::Array(Vec::new())
            }
            b'{' => {
                reader.at += 1;
                reader.skip_space();
                if !reader.eat(b'}') {
                    open.push(Open::Object(Vec::new(), reader.name()?));
                    continue 'values;
                }
                Json::Object(Vec::new())
            }
            b'"' => Json::String(reader.string()?),
            b'-' | b'0'..=b'9' => Json::Number(reader.number()?),
            _ => Json::Literal(reader.literal()?),
        };
        loop {
            reader.skip_space();
            value = match open.pop() {
                None => return (reader.at == text.len()).then_some(value),
                Some(Open::Array(mut items)) => {
                    items.push(value);
                    if reader.eat(b',') {
                        open.push(Open::Array(items));
                        continue 'values;
                    }
                    reader.expect(b']')?;
                    Json::Array(items)
                }
                Some(Open::Object(mut members, name)) => {
                    members.push((name, value));
                    if reader.eat(b',') {
                        reader.skip_space();
                        open.push(Open::Object(members, reader.name()?));
                        continue 'values;
                    }
                    reader.expect(b'}')?;
                    Json::Object(members)
                }
            };
            if open.len() > DEPTH {
                value = Json::TooDeep;
            }
        }
    }
}

impl Json {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => text.as_deref(),
            _ => None,
        }
    }

    pub fn as_strings(&self) -> Option<Vec<String>> {
        match self {
            Self::Array(items) => items.iter().map(|item| Some(item.as_str()?.into())).collect(),
            _ => None,
        }
    }

    /// Returns how deeply arrays and objects are nested.
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => {
                1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
            }
            Self::TooDeep => DEPTH,
            _ => 0,
        }
    }

    pub fn has_lone_surrogate(&self) -> bool {
        match self {
            Self::Array(items) => items.iter().any(Self::has_lone_surrogate),
            Self::Object(members) => {
                members.iter().any(|(name, value)| name.is_none() || value.has_lone_surrogate())
            }
            Self::String(text) => text.is_none(),
            _ => false,
        }
    }
}

/// Returns the members of an object, or `None` if a name is repeated or is not a valid string.
pub fn members(json: &Json) -> Option<Vec<(&str, &Json)>> {
    let Json::Object(members) = json else {
        return None;
    };
    let members: Vec<(&str, &Json)> = members
        .iter()
        .map(|(name, value)| Some((name.as_deref()?, value)))
        .collect::<Option<_>>()?;
    let mut names = members.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    names.sort_unstable();
    let has_twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    (!has_twice).then_some(members)
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn literal(&mut self) -> Option<&'static str> {
        let rest = &self.text[self.at..];
        let known = ["null", "true", "false"];
        let literal = known.into_iter().find(|known| rest.starts_with(known.as_bytes()))?;
        self.at += literal.len();
        Some(literal)
    }

    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }

    fn number(&mut self) -> Option<String> {
        let begin = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        String::from_utf8(self.text[begin..self.at].to_vec()).ok()
    }

    fn name(&mut self) -> Option<Text> {
        let name = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        Some(name)
    }

    fn string(&mut self) -> Option<Text> {
        self.expect(b'"')?;
        // Collect UTF-16, because escapes are UTF-16.
        let mut units = Vec::new();
        let mut begin = self.at;
        loop {
            let end = self.at;
            let byte = self.next()?;
            if byte < 0x20 {
                return None;
            }
            if byte != b'"' && byte != b'\\' {
                continue;
            }
            let plain = std::str::from_utf8(&self.text[begin..end]).ok()?;
            units.extend(plain.encode_utf16());
            if byte == b'"' {
                return Some(String::from_utf16(&units).ok());
            }
            units.push(match self.next()? {
                escaped @ (b'"' | b'\\' | b'/') => u16::from(escaped),
                b'b' => 8,
                b't' => 9,
                b'n' => 10,
                b'f' => 12,
                b'r' => 13,
                b'u' => self.hex()?,
                _ => return None,
            });
            begin = self.at;
        }
    }

    fn hex(&mut self) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.next()?).to_digit(16)?;
            unit = unit << 4 | digit as u16;
        }
        Some(unit)
    }
}
