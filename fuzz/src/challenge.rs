//! A parser of challenges (RFC 9110 section 11.6.1, RFC 6750 section 3).

#[derive(Debug)]
pub struct Challenge {
    pub scheme: String,
    pub params: Vec<(String, String)>,
}

/// Parses a field value that is one challenge whose parameters are all quoted strings.
pub fn read(value: &str) -> Option<Challenge> {
    let (scheme, mut rest) = value.split_once(' ')?;
    is_token(scheme).then_some(())?;
    let mut params = Vec::<(String, String)>::new();
    loop {
        let (name, after) = rest.split_once('=')?;
        is_token(name).then_some(())?;
        let mut text = String::new();
        let mut characters = after.strip_prefix('"')?.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => text.push(characters.next()?),
                character @ ('\t' | ' '..='~' | '\u{80}'..) => text.push(character),
                _ => return None,
            }
        }
        if params.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            return None;
        }
        params.push((name.to_owned(), text));
        rest = match characters.as_str() {
            "" => break,
            more => more.strip_prefix(", ")?,
        };
    }
    Some(Challenge { scheme: scheme.to_owned(), params })
}

impl Challenge {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns the field value.
    pub fn print(&self) -> String {
        let quoted = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#);
        let params =
            self.params.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value)));
        format!("{} {}", self.scheme, params.collect::<Vec<_>>().join(", "))
    }

    /// Returns `true` if the values have only the characters that RFC 6750 section 3 allows.
    pub fn is_bearer(&self) -> bool {
        let is_plain =
            |text: &str| text.bytes().all(|b| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        let is_scope = |text: &str| {
            let is_one = |one: &str| !one.is_empty() && !one.contains(' ');
            is_plain(text) && text.split(' ').all(is_one)
        };
        self.scheme == "Bearer"
            && self.get("realm").is_some()
            && ["error", "error_description"].iter().all(|name| self.get(name).is_none_or(is_plain))
            && self.get("scope").is_none_or(is_scope)
    }
}

/// Returns `true` for a `tchar` (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_symbol = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_symbol(byte))
}
