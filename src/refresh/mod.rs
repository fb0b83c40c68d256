//! Keeps one pool's keys current. Only this folder and the background thread use tokio.
//!
//! One task owns the pool's fetches, its backoff and its budget; nothing else changes them. It
//! publishes two immutable values: the [`Snapshot`], which requests read without waiting, and the
//! [`Progress`], which requests watch while they wait for a fetch. The fetcher, the time of day and
//! the random numbers are arguments.
//!
//! | state | a token with a known key | next fetch |
//! | --- | --- | --- |
//! | no keys | unavailable | backoff from 100 ms to 5 s |
//! | fresh: the last fetch succeeded | verified | after the interval, or for an unknown key ID |
//! | failing: the last fetch failed | verified | backoff from 1 s to 30 s |
//! | stale: failing for longer than the limit | unavailable | backoff from 100 ms to 5 s |
//! | shut down | verified, unavailable once stale | none |
//!
//! | event | keys | then |
//! | --- | --- | --- |
//! | a fetch brings a usable set | replaced, or kept if they are the same | fresh |
//! | a fetch fails, is late, panics, or brings no usable set | kept | failing, or still no keys |
//! | the issuer of any pool publishes a private key | that key is removed | as before, or no keys and a fetch |
//! | an unknown key ID, budget open | kept | a fetch that all requests with an unknown key ID share |
//! | an unknown key ID, budget closed | kept | rejected at once, unless a fetch is in progress |
//! | a request finds the refresh overdue | kept | the task is woken, or started again if it is gone |
//! | the last handle is dropped | gone | the task and its fetch are aborted |
//!
//! This folder has no atomics of its own, and one lock, for the handle of the last read of a file. A
//! request with a known key loads the snapshot from arc-swap, and one counter, which changes when a
//! key is compromised. The rest are tokio's watch channels and semaphores. Each holds one value that
//! is replaced as a whole, and tokio's own loom tests cover what a model of them here would.

mod file;
mod shared;
mod task;

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::shared::{Deadline, FAR_FUTURE, Origin, Progress, RefreshState, Snapshot, later};
use self::task::{Running, Task};
use crate::background::{Home, NoBackgroundThread};
use crate::error::RefreshError;
use crate::fetch::DynFetchJwks;
use crate::health::{Degraded, PoolHealth};
use crate::jwks::{Jwks, KeySet, KeySetId};
use crate::schedule::Random;
use crate::telemetry::KeyEvents;

pub(crate) use self::file::FileFetch;
pub(crate) use self::shared::RefreshedKeys;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAITERS: usize = 1_024;
const MAX_FETCHES_ON_DEMAND: usize = 16;
/// A refresh that should have begun this long ago is overdue: a fetch takes at most 5 seconds.
const OVERDUE_AFTER: Duration = Duration::from_secs(7);
/// The time of day. Everything else here is measured on the monotonic clock.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The settings that the pools of one verifier share.
#[derive(Clone)]
pub(crate) struct RefreshConfig {
    pub(crate) fetcher: Arc<dyn DynFetchJwks>,
    pub(crate) clock: Clock,
    pub(crate) interval: Duration,
    pub(crate) max_key_age: Duration,
    pub(crate) random: fn() -> Random,
    pub(crate) limits: Arc<Limits>,
}

/// The limits of what an attacker can occupy, over all pools of a verifier.
#[derive(Debug)]
pub(crate) struct Limits {
    waiters: Semaphore,
    fetches_on_demand: Semaphore,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self {
            waiters: Semaphore::new(MAX_WAITERS),
            fetches_on_demand: Semaphore::new(MAX_FETCHES_ON_DEMAND),
        }
    }
}

/// The keys of one pool, and the task that keeps them current. The task ends when this is dropped.
pub(crate) struct Refresher {
    shared: Arc<RefreshState>,
    task: watch::Sender<TaskSlot>,
}

enum TaskSlot {
    Running(Running),
    ShutDown,
}

impl Refresher {
    /// Starts the task. Its first fetch begins after `delay`. `initial` are saved keys, and when they
    /// were fetched.
    pub(crate) fn start(
        address: Arc<str>,
        config: RefreshConfig,
        initial: Option<&(Jwks, SystemTime)>,
        delay: Duration,
    ) -> Result<Self, NoBackgroundThread> {
        let home = Home::of_new_task()?;
        let entered = home.enter();
        let (jwks, origin) = match initial {
            Some((jwks, fetched_at)) => {
                let fetched_at = *fetched_at;
                let age = (config.clock)().duration_since(fetched_at).unwrap_or_default();
                let now = Instant::now();
                let monotonic = now.checked_sub(age).unwrap_or(now);
                (jwks.clone(), Origin::Fetched { monotonic, wall: fetched_at })
            }
            None => (Jwks::empty(), Origin::Empty),
        };
        KeyEvents::at(&address).started(origin.fetched_at());
        let key_set = Arc::new(KeySet::new(jwks));
        let shared = Arc::new(RefreshState::new(address, config, key_set, origin, delay));
        drop(entered);
        let running = Task::spawn(&shared, home);
        Ok(Self { shared, task: watch::Sender::new(TaskSlot::Running(running)) })
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    /// Returns the keys to verify with at this time of day, or how long a client should wait before
    /// it tries again. Wakes the task if it is overdue.
    // Every request calls this: a call that is not inlined costs a twentieth of what the layers add.
    #[inline(always)]
    pub(crate) fn keys_or_wake(&self, now: SystemTime) -> Result<RefreshedKeys, Duration> {
        let snapshot = self.shared.current();
        let moment = Instant::now();
        if snapshot.is_fast_path(now, moment) {
            return Ok(RefreshedKeys(snapshot));
        }
        if snapshot.overdue(now, moment) > OVERDUE_AFTER {
            self.wake();
        }
        let age = snapshot.age(now, moment);
        if self.shared.is_usable(age) {
            return Ok(RefreshedKeys(snapshot));
        }
        let next = snapshot.next_refresh.monotonic;
        let wait = age.map_or(Duration::ZERO, |_| next.saturating_duration_since(Instant::now()));
        Err(wait.clamp(Duration::from_secs(1), Duration::from_secs(30)))
    }

    pub(crate) fn health(&self, now: SystemTime) -> PoolHealth {
        let snapshot = self.shared.current();
        let age = snapshot.age(now, Instant::now());
        let last_error = snapshot.failing.as_ref().map(|failing| failing.error.kind());
        let degraded = |since| Some(Degraded { since, age, last_error });
        // Decide by the age and not by the schedule, to notice a task that is gone, too.
        let overdue = age.and_then(|age| age.checked_sub(self.shared.config.interval));
        let trouble = match (&snapshot.failing, overdue) {
            (Some(failing), _) => degraded(failing.since),
            (None, Some(overdue)) if overdue > OVERDUE_AFTER => {
                degraded(now.checked_sub(overdue).unwrap_or(now))
            }
            (None, _) if age.is_none() => degraded(self.shared.began),
            (None, _) => None,
        };
        PoolHealth { is_usable: self.shared.is_usable(age), trouble }
    }

    /// Requests a fetch for an unknown key ID, if the budget allows one, and does not wait for it.
    pub(crate) fn request_fetch(&self) {
        // Before the progress is read: if the task is gone, its fetch has ended too.
        if self.ensure_running().is_none() {
            return;
        }
        let seen = self.shared.progress();
        if seen.is_fetching() {
            return;
        }
        if seen.is_budget_open() {
            self.shared.request(|requests| &mut requests.unknown_key, seen.next());
        } else {
            KeyEvents::at(&self.shared.address).denied_on_demand();
        }
    }

    /// Waits for newer keys, within limits, until `search` finds the key. Returns `true` if it has
    /// waited, so that the keys may have become too old meanwhile.
    ///
    /// `known` is the key set in which the caller has not found the key. `search` searches the current
    /// keys and returns the set that lacks the key, or `None` if no other keys can change the result.
    /// It is called only if the keys have changed.
    ///
    /// Joins the fetch in progress. That fetch may have begun before the issuer published the
    /// key. If it does not bring the key, or no fetch is in progress, one more is requested, as far
    /// as the budget allows.
    pub(crate) async fn wait_for_key(
        &self,
        mut known: KeySetId,
        mut search: impl FnMut() -> Option<KeySetId>,
    ) -> bool {
        let Some(home) = self.ensure_running() else {
            return false;
        };
        let mut is_found = || {
            self.shared.current().key_set.id() != known && search().map(|id| known = id).is_none()
        };
        // Read the progress before the keys: otherwise a fetch that ends in between would count as
        // seen, although its keys were not compared.
        let mut seen = self.shared.progress();
        if is_found() {
            return false;
        }
        if !seen.is_fetching() && !seen.is_budget_open() {
            KeyEvents::at(&self.shared.address).denied_on_demand();
            return false;
        }
        let Ok(_waiter) = self.shared.config.limits.waiters.try_acquire() else {
            // The requests that wait may wait for other pools, so request the fetch of this pool.
            self.request_fetch();
            return false;
        };
        let waiting = async {
            if seen.is_fetching() {
                if !self.next_fetch(seen).await {
                    return;
                }
                seen = self.shared.progress();
                if is_found() {
                    return;
                }
            }
            if self.next_fetch(seen).await {
                is_found();
            }
        };
        // After the limit this request is rejected, whatever the fetch brings.
        let _ = home.timeout(MAX_WAIT, waiting).await;
        true
    }

    /// Waits for the first fetch that had not finished when `seen` was read, and requests it if it
    /// is not in progress. Returns `false` at once if the budget allows none.
    async fn next_fetch(&self, seen: Progress) -> bool {
        if seen.is_fetching() {
            return self.wait_for_fetch(seen.started, seen).await;
        }
        if !seen.is_budget_open() {
            KeyEvents::at(&self.shared.address).denied_on_demand();
            return false;
        }
        self.shared.request(|requests| &mut requests.unknown_key, seen.next());
        self.wait_for_fetch(seen.next(), seen).await
    }

    /// Waits until that fetch has finished or a fetch is denied. Returns `true` if it has finished.
    async fn wait_for_fetch(&self, fetch: u64, seen: Progress) -> bool {
        let mut watched = self.shared.progress.subscribe();
        let ended =
            watched.wait_for(|now| now.finished >= fetch || now.denials > seen.denials).await;
        ended.is_ok_and(|now| now.finished >= fetch)
    }

    /// Requests a fetch that begins after this call. The future returns its result.
    pub(crate) fn refresh(&self) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let home = self.ensure_running();
        let awaited = self.shared.progress().next();
        if home.is_some() {
            self.shared.request(|requests| &mut requests.explicit, awaited);
        }
        self.result_of(home, awaited)
    }

    /// Joins the fetch in progress if it started within the last second. If none is in progress,
    /// requests one, unless the last one is younger than `min_age` or the issuer has requested a
    /// pause. The future returns the result of the last fetch.
    pub(crate) fn refresh_if_older_than(
        &self,
        min_age: Duration,
        now: SystemTime,
    ) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let home = self.ensure_running();
        let seen = self.shared.progress();
        let may_fetch = self.shared.current().may_fetch(min_age, now, Instant::now());
        let is_late = seen.is_fetching() && seen.started_at.elapsed() >= MAX_WAIT;
        let awaited = if may_fetch && !seen.is_fetching() { seen.next() } else { seen.started };
        if home.is_some() && awaited > seen.started {
            self.shared.request(|requests| &mut requests.explicit, awaited);
        }
        async move {
            // Otherwise each client would wait in turn for a fetch that hangs.
            if is_late {
                Err(RefreshError::timed_out())
            } else {
                self.result_of(home, awaited).await
            }
        }
    }

    async fn result_of(&self, home: Option<Home>, awaited: u64) -> Result<(), RefreshError> {
        let Some(home) = home else {
            return Err(RefreshError::transport("no task fetches these keys"));
        };
        // Covers the fetch in progress, if there is one, and the requested one.
        let limit = FETCH_TIMEOUT.saturating_mul(2).saturating_add(MAX_WAIT);
        let mut watched = self.shared.progress.subscribe();
        let finished = watched.wait_for(|now| now.finished >= awaited);
        match home.timeout(limit, finished).await {
            Some(Ok(_)) => {}
            _ => return Err(RefreshError::timed_out()),
        }
        match &self.shared.snapshot.load().failing {
            Some(failing) => Err(failing.error.clone()),
            None => Ok(()),
        }
    }

    /// Waits until there are usable keys, or until the time is over.
    pub(crate) async fn ready(&self, within: Duration, until: WaitUntil) -> Result<(), NoKeys> {
        if self.is_ready() {
            return Ok(());
        }
        if let Some(home) = self.ensure_running() {
            let mut watched = self.shared.progress.subscribe();
            let is_settled = |progress: &Progress| {
                progress.has_keys
                    || (until == WaitUntil::PermanentError && progress.has_permanent_error)
            };
            let _ = home.timeout(within, watched.wait_for(is_settled)).await;
        }
        if self.is_ready() {
            return Ok(());
        }
        let snapshot = self.shared.snapshot.load();
        Err(NoKeys(snapshot.failing.as_ref().map(|failing| failing.error.clone())))
    }

    /// Ends the task and waits until it is gone. The keys stay in use until they are too old.
    pub(crate) async fn shut_down(&self) {
        let slot = self.task.send_replace(TaskSlot::ShutDown);
        if let TaskSlot::Running(running) = slot {
            running.end().await;
            // Push the next refresh a year away, so that requests stop trying to wake a task that no
            // longer exists, and release everyone who is waiting for it.
            let last = self.shared.snapshot.load_full();
            let next_refresh = Deadline::after(FAR_FUTURE, &self.shared.config.clock);
            let (key_set, failing) = (Arc::clone(&last.key_set), last.failing.clone());
            let max_key_age = self.shared.config.max_key_age;
            let snapshot = Snapshot::new(key_set, last.origin, failing, next_refresh, max_key_age);
            self.shared.snapshot.store(Arc::new(snapshot));
            self.shared.progress.send_modify(|progress| {
                progress.finished = progress.started;
                progress.denials = progress.denials.saturating_add(1);
            });
        }
    }

    fn is_ready(&self) -> bool {
        let now = (self.shared.config.clock)();
        self.shared.is_usable(self.shared.current().age(now, Instant::now()))
    }

    /// Requests the overdue refresh. Either time has passed without the task, as in a frozen sandbox,
    /// or the task is gone.
    #[cold]
    fn wake(&self) {
        if self.ensure_running().is_some() {
            let seen = self.shared.progress();
            if !seen.is_fetching() {
                self.shared.request(|requests| &mut requests.explicit, seen.next());
            }
        }
    }

    /// Starts the task again if it is gone. Returns where it runs, or `None` after a shutdown.
    fn ensure_running(&self) -> Option<Home> {
        match &*self.task.borrow() {
            TaskSlot::ShutDown => return None,
            TaskSlot::Running(running) if !running.is_gone() => return Some(running.home.clone()),
            TaskSlot::Running(_) => {}
        }
        // Hold the lock of the slot, so that only one of many callers starts the task.
        let mut home = None;
        self.task.send_if_modified(|slot| {
            let TaskSlot::Running(running) = slot else {
                return false;
            };
            if running.is_gone() {
                let Ok(new_home) = Home::of_new_task() else {
                    return false;
                };
                mem::replace(running, Task::spawn(&self.shared, new_home)).forget_if_foreign();
            }
            home = Some(running.home.clone());
            true
        });
        home
    }
}

/// How long to wait for the first keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitUntil {
    Timeout,
    /// Until the time is over, or the issuer answers that there is no such JWK Set.
    PermanentError,
}

/// There are no keys yet. Contains the last error, if a fetch has failed.
pub(crate) struct NoKeys(pub(crate) Option<RefreshError>);

/// Waits until all of them have keys, one after the other: all fetches are already in progress.
pub(crate) async fn all_ready<'s>(
    refreshers: impl Iterator<Item = &'s Refresher>,
    time: Duration,
    until: WaitUntil,
    mut missing: impl FnMut(&Refresher, NoKeys),
) {
    let deadline = later(time);
    for refresher in refreshers {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(no_keys) = refresher.ready(left, until).await {
            missing(refresher, no_keys);
        }
    }
}
