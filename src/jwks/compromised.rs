//! The keys that no verifier of this process trusts any more, because a trusted issuer has published
//! their private part.
//!
//! Only the refresh task registers keys, and none is ever removed. Each registration increments the
//! generation. Before a key set is used, it compares the generation with the one at which it was last
//! checked ([`KeySet::is_checked`](super::KeySet::is_checked)), so a registration takes effect at once
//! in every pool.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::key::KeyNumbers;

/// Counts the registrations. It changes only under the lock of [`KEYS`].
static GENERATION: AtomicU64 = AtomicU64::new(0);

static KEYS: LazyLock<Mutex<HashSet<KeyNumbers>>> = LazyLock::new(Mutex::default);

/// Returns a number that changes when a key is registered.
// Relaxed: a reader that finds a change takes the lock, which orders the rest.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// The keys that are registered. Nothing can be registered while this is held.
pub(super) struct Registered(MutexGuard<'static, HashSet<KeyNumbers>>);

impl Registered {
    pub(super) fn lock() -> Self {
        Self(KEYS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn contains(&self, numbers: &KeyNumbers) -> bool {
        self.0.contains(numbers)
    }
}

/// Registers a key. Returns `false` if it is registered already.
pub(crate) fn register(numbers: &KeyNumbers) -> bool {
    let mut keys = Registered::lock();
    let is_new = !keys.contains(numbers) && keys.0.insert(numbers.clone());
    if is_new {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    is_new
}
