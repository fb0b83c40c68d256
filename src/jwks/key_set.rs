//! A JWK Set in use, with its identity and its cache.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::Jwks;
use super::compromised::{self, Registered};
use super::key::{Key, SignatureVerified};

/// A JWK Set that requests use. It is replaced as a whole when the keys change.
pub(crate) struct KeySet {
    id: KeySetId,
    jwks: Jwks,
    header_cache: HeaderCache,
    /// The [generation](compromised::generation) at which this set was last checked. No key of this
    /// set was registered as compromised up to then.
    checked_generation: AtomicU64,
}

impl KeySet {
    pub(crate) fn new(jwks: Jwks) -> Self {
        Self::with(KeySetId::next(), jwks, HeaderCache::default())
    }

    // In generation 0, no key is registered as compromised. In any later one, `is_checked` returns
    // `false` until the first use has checked this set.
    fn with(id: KeySetId, jwks: Jwks, header_cache: HeaderCache) -> Self {
        Self { id, jwks, header_cache, checked_generation: AtomicU64::new(0) }
    }

    /// Returns `true` if no key was registered as compromised since this set was last checked, so that
    /// no key of this set is compromised. Otherwise, [`without_compromised`](Self::without_compromised)
    /// checks it.
    // Every request calls this.
    #[inline(always)]
    pub(crate) fn is_checked(&self) -> bool {
        self.checked_generation.load(Ordering::Relaxed) == compromised::generation()
    }

    /// Checks whether a key of this set is compromised. If one is, returns the set of the other keys,
    /// to use instead of this one. Returns `None` if no key is compromised.
    ///
    /// The returned set has a new ID and an empty header cache, so every cached token of this set is
    /// verified again. It may be empty.
    #[cold]
    pub(crate) fn without_compromised(&self) -> Option<Self> {
        let registered = Registered::lock();
        let generation = compromised::generation();
        if !self.jwks.has_compromised(&registered) {
            self.checked_generation.store(generation, Ordering::Relaxed);
            return None;
        }
        let mut jwks = self.jwks.clone();
        jwks.remove_compromised(&registered);
        let filtered = Self::new(jwks);
        filtered.checked_generation.store(generation, Ordering::Relaxed);
        Some(filtered)
    }

    /// Returns the key set to use after `before`. If the keys are the same, the ID and the header
    /// cache stay the same, too, so that cached tokens are not verified again.
    pub(crate) fn reuse_if_unchanged(jwks: Jwks, before: &Arc<Self>) -> Arc<Self> {
        if jwks != before.jwks {
            return Arc::new(Self::new(jwks));
        }
        if jwks.skipped() == before.jwks.skipped() {
            return Arc::clone(before);
        }
        Arc::new(Self::with(before.id, jwks, before.header_cache.clone()))
    }

    pub(crate) fn id(&self) -> KeySetId {
        self.id
    }

    pub(crate) fn header_cache(&self) -> &HeaderCache {
        &self.header_cache
    }
}

impl Deref for KeySet {
    type Target = Jwks;

    fn deref(&self) -> &Jwks {
        &self.jwks
    }
}

/// Identifies a key set: in one process, different keys have different IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySetId(u64);

impl KeySetId {
    fn next() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Caches the header of the first token that a key set has verified, and the key that this header
/// names.
///
/// Cognito gives all tokens of a key the same header, so most tokens have the cached one, and it is
/// not parsed again. The whole encoded header is compared: an equal text passes the same checks and
/// names the same key.
#[derive(Clone, Default)]
pub(crate) struct HeaderCache(OnceLock<CachedHeader>);

#[derive(Clone)]
struct CachedHeader {
    encoded: Box<str>,
    key: Arc<Key>,
}

impl HeaderCache {
    pub(crate) fn get(&self, encoded_header: &str) -> Option<&Arc<Key>> {
        let cached = self.0.get()?;
        (*cached.encoded == *encoded_header).then_some(&cached.key)
    }

    /// Caches a header unless there is one already. Call it only after the signature was verified:
    /// otherwise, anyone could choose the header that is cached.
    pub(crate) fn insert(&self, encoded_header: &str, key: &Arc<Key>, _: SignatureVerified) {
        self.0
            .get_or_init(|| CachedHeader { encoded: encoded_header.into(), key: Arc::clone(key) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestIssuer;

    /// Returns the issuer's set, with an unusable member of this name if there is a name.
    fn jwks(issuer: &TestIssuer, unusable: Option<&str>) -> Jwks {
        let member = unusable.map(|name| format!(r#",{{"kid":"{name}","kty":"EC"}}]}}"#));
        let json = issuer.jwks_json();
        Jwks::from_json(member.map_or(json.clone(), |end| json.replace("]}", &end))).unwrap()
    }

    /// Verifies a token with this `typ`, and offers its header to the cache.
    fn cache_header(issuer: &TestIssuer, keys: &KeySet, typ: &str) -> String {
        let token = issuer.machine_token("client").header("typ", typ).sign();
        let (signing_input, _) = token.rsplit_once('.').unwrap();
        let (header, _) = signing_input.split_once('.').unwrap();
        let mut buffer = vec![0; token.len()];
        let jws = crate::jws::Jws::from_token(&token, &mut buffer).unwrap();
        let signature = jws.signature;
        let key = keys.get(&jws.header.key_id().unwrap()).unwrap();
        let proof = key.verify(signing_input.as_bytes(), signature).unwrap();
        keys.header_cache().insert(header, key, proof);
        header.to_owned()
    }

    fn has_cached(keys: &KeySet, header: &str) -> bool {
        keys.header_cache().get(header).is_some()
    }

    #[test]
    fn header_cache_returns_only_the_first_header() {
        let issuer = TestIssuer::new();
        let keys = KeySet::new(jwks(&issuer, None));
        assert!(!has_cached(&keys, ""));
        let header = cache_header(&issuer, &keys, "JWT");
        assert!(has_cached(&keys, &header));
        for other in ["", &header[1..], &format!("{header}A"), &header.to_lowercase()] {
            assert!(!has_cached(&keys, other), "{other}");
        }
        let second = cache_header(&issuer, &keys, "at+jwt");
        assert!(has_cached(&keys, &header) && !has_cached(&keys, &second));
    }

    #[test]
    fn id_and_header_cache_stay_while_the_keys_are_the_same() {
        let issuer = TestIssuer::new();
        let before = Arc::new(KeySet::new(jwks(&issuer, None)));
        let header = cache_header(&issuer, &before, "JWT");

        let same = KeySet::reuse_if_unchanged(jwks(&issuer, None), &before);
        assert!(Arc::ptr_eq(&same, &before));

        let skips_another = KeySet::reuse_if_unchanged(jwks(&issuer, Some("odd")), &before);
        assert_eq!(skips_another.id(), before.id());
        assert_eq!(skips_another.skipped().len(), 1);
        assert!(has_cached(&skips_another, &header));

        issuer.rotate();
        let other = KeySet::reuse_if_unchanged(jwks(&issuer, None), &skips_another);
        assert_ne!(other.id(), before.id());
        assert!(!has_cached(&other, &header));
        let back = KeySet::reuse_if_unchanged((**before).clone(), &other);
        assert_ne!(back.id(), before.id());
        assert!(!has_cached(&back, &header));
    }
}
