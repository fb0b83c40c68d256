//! Reads a JWK Set: each key is parsed once, when the set is loaded, and a request only uses it.
//!
//! Only the unusable members of a set are skipped, so that one odd key does not disable the others.

mod compromised;
mod key;
mod key_set;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use self::compromised::Registered;
use self::key::{Key, ReadJwk};
use crate::error::InvalidJwks;
use crate::json::{self, Member};

pub(crate) use self::compromised::register as register_compromised;
pub(crate) use self::key::{KeyNumbers, SignatureVerified, SkipReason};
pub(crate) use self::key_set::{HeaderCache, KeySet, KeySetId};

/// The maximum length of a document in bytes. Cognito's documents have about 1 KB.
pub(crate) const MAX_DOCUMENT_LEN: usize = 64 * 1024;

const MAX_KEYS: usize = 100;

/// An error text gives the reason for at most this many skipped keys.
const MAX_SHOWN: usize = 8;

/// A JWK Set ([RFC 7517]): the public keys of one issuer, each parsed once.
///
/// Two sets are equal if they have the same usable keys under the same key IDs. A clone shares the
/// parsed keys.
///
/// ```
/// use tower_cognito::{InvalidJwks, Jwks};
///
/// fn key_ids(document: &str) -> Result<Vec<String>, InvalidJwks> {
///     let jwks = Jwks::from_json(document)?;
///     Ok(jwks.key_ids().map(str::to_owned).collect())
/// }
/// # assert_eq!(key_ids(&tower_cognito::TestIssuer::new().jwks_json()).unwrap().len(), 2);
/// ```
///
/// [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517
#[derive(Clone)]
pub struct Jwks {
    keys: HashMap<Box<str>, Arc<Key>>,
    skipped: Vec<SkippedKey>,
}

impl Jwks {
    /// Reads a JWK Set from a JSON document.
    ///
    /// A member of `keys` is used if it can verify an RS256 signature:
    ///
    /// * `kty` is `RSA`, and there is a `kid`.
    /// * The modulus has 2048 to 8192 bits.
    /// * `alg` is absent or `RS256`, and neither `use` nor `key_ops` forbids verification.
    /// * It contains no private part.
    ///
    /// All other members are skipped. If different keys have the same `kid`, all of them are
    /// skipped.
    ///
    /// The result depends only on the document. A [`Verifier`](crate::Verifier) also rejects every
    /// key whose private part a trusted issuer has published since the process started.
    ///
    /// # Errors
    ///
    /// Returns an error if the document is longer than 64 KiB, is not a JWK Set, has more than 100
    /// keys, or has no usable key. If no key is usable, the text says why for the first 8.
    pub fn from_json(document: impl AsRef<[u8]>) -> Result<Self, InvalidJwks> {
        Self::read(document.as_ref())?.into_usable()
    }

    /// Reads a JWK Set that need not have a usable key.
    pub(crate) fn read(document: &[u8]) -> Result<ReadJwks, InvalidJwks> {
        if document.len() > MAX_DOCUMENT_LEN {
            return Err(InvalidJwks::new("it is longer than 64 KiB"));
        }
        let members = members(document)?;
        if members.len() > MAX_KEYS {
            return Err(InvalidJwks::new("it has more than 100 keys"));
        }

        // A key ID maps to an error if no key may be used under this ID.
        let mut by_id: HashMap<Box<str>, Result<(usize, Key), SkipReason>> = HashMap::new();
        let (mut skipped, mut compromised) = (Vec::new(), Vec::new());
        for (index, member) in members.into_iter().enumerate() {
            let ReadJwk { key_id, key, compromised: numbers } = key::from_jwk(member);
            if let Some(numbers) = numbers {
                compromised.push(CompromisedKey { key_id: key_id.clone(), index, numbers });
            }
            if let Err(reason) = &key {
                skipped.push(SkippedKey { index, reason: *reason });
            }
            let Some(id) = key_id else {
                continue;
            };
            match by_id.get_mut(&id) {
                None => {
                    by_id.insert(id, key.map(|key| (index, key)));
                }
                Some(Ok((_, first))) if key.as_ref() == Ok(first) => {}
                // An unusable member counts, too: which of the two the issuer means is unknown.
                Some(first) => {
                    let reason = SkipReason::Ambiguous;
                    if let Ok((first, _)) = first {
                        skipped.push(SkippedKey { index: *first, reason });
                    }
                    if key.is_ok() {
                        skipped.push(SkippedKey { index, reason });
                    }
                    *first = Err(reason);
                }
            }
        }
        skipped.sort_by_key(|skipped| skipped.index);
        let mut indexes = HashMap::new();
        let keys = by_id.into_iter().filter_map(|(id, key)| {
            let (index, key) = key.ok()?;
            indexes.insert(id.clone(), index);
            Some((id, Arc::new(key)))
        });
        let keys = keys.collect();
        Ok(ReadJwks { jwks: Self { keys, skipped }, indexes, compromised })
    }

    /// Creates the set that is used until the first fetch has succeeded.
    pub(crate) fn empty() -> Self {
        Self { keys: HashMap::new(), skipped: Vec::new() }
    }

    /// Returns the IDs of the usable keys, in no particular order.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(|id| &**id)
    }

    pub(crate) fn get(&self, key_id: &str) -> Option<&Arc<Key>> {
        self.keys.get(key_id)
    }

    pub(crate) fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the IDs of the keys with these numbers.
    pub(crate) fn key_ids_of(&self, numbers: &KeyNumbers) -> impl Iterator<Item = &str> {
        let keys = self.keys.iter().filter(move |(_, key)| key.numbers() == numbers);
        keys.map(|(id, _)| &**id)
    }

    fn has_compromised(&self, registered: &Registered) -> bool {
        self.keys.values().any(|key| registered.contains(key.numbers()))
    }

    /// Removes the keys that are registered as compromised. Returns their IDs.
    fn remove_compromised(&mut self, registered: &Registered) -> Vec<Box<str>> {
        let removed = self.keys.extract_if(|_, key| registered.contains(key.numbers()));
        removed.map(|(id, _)| id).collect()
    }
}

/// A document that was read, and may have no usable key.
pub(crate) struct ReadJwks {
    jwks: Jwks,
    /// The index of each usable key in the document.
    indexes: HashMap<Box<str>, usize>,
    /// The keys whose private part the document contains.
    pub(crate) compromised: Vec<CompromisedKey>,
}

impl ReadJwks {
    pub(crate) fn skipped(&self) -> &[SkippedKey] {
        self.jwks.skipped()
    }

    /// Skips the keys that are registered as compromised: no verifier of this process trusts them.
    pub(crate) fn skip_compromised(&mut self) {
        for id in self.jwks.remove_compromised(&Registered::lock()) {
            if let Some(index) = self.indexes.remove(&id) {
                let skipped = SkippedKey { index, reason: SkipReason::Compromised };
                self.jwks.skipped.push(skipped);
            }
        }
        self.jwks.skipped.sort_by_key(|skipped| skipped.index);
    }

    /// Returns the set.
    ///
    /// # Errors
    ///
    /// Returns an error that says why each key is skipped, if there is no usable key.
    pub(crate) fn into_usable(self) -> Result<Jwks, InvalidJwks> {
        if self.jwks.is_empty() { Err(no_usable_key(self.skipped())) } else { Ok(self.jwks) }
    }
}

/// Creates an error that contains only indexes and reasons: anything else in a document could be of
/// any length, or be secret.
fn no_usable_key(skipped: &[SkippedKey]) -> InvalidJwks {
    if skipped.is_empty() {
        return InvalidJwks::new("it has no usable key");
    }
    let shown = skipped.iter().take(MAX_SHOWN);
    let reasons = shown.map(|SkippedKey { index, reason }| {
        let reason = reason.as_str();
        format!("key {index} is {reason}")
    });
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let more = match skipped.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    InvalidJwks::new(format!("it has no usable key: {reasons}{more}"))
}

impl PartialEq for Jwks {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for Jwks {}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.key_ids()).finish()
    }
}

/// A key whose private part the issuer has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompromisedKey {
    /// `None` if the member has no valid `kid`.
    pub(crate) key_id: Option<Box<str>>,
    pub(crate) index: usize,
    pub(crate) numbers: KeyNumbers,
}

/// A member that was skipped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SkippedKey {
    pub(crate) index: usize,
    pub(crate) reason: SkipReason,
}

fn members(document: &[u8]) -> Result<Vec<&RawValue>, InvalidJwks> {
    let text = std::str::from_utf8(document).map_err(|_| InvalidJwks::new("it is not UTF-8"))?;
    let keys: Member<'_> = json::read_object(text, |keys, name| (name == "keys").then_some(keys))
        .map_err(|_| InvalidJwks::new("it is not a JSON object"))?;
    let keys = keys.ok_or(InvalidJwks::new("it has no member `keys`"))?;
    if !keys.get().starts_with('[') {
        return Err(InvalidJwks::new("its member `keys` is not an array"));
    }
    serde_json::from_str(keys.get())
        .map_err(|_| InvalidJwks::new("its member `keys` cannot be read"))
}

#[cfg(test)]
mod wycheproof;
#[cfg(test)]
mod wycheproof_files;
