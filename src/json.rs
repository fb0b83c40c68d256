//! Strict JSON for a verifier: one object, no duplicate names, and nothing that two parsers could
//! read differently.
//!
//! Every value is first kept as raw text, and then read as the type that it should have. So a value
//! of the wrong type differs from an absent one, and the result does not depend on the features of
//! serde_json (`arbitrary_precision`, `float_roundtrip`, …) that an application turns on.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The maximum nesting depth of a member that is not read.
const MAX_UNREAD_DEPTH: usize = 32;

/// The text is not exactly one JSON object in the strict sense of this module.
#[derive(Debug)]
pub(crate) struct NotAnObject;

/// A member of an object as its raw text; `None` is absent.
pub(crate) type Member<'a> = Option<&'a RawValue>;

/// Reads `text` as exactly one object. `slot` returns where to store the member with a given name.
///
/// A duplicate name is an error, even if it is escaped differently. A value without a slot is
/// checked for lone surrogates and deep nesting.
pub(crate) fn read_object<'a, T: Default>(
    text: &'a str,
    slot: impl for<'t> Fn(&'t mut T, &str) -> Option<&'t mut Member<'a>>,
) -> Result<T, NotAnObject> {
    let mut json = serde_json::Deserializer::from_str(text);
    let object = Object { slot, members: PhantomData };
    let members = json.deserialize_map(object).map_err(|_| NotAnObject)?;
    json.end().map_err(|_| NotAnObject)?;
    Ok(members)
}

/// Rewrites `\/` as `/`, which means the same in JSON (RFC 8259 section 7), and returns the new
/// length. Cognito escaped every slash until 2026, and a value without escapes can be borrowed.
///
/// Neither is valid JSON outside a string, so this cannot make a malformed text well-formed.
pub(crate) fn unescape_slashes(text: &mut [u8]) -> usize {
    // `contains` compares many bytes at once, and usually there is no backslash.
    if !text.contains(&b'\\') {
        return text.len();
    }
    let first = text.iter().position(|byte| *byte == b'\\').unwrap_or_default();
    let (mut from, mut to) = (first, first);
    while let Some(&byte) = text.get(from) {
        let next = text.get(from.saturating_add(1)).copied();
        let is_pair = byte == b'\\' && next.is_some();
        let kept: &[u8] = match (is_pair, next) {
            (true, Some(b'/')) => b"/",
            (true, Some(next)) => &[byte, next],
            _ => &[byte],
        };
        if let Some(target) = text.get_mut(to..to.saturating_add(kept.len())) {
            target.copy_from_slice(kept);
        }
        to = to.saturating_add(kept.len());
        from = from.saturating_add(if is_pair { 2 } else { 1 });
    }
    to
}

/// Returns the value as a string, if it is one.
pub(crate) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if quoted.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(quoted))
    }
}

/// Returns the value as an array of strings, if it is one.
pub(crate) fn strings(raw: &RawValue) -> Option<Vec<String>> {
    if raw.get().starts_with('[') { serde_json::from_str(raw.get()).ok() } else { None }
}

/// Returns the value as a NumericDate (RFC 7519 section 2), floored to whole seconds, if it is a
/// number within the years -9999 to 9999.
///
/// It is parsed with integers: an `f64` would round, and would round differently with serde_json's
/// `float_roundtrip`.
pub(crate) fn numeric_date(raw: &RawValue) -> Option<i64> {
    const MAX_DIGITS: i64 = 12;

    let text = raw.get();
    // Cognito writes plain integers.
    if let Ok(seconds) = text.parse() {
        return (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some(seconds);
    }
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, clamped_exponent(exponent)),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));

    // The value is 0.d1d2d3… times ten to the power of `point`, without leading zeros.
    let digits = || whole.bytes().chain(fraction.bytes());
    let leading_zeros = digits().take_while(|&digit| digit == b'0').count();
    let significant = digits().skip(leading_zeros);
    let point = i64::try_from(whole.len()).ok()?.saturating_add(exponent);
    let point = point.saturating_sub(i64::try_from(leading_zeros).ok()?);
    if significant.clone().next().is_none() {
        return Some(0);
    }
    if point > MAX_DIGITS {
        return None;
    }
    let whole_digits = usize::try_from(point).unwrap_or(0);
    let magnitude = significant
        .clone()
        .chain(std::iter::repeat(b'0'))
        .take(whole_digits)
        .fold(0_i64, |sum, digit| {
            sum.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
        });
    let has_fraction = significant.skip(whole_digits).any(|digit| digit != b'0');
    let seconds = match (negative, has_fraction) {
        (false, _) => magnitude,
        (true, false) => magnitude.saturating_neg(),
        (true, true) => magnitude.saturating_neg().saturating_sub(1),
    };
    (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some(seconds)
}

/// -9999-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST_SECOND: i64 = -377_705_116_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Clamps an exponent that does not fit an integer: a text of 16 KiB does not have enough digits to
/// make a difference.
fn clamped_exponent(text: &str) -> i64 {
    const BEYOND: i64 = 1_000_000_000;

    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let magnitude = digits.iter().fold(0_i64, |sum, digit| {
        let next = sum.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')));
        next.min(BEYOND)
    });
    if negative { magnitude.saturating_neg() } else { magnitude }
}

struct Object<T, F> {
    slot: F,
    members: PhantomData<T>,
}

impl<'de, T, F> Visitor<'de> for Object<T, F>
where
    T: Default,
    F: for<'t> Fn(&'t mut T, &str) -> Option<&'t mut Member<'de>>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    // There is only `visit_map`: serde's derive would also accept an array in the order of the fields.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<T, A::Error> {
        let mut members = T::default();
        let mut other_names = SeenNames::default();
        while let Some(name) = object.next_key_seed(Name)? {
            let raw: &'de RawValue = object.next_value()?;
            let is_new = match (self.slot)(&mut members, &name) {
                Some(member) => member.replace(raw).is_none(),
                None if !is_well_formed(raw.get()) => {
                    return Err(de::Error::custom(
                        "a value has a lone surrogate or is nested too deeply",
                    ));
                }
                None => other_names.insert(name),
            };
            if !is_new {
                return Err(de::Error::custom("duplicate name"));
            }
        }
        if !other_names.are_distinct() {
            return Err(de::Error::custom("duplicate name"));
        }
        Ok(members)
    }
}

/// The names of members that are not read. The first eight names are stored inline, so a token in
/// Cognito's usual shape allocates nothing here.
#[derive(Default)]
struct SeenNames<'a> {
    first: [&'a str; 8],
    count: usize,
    others: Vec<NameKey<'a>>,
    /// The names that were written with escapes.
    escaped: Vec<String>,
}

impl<'a> SeenNames<'a> {
    /// Returns `false` if the name equals one of the first eight.
    fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.first.iter().take(self.count).any(|first| *first == name) {
            return false;
        }
        match (name, self.first.get_mut(self.count)) {
            (Cow::Borrowed(name), Some(free)) => {
                *free = name;
                self.count = self.count.saturating_add(1);
            }
            (Cow::Borrowed(name), None) => self.others.push(NameKey::new(name)),
            (Cow::Owned(name), _) => self.escaped.push(name),
        }
        true
    }

    /// Returns `false` if a name occurs twice.
    ///
    /// A client without a valid token chooses the names. Sorting takes `n log n` steps for any names,
    /// and is faster than a hash set with a hash that no names can slow down.
    fn are_distinct(mut self) -> bool {
        if self.others.is_empty() && self.escaped.is_empty() {
            return true;
        }
        let first = self.first.iter().take(self.count).map(|name| NameKey::new(name));
        self.others.extend(first);
        self.others.sort_unstable();
        self.escaped.sort_unstable();
        let is_plain = |name: &String| self.others.binary_search(&NameKey::new(name)).is_ok();
        self.others.windows(2).all(|pair| pair.first() != pair.last())
            && self.escaped.windows(2).all(|pair| pair.first() != pair.last())
            && !self.escaped.iter().any(is_plain)
    }
}

/// A name to sort. Its first eight bytes are compared as a number, which decides most comparisons.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct NameKey<'a> {
    prefix: u64,
    name: &'a str,
}

impl<'a> NameKey<'a> {
    fn new(name: &'a str) -> Self {
        let mut prefix = [0; 8];
        prefix.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Self { prefix: u64::from_be_bytes(prefix), name }
    }
}

/// The name of a member, unescaped, and borrowed if it had no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Checks valid JSON for lone surrogates and deep nesting, which serde_json accepts in a value that it
/// keeps as raw text.
pub(crate) fn is_well_formed(json: &str) -> bool {
    let mut depth = 0_usize;
    let mut rest = json.as_bytes();
    let mut in_string = false;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => match (unicode_escape(tail), tail) {
                (Some((unit, after)), _) if is_high_surrogate(unit) => {
                    let low = after.strip_prefix(b"\\").and_then(unicode_escape);
                    match low {
                        Some((low, after)) if is_low_surrogate(low) => rest = after,
                        _ => return false,
                    }
                }
                (Some((unit, _)), _) if is_low_surrogate(unit) => return false,
                (_, [_, after @ ..]) => rest = after,
                (_, []) => return false,
            },
            b'[' | b'{' if !in_string => {
                depth = depth.saturating_add(1);
                if depth > MAX_UNREAD_DEPTH {
                    return false;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// Reads `uXXXX`, and returns the code unit and the rest of the text.
fn unicode_escape(text: &[u8]) -> Option<(u32, &[u8])> {
    let (hex, after) = text.strip_prefix(b"u")?.split_at_checked(4)?;
    let hex = std::str::from_utf8(hex).ok()?;
    Some((u32::from_str_radix(hex, 16).ok()?, after))
}

fn is_high_surrogate(unit: u32) -> bool {
    (0xd800..=0xdbff).contains(&unit)
}

fn is_low_surrogate(unit: u32) -> bool {
    (0xdc00..=0xdfff).contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[track_caller]
    fn check_date(json: &str, expected: Option<i64>) {
        assert_eq!(numeric_date(raw(json)), expected, "{json}");
    }

    #[test]
    fn numeric_date_in_every_notation_is_parsed() {
        check_date("0", Some(0));
        check_date("-0", Some(0));
        check_date("-0.0e5", Some(0));
        check_date("0e999999999999999999999", Some(0));
        check_date("1700000000", Some(1_700_000_000));
        check_date("1.7e9", Some(1_700_000_000));
        check_date("1.7E+9", Some(1_700_000_000));
        check_date("17000000000000e-4", Some(1_700_000_000));
        check_date("1700000000.999", Some(1_700_000_000));
        check_date("1700000000.0", Some(1_700_000_000));
        check_date("0.5", Some(0));
        check_date("-0.5", Some(-1));
        check_date("-1.0", Some(-1));
        check_date("-1.5", Some(-2));
        check_date("1e-400", Some(0));
        check_date("-1e-400", Some(-1));
        check_date("0.00017e13", Some(1_700_000_000));
    }

    #[test]
    fn numeric_date_beyond_four_digit_years_is_none() {
        check_date("253402300799", Some(253_402_300_799));
        check_date("253402300799.9", Some(253_402_300_799));
        check_date("253402300800", None);
        check_date("-377705116800", Some(-377_705_116_800));
        check_date("-377705116800.1", None);
        check_date("-377705116801", None);
        check_date("9007199254740993", None);
        check_date("18446744073709551616", None);
        check_date("1e300", None);
        check_date("1e99999999999999999999", None);
        let million_digits = "9".repeat(1_000_000);
        check_date(&million_digits, None);
        check_date(&format!("{million_digits}e-999990"), Some(9_999_999_999));
        check_date(&format!("0.{}17e1000002", "0".repeat(999_992)), Some(1_700_000_000));
    }

    #[test]
    fn numeric_date_of_another_type_is_none() {
        for json in ["null", "true", "\"1700000000\"", "[1700000000]", "{}", "\"-1\""] {
            check_date(json, None);
        }
    }

    #[test]
    fn string_is_read_with_and_without_escapes() {
        assert_eq!(string(raw(r#""a/b""#)).as_deref(), Some("a/b"));
        assert_eq!(string(raw(r#""a\/b""#)).as_deref(), Some("a/b"));
        assert_eq!(string(raw(r#""""#)).as_deref(), Some(""));
        assert_eq!(string(raw(r#""\ud83d\ude00""#)).as_deref(), Some("😀"));
        for json in [r#""\ud83d""#, r#""\ude00\ud83d""#, "null", "1", "[\"a\"]", "{}"] {
            assert_eq!(string(raw(json)), None, "{json}");
        }
    }

    #[track_caller]
    fn check_slashes(text: &str, expected: &str) {
        let mut bytes = text.as_bytes().to_vec();
        let length = unescape_slashes(&mut bytes);
        assert_eq!(std::str::from_utf8(&bytes[..length]), Ok(expected), "{text}");
    }

    #[test]
    fn unescape_slashes_changes_only_slashes() {
        check_slashes("", "");
        check_slashes("plain/", "plain/");
        check_slashes(r"a\/b\/", "a/b/");
        check_slashes(r"\/\/\/", "///");
        check_slashes(r"a\\/b", r"a\\/b");
        check_slashes(r"a\\\/b", r"a\\/b");
        check_slashes(r#"\"\u002f\n\/"#, r#"\"\u002f\n/"#);
        check_slashes(r"ends in \", r"ends in \");
    }

    #[test]
    fn duplicate_name_is_rejected_in_every_escaping_and_position() {
        let members = |names: &[&str]| {
            let members = names.iter().map(|name| format!("\"{name}\":0"));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        };
        let many = (0..40).map(|n| format!("n{n}")).collect::<Vec<_>>();
        let many = many.iter().map(String::as_str).collect::<Vec<_>>();
        check_object(&members(&many), true);
        for twice in ["n0", "n7", "n8", "n39", "\\u006e0", "\\u006e39"] {
            let all = many.iter().copied().chain([twice]).collect::<Vec<_>>();
            check_object(&members(&all), false);
            let all = [twice].into_iter().chain(many.iter().copied()).collect::<Vec<_>>();
            check_object(&members(&all), false);
        }
    }

    #[track_caller]
    fn check_object(json: &str, accepted: bool) {
        let verdict = read_object(json, |known, name| (name == "known").then_some(known));
        assert_eq!(verdict.is_ok(), accepted, "{json}");
    }

    #[test]
    fn object_is_read_strictly() {
        check_object("{}", true);
        check_object(" {\n} ", true);
        check_object(r#"{"known":1,"other":2}"#, true);
        check_object("{} {}", false);
        check_object("[]", false);
        check_object("[1]", false);
        check_object("null", false);
        check_object("\u{feff}{}", false);
        check_object(r#"{"known":1,"known":1}"#, false);
        check_object(r#"{"other":1,"other":1}"#, false);
        check_object(r#"{"known":1,"\u006bnown":1}"#, false);
        check_object(r#"{"other":1,"\u006fther":1}"#, false);
        check_object(r#"{"\ud800":1}"#, false);
        check_object("{\"a\":\"\u{0}\"}", false);
        check_object(r#"{"a":1,}"#, false);
        check_object(r#"{"a":01}"#, false);
        check_object(r#"{"a":NaN}"#, false);
    }

    #[test]
    fn unread_value_with_lone_surrogate_or_deep_nesting_is_rejected() {
        check_object(r#"{"a":"\ud83d\ude00"}"#, true);
        check_object(r#"{"a":"\\ud800"}"#, true);
        check_object(r#"{"a":"\ud800"}"#, false);
        check_object(r#"{"a":"\udc00"}"#, false);
        check_object(r#"{"a":"\ud800\u0041"}"#, false);
        check_object(r#"{"a":"\ud800\n"}"#, false);
        check_object(r#"{"a":["\\\ud800"]}"#, false);
        check_object(r#"{"a":{"\udfff":1}}"#, false);
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        check_object(&nested(32), true);
        check_object(&nested(33), false);
        check_object(&nested(100_000), false);
        check_object(&format!("{{\"a\":[{}]}}", vec!["[]"; 100].join(",")), true);
        check_object(&format!("{{\"a\":\"{}\"}}", "[".repeat(100)), true);
        let closed_in_strings = r#"["]","#.repeat(33);
        check_object(&format!("{{\"a\":{closed_in_strings}0{}}}", "]".repeat(33)), false);
        check_object(r#"{"a":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}"#, true);
    }
}
