//! Keeps one pool's keys current. The only folder that knows tokio.
//!
//! One task owns the pool's fetches, its backoff and its budget; nothing else changes them. What
//! it publishes are two immutable values: the [`Snapshot`] that requests read without waiting,
//! and the [`Progress`] that those watch who wait for a fetch. The fetcher, the time of day and
//! the random numbers are handed in.
//!
//! | state | a token with a known key | next fetch |
//! | --- | --- | --- |
//! | no keys | unavailable | backoff from 100 ms to 5 s |
//! | fresh: the last fetch was good | verified | after the interval, or for an unknown key ID |
//! | failing: the last fetch was not | verified | backoff from 1 s to 30 s |
//! | stale: failing for longer than the limit | unavailable | as without keys |
//! | shut down | verified, unavailable once stale | none |
//!
//! | event | keys | then |
//! | --- | --- | --- |
//! | a fetch brings a good set | replaced, or kept if they are the same | fresh |
//! | a fetch fails, is late, panics, or brings no good set | kept | failing, or still no keys |
//! | an unknown key ID, budget open | kept | a fetch that everybody with an unknown key ID joins |
//! | an unknown key ID, budget spent | kept | refused at once |
//! | a request finds the refresh overdue | kept | the task is woken, or started again if it is gone |
//! | the last handle is dropped | gone | the task and its fetch are aborted |
//!
//! There are no atomics of our own here, and one lock, which finds the thread that all tasks share
//! (`background`). The snapshot is swapped by arc-swap, which is all that a request with a known
//! key touches; the rest are tokio's watch channels and semaphores, each holding one value that is
//! replaced as a whole, and their own loom tests cover what a model of them here would.

mod background;
mod file;
mod shared;
mod task;

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::background::Home;
use self::shared::{Deadline, FAR_FUTURE, Origin, Progress, RefreshState, Snapshot, later};
use self::task::{Running, Task};
use crate::error::RefreshError;
use crate::fetch::DynFetchJwks;
use crate::health::{Degraded, PoolHealth};
use crate::jwks::Jwks;
use crate::schedule::Random;
use crate::telemetry::KeyEvents;

pub(crate) use self::background::NoBackgroundThread;
pub(crate) use self::file::FileFetch;
pub(crate) use self::shared::CurrentKeys;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAITERS: usize = 1_024;
const MAX_FETCHES_ON_DEMAND: usize = 16;
/// A refresh that should have begun this long ago is not merely under way.
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

/// What an attacker may occupy, counted over all pools of a verifier.
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

/// The keys of one pool, and the task that keeps them current. The task ends with this.
pub(crate) struct Refresher {
    shared: Arc<RefreshState>,
    task: watch::Sender<TaskSlot>,
}

enum TaskSlot {
    /// The keys are fixed.
    None,
    Running(Running),
    ShutDown,
}

impl Refresher {
    /// Keys that never change and never age.
    pub(crate) fn fixed(jwks: Jwks, config: RefreshConfig) -> Self {
        let shared = RefreshState::new("".into(), config, jwks, Origin::Fixed, Duration::ZERO);
        Self { shared: Arc::new(shared), task: watch::Sender::new(TaskSlot::None) }
    }

    /// Starts the task, whose first fetch is made after `delay`. `seed` are keys that were saved
    /// earlier.
    pub(crate) fn start(
        address: Arc<str>,
        config: RefreshConfig,
        seed: Option<(Jwks, SystemTime)>,
        delay: Duration,
    ) -> Result<Self, NoBackgroundThread> {
        let home = Home::of_new_task()?;
        let entered = home.enter();
        let (jwks, origin) = match seed {
            Some((jwks, fetched_at)) => {
                let age = (config.clock)().duration_since(fetched_at).unwrap_or_default();
                let now = Instant::now();
                let monotonic = now.checked_sub(age).unwrap_or(now);
                (jwks, Origin::Fetched { monotonic, wall: fetched_at })
            }
            None => (Jwks::empty(), Origin::Empty),
        };
        let shared = Arc::new(RefreshState::new(address, config, jwks, origin, delay));
        drop(entered);
        let running = Task::spawn(&shared, home);
        Ok(Self { shared, task: watch::Sender::new(TaskSlot::Running(running)) })
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    /// The keys to judge with at this time of day, or how long to wait before trying again.
    // Every request comes here: measured, to be called costs a twentieth of what the layers add.
    #[inline(always)]
    pub(crate) fn current(&self, now: SystemTime) -> Result<CurrentKeys, Duration> {
        let snapshot = self.shared.snapshot.load();
        let moment = Instant::now();
        if snapshot.is_fast_path(now, moment) {
            return Ok(CurrentKeys(snapshot));
        }
        if snapshot.overdue(now, moment) > OVERDUE_AFTER {
            self.wake();
        }
        let age = snapshot.age(now, moment);
        if self.shared.is_usable(age) {
            return Ok(CurrentKeys(snapshot));
        }
        let next = snapshot.next_refresh.monotonic;
        let wait = age.map_or(Duration::ZERO, |_| next.saturating_duration_since(Instant::now()));
        Err(wait.clamp(Duration::from_secs(1), Duration::from_secs(30)))
    }

    pub(crate) fn health(&self, now: SystemTime) -> PoolHealth {
        let snapshot = self.shared.snapshot.load();
        let age = snapshot.age(now, Instant::now());
        let last_error = snapshot.failing.as_ref().map(|failing| failing.error.class());
        let degraded = |since| Some(Degraded { since, age, last_error });
        // By age and not by the schedule, since it must also notice a task that is no more.
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

    /// Whether these are keys that no fetch can change.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(*self.task.borrow(), TaskSlot::None)
    }

    /// Wants a fetch for a key ID that the keys do not have, and does not wait for it.
    pub(crate) fn request_fetch(&self) {
        // First, as it may start a task again whose fetch went with it.
        if self.running().is_none() {
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

    /// Waits for newer keys, within limits, until `found` says that they have what was missing.
    ///
    /// Joins the fetch that is under way. That one may have begun before the issuer published the
    /// key, so if it does not bring it, or there is none, one more is asked for: as far as the
    /// budget allows.
    pub(crate) async fn wait_for_key(&self, mut found: impl FnMut() -> bool) {
        let Ok(_waiter) = self.shared.config.limits.waiters.try_acquire() else {
            return;
        };
        let Some(home) = self.running() else {
            return;
        };
        let looking = async {
            // Progress is read before the keys are: what is finished later was not looked at yet.
            let mut seen = self.shared.progress();
            if found() {
                return;
            }
            if seen.is_fetching() {
                if !self.next_fetch(seen).await {
                    return;
                }
                seen = self.shared.progress();
                if found() {
                    return;
                }
            }
            if self.next_fetch(seen).await {
                found();
            }
        };
        // Late keys are no use to this request, so the outcome does not matter.
        let _ = home.timeout(MAX_WAIT, looking).await;
    }

    /// Waits for the first fetch that had not finished when `seen` was read, and asks for it if
    /// it is not under way. Answers at once with `false` if there is none to be had.
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

    /// Waits until that fetch has finished, or until one is denied.
    async fn wait_for_fetch(&self, fetch: u64, seen: Progress) -> bool {
        let mut watched = self.shared.progress.subscribe();
        let wait_for_fetch =
            watched.wait_for(|now| now.finished >= fetch || now.denials > seen.denials).await;
        wait_for_fetch.is_ok_and(|now| now.finished >= fetch)
    }

    /// Asks for a fetch that begins after this call, and answers what came of it once awaited.
    pub(crate) fn refresh(&self) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let home = self.running();
        let awaited = self.shared.progress().next();
        if home.is_some() {
            self.shared.request(|requests| &mut requests.explicit, awaited);
        }
        async move {
            let Some(home) = home else {
                return Err(RefreshError::transport("no task fetches these keys"));
            };
            // The fetch under way, if there is one, and the one that was asked for.
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
    }

    /// Waits for keys that can be used, until the deadline.
    pub(crate) async fn ready(&self, within: Duration, until: WaitUntil) -> Result<(), NoKeys> {
        if self.is_ready() {
            return Ok(());
        }
        if let Some(home) = self.running() {
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

    /// Ends the task, and waits until it is gone. The keys stay, and grow old.
    pub(crate) async fn shut_down(&self) {
        let slot = self.task.send_replace(TaskSlot::ShutDown);
        if let TaskSlot::Running(running) = slot {
            running.end().await;
            // No request shall look for a task that is overdue for ever, and nobody wait for it.
            let last = self.shared.snapshot.load_full();
            let next_refresh = Deadline::after(FAR_FUTURE, &self.shared.config.clock);
            let (jwks, failing) = (Arc::clone(&last.jwks), last.failing.clone());
            let max_key_age = self.shared.config.max_key_age;
            let snapshot = Snapshot::new(jwks, last.origin, failing, next_refresh, max_key_age);
            self.shared.snapshot.store(Arc::new(snapshot));
            self.shared.progress.send_modify(|progress| {
                progress.finished = progress.started;
                progress.denials = progress.denials.saturating_add(1);
            });
        }
    }

    fn is_ready(&self) -> bool {
        let now = (self.shared.config.clock)();
        self.shared.is_usable(self.shared.snapshot.load().age(now, Instant::now()))
    }

    /// The refresh is overdue. Either the time of day went on without the task, as in a sandbox
    /// that was frozen, or the task is gone.
    #[cold]
    fn wake(&self) {
        if self.running().is_some() {
            let seen = self.shared.progress();
            if !seen.is_fetching() {
                self.shared.request(|requests| &mut requests.explicit, seen.next());
            }
        }
    }

    /// Returns the home of the task, if there is a task. One that is gone is started again.
    fn running(&self) -> Option<Home> {
        match &*self.task.borrow() {
            TaskSlot::None | TaskSlot::ShutDown => return None,
            TaskSlot::Running(running) if !running.is_gone() => return Some(running.home.clone()),
            TaskSlot::Running(_) => {}
        }
        // One at a time: of many who notice, one starts it.
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

/// When to give up waiting for the first keys before the time is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitUntil {
    Timeout,
    /// When the issuer says that there is no such key set.
    PermanentError,
}

/// There are no keys yet, and why, if a fetch has failed already.
pub(crate) struct NoKeys(pub(crate) Option<RefreshError>);

/// Waits for all of them, one after the other: they run already.
pub(crate) async fn all_ready<'s>(
    sources: impl Iterator<Item = &'s Refresher>,
    time: Duration,
    until: WaitUntil,
    mut missing: impl FnMut(&Refresher, NoKeys),
) {
    let deadline = later(time);
    for source in sources {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(why) = source.ready(left, until).await {
            missing(source, why);
        }
    }
}
