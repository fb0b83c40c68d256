//! The keys of one pool: fixed, or kept current in the background.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

use crate::error::RefreshError;
use crate::health::PoolHealth;
use crate::jwks::{Jwks, KeySet};
use crate::refresh::{RefreshedKeys, Refresher};

/// The delay before a client should try again, if all fixed keys are compromised. Only a restart with
/// other keys makes a retry succeed.
const RETRY_WITHOUT_FIXED_KEYS: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(super) enum KeySource {
    /// Keys that no fetch changes, and that never grow old.
    Fixed(Arc<FixedKeys>),
    Refreshing(Arc<Refresher>),
}

impl KeySource {
    pub(super) fn fixed(jwks: Jwks) -> Self {
        let remaining = ArcSwapOption::empty();
        Self::Fixed(Arc::new(FixedKeys { keys: KeySet::new(jwks), remaining }))
    }

    /// Returns the keys to verify with at this time of day, or how long a client should wait before
    /// it tries again. Wakes the refresh task if it is overdue.
    // Every request calls this: a call that is not inlined costs a twentieth of what the layers add.
    #[inline(always)]
    pub(super) fn current(&self, now: SystemTime) -> Result<CurrentKeys<'_>, Duration> {
        match self {
            Self::Fixed(fixed) if fixed.keys.is_checked() => Ok(CurrentKeys::Fixed(&fixed.keys)),
            Self::Fixed(fixed) => fixed.not_compromised(),
            Self::Refreshing(refresher) => refresher.keys_or_wake(now).map(CurrentKeys::Refreshed),
        }
    }

    pub(super) fn health(&self, now: SystemTime) -> PoolHealth {
        match self {
            Self::Fixed(_) => PoolHealth { is_usable: self.current(now).is_ok(), trouble: None },
            Self::Refreshing(refresher) => refresher.health(now),
        }
    }

    /// Returns the task that can fetch newer keys. Returns `None` for fixed keys.
    pub(super) fn refresher(&self) -> Option<&Refresher> {
        match self {
            Self::Fixed(_) => None,
            Self::Refreshing(refresher) => Some(refresher),
        }
    }

    /// Requests a fetch that begins after this call. The future returns its result.
    pub(super) fn refresh(&self) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        or_no_task(self.refresher().map(Refresher::refresh))
    }

    /// Requests a fetch unless the last one is younger than `min_age`. The future returns the result
    /// of the last fetch.
    pub(super) fn refresh_if_older_than(
        &self,
        min_age: Duration,
        now: SystemTime,
    ) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let refresher = self.refresher();
        or_no_task(refresher.map(|refresher| refresher.refresh_if_older_than(min_age, now)))
    }
}

async fn or_no_task(
    refresh: Option<impl Future<Output = Result<(), RefreshError>>>,
) -> Result<(), RefreshError> {
    match refresh {
        Some(refresh) => refresh.await,
        None => Err(RefreshError::transport("no task fetches these keys")),
    }
}

/// Fixed keys, and the rest of them once a key was registered as compromised.
pub(super) struct FixedKeys {
    /// The keys as they were set.
    keys: KeySet,
    /// Not set until a key is compromised. Then the other keys, of which there may be none.
    remaining: ArcSwapOption<KeySet>,
}

impl FixedKeys {
    /// Returns the keys that are not compromised, or the delay before a retry if there are none.
    // Requests call it only after a key of any pool was registered as compromised: once for each
    // registration if none of these keys is compromised, and otherwise at every request.
    #[cold]
    fn not_compromised(&self) -> Result<CurrentKeys<'_>, Duration> {
        let mut remaining = self.remaining.load_full();
        let last = remaining.as_deref().unwrap_or(&self.keys);
        if !last.is_checked()
            && let Some(keys) = last.without_compromised()
        {
            remaining = Some(Arc::new(keys));
            self.remaining.store(remaining.clone());
        }
        match remaining {
            None => Ok(CurrentKeys::Fixed(&self.keys)),
            Some(keys) if keys.is_empty() => Err(RETRY_WITHOUT_FIXED_KEYS),
            Some(keys) => Ok(CurrentKeys::Remaining(keys)),
        }
    }
}

/// The keys that are current now, without a reference count unless some were compromised.
pub(super) enum CurrentKeys<'s> {
    Refreshed(RefreshedKeys),
    Fixed(&'s KeySet),
    /// The fixed keys that are not compromised.
    Remaining(Arc<KeySet>),
}

impl Deref for CurrentKeys<'_> {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        match self {
            Self::Refreshed(keys) => keys,
            Self::Fixed(keys) => keys,
            Self::Remaining(keys) => keys,
        }
    }
}
