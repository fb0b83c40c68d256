//! How the keys are doing, for a readiness probe.

use std::time::{Duration, SystemTime};

/// How a verifier's keys are doing.
///
/// ```
/// use http::StatusCode;
/// use tower_cognito::{Health, Verifier};
///
/// /// The answer to a readiness probe. A service whose keys grow old still verifies.
/// fn readiness(verifier: &Verifier) -> StatusCode {
///     match verifier.health() {
///         Health::NotReady => StatusCode::SERVICE_UNAVAILABLE,
///         _ => StatusCode::OK,
///     }
/// }
/// ```
///
/// What an alarm would say:
///
/// ```
/// use tower_cognito::Health;
///
/// fn alarm(health: &Health) -> Option<String> {
///     let Health::Degraded(trouble) = health else { return None };
///     let why = trouble.last_error().unwrap_or("no refresh was made");
///     Some(format!("keys are {:?} old, since {:?}: {why}", trouble.age(), trouble.since()))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Tokens are verified, but the keys are not as fresh as they should be.
    Degraded(Degraded),
    /// Every token is answered with
    /// [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable): there are no keys, or they
    /// are too old.
    NotReady,
    /// Tokens are verified with keys of the last refresh.
    Ready,
}

/// What is wrong with keys that are still in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    pub(crate) since: SystemTime,
    pub(crate) age: Option<Duration>,
    pub(crate) last_error: Option<&'static str>,
}

impl Degraded {
    /// Since when: the first refresh that failed, or the time at which one was due and not made.
    /// Of several pools, that of the pool that is in trouble for longest.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// How old the keys of that pool are; `None` where it has none.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// The class of its last error, [`RefreshError::class`](crate::RefreshError::class); `None`
    /// where no refresh has failed.
    pub fn last_error(&self) -> Option<&'static str> {
        self.last_error
    }
}

/// One pool's part of it.
pub(crate) struct PoolHealth {
    pub(crate) is_usable: bool,
    pub(crate) trouble: Option<Degraded>,
}

impl Health {
    /// Not ready only when no pool is, so that one tenant's outage takes no replica out of
    /// service.
    pub(crate) fn of_all(pools: impl IntoIterator<Item = PoolHealth>) -> Self {
        let mut is_any_usable = false;
        let mut longest: Option<Degraded> = None;
        for PoolHealth { is_usable, trouble } in pools {
            is_any_usable |= is_usable;
            let is_longer = |trouble: &Degraded| {
                longest.as_ref().is_none_or(|longest| trouble.since < longest.since)
            };
            if trouble.as_ref().is_some_and(is_longer) {
                longest = trouble;
            }
        }
        match longest {
            _ if !is_any_usable => Self::NotReady,
            Some(longest) => Self::Degraded(longest),
            None => Self::Ready,
        }
    }
}
