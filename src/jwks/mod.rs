//! Reads a JWK Set: each key is parsed once, when the set is loaded, and a request only uses it.
//!
//! Only the unusable members of a set are skipped, so that one odd key does not disable the others.

mod key;
mod key_set;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use self::key::Key;
use crate::error::InvalidJwks;
use crate::json::{self, Member};

pub(crate) use self::key::{SignatureVerified, SkipReason};
pub(crate) use self::key_set::{HeaderCache, KeySet, KeySetId};

/// The maximum length of a document in bytes. Cognito's documents have about 1 KB.
pub(crate) const MAX_DOCUMENT_LEN: usize = 64 * 1024;

const MAX_KEYS: usize = 100;

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
    /// # Errors
    ///
    /// Returns an error if the document is longer than 64 KiB, is not a JWK Set, has more than 100
    /// keys, or has no usable key.
    pub fn from_json(document: impl AsRef<[u8]>) -> Result<Self, InvalidJwks> {
        let document = document.as_ref();
        if document.len() > MAX_DOCUMENT_LEN {
            return Err(InvalidJwks::new("it is longer than 64 KiB"));
        }
        let members = members(document)?;
        if members.len() > MAX_KEYS {
            return Err(InvalidJwks::new("it has more than 100 keys"));
        }

        let mut by_id: HashMap<Box<str>, Result<Key, SkipReason>> = HashMap::new();
        let mut skipped = Vec::new();
        for (index, member) in members.into_iter().enumerate() {
            let (id, key) = match key::from_jwk(member) {
                Ok(read) => read,
                Err(reason) => {
                    skipped.push(SkippedKey { index, reason });
                    continue;
                }
            };
            if let Err(reason) = &key {
                skipped.push(SkippedKey { index, reason: *reason });
            }
            match by_id.get_mut(&id) {
                None => {
                    by_id.insert(id, key);
                }
                Some(first) if *first == key && key.is_ok() => {}
                Some(first) => {
                    *first = Err(SkipReason::Ambiguous);
                    skipped.push(SkippedKey { index, reason: SkipReason::Ambiguous });
                }
            }
        }

        let keys: HashMap<_, _> =
            by_id.into_iter().filter_map(|(id, key)| Some((id, Arc::new(key.ok()?)))).collect();
        if keys.is_empty() {
            return Err(InvalidJwks::new("it has no usable key"));
        }
        Ok(Self { keys, skipped })
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
