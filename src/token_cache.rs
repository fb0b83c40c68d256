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
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

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

pub(crate) struct TokenCache<S = RandomState> {
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
        // Its seeds are random, so nobody can choose tokens that collide.
        Self::with_hasher(capacity, RandomState::new())
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
        // The part of the signature first: so that how long this takes tells nothing of the rest
        // to whoever has not guessed that, which is to guess a signature.
        let token = token.0.as_bytes();
        sample(self.0) == sample(token) && self.0 == token
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
    let from = token.len().saturating_sub(64);
    token.get(from..from.saturating_add(32)).unwrap_or(token)
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
