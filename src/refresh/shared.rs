//! What the task publishes, and what is requests of it: values that are replaced as a whole.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Clock, OVERDUE_AFTER, RefreshConfig};
use crate::error::RefreshError;
use crate::jwks::KeySet;

pub(super) const FAR_FUTURE: Duration = Duration::from_secs(31_536_000);

/// The current keys of a refresher, without a reference count.
pub(crate) struct RefreshedKeys(pub(super) Guard<Arc<Snapshot>>);

impl Deref for RefreshedKeys {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        &self.0.jwks
    }
}

/// What a request sees: one load, no lock, never half of anything.
pub(super) struct Snapshot {
    pub(super) jwks: Arc<KeySet>,
    pub(super) origin: Origin,
    /// Since when, and for what, refreshes have failed.
    pub(super) failing: Option<FailureState>,
    pub(super) next_refresh: Deadline,
    /// While both clocks are before this, the refresh is not overdue, and the keys are not too
    /// old. Worked out once, since every request asks; what is beyond is judged by the ages.
    fast_path_until: Option<Deadline>,
}

/// A moment to come, on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Deadline {
    /// `None` where a clock can not show it.
    fn plus(self, pause: Duration) -> Option<Self> {
        Some(Self {
            monotonic: self.monotonic.checked_add(pause)?,
            wall: self.wall.checked_add(pause)?,
        })
    }

    /// The earlier one on each clock.
    fn min(self, other: Self) -> Self {
        Self { monotonic: self.monotonic.min(other.monotonic), wall: self.wall.min(other.wall) }
    }

    pub(super) fn after(pause: Duration, clock: &Clock) -> Self {
        let wall = clock();
        let later_wall = wall.checked_add(pause).or_else(|| wall.checked_add(FAR_FUTURE));
        Self { monotonic: later(pause), wall: later_wall.unwrap_or(wall) }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Origin {
    Fetched { monotonic: Instant, wall: SystemTime },
    Empty,
}

impl Origin {
    pub(super) fn fetched_at(self) -> Option<SystemTime> {
        match self {
            Self::Fetched { wall, .. } => Some(wall),
            Self::Empty => None,
        }
    }
}

#[derive(Clone)]
pub(super) struct FailureState {
    pub(super) since: SystemTime,
    pub(super) error: RefreshError,
}

impl Snapshot {
    pub(super) fn new(
        jwks: Arc<KeySet>,
        origin: Origin,
        failing: Option<FailureState>,
        next_refresh: Deadline,
        max_key_age: Duration,
    ) -> Self {
        let fast_path_until = match origin {
            Origin::Fetched { monotonic, wall } => {
                let overdue = next_refresh.plus(OVERDUE_AFTER);
                let too_old = Deadline { monotonic, wall }.plus(max_key_age);
                overdue.zip(too_old).map(|(overdue, too_old)| overdue.min(too_old))
            }
            Origin::Empty => None,
        };
        Self { jwks, origin, failing, next_refresh, fast_path_until }
    }

    /// Whether [`age`](Self::age) and [`overdue`](Self::overdue) need not be asked.
    pub(super) fn is_fast_path(&self, now: SystemTime, moment: Instant) -> bool {
        self.fast_path_until.is_some_and(|until| now < until.wall && moment < until.monotonic)
    }

    /// The larger age of the two clocks: the monotonic one stands still while a machine sleeps or
    /// a sandbox is frozen, the wall clock can be set back.
    pub(super) fn age(&self, now: SystemTime, moment: Instant) -> Option<Duration> {
        match self.origin {
            Origin::Fetched { monotonic, wall } => {
                let wall_age = now.duration_since(wall).unwrap_or_default();
                Some(moment.saturating_duration_since(monotonic).max(wall_age))
            }
            Origin::Empty => None,
        }
    }

    /// How long ago the next refresh should have begun, by the clock that says more.
    pub(super) fn overdue(&self, now: SystemTime, moment: Instant) -> Duration {
        let wall = now.duration_since(self.next_refresh.wall).unwrap_or_default();
        moment.saturating_duration_since(self.next_refresh.monotonic).max(wall)
    }
}

/// How far the task is: fetches are counted from 1.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) started: u64,
    pub(super) finished: u64,
    /// How many were requests and not made.
    pub(super) denials: u64,
    pub(super) budget_opens: Instant,
    pub(super) has_keys: bool,
    /// The last answer says that there is no such key set.
    pub(super) has_permanent_error: bool,
}

impl Progress {
    pub(super) fn is_fetching(&self) -> bool {
        self.started > self.finished
    }

    pub(super) fn is_budget_open(&self) -> bool {
        self.budget_opens <= Instant::now()
    }

    pub(super) fn next(&self) -> u64 {
        self.started.saturating_add(1)
    }
}

/// The last fetch that is requests, by those whose wants the budget limits, and by the others.
#[derive(Clone, Copy, Default)]
pub(super) struct FetchRequests {
    pub(super) unknown_key: u64,
    pub(super) explicit: u64,
}

pub(super) struct RefreshState {
    pub(super) address: Arc<str>,
    pub(super) began: SystemTime,
    pub(super) config: RefreshConfig,
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) requests: watch::Sender<FetchRequests>,
}

impl RefreshState {
    pub(super) fn new(
        address: Arc<str>,
        config: RefreshConfig,
        jwks: Arc<KeySet>,
        origin: Origin,
        delay: Duration,
    ) -> Self {
        let next_refresh = Deadline::after(delay, &config.clock);
        let snapshot = Snapshot::new(jwks, origin, None, next_refresh, config.max_key_age);
        let progress = Progress {
            started: 0,
            finished: 0,
            denials: 0,
            budget_opens: Instant::now(),
            has_keys: false,
            has_permanent_error: false,
        };
        Self {
            address,
            began: (config.clock)(),
            config,
            snapshot: ArcSwap::from_pointee(snapshot),
            progress: watch::Sender::new(progress),
            requests: watch::Sender::new(FetchRequests::default()),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Whether keys of this age can be used; `None` is no keys.
    pub(super) fn is_usable(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| age < self.config.max_key_age)
    }

    /// Many may want the same fetch; it is made once.
    pub(super) fn request(&self, which: impl FnOnce(&mut FetchRequests) -> &mut u64, fetch: u64) {
        self.requests.send_if_modified(|requests| {
            let requests = which(requests);
            let is_news = fetch > *requests;
            *requests = fetch.max(*requests);
            is_news
        });
    }
}

/// What no clock can show is as good as a year.
pub(super) fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).or_else(|| now.checked_add(FAR_FUTURE)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn it_is_quiet_while_no_clock_asks_for_anything() {
        let start = Deadline { monotonic: Instant::now(), wall: SystemTime::now() };
        let origin = Origin::Fetched { monotonic: start.monotonic, wall: start.wall };
        let jwks = Arc::new(KeySet::new(crate::jwks::Jwks::empty()));
        // The refresh is due after an hour, or the keys are too old after one.
        for (due, max_key_age) in [(HOUR, 24 * HOUR), (24 * HOUR, HOUR)] {
            let next = start.plus(due).unwrap();
            let snapshot = Snapshot::new(Arc::clone(&jwks), origin, None, next, max_key_age);
            let mut answers = [0, 0];
            // Each clock on its own, from 12 s before that hour is over.
            let around = (HOUR.as_secs() - 12..HOUR.as_secs() + 12).map(Duration::from_secs);
            for monotonic in around.clone() {
                for wall in around.clone() {
                    let (now, moment) = (start.wall + wall, start.monotonic + monotonic);
                    let is_usable = snapshot.age(now, moment).is_some_and(|age| age < max_key_age);
                    let is_overdue = snapshot.overdue(now, moment) > OVERDUE_AFTER;
                    let is_fast_path = snapshot.is_fast_path(now, moment);
                    assert!(!is_fast_path || (is_usable && !is_overdue), "{monotonic:?} {wall:?}");
                    answers[usize::from(is_fast_path)] += 1;
                }
            }
            // On either side: the moment itself is no longer quiet.
            let quiet = if due == HOUR { 12 + 7 } else { 12 };
            assert_eq!(answers[1], quiet * quiet);
        }
        let none = Snapshot::new(jwks, Origin::Empty, None, start, HOUR);
        assert!(!none.is_fast_path(start.wall, start.monotonic));
    }
}
