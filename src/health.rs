//! The health of the keys, for a readiness probe.

use std::time::{Duration, SystemTime};

use crate::error::RefreshErrorKind;

/// Describes the health of a verifier's keys.
///
/// ```
/// use http::StatusCode;
/// use tower_cognito::{Health, Verifier};
///
/// /// Answers a readiness probe. A service whose keys grow old still verifies tokens.
/// fn readiness(verifier: &Verifier) -> StatusCode {
///     match verifier.health() {
///         Health::NotReady => StatusCode::SERVICE_UNAVAILABLE,
///         _ => StatusCode::OK,
///     }
/// }
/// ```
///
/// Building the text of an alert:
///
/// ```
/// use tower_cognito::Health;
///
/// fn alarm(health: &Health) -> Option<String> {
///     let Health::Degraded(trouble) = health else { return None };
///     let why = trouble.last_error().map_or("no refresh was made", |kind| kind.as_str());
///     Some(format!("keys are {:?} old, since {:?}: {why}", trouble.age(), trouble.since()))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Tokens are verified, but the last refresh failed or is overdue.
    Degraded(Degraded),
    /// Every token is rejected with
    /// [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable): there are no keys, or they
    /// are too old.
    NotReady,
    /// Tokens are verified with the keys of the last refresh.
    Ready,
}

/// Describes what is wrong with keys that are still in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    pub(crate) since: SystemTime,
    pub(crate) age: Option<Duration>,
    pub(crate) last_error: Option<RefreshErrorKind>,
}

impl Degraded {
    /// Returns when the trouble began: at the first refresh that failed, or when one was due and not
    /// made. With several pools, it is the pool whose trouble began first.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Returns the age of the keys of that pool, or `None` if it has no keys.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Returns the kind of that pool's last error, or `None` if no refresh has failed.
    pub fn last_error(&self) -> Option<RefreshErrorKind> {
        self.last_error
    }
}

/// The health of one pool.
pub(crate) struct PoolHealth {
    pub(crate) is_usable: bool,
    pub(crate) trouble: Option<Degraded>,
}

impl Health {
    /// Returns `NotReady` only if no pool has usable keys, so that the outage of one tenant does not
    /// take the replica out of service.
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
