//! Caches verified tokens, because a machine-to-machine client presents one token for up to an hour.
//!
//! Why a hit is safe:
//!
//! * Only verified tokens are inserted, and a lookup compares **every byte** of the token. The hash
//!   covers only a part of the token, and only chooses where to look.
//! * An entry names the key set that verified it ([`KeySetId`]), and is used only while that set is
//!   the current one of its pool. Removing or replacing a key invalidates the tokens that it signed
//!   in the same instant. An entry that is inserted during a key change is never used.
//! * The caller repeats every check that depends on the time or on the application at each hit:
//!   `exp`, `nbf`, the age of the keys, and the application's own check.
//! * Each verifier has its own cache, so its rules apply to every entry.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use crossbeam_utils::sync::ShardedLock;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, Weighter};

use crate::jwks::KeySetId;
use crate::verify::AccessToken;

/// Longer tokens are not cached, so they are verified at every request.
const MAX_CACHED_LEN: usize = 8 * 1024;

/// Bytes that an entry takes besides the token and its claims: the entry itself, its places in the
/// tables of the cache, and the allocator's overhead for each allocation. The tests measure that
/// this is enough.
const ENTRY_OVERHEAD: usize = 512;

/// About how many bytes the entry of a machine-to-machine token takes in total.
const TYPICAL_ENTRY_LEN: usize = 2 * 1024;

/// An insertion locks its whole segment, so more segments block fewer lookups.
const MAX_SEGMENTS: usize = 8;

/// Enough for three of the largest entries. A small cache has fewer segments.
const MIN_SEGMENT_CAPACITY: usize = 256 * 1024;

pub(crate) struct TokenCache<S = DefaultHashBuilder> {
    /// Empty if the cache is off, and otherwise a power of two.
    segments: Box<[Segment]>,
    hasher: S,
}

/// Threads that look tokens up lock different cache lines, so that one hot token does not slow all
/// of them down. Only the single-threaded cache of quick_cache is used, because the features that
/// choose the lock of its `sync` cache exclude each other, and another crate may need either.
type Segment = ShardedLock<Cache<CachedToken, CacheEntry, ByteWeigher, BuildKnownHash>>;

/// A verified token, the pool whose rules accepted it, and the key set that verified it.
#[derive(Clone)]
pub(crate) struct CacheEntry {
    pub(crate) token: AccessToken,
    pub(crate) pool: usize,
    pub(crate) keys: KeySetId,
}

impl TokenCache {
    /// Creates a cache that holds at most `capacity` bytes. With 0, the cache is off.
    pub(crate) fn new(capacity: usize) -> Self {
        // The seeds are random, and only signed tokens are inserted, so an attacker cannot choose
        // tokens that collide.
        Self::with_hasher(capacity, DefaultHashBuilder::default())
    }
}

impl<S: BuildHasher> TokenCache<S> {
    fn with_hasher(capacity: usize, hasher: S) -> Self {
        let most = (capacity / MIN_SEGMENT_CAPACITY).clamp(1, MAX_SEGMENTS);
        let count = if capacity == 0 { 0 } else { 1 << most.ilog2() };
        let capacity = capacity.checked_div(count).unwrap_or(0);
        let items = capacity.div_ceil(TYPICAL_ENTRY_LEN);
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        let segments = (0..count).map(|_| {
            let (hasher, lifecycle) = (BuildKnownHash::default(), DefaultLifecycle::default());
            ShardedLock::new(Cache::with(items, weight, ByteWeigher, hasher, lifecycle))
        });
        Self { segments: segments.collect(), hasher }
    }

    /// Does not allocate: cloning an entry increments a reference count.
    pub(crate) fn get(&self, token: &[u8]) -> Option<CacheEntry> {
        let (segment, hash) = self.segment(token)?;
        // A thread that panicked while it changed a segment may have left it inconsistent, so a
        // poisoned segment is not used again: its tokens are verified at every request.
        let segment = segment.read().ok()?;
        segment.get(&LookupKey { token, hash }).cloned()
    }

    pub(crate) fn insert(&self, token: &str, entry: CacheEntry) {
        if token.len() <= MAX_CACHED_LEN
            && let Some((segment, hash)) = self.segment(token.as_bytes())
        {
            let token = CachedToken { token: token.into(), hash };
            if let Ok(mut segment) = segment.write() {
                segment.insert(token, entry);
            }
        }
    }

    /// Returns the segment of a token, and the token's hash.
    #[inline]
    fn segment(&self, token: &[u8]) -> Option<(&Segment, u64)> {
        let mask = self.segments.len().checked_sub(1)?;
        let mut hasher = self.hasher.build_hasher();
        hasher.write(hashed_part(token));
        let hash = hasher.finish();
        // The table in a segment uses the lowest and the highest bits.
        let index = usize::try_from(hash >> 32).ok()? & mask;
        Some((self.segments.get(index)?, hash))
    }
}

impl<S> fmt::Debug for TokenCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}

/// A token as it was presented. Not `Debug`, because it is a credential.
#[derive(PartialEq, Eq)]
struct CachedToken {
    token: Box<str>,
    hash: u64,
}

/// A token to look up, compared with [`CachedToken`]s.
struct LookupKey<'t> {
    token: &'t [u8],
    hash: u64,
}

impl Equivalent<CachedToken> for LookupKey<'_> {
    #[inline]
    fn equivalent(&self, cached: &CachedToken) -> bool {
        let (token, cached) = (self.token, cached.token.as_bytes());
        // Compare the end of the signature first: timing then reveals nothing about the rest to
        // anyone who has not already guessed it.
        let (head, tail) = token.split_at(tail_start(token));
        let (cached_head, cached_tail) = cached.split_at(tail_start(cached));
        tail == cached_tail && head == cached_head
    }
}

impl Hash for CachedToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for LookupKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

type BuildKnownHash = BuildHasherDefault<KnownHash>;

/// Returns the hash that the key already contains. It chooses the segment and the place in it, and is
/// computed only once for each lookup.
#[derive(Default)]
struct KnownHash(u64);

impl Hasher for KnownHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// Is not called: a key writes only its hash.
    fn write(&mut self, _: &[u8]) {}
}

/// Returns the first 32 of the token's last 64 characters. In a verified token they are a part of
/// the signature, so they differ from token to token as random characters would. A forged token
/// with the same 32 characters costs one more comparison, and is then verified like any other.
fn hashed_part(token: &[u8]) -> &[u8] {
    let start = tail_start(token);
    token.get(start..start.saturating_add(32)).unwrap_or(token)
}

/// Returns where the last 64 characters of the token start, or 0 if the token is shorter.
fn tail_start(token: &[u8]) -> usize {
    token.len().saturating_sub(64)
}

/// Weighs an entry in bytes.
#[derive(Clone)]
struct ByteWeigher;

impl Weighter<CachedToken, CacheEntry> for ByteWeigher {
    fn weight(&self, token: &CachedToken, entry: &CacheEntry) -> u64 {
        let bytes = token.token.len().saturating_add(entry.token.len_in_memory());
        u64::try_from(bytes.saturating_add(ENTRY_OVERHEAD)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::LazyLock;
    use std::thread;
    use std::time::SystemTime;

    use allocation_counter::measure;

    use super::*;
    use crate::jwks::KeySet;
    use crate::test_issuer::TokenBuilder;
    use crate::{ClientIds, Jwks, Rules, TestIssuer, verify};

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    /// About the length of a token from Cognito.
    const TYPICAL_LEN: usize = 900;

    struct Issuer {
        issuer: TestIssuer,
        keys: Jwks,
        key_set_id: KeySetId,
        rules: Rules,
        token: AccessToken,
    }

    fn issuer() -> &'static Issuer {
        static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
            let issuer = TestIssuer::new();
            let (keys, rules) = (issuer.jwks(), Rules::new(issuer.user_pool(), ClientIds::any()));
            let text = issuer.machine_token("client").sign();
            let token = verify(&text, &keys, &rules, SystemTime::now()).unwrap();
            let key_set_id = KeySet::new(keys.clone()).id();
            Issuer { issuer, keys, key_set_id, rules, token }
        });
        &ISSUER
    }

    fn verified(text: &str) -> AccessToken {
        let Issuer { keys, rules, .. } = issuer();
        verify(text, keys, rules, SystemTime::now()).unwrap()
    }

    fn machine() -> TokenBuilder {
        issuer().issuer.machine_token("client")
    }

    /// Stores the number as the pool's index, so that entries can be told apart.
    fn entry(number: usize) -> CacheEntry {
        let Issuer { token, key_set_id, .. } = issuer();
        CacheEntry { token: token.clone(), pool: number, keys: *key_set_id }
    }

    /// Returns a text of this length. Texts with different numbers differ in their hashed part.
    fn text(number: usize, length: usize) -> String {
        let mut text = vec![b't'; length];
        set_number(&mut text, number);
        String::from_utf8(text).unwrap()
    }

    fn set_number(text: &mut [u8], mut number: usize) {
        let end = if text.len() < 64 { text.len() } else { text.len() - 32 };
        for place in text[end - 8..end].iter_mut().rev() {
            *place = b"0123456789"[number % 10];
            number /= 10;
        }
    }

    fn key(token: &str) -> CachedToken {
        CachedToken { token: token.into(), hash: 0 }
    }

    fn found<S: BuildHasher>(cache: &TokenCache<S>, text: &str) -> Option<usize> {
        cache.get(text.as_bytes()).map(|entry| entry.pool)
    }

    fn len<S: BuildHasher>(cache: &TokenCache<S>) -> usize {
        cache.segments.iter().map(|segment| segment.read().unwrap().len()).sum()
    }

    /// Hashes every text to 0.
    #[derive(Clone, Copy)]
    struct Zero;

    impl BuildHasher for Zero {
        type Hasher = Self;

        fn build_hasher(&self) -> Self {
            Self
        }
    }

    impl Hasher for Zero {
        fn finish(&self) -> u64 {
            0
        }

        fn write(&mut self, _: &[u8]) {}
    }

    #[track_caller]
    fn check_near_misses<S: BuildHasher>(cache: &TokenCache<S>) {
        let real = machine().scope("activity/*").sign();
        for token in [real, text(1, 8), text(2, 32), text(3, 63), text(4, 64), text(5, 65)] {
            cache.insert(&token, entry(7));
            let length = token.len();
            assert_eq!(found(cache, &token), Some(7), "{length} bytes");
            let mut bytes = token.clone().into_bytes();
            for place in 0..length {
                for bit in 0..8 {
                    bytes[place] ^= 1 << bit;
                    assert!(cache.get(&bytes).is_none(), "{length} bytes: {bit} of {place}");
                    bytes[place] ^= 1 << bit;
                }
                assert!(cache.get(&bytes[..place]).is_none(), "the first {place} of {length}");
                assert!(cache.get(&bytes[place + 1..]).is_none(), "without {place} of {length}");
            }
            for more in [format!("{token}t"), format!("t{token}"), token.repeat(2)] {
                assert_eq!(found(cache, &more), None, "{length} bytes and more");
            }
            let hashed = hashed_part(&bytes).to_vec();
            let mut disguised = bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
            let from = length.saturating_sub(64);
            let to = length.min(from + 32);
            disguised[from..to].copy_from_slice(&bytes[from..to]);
            if length > 32 {
                assert_eq!(hashed_part(&disguised), hashed, "{length} bytes");
                assert!(cache.get(&disguised).is_none(), "the same hashed part of {length} bytes");
            }
        }
    }

    #[test]
    fn h093_one_different_bit_or_length_is_a_miss() {
        check_near_misses(&TokenCache::new(MIB));
    }

    #[test]
    fn h093_hashed_part_is_in_the_signature_and_differs_between_tokens() {
        let tokens = (0..100).map(|_| machine().sign()).collect::<Vec<_>>();
        let mut parts = HashSet::new();
        for token in &tokens {
            let hashed = hashed_part(token.as_bytes());
            let (_, signature) = token.rsplit_once('.').unwrap();
            assert_eq!(hashed.len(), 32);
            let contains = |text: &str| text.as_bytes().windows(32).any(|part| part == hashed);
            assert!(contains(signature));
            assert!(!contains(&signature[signature.len() - 32..]), "not the last characters");
            parts.insert(hashed);
        }
        assert_eq!(parts.len(), tokens.len());
    }

    #[test]
    fn h093_tokens_of_any_length_have_a_hashed_part() {
        let token = text(1, 200);
        for length in 0..=200 {
            let hashed = hashed_part(&token.as_bytes()[..length]).len();
            assert_eq!(hashed, length.min(32), "of {length} bytes");
        }
    }

    #[test]
    fn h095_inserting_a_token_again_replaces_its_entry() {
        let old = issuer().key_set_id;
        let new = KeySet::new(issuer().keys.clone()).id();
        assert_ne!(old, new);
        let cache = TokenCache::new(MIB);
        for keys in [old, new, old] {
            cache.insert("token", CacheEntry { keys, ..entry(1) });
            assert_eq!(cache.get(b"token").map(|entry| entry.keys), Some(keys));
        }
        assert_eq!(len(&cache), 1);
    }

    /// Measures the heap that a full cache holds. Its entries share the claims of one token here,
    /// so the claims are added once for each entry.
    #[track_caller]
    fn check_capacity(name: &str, lengths: &[usize], count: usize) {
        let capacity = 8 * MIB;
        let mut texts = lengths.iter().map(|length| vec![b't'; *length]).collect::<Vec<_>>();
        let each = usize::try_from(bytes_of_one().bytes_current).unwrap();
        let mut cache = None;
        let counted = measure(|| {
            let held = TokenCache::new(capacity);
            for number in 0..count {
                let text = &mut texts[number % lengths.len()];
                set_number(text, number);
                held.insert(str::from_utf8(text).unwrap(), entry(number));
            }
            cache = Some(held);
        });
        let cache = cache.unwrap();
        let said = len(&cache) * each;
        let bytes = usize::try_from(counted.bytes_current).unwrap() + said;
        assert!(bytes <= capacity, "{name}: {bytes} bytes in {} entries", len(&cache));
        assert!(bytes >= capacity / 4, "{name}: only {bytes} bytes are used");
        let peak = usize::try_from(counted.bytes_max).unwrap() + said;
        assert!(peak <= capacity + MIB / 8, "{name}: {peak} bytes at the peak");
        for number in (0..count).step_by(19) {
            let found = found(&cache, &text(number, lengths[number % lengths.len()]));
            assert!(found.is_none_or(|found| found == number), "{name}: {number} is {found:?}");
        }
    }

    fn bytes_of_one() -> allocation_counter::AllocationInfo {
        let text = machine().sign();
        let mut token = None;
        let counted = measure(|| token = Some(verified(&text)));
        assert!(counted.bytes_current > 300, "{counted:?}");
        counted
    }

    #[test]
    fn h097_a_million_tokens_stay_within_the_capacity() {
        check_capacity("usual", &[TYPICAL_LEN], 1_000_000);
    }

    #[test]
    fn h097_short_and_long_tokens_stay_within_the_capacity() {
        check_capacity("short", &[8], 200_000);
        check_capacity("longest", &[MAX_CACHED_LEN], 20_000);
        check_capacity("mixed", &[8, TYPICAL_LEN, 2 * KIB, 100, MAX_CACHED_LEN], 100_000);
    }

    /// Returns tokens with long claims, or with claims whose text must be copied out of the JSON.
    fn shapes() -> Vec<(&'static str, String)> {
        let escaped = |length: usize| {
            let text = r"\u0061".repeat(length);
            let iss = issuer().issuer.issuer();
            let payload = format!(
                r#"{{"iss":"{iss}","token_use":"access","exp":9999999999,"client_id":"{text}","sub":"{text}","scope":"{text}","username":"{text}","jti":"{text}","cognito:groups":["{text}"],"act":{{"sub":"{text}"}}}}"#
            );
            let token = machine();
            token.sign_texts(&token.header_json(), &payload)
        };
        let actor = |length: usize| {
            let act = format!(r#","act":{{"sub":"{}"}}}}"#, r"\u0061".repeat(length));
            let token = machine();
            let payload = token.payload_json();
            let payload = payload.strip_suffix('}').unwrap().to_owned() + &act;
            token.sign_texts(&token.header_json(), &payload)
        };
        let groups = |count: usize, group: &str| {
            let groups = vec![group.to_owned(); count];
            machine().claim("username", "alice").claim("cognito:groups", groups).sign()
        };
        let shapes = vec![
            ("a machine's", machine().scope("activity/*").sign()),
            ("a user's", issuer().issuer.user_token("client", "alice").sign()),
            ("slashes escaped", machine().scope("activity/*").escaped_slashes().sign()),
            ("all escaped", escaped(20)),
            ("all escaped, long", escaped(120)),
            ("an escaped actor", actor(850)),
            ("groups without a name", groups(1_600, "")),
            ("groups of one character", groups(1_200, "g")),
            ("long groups", groups(10, &"g".repeat(400))),
            ("a long claim of the application's", machine().claim("x", "x".repeat(5_000)).sign()),
            ("a long scope", machine().scope(&"s".repeat(5_000)).sign()),
        ];
        for (name, token) in &shapes {
            assert!(token.len() <= MAX_CACHED_LEN, "{name}: {}", token.len());
        }
        shapes
    }

    #[test]
    fn h097_an_entry_weighs_at_least_the_bytes_it_takes() {
        for (name, text) in shapes() {
            let mut token = None;
            let counted = measure(|| token = Some((key(&text), verified(&text))));
            let (key, token) = token.unwrap();
            let value = CacheEntry { token, ..entry(0) };
            let weight = ByteWeigher.weight(&key, &value);
            let taken = u64::try_from(counted.bytes_current).unwrap();
            assert!(weight >= taken, "{name}: weighs {weight} and takes {taken}");
            // The weight includes each short text's allocation, which is not counted here.
            let allowed = 2 * taken + u64::try_from(2 * ENTRY_OVERHEAD).unwrap();
            assert!(weight <= allowed, "{name}: weighs {weight} and takes {taken}");
        }
    }

    #[test]
    fn h097_tokens_of_every_shape_stay_within_the_capacity() {
        let capacity = MIB;
        for (name, token) in shapes() {
            let weight = ByteWeigher
                .weight(&key(&token), &CacheEntry { token: verified(&token), ..entry(0) });
            let count = 2 * capacity / usize::try_from(weight).unwrap();
            let mut cache = None;
            let counted = measure(|| {
                let held = TokenCache::new(capacity);
                for number in 0..count {
                    let value = CacheEntry { token: verified(&token), ..entry(number) };
                    held.insert(&text(number, token.len()), value);
                }
                cache = Some(held);
            });
            let (bytes, cache) = (usize::try_from(counted.bytes_current).unwrap(), cache.unwrap());
            assert!(bytes <= capacity, "{name}: {bytes} bytes in {} entries", len(&cache));
            assert!(len(&cache) > 0, "{name}: nothing is held");
            assert!(len(&cache) < count, "{name}: nothing was evicted");
        }
    }

    #[test]
    fn h097_token_of_8_kib_is_cached_and_a_longer_one_is_not() {
        for (length, is_held) in [
            (0, true),
            (1, true),
            (TYPICAL_LEN, true),
            (MAX_CACHED_LEN - 1, true),
            (MAX_CACHED_LEN, true),
            (MAX_CACHED_LEN + 1, false),
            (2 * MAX_CACHED_LEN, false),
        ] {
            let cache = TokenCache::new(8 * MIB);
            let text = "t".repeat(length);
            cache.insert(&text, entry(3));
            assert_eq!(found(&cache, &text), is_held.then_some(3), "{length} bytes");
            assert_eq!(len(&cache), usize::from(is_held), "{length} bytes");
        }
        assert_eq!(MAX_CACHED_LEN, 8_192);
    }

    /// Checks random reads and writes against the entries that were inserted last.
    #[track_caller]
    fn check_model<S: BuildHasher>(capacity: usize, hasher: S) -> usize {
        let cache = TokenCache::with_hasher(capacity, hasher);
        let mut last = HashMap::new();
        let (mut hits, mut dice) = (0, 1_u64);
        for step in 0..3_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = usize::try_from((dice >> 33) % 100).unwrap();
            let text = text(number, [8, 64, TYPICAL_LEN, MAX_CACHED_LEN][number % 4]);
            if dice >> 63 == 0 {
                cache.insert(&text, entry(step));
                last.insert(number, step);
            }
            let found = found(&cache, &text);
            hits += usize::from(found.is_some());
            assert!(found.is_none() || found == last.get(&number).copied(), "{number}: {found:?}");
        }
        let said = len(&cache) * issuer().token.len_in_memory();
        assert!(said <= capacity, "{capacity} bytes: {} entries", len(&cache));
        hits
    }

    #[test]
    fn h097_every_capacity_is_kept_without_a_panic() {
        let mut hits = Vec::new();
        for capacity in [0, 1, 100, KIB, 2 * KIB, 2 * KIB + 1, 16 * KIB, MIB, usize::MAX] {
            hits.push(check_model(capacity, DefaultHashBuilder::default()));
            check_model(capacity, Zero);
        }
        assert_eq!(hits[..3], [0, 0, 0], "nothing has room");
        assert!(hits[6] > 0 && hits[7] > 1_000 && hits[8] > 1_000, "{hits:?}");
    }

    #[test]
    fn h097_segments_share_the_capacity_and_small_caches_have_one() {
        let segments = |capacity| {
            let cache = TokenCache::new(capacity);
            let sizes = cache.segments.iter().map(|segment| segment.read().unwrap().capacity());
            let total = sizes.map(u128::from).sum::<u128>();
            let lost = u128::try_from(capacity).unwrap().checked_sub(total);
            assert!(lost.is_some_and(|lost| lost < 8), "{capacity} bytes: {total}");
            cache.segments.len()
        };
        let small = [0, 1, 2 * KIB, 256 * KIB, 512 * KIB - 1, 512 * KIB, MIB - 1];
        assert_eq!(small.map(segments), [0, 1, 1, 1, 1, 2, 2]);
        assert_eq!([MIB, 2 * MIB, 8 * MIB, usize::MAX].map(segments), [4, 8, 8, 8]);
        let longest = shapes().into_iter().map(|(_, token)| {
            let entry = CacheEntry { token: verified(&token), ..entry(0) };
            ByteWeigher.weight(&key(&token), &entry)
        });
        let longest = usize::try_from(longest.max().unwrap()).unwrap();
        assert!(3 * longest < MIN_SEGMENT_CAPACITY, "{longest} bytes in one entry");
        let typical = text(1, TYPICAL_LEN);
        let cache = TokenCache::new(2 * TYPICAL_ENTRY_LEN);
        cache.insert(&typical, entry(1));
        assert_eq!(found(&cache, &typical), Some(1));
    }

    #[test]
    fn h098_cache_that_is_off_holds_nothing() {
        let cache = TokenCache::new(0);
        let counted = measure(|| {
            for number in 0..100 {
                let text = text(number, TYPICAL_LEN);
                cache.insert(&text, entry(number));
                assert_eq!(found(&cache, &text), None);
            }
        });
        assert_eq!(counted.bytes_current, 0);
        assert!(cache.segments.is_empty());
    }

    #[test]
    fn h099_tokens_with_the_same_hash_keep_their_own_entries() {
        const COUNT: usize = 2_000;

        let cache = TokenCache::with_hasher(usize::MAX, Zero);
        for number in 0..COUNT {
            cache.insert(&text(number, TYPICAL_LEN), entry(number));
        }
        assert_eq!(len(&cache), COUNT);
        for number in (0..COUNT).rev() {
            assert_eq!(found(&cache, &text(number, TYPICAL_LEN)), Some(number));
        }
        for number in (COUNT..COUNT + 300).chain([99_999_999]) {
            assert_eq!(found(&cache, &text(number, TYPICAL_LEN)), None, "{number}");
        }
        // The hashed part is the same, too, and everything else differs.
        for number in 0..300 {
            for other in
                [text(number, TYPICAL_LEN - 1), text(number, TYPICAL_LEN).replace('t', "u")]
            {
                assert_eq!(found(&cache, &other), None, "{number}");
            }
        }
    }

    #[test]
    fn h099_with_the_same_hash_one_different_bit_is_a_miss() {
        check_near_misses(&TokenCache::with_hasher(MIB, Zero));
    }

    #[test]
    fn h099_tokens_with_the_same_hashed_part_keep_their_own_entries() {
        // A forger can copy the hashed part, and change what is before it or after it.
        let hashed = "s".repeat(32);
        let before = |number| format!("{}{hashed}{}", text(number, 100), "e".repeat(32));
        let after = |number| format!("{}{hashed}{}", "b".repeat(100), text(number, 32));
        let cache = TokenCache::new(usize::MAX);
        for number in 0..500 {
            assert_eq!(hashed_part(before(number).as_bytes()), hashed.as_bytes());
            assert_eq!(hashed_part(after(number).as_bytes()), hashed.as_bytes());
            cache.insert(&before(number), entry(number));
            cache.insert(&after(number), entry(1_000 + number));
        }
        for number in 0..500 {
            assert_eq!(found(&cache, &before(number)), Some(number));
            assert_eq!(found(&cache, &after(number)), Some(1_000 + number));
            assert_eq!(found(&cache, &before(number + 500)), None);
            assert_eq!(found(&cache, &after(number + 500)), None);
        }
    }

    #[track_caller]
    fn check_threads<S>(count: usize, capacity: usize, hasher: S)
    where
        S: BuildHasher + Sync + Send,
    {
        let cache = TokenCache::with_hasher(capacity, hasher);
        let texts = (0..count).map(|number| text(number, TYPICAL_LEN)).collect::<Vec<_>>();
        let hits = thread::scope(|scope| {
            let (cache, texts) = (&cache, &texts);
            let threads = (1..=4_u64).map(|seed| {
                scope.spawn(move || {
                    let (mut hits, mut dice) = (0_u32, seed);
                    for _ in 0..20_000 {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                        let number = usize::try_from(dice >> 33).unwrap() % count;
                        match found(cache, &texts[number]) {
                            Some(found) => {
                                assert_eq!(found, number);
                                hits += 1;
                            }
                            None => cache.insert(&texts[number], entry(number)),
                        }
                    }
                    hits
                })
            });
            let threads = threads.collect::<Vec<_>>();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        });
        assert!(hits > 100, "{hits} hits");
        assert!((1..count).contains(&len(&cache)), "{} entries: nothing was evicted", len(&cache));
    }

    #[test]
    fn h100_concurrent_reads_and_writes_return_the_right_entry() {
        check_threads(200, 64 * KIB, DefaultHashBuilder::default());
        check_threads(200, 64 * KIB, Zero);
        check_threads(200, 4 * KIB, DefaultHashBuilder::default());
        check_threads(400, 2 * MIN_SEGMENT_CAPACITY, DefaultHashBuilder::default());
        check_threads(400, 2 * MIN_SEGMENT_CAPACITY, Zero);
    }

    #[test]
    fn h100_thread_that_panics_while_it_writes_turns_hits_into_misses() {
        let cache = TokenCache::new(MIB);
        let texts = (0..64).map(|number| text(number, TYPICAL_LEN)).collect::<Vec<_>>();
        for (number, text) in texts.iter().enumerate() {
            cache.insert(text, entry(number));
        }
        let writer = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _locked = cache.segments[0].write();
                    panic!("a panic with the lock held, as this test needs");
                })
                .join()
        });
        assert!(writer.is_err());
        let mut hits = 0;
        for (number, text) in texts.iter().enumerate() {
            let poisoned = cache.segment(text.as_bytes()).unwrap().0.is_poisoned();
            cache.insert(text, entry(number));
            assert_eq!(found(&cache, text), (!poisoned).then_some(number));
            hits += usize::from(!poisoned);
        }
        assert!((1..texts.len()).contains(&hits), "{hits} hits");
    }

    #[test]
    fn h093_debug_output_contains_no_token() {
        let cache = TokenCache::new(MIB);
        let token = machine().sign();
        cache.insert(&token, entry(1));
        assert_eq!(format!("{cache:?}"), "TokenCache { .. }");
    }
}
