//! The values that the task publishes, and the requests that it receives. Each is replaced as a whole.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Clock, OVERDUE_AFTER, RefreshConfig};
use crate::error::RefreshError;
use crate::jwks::KeySet;
use crate::telemetry::KeyEvents;

pub(super) const FAR_FUTURE: Duration = Duration::from_secs(31_536_000);

/// The current keys of a refresher, without a reference count.
pub(crate) struct RefreshedKeys(pub(super) Guard<Arc<Snapshot>>);

impl Deref for RefreshedKeys {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        &self.0.key_set
    }
}

/// The state that a request loads at once, without a lock.
pub(super) struct Snapshot {
    pub(super) key_set: Arc<KeySet>,
    pub(super) origin: Origin,
    /// Since when, and why, refreshes have failed. `None` if the last one succeeded.
    pub(super) failing: Option<FailureState>,
    pub(super) next_refresh: Deadline,
    /// While both clocks are before this, the refresh is not overdue, and the keys are not too old. It
    /// is calculated once, because every request needs it. After this time, the ages decide.
    fast_path_until: Option<Deadline>,
}

/// A time on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Deadline {
    /// Returns `None` if a clock cannot represent the time.
    fn plus(self, pause: Duration) -> Option<Self> {
        Some(Self {
            monotonic: self.monotonic.checked_add(pause)?,
            wall: self.wall.checked_add(pause)?,
        })
    }

    /// Returns how long ago it was, by the clock on which more time has passed.
    fn elapsed(self, now: SystemTime, moment: Instant) -> Duration {
        let wall = now.duration_since(self.wall).unwrap_or_default();
        moment.saturating_duration_since(self.monotonic).max(wall)
    }

    /// Returns the earlier time of each clock.
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
    pub(super) last_attempt: Deadline,
    pub(super) error: RefreshError,
}

impl Snapshot {
    pub(super) fn new(
        key_set: Arc<KeySet>,
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
        Self { key_set, origin, failing, next_refresh, fast_path_until }
    }

    /// Returns this snapshot with a smaller key set. If the set is empty, the snapshot is like the one
    /// before the first fetch: tokens are rejected with `KeysUnavailable`, not with `UnknownKey`.
    fn with_keys(&self, keys: KeySet, max_key_age: Duration) -> Self {
        let origin = if keys.is_empty() { Origin::Empty } else { self.origin };
        Self::new(Arc::new(keys), origin, self.failing.clone(), self.next_refresh, max_key_age)
    }

    /// Returns `true` if [`age`](Self::age) and [`overdue`](Self::overdue) need not be calculated.
    pub(super) fn is_fast_path(&self, now: SystemTime, moment: Instant) -> bool {
        self.fast_path_until.is_some_and(|until| now < until.wall && moment < until.monotonic)
    }

    /// Returns the larger age of the two clocks: the monotonic one can stop while a machine sleeps or
    /// a sandbox is frozen, and the wall clock can be set back.
    pub(super) fn age(&self, now: SystemTime, moment: Instant) -> Option<Duration> {
        match self.origin {
            Origin::Fetched { monotonic, wall } => {
                Some(Deadline { monotonic, wall }.elapsed(now, moment))
            }
            Origin::Empty => None,
        }
    }

    /// Returns `true` if a fetch may be made now for a client: the last one is at least this old by
    /// either clock, and the pause that the issuer requested is over.
    pub(super) fn may_fetch(&self, min_age: Duration, now: SystemTime, moment: Instant) -> bool {
        let last = match (&self.failing, self.origin) {
            (Some(failing), _) => Some(failing.last_attempt),
            (None, Origin::Fetched { monotonic, wall }) => Some(Deadline { monotonic, wall }),
            (None, Origin::Empty) => None,
        };
        let is_old = last.is_none_or(|last| last.elapsed(now, moment) >= min_age);
        let has_requested = |failing: &FailureState| failing.error.retry_after().is_some();
        let next = self.next_refresh;
        let is_over = moment >= next.monotonic || now >= next.wall;
        is_old && (is_over || !self.failing.as_ref().is_some_and(has_requested))
    }

    /// Returns how long ago the next refresh should have begun, by the clock on which more time has
    /// passed.
    pub(super) fn overdue(&self, now: SystemTime, moment: Instant) -> Duration {
        self.next_refresh.elapsed(now, moment)
    }
}

/// The progress of the task. Fetches are counted from 1.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) started: u64,
    pub(super) finished: u64,
    /// When the last fetch started.
    pub(super) started_at: Instant,
    /// How many requested fetches were not made.
    pub(super) denials: u64,
    pub(super) budget_opens: Instant,
    pub(super) has_keys: bool,
    /// The last response says that there is no such key set.
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

/// The number of the last requested fetch: for an unknown key, which the budget limits, and for any
/// other reason.
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
        key_set: Arc<KeySet>,
        origin: Origin,
        delay: Duration,
    ) -> Self {
        let next_refresh = Deadline::after(delay, &config.clock);
        let snapshot = Snapshot::new(key_set, origin, None, next_refresh, config.max_key_age);
        let progress = Progress {
            started: 0,
            finished: 0,
            started_at: Instant::now(),
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

    /// Returns the snapshot to verify with. No key of it is compromised.
    // Every request calls this.
    #[inline(always)]
    pub(super) fn current(&self) -> Guard<Arc<Snapshot>> {
        let snapshot = self.snapshot.load();
        if snapshot.key_set.is_checked() { snapshot } else { self.drop_compromised() }
    }

    /// Replaces the snapshot if one of its keys was registered as compromised, by the task of any
    /// pool.
    #[cold]
    fn drop_compromised(&self) -> Guard<Arc<Snapshot>> {
        loop {
            let snapshot = self.snapshot.load();
            let Some(keys) = snapshot.key_set.without_compromised() else {
                return snapshot;
            };
            let smaller = Arc::new(snapshot.with_keys(keys, self.config.max_key_age));
            let previous = self.snapshot.compare_and_swap(&*snapshot, Arc::clone(&smaller));
            // Otherwise the task or another request has replaced it meanwhile: check the new one.
            if Arc::ptr_eq(&previous, &snapshot) {
                KeyEvents::at(&self.address).keys_changed(&snapshot.key_set, &smaller.key_set);
                if smaller.key_set.is_empty() {
                    self.fetch_first_keys();
                }
            }
        }
    }

    /// Requests a fetch at once, because no key is left.
    fn fetch_first_keys(&self) {
        self.progress.send_modify(|progress| progress.has_keys = false);
        let seen = self.progress();
        if !seen.is_fetching() {
            self.request(|requests| &mut requests.explicit, seen.next());
        }
    }

    /// Returns `true` if keys of this age can be used. `None` means that there are no keys.
    pub(super) fn is_usable(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| age < self.config.max_key_age)
    }

    /// Requests a fetch by its number. If many request the same fetch, it is made once.
    pub(super) fn request(&self, which: impl FnOnce(&mut FetchRequests) -> &mut u64, fetch: u64) {
        self.requests.send_if_modified(|requests| {
            let last = which(requests);
            let is_new = fetch > *last;
            *last = fetch.max(*last);
            is_new
        });
    }
}

/// Returns the time after this pause, or in one year if the addition overflows.
pub(super) fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).or_else(|| now.checked_add(FAR_FUTURE)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn fast_path_ends_when_the_refresh_is_overdue_or_the_keys_are_too_old() {
        let start = Deadline { monotonic: Instant::now(), wall: SystemTime::now() };
        let origin = Origin::Fetched { monotonic: start.monotonic, wall: start.wall };
        let jwks = Arc::new(KeySet::new(crate::jwks::Jwks::empty()));
        // The refresh is due after an hour, or the keys are too old after one.
        for (due, max_key_age) in [(HOUR, 24 * HOUR), (24 * HOUR, HOUR)] {
            let next = start.plus(due).unwrap();
            let snapshot = Snapshot::new(Arc::clone(&jwks), origin, None, next, max_key_age);
            let mut answers = [0, 0];
            // Every pair of times of the two clocks, from 12 s before that hour is over.
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
            // The deadline itself is not on the fast path.
            let fast = if due == HOUR { 12 + 7 } else { 12 };
            assert_eq!(answers[1], fast * fast);
        }
        let none = Snapshot::new(jwks, Origin::Empty, None, start, HOUR);
        assert!(!none.is_fast_path(start.wall, start.monotonic));
    }
}
