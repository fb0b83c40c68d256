//! The keys of one pool: fixed, or kept current in the background.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::RefreshError;
use crate::health::PoolHealth;
use crate::jwks::KeySet;
use crate::refresh::{RefreshedKeys, Refresher};

#[derive(Clone)]
pub(super) enum KeySource {
    /// Keys that never change and never grow old.
    Static(Arc<KeySet>),
    Refreshing(Arc<Refresher>),
}

impl KeySource {
    /// Returns the keys to verify with at this time of day, or how long a client should wait before
    /// it tries again. Wakes the refresh task if it is overdue.
    // Every request calls this: a call that is not inlined costs a twentieth of what the layers add.
    #[inline(always)]
    pub(super) fn current(&self, now: SystemTime) -> Result<CurrentKeys<'_>, Duration> {
        match self {
            Self::Static(keys) => Ok(CurrentKeys::Static(keys)),
            Self::Refreshing(refresher) => refresher.keys_or_wake(now).map(CurrentKeys::Refreshed),
        }
    }

    pub(super) fn health(&self, now: SystemTime) -> PoolHealth {
        match self {
            Self::Static(_) => PoolHealth { is_usable: true, trouble: None },
            Self::Refreshing(refresher) => refresher.health(now),
        }
    }

    /// Returns the task that can bring a key that is not known yet.
    pub(super) fn refresher(&self) -> Option<&Refresher> {
        match self {
            Self::Static(_) => None,
            Self::Refreshing(refresher) => Some(refresher),
        }
    }

    /// Requests a fetch that begins after this call. The future returns its result.
    pub(super) fn refresh(&self) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let refresh = self.refresher().map(Refresher::refresh);
        async move {
            match refresh {
                Some(refresh) => refresh.await,
                None => Err(RefreshError::transport("no task fetches these keys")),
            }
        }
    }
}

/// The keys that are current now, without a reference count.
pub(super) enum CurrentKeys<'s> {
    Refreshed(RefreshedKeys),
    Static(&'s KeySet),
}

impl Deref for CurrentKeys<'_> {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        match self {
            Self::Refreshed(keys) => keys,
            Self::Static(keys) => keys,
        }
    }
}
