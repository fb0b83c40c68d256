//! Determines the usable keys of a JWK Set (RFC 7517).

use std::collections::BTreeMap;

use crate::base64url;
use crate::json::{self, Json};

#[derive(Clone, PartialEq)]
struct Key {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// Returns the IDs of the usable keys in order, or `None` if the document must be rejected.
pub fn key_ids(document: &[u8]) -> Option<Vec<String>> {
    if document.len() > 64 * 1024 {
        return None;
    }
    let json = json::read(std::str::from_utf8(document).ok()?)?;
    let members = json::members(&json)?;
    let mut keys = None;
    for (name, value) in members {
        match value {
            Json::Array(items) if name == "keys" => keys = Some(items),
            _ if name == "keys" || !is_clear(value) => return None,
            _ => {}
        }
    }
    let keys = keys.filter(|keys| keys.len() <= 100)?;

    // An ID is usable only if all its members are the same valid key.
    let mut by_id = BTreeMap::<String, Option<Key>>::new();
    for (id, key) in keys.iter().filter_map(read_member) {
        let first = by_id.entry(id).or_insert_with(|| key.clone());
        if *first != key {
            *first = None;
        }
    }
    let ids = by_id.into_iter().filter_map(|(id, key)| key.map(|_| id)).collect::<Vec<_>>();
    (!ids.is_empty()).then_some(ids)
}

/// Returns the ID of a member, and its key if it is usable.
fn read_member(member: &Json) -> Option<(String, Option<Key>)> {
    let members = json::members(member)?;
    let is_read = |name: &str| READ.contains(&name);
    if members.iter().any(|(name, value)| !is_read(name) && !is_clear(value)) {
        return None;
    }
    let get = |name| members.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let id = get("kid")?.as_str().filter(|id| (1..=256).contains(&id.len()))?;
    Some((id.to_owned(), read_key(get)))
}

const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const READ: [&str; 15] =
    ["kid", "kty", "n", "e", "alg", "use", "key_ops", "d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fn read_key<'j>(get: impl Fn(&'static str) -> Option<&'j Json>) -> Option<Key> {
    let is = |name, expected| get(name).is_none_or(|value| value.as_str() == Some(expected));
    let is_private = PRIVATE.iter().any(|name| get(name).is_some());
    if is_private || get("kty")?.as_str() != Some("RSA") || !is("alg", "RS256") || !is("use", "sig")
    {
        return None;
    }
    if let Some(operations) = get("key_ops") {
        operations.as_strings()?.iter().any(|operation| operation == "verify").then_some(())?;
    }
    let number = |name| base64url::decode(get(name)?.as_str()?);
    let (modulus, exponent) = (number("n")?, number("e")?);
    let fits = |number: &[u8], bits| {
        number[0] != 0 && number[number.len() - 1] % 2 == 1 && within(number, bits)
    };
    let is_good = !modulus.is_empty()
        && !exponent.is_empty()
        && fits(&modulus, (2048, 8192))
        && fits(&exponent, (2, 33));
    is_good.then_some(Key { modulus, exponent })
}

fn within(number: &[u8], (least, most): (usize, usize)) -> bool {
    let bits = number.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1));
    (least..=most).contains(&bits.skip_while(|bit| *bit == 0).count())
}

fn is_clear(value: &Json) -> bool {
    value.depth() <= 32 && !value.has_lone_surrogate()
}
