//! Tokens that were verified before, since a machine shows the same one for an hour.
//!
//! Why it is safe to believe it:
//!
//! * Only what was verified is put in, and what is sought is compared **whole**, every byte. The
//!   hash, of a part alone, says where to look and nothing more.
//! * An entry names the key set that verified it ([`KeySetId`]) and counts only while that is its
//!   pool's current one. A key that is removed or replaced takes its tokens along in the same
//!   instant, and an entry that is put in while keys are swapped never counts.
//! * What depends on the time or on the application (`exp`, `nbf`, stale keys, its check) is
//!   judged anew each time, by the caller.
//! * Each verifier has a cache of its own, so that its rules hold for every entry.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use quick_cache::DefaultHashBuilder;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};

use crate::jwks::KeySetId;
use crate::verify::AccessToken;

/// Longer tokens are verified each time.
const MAX_CACHED_LEN: usize = 8 * 1024;

/// What an entry costs beside the token and what it says: the entry itself, its places in the
/// tables of the cache, and what the allocator adds to each piece. Measured to be enough.
const ENTRY_OVERHEAD: usize = 512;

/// About what a machine's token costs here, with all that belongs to it.
const USUAL_ENTRY: usize = 2 * 1024;

pub(crate) struct TokenCache<S = DefaultHashBuilder> {
    /// `None` where it is switched off.
    entries: Option<Cache<Token, Remembered, Bytes, S>>,
}

/// A token that was verified, by which pool's rules and with which of its key sets.
#[derive(Clone)]
pub(crate) struct Remembered {
    pub(crate) token: AccessToken,
    pub(crate) pool: usize,
    pub(crate) keys: KeySetId,
}

impl TokenCache {
    /// Holds so many bytes at most; with 0 it holds nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        // Its seeds are random; and only what was signed is put in, so that nobody can choose
        // tokens that collide.
        Self::with_hasher(capacity, DefaultHashBuilder::default())
    }
}

impl<S: BuildHasher + Clone> TokenCache<S> {
    fn with_hasher(capacity: usize, hasher: S) -> Self {
        let entries = (capacity > 0).then(|| {
            let items = capacity.div_ceil(USUAL_ENTRY);
            let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
            Cache::with(items, weight, Bytes, hasher, DefaultLifecycle::default())
        });
        Self { entries }
    }

    /// Without an allocation: the value is a reference count away.
    pub(crate) fn get(&self, token: &[u8]) -> Option<Remembered> {
        self.entries.as_ref()?.get(&Sought(token))
    }

    /// Forgets a token whose keys are no more.
    pub(crate) fn remove(&self, token: &[u8]) {
        if let Some(entries) = &self.entries {
            entries.remove(&Sought(token));
        }
    }

    pub(crate) fn insert(&self, text: &str, remembered: Remembered) {
        if let Some(entries) = &self.entries
            && text.len() <= MAX_CACHED_LEN
        {
            entries.insert(Token(text.into()), remembered);
        }
    }
}

impl<S> fmt::Debug for TokenCache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}

/// A token as it was sent. Not `Debug`: it is a credential.
#[derive(PartialEq, Eq)]
struct Token(Box<str>);

struct Sought<'t>(&'t [u8]);

impl Equivalent<Token> for Sought<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        let (sought, token) = (self.0, token.0.as_bytes());
        // The signature's end first: so that how long this takes tells nothing of the rest to
        // whoever has not guessed that, which is to guess a signature.
        let (head, tail) = sought.split_at(sampled_from(sought));
        let (same_head, same_tail) = token.split_at(sampled_from(token));
        tail == same_tail && head == same_head
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(sample(self.0.as_bytes()));
    }
}

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(sample(self.0));
    }
}

/// 32 characters of the signature, not the last: as good as random in a token that was verified.
/// A forgery with the same ones is compared once, and then checked as any other.
fn sample(token: &[u8]) -> &[u8] {
    let from = sampled_from(token);
    token.get(from..from.saturating_add(32)).unwrap_or(token)
}

fn sampled_from(token: &[u8]) -> usize {
    token.len().saturating_sub(64)
}

/// Weighs an entry in bytes.
#[derive(Clone)]
struct Bytes;

impl Weighter<Token, Remembered> for Bytes {
    fn weight(&self, token: &Token, remembered: &Remembered) -> u64 {
        let bytes = token.0.len().saturating_add(remembered.token.len_in_memory());
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
    use crate::test_issuer::TokenBuilder;
    use crate::{ClientIds, Jwks, Rules, TestIssuer, verify};

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    /// As a token of Cognito's.
    const USUAL_LEN: usize = 900;

    struct Issuer {
        issuer: TestIssuer,
        keys: Jwks,
        rules: Rules,
        token: AccessToken,
    }

    fn issuer() -> &'static Issuer {
        static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
            let issuer = TestIssuer::new();
            let (keys, rules) = (issuer.jwks(), Rules::new(issuer.user_pool(), ClientIds::any()));
            let text = issuer.machine_token("client").sign();
            let token = verify(&text, &keys, &rules, SystemTime::now()).unwrap();
            Issuer { issuer, keys, rules, token }
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

    /// The number stands where the pool's does, so that it can be told from every other.
    fn remembered(number: usize) -> Remembered {
        let Issuer { token, keys, .. } = issuer();
        Remembered { token: token.clone(), pool: number, keys: keys.id() }
    }

    /// A text of this length that differs from the others among the 32 characters that are hashed.
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

    fn found<S: BuildHasher + Clone>(cache: &TokenCache<S>, text: &str) -> Option<usize> {
        cache.get(text.as_bytes()).map(|remembered| remembered.pool)
    }

    fn len<S: BuildHasher + Clone>(cache: &TokenCache<S>) -> usize {
        cache.entries.as_ref().map_or(0, Cache::len)
    }

    /// Puts every text in the same place.
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
    fn check_near_misses<S: BuildHasher + Clone>(cache: &TokenCache<S>) {
        let real = machine().scope("activity/*").sign();
        for token in [real, text(1, 8), text(2, 32), text(3, 63), text(4, 64), text(5, 65)] {
            cache.insert(&token, remembered(7));
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
            let sampled = sample(&bytes).to_vec();
            let mut disguised = bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
            let from = length.saturating_sub(64);
            let to = length.min(from + 32);
            disguised[from..to].copy_from_slice(&bytes[from..to]);
            if length > 32 {
                assert_eq!(sample(&disguised), sampled, "{length} bytes");
                assert!(cache.get(&disguised).is_none(), "the same sample of {length} bytes");
            }
        }
    }

    #[test]
    fn h093_what_differs_in_one_bit_or_in_length_is_another_token() {
        check_near_misses(&TokenCache::new(MIB));
    }

    #[test]
    fn h093_what_is_hashed_is_of_the_signature_and_differs_in_every_token() {
        let tokens = (0..100).map(|_| machine().sign()).collect::<Vec<_>>();
        let mut samples = HashSet::new();
        for token in &tokens {
            let sampled = sample(token.as_bytes());
            let (_, signature) = token.rsplit_once('.').unwrap();
            assert_eq!(sampled.len(), 32);
            let is_of_it = |part: &str| part.as_bytes().windows(32).any(|part| part == sampled);
            assert!(is_of_it(signature));
            assert!(!is_of_it(&signature[signature.len() - 32..]), "not the last characters");
            samples.insert(sampled);
        }
        assert_eq!(samples.len(), tokens.len());
    }

    #[test]
    fn h093_a_text_of_any_length_has_a_sample() {
        let token = text(1, 200);
        for length in 0..=200 {
            let sampled = sample(&token.as_bytes()[..length]).len();
            assert_eq!(sampled, length.min(32), "of {length} bytes");
        }
    }

    #[test]
    fn h095_what_is_put_in_again_replaces_what_was_there() {
        let old = issuer().keys.id();
        let new = issuer().issuer.jwks().id();
        assert_ne!(old, new);
        let cache = TokenCache::new(MIB);
        for keys in [old, new, old] {
            cache.insert("token", Remembered { keys, ..remembered(1) });
            assert_eq!(cache.get(b"token").map(|remembered| remembered.keys), Some(keys));
        }
        assert_eq!(len(&cache), 1);
        cache.remove(b"another token");
        assert_eq!(len(&cache), 1);
        cache.remove(b"token");
        assert_eq!(len(&cache), 0);
    }

    /// The heap that a cache holds, with what its tokens say, though they share it here.
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
                held.insert(str::from_utf8(text).unwrap(), remembered(number));
            }
            cache = Some(held);
        });
        let cache = cache.unwrap();
        let said = len(&cache) * each;
        let bytes = usize::try_from(counted.bytes_current).unwrap() + said;
        assert!(bytes <= capacity, "{name}: {bytes} bytes in {} entries", len(&cache));
        assert!(bytes >= capacity / 4, "{name}: {bytes} bytes alone are used");
        let peak = usize::try_from(counted.bytes_max).unwrap() + said;
        assert!(peak <= capacity + MIB / 8, "{name}: {peak} bytes for a moment");
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
    fn h097_a_million_tokens_keep_within_the_bytes_that_are_given() {
        check_capacity("usual", &[USUAL_LEN], 1_000_000);
    }

    #[test]
    fn h097_short_and_long_tokens_keep_within_the_bytes_that_are_given() {
        check_capacity("short", &[8], 200_000);
        check_capacity("longest", &[MAX_CACHED_LEN], 20_000);
        check_capacity("mixed", &[8, USUAL_LEN, 2 * KIB, 100, MAX_CACHED_LEN], 100_000);
    }

    /// Tokens that say much, or say it in a form that has to be kept apart.
    fn shapes() -> Vec<(&'static str, String)> {
        let escaped = |length: usize| {
            let text = r"\u0061".repeat(length);
            let iss = issuer().issuer.issuer();
            let payload = format!(
                r#"{{"iss":"{iss}","token_use":"access","exp":9999999999,"client_id":"{text}","sub":"{text}","scope":"{text}","username":"{text}","jti":"{text}","cognito:groups":["{text}"]}}"#
            );
            let token = machine();
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
            ("all escaped, long", escaped(140)),
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
    fn h097_an_entry_weighs_what_it_takes_or_more() {
        for (name, text) in shapes() {
            let mut token = None;
            let counted = measure(|| token = Some((Token(text.as_str().into()), verified(&text))));
            let (key, token) = token.unwrap();
            let value = Remembered { token, ..remembered(0) };
            let weight = Bytes.weight(&key, &value);
            let taken = u64::try_from(counted.bytes_current).unwrap();
            assert!(weight >= taken, "{name}: weighs {weight} and takes {taken}");
            // What is allocated for each short text is not counted, but weighed.
            let allowed = 2 * taken + u64::try_from(2 * ENTRY_OVERHEAD).unwrap();
            assert!(weight <= allowed, "{name}: weighs {weight} and takes {taken}");
        }
    }

    #[test]
    fn h097_tokens_of_every_shape_keep_within_the_bytes_that_are_given() {
        let capacity = MIB;
        for (name, token) in shapes() {
            let weight = Bytes.weight(
                &Token(token.as_str().into()),
                &Remembered { token: verified(&token), ..remembered(0) },
            );
            let count = 2 * capacity / usize::try_from(weight).unwrap();
            let mut cache = None;
            let counted = measure(|| {
                let held = TokenCache::new(capacity);
                for number in 0..count {
                    let value = Remembered { token: verified(&token), ..remembered(number) };
                    held.insert(&text(number, token.len()), value);
                }
                cache = Some(held);
            });
            let (bytes, cache) = (usize::try_from(counted.bytes_current).unwrap(), cache.unwrap());
            assert!(bytes <= capacity, "{name}: {bytes} bytes in {} entries", len(&cache));
            assert!(len(&cache) > 0, "{name}: nothing is held");
            assert!(len(&cache) < count, "{name}: nothing had to go");
        }
    }

    #[test]
    fn h097_a_text_of_8_kib_is_held_and_a_longer_one_is_not() {
        for (length, is_held) in [
            (0, true),
            (1, true),
            (USUAL_LEN, true),
            (MAX_CACHED_LEN - 1, true),
            (MAX_CACHED_LEN, true),
            (MAX_CACHED_LEN + 1, false),
            (2 * MAX_CACHED_LEN, false),
        ] {
            let cache = TokenCache::new(8 * MIB);
            let text = "t".repeat(length);
            cache.insert(&text, remembered(3));
            assert_eq!(found(&cache, &text), is_held.then_some(3), "{length} bytes");
            assert_eq!(len(&cache), usize::from(is_held), "{length} bytes");
        }
        assert_eq!(MAX_CACHED_LEN, 8_192);
    }

    /// Random reads and writes against what was put in last.
    #[track_caller]
    fn check_model<S: BuildHasher + Clone>(capacity: usize, hasher: S) -> usize {
        let cache = TokenCache::with_hasher(capacity, hasher);
        let mut last = HashMap::new();
        let (mut hits, mut dice) = (0, 1_u64);
        for step in 0..3_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = usize::try_from((dice >> 33) % 100).unwrap();
            let text = text(number, [8, 64, USUAL_LEN, MAX_CACHED_LEN][number % 4]);
            if dice >> 63 == 0 {
                cache.insert(&text, remembered(step));
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
    fn h097_a_capacity_of_any_size_is_kept_and_never_a_panic() {
        let mut hits = Vec::new();
        for capacity in [0, 1, 100, KIB, 2 * KIB, 2 * KIB + 1, 16 * KIB, MIB, usize::MAX] {
            hits.push(check_model(capacity, DefaultHashBuilder::default()));
            check_model(capacity, Zero);
        }
        assert_eq!(hits[..3], [0, 0, 0], "nothing has room");
        assert!(hits[6] > 0 && hits[7] > 1_000 && hits[8] > 1_000, "{hits:?}");
    }

    #[test]
    fn h098_switched_off_it_holds_nothing() {
        let cache = TokenCache::new(0);
        let counted = measure(|| {
            for number in 0..100 {
                let text = text(number, USUAL_LEN);
                cache.insert(&text, remembered(number));
                assert_eq!(found(&cache, &text), None);
            }
        });
        assert_eq!(counted.bytes_current, 0);
        assert!(cache.entries.is_none());
    }

    #[test]
    fn h099_with_one_hash_for_all_each_token_is_still_its_own() {
        const COUNT: usize = 2_000;

        let cache = TokenCache::with_hasher(usize::MAX, Zero);
        for number in 0..COUNT {
            cache.insert(&text(number, USUAL_LEN), remembered(number));
        }
        assert_eq!(len(&cache), COUNT);
        for number in (0..COUNT).rev() {
            assert_eq!(found(&cache, &text(number, USUAL_LEN)), Some(number));
        }
        for number in (COUNT..COUNT + 300).chain([99_999_999]) {
            assert_eq!(found(&cache, &text(number, USUAL_LEN)), None, "{number}");
        }
        // The sample is the same as well, and everything else is not.
        for number in 0..300 {
            for other in [text(number, USUAL_LEN - 1), text(number, USUAL_LEN).replace('t', "u")] {
                assert_eq!(found(&cache, &other), None, "{number}");
            }
        }
    }

    #[test]
    fn h099_with_one_hash_for_all_what_differs_in_one_bit_is_another_token() {
        check_near_misses(&TokenCache::with_hasher(MIB, Zero));
    }

    #[test]
    fn h099_with_one_sample_for_all_each_token_is_still_its_own() {
        // A forger can copy the sample, and then differ before it or after it.
        let sampled = "s".repeat(32);
        let before = |number| format!("{}{sampled}{}", text(number, 100), "e".repeat(32));
        let after = |number| format!("{}{sampled}{}", "b".repeat(100), text(number, 32));
        let cache = TokenCache::new(usize::MAX);
        for number in 0..500 {
            assert_eq!(sample(before(number).as_bytes()), sampled.as_bytes());
            assert_eq!(sample(after(number).as_bytes()), sampled.as_bytes());
            cache.insert(&before(number), remembered(number));
            cache.insert(&after(number), remembered(1_000 + number));
        }
        for number in 0..500 {
            assert_eq!(found(&cache, &before(number)), Some(number));
            assert_eq!(found(&cache, &after(number)), Some(1_000 + number));
            assert_eq!(found(&cache, &before(number + 500)), None);
            assert_eq!(found(&cache, &after(number + 500)), None);
        }
    }

    #[track_caller]
    fn check_threads<S: BuildHasher + Clone + Sync + Send>(capacity: usize, hasher: S) {
        const TEXTS: usize = 200;

        let cache = TokenCache::with_hasher(capacity, hasher);
        let texts = (0..TEXTS).map(|number| text(number, USUAL_LEN)).collect::<Vec<_>>();
        let hits = thread::scope(|scope| {
            let (cache, texts) = (&cache, &texts);
            let threads = (1..=4_u64).map(|seed| {
                scope.spawn(move || {
                    let (mut hits, mut dice) = (0_u32, seed);
                    for _ in 0..20_000 {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                        let number = usize::try_from((dice >> 33) % 200).unwrap();
                        match found(cache, &texts[number]) {
                            Some(found) => {
                                assert_eq!(found, number);
                                hits += 1;
                            }
                            None => cache.insert(&texts[number], remembered(number)),
                        }
                    }
                    hits
                })
            });
            let threads = threads.collect::<Vec<_>>();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        });
        assert!(hits > 100, "{hits} hits");
        assert!((1..TEXTS).contains(&len(&cache)), "{} entries: nothing was evicted", len(&cache));
    }

    #[test]
    fn h100_threads_that_read_and_write_find_their_own() {
        check_threads(64 * KIB, DefaultHashBuilder::default());
        check_threads(64 * KIB, Zero);
        check_threads(4 * KIB, DefaultHashBuilder::default());
    }

    #[test]
    fn h093_no_debug_text_holds_a_token() {
        let cache = TokenCache::new(MIB);
        let token = machine().sign();
        cache.insert(&token, remembered(1));
        assert_eq!(format!("{cache:?}"), "TokenCache { .. }");
    }
}
