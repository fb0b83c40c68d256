//! Keeps one pool's keys current. The only file that knows tokio.
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
//! | a request finds the refresh overdue | kept | the task is woken, or started again if its runtime is gone |
//! | the last handle is dropped | gone | the task and its fetch are aborted |
//!
//! There are no atomics and no locks of our own here. The snapshot is swapped by arc-swap, which
//! is all that a request with a known key touches; the rest are tokio's watch channels and
//! semaphores, each holding one value that is replaced as a whole, and their own loom tests cover
//! what a model of them here would.

use std::fs;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Timeout, timeout, timeout_at};

use crate::error::{RefreshError, with_causes};
use crate::fetch::{AnyFetchJwks, FetchJwks, JwksDocument};
use crate::health::{Degraded, PoolHealth};
use crate::jwks::{Jwks, MAX_DOCUMENT_LEN, Skip};
use crate::schedule::{Budget, Random, pause_after_failure, pause_after_success};

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAITERS: usize = 1_024;
const MAX_FETCHES_ON_DEMAND: usize = 16;
/// A refresh that should have begun this long ago is not merely under way.
const OVERDUE: Duration = Duration::from_secs(7);
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time of day. Everything else here is measured on the monotonic clock.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What the pools of one verifier have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) fetcher: Arc<dyn AnyFetchJwks>,
    pub(crate) clock: Clock,
    pub(crate) interval: Duration,
    pub(crate) max_stale: Duration,
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
pub(crate) struct Source {
    shared: Arc<Shared>,
    task: watch::Sender<TaskSlot>,
}

enum TaskSlot {
    /// The keys are fixed.
    None,
    Running(Running),
    ShutDown,
}

struct Running {
    task: AbortOnDrop<()>,
    /// Whose timers serve those who wait on a thread or an executor without any.
    runtime: Handle,
}

/// There is no tokio runtime with timers to run the task on.
#[derive(Debug)]
pub(crate) struct NoRuntime;

impl Source {
    /// Keys that never change and never age.
    pub(crate) fn fixed(jwks: Jwks, common: Common) -> Self {
        let shared = Shared::new("".into(), common, jwks, Origin::Fixed, Duration::ZERO);
        Self { shared: Arc::new(shared), task: watch::Sender::new(TaskSlot::None) }
    }

    /// Starts the task, whose first fetch is made after `delay`. `seed` are keys that were saved
    /// earlier.
    pub(crate) fn start(
        address: Arc<str>,
        common: Common,
        seed: Option<(Jwks, SystemTime)>,
        delay: Duration,
    ) -> Result<Self, NoRuntime> {
        let (jwks, origin) = match seed {
            Some((jwks, fetched_at)) => {
                let age = (common.clock)().duration_since(fetched_at).unwrap_or_default();
                let now = Instant::now();
                let monotonic = now.checked_sub(age).unwrap_or(now);
                (jwks, Origin::Fetched { monotonic, wall: fetched_at })
            }
            None => (Jwks::none(), Origin::Nowhere),
        };
        let shared = Arc::new(Shared::new(address, common, jwks, origin, delay));
        let running = Task::spawn(&shared)?;
        Ok(Self { shared, task: watch::Sender::new(TaskSlot::Running(running)) })
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    /// The keys to judge with at this time of day, or how long to wait before trying again.
    pub(crate) fn current(&self, now: SystemTime) -> Result<CurrentKeys, Duration> {
        let snapshot = self.shared.snapshot.load();
        if snapshot.overdue(now) > OVERDUE {
            self.wake();
        }
        let age = snapshot.age(now);
        if self.shared.is_usable(age) {
            return Ok(CurrentKeys(snapshot));
        }
        let next = snapshot.next_refresh.monotonic;
        let wait = age.map_or(Duration::ZERO, |_| next.saturating_duration_since(Instant::now()));
        Err(wait.clamp(Duration::from_secs(1), Duration::from_secs(30)))
    }

    pub(crate) fn health(&self, now: SystemTime) -> PoolHealth {
        let snapshot = self.shared.snapshot.load();
        let age = snapshot.age(now);
        let last_error = snapshot.failing.as_ref().map(|failing| failing.error.class());
        let degraded = |since| Some(Degraded { since, age, last_error });
        // By age and not by the schedule, since it must also notice a task that is no more.
        let overdue = age.and_then(|age| age.checked_sub(self.shared.common.interval));
        let trouble = match (&snapshot.failing, overdue) {
            (Some(failing), _) => degraded(failing.since),
            (None, Some(overdue)) if overdue > OVERDUE => {
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
    pub(crate) fn nudge(&self) {
        // First, as it may start a task again whose fetch went with its runtime.
        if self.running().is_none() {
            return;
        }
        let seen = self.shared.progress();
        if !seen.is_fetching() && seen.is_budget_open() {
            self.shared.want(|wanted| &mut wanted.on_demand, seen.next());
        }
    }

    /// Waits for newer keys, within limits, until `found` says that they have what was missing.
    ///
    /// Joins the fetch that is under way. That one may have begun before the issuer published the
    /// key, so if it does not bring it, or there is none, one more is asked for: as far as the
    /// budget allows.
    pub(crate) async fn look_again(&self, mut found: impl FnMut() -> bool) {
        let Ok(_waiter) = self.shared.common.limits.waiters.try_acquire() else {
            return;
        };
        let Some(runtime) = self.running() else {
            return;
        };
        let looking = async {
            // Progress is read before the keys are: what is finished later was not looked at yet.
            let seen = self.shared.progress();
            if found() {
                return;
            }
            let mut last = seen;
            if seen.is_fetching() {
                if !self.settled(seen.started, seen).await {
                    return;
                }
                last = self.shared.progress();
                if found() {
                    return;
                }
            }
            if self.next_fetch(last).await {
                found();
            }
        };
        // Late keys are no use to this request, so the outcome does not matter.
        let _ = timeout_on(&runtime, MAX_WAIT, looking).await;
    }

    /// Waits for the first fetch that had not finished when `seen` was read, and asks for it if
    /// it is not under way. Answers at once with `false` if there is none to be had.
    async fn next_fetch(&self, seen: Progress) -> bool {
        if seen.is_fetching() {
            return self.settled(seen.started, seen).await;
        }
        if !seen.is_budget_open() {
            return false;
        }
        self.shared.want(|wanted| &mut wanted.on_demand, seen.next());
        self.settled(seen.next(), seen).await
    }

    /// Waits until that fetch has finished, or until one is denied.
    async fn settled(&self, fetch: u64, seen: Progress) -> bool {
        let mut watched = self.shared.progress.subscribe();
        let settled =
            watched.wait_for(|now| now.finished >= fetch || now.denials > seen.denials).await;
        settled.is_ok_and(|now| now.finished >= fetch)
    }

    /// Asks for a fetch that begins after this call, and answers what came of it once awaited.
    pub(crate) fn refresh(&self) -> impl Future<Output = Result<(), RefreshError>> + Send + '_ {
        let runtime = self.running();
        let awaited = self.shared.progress().next();
        if runtime.is_some() {
            self.shared.want(|wanted| &mut wanted.at_once, awaited);
        }
        async move {
            let Some(runtime) = runtime else {
                return Err(RefreshError::transport("no task fetches these keys"));
            };
            // The fetch under way, if there is one, and the one that was asked for.
            let limit = FETCH_TIMEOUT.saturating_mul(2).saturating_add(MAX_WAIT);
            let mut watched = self.shared.progress.subscribe();
            let finished = watched.wait_for(|now| now.finished >= awaited);
            match timeout_on(&runtime, limit, finished).await {
                Ok(Ok(_)) => {}
                _ => return Err(RefreshError::timed_out()),
            }
            match &self.shared.snapshot.load().failing {
                Some(failing) => Err(failing.error.clone()),
                None => Ok(()),
            }
        }
    }

    /// Waits for keys that can be used, until the deadline.
    pub(crate) async fn ready(&self, within: Duration, patience: Patience) -> Result<(), Missing> {
        if self.is_ready() {
            return Ok(());
        }
        if let Some(runtime) = self.running() {
            let mut watched = self.shared.progress.subscribe();
            let is_settled = |progress: &Progress| {
                progress.has_keys || (patience == Patience::UntilHopeless && progress.is_hopeless)
            };
            let _ = timeout_on(&runtime, within, watched.wait_for(is_settled)).await;
        }
        if self.is_ready() {
            return Ok(());
        }
        let snapshot = self.shared.snapshot.load();
        Err(Missing(snapshot.failing.as_ref().map(|failing| failing.error.clone())))
    }

    /// Ends the task, and waits until it is gone. The keys stay, and grow old.
    pub(crate) async fn shut_down(&self) {
        let slot = self.task.send_replace(TaskSlot::ShutDown);
        if let TaskSlot::Running(mut running) = slot {
            running.task.0.abort();
            let _ = (&mut running.task.0).await;
            // No request shall look for a task that is overdue for ever, and nobody wait for it.
            let last = self.shared.snapshot.load_full();
            let next_refresh = Next::after(A_YEAR, &self.shared.common.clock);
            self.shared.snapshot.store(Arc::new(Snapshot { next_refresh, ..(*last).clone() }));
            self.shared.progress.send_modify(|progress| {
                progress.finished = progress.started;
                progress.denials = progress.denials.saturating_add(1);
            });
        }
    }

    fn is_ready(&self) -> bool {
        let now = (self.shared.common.clock)();
        self.shared.is_usable(self.shared.snapshot.load().age(now))
    }

    /// The refresh is overdue. Either the time of day went on without the task, as in a sandbox
    /// that was frozen, or the task is gone with its runtime.
    #[cold]
    fn wake(&self) {
        if self.running().is_some() {
            let seen = self.shared.progress();
            if !seen.is_fetching() {
                self.shared.want(|wanted| &mut wanted.at_once, seen.next());
            }
        }
    }

    /// The runtime of the task, if there is one; a task that went with its runtime is started
    /// again where that is possible.
    fn running(&self) -> Option<Handle> {
        match &*self.task.borrow() {
            TaskSlot::None | TaskSlot::ShutDown => return None,
            TaskSlot::Running(running) if !running.task.0.is_finished() => {
                return Some(running.runtime.clone());
            }
            TaskSlot::Running(_) => {}
        }
        // One at a time: of many who notice, one starts it.
        let mut runtime = None;
        self.task.send_if_modified(|slot| {
            let TaskSlot::Running(running) = slot else {
                return false;
            };
            if running.task.0.is_finished() {
                let Ok(again) = Task::spawn(&self.shared) else {
                    return false;
                };
                *running = again;
            }
            runtime = Some(running.runtime.clone());
            true
        });
        runtime
    }
}

/// When to give up waiting for the first keys before the time is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    ToTheEnd,
    /// When the issuer says that there is no such key set.
    UntilHopeless,
}

/// There are no keys yet, and why, if a fetch has failed already.
pub(crate) struct Missing(pub(crate) Option<RefreshError>);

/// The keys that are current at the moment, without a reference count.
pub(crate) struct CurrentKeys(Guard<Arc<Snapshot>>);

impl Deref for CurrentKeys {
    type Target = Jwks;

    fn deref(&self) -> &Jwks {
        &self.0.jwks
    }
}

/// What a request sees: one load, no lock, never half of anything.
#[derive(Clone)]
struct Snapshot {
    jwks: Arc<Jwks>,
    origin: Origin,
    /// Since when, and for what, refreshes have failed.
    failing: Option<Failing>,
    next_refresh: Next,
}

/// A moment to come, on both clocks.
#[derive(Clone, Copy)]
struct Next {
    monotonic: Instant,
    wall: SystemTime,
}

impl Next {
    fn after(pause: Duration, clock: &Clock) -> Self {
        let wall = clock();
        let later_wall = wall.checked_add(pause).or_else(|| wall.checked_add(A_YEAR));
        Self { monotonic: later(pause), wall: later_wall.unwrap_or(wall) }
    }
}

#[derive(Clone, Copy)]
enum Origin {
    Fetched { monotonic: Instant, wall: SystemTime },
    Fixed,
    Nowhere,
}

#[derive(Clone)]
struct Failing {
    since: SystemTime,
    error: RefreshError,
}

impl Snapshot {
    /// The larger age of the two clocks: the monotonic one stands still while a machine sleeps or
    /// a sandbox is frozen, the wall clock can be set back.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        match self.origin {
            Origin::Fetched { monotonic, wall } => {
                let wall_age = now.duration_since(wall).unwrap_or_default();
                Some(monotonic.elapsed().max(wall_age))
            }
            Origin::Fixed => Some(Duration::ZERO),
            Origin::Nowhere => None,
        }
    }

    /// How long ago the next refresh should have begun, by the clock that says more.
    fn overdue(&self, now: SystemTime) -> Duration {
        if matches!(self.origin, Origin::Fixed) {
            return Duration::ZERO;
        }
        let wall = now.duration_since(self.next_refresh.wall).unwrap_or_default();
        self.next_refresh.monotonic.elapsed().max(wall)
    }
}

/// How far the task is: fetches are counted from 1.
#[derive(Clone, Copy)]
struct Progress {
    started: u64,
    finished: u64,
    /// How many were wanted and not made.
    denials: u64,
    budget_opens: Instant,
    has_keys: bool,
    /// The last answer says that there is no such key set.
    is_hopeless: bool,
}

impl Progress {
    fn is_fetching(&self) -> bool {
        self.started > self.finished
    }

    fn is_budget_open(&self) -> bool {
        self.budget_opens <= Instant::now()
    }

    fn next(&self) -> u64 {
        self.started.saturating_add(1)
    }
}

/// The last fetch that is wanted, by those whose wants the budget limits, and by the others.
#[derive(Clone, Copy, Default)]
struct Wanted {
    on_demand: u64,
    at_once: u64,
}

struct Shared {
    address: Arc<str>,
    began: SystemTime,
    common: Common,
    snapshot: ArcSwap<Snapshot>,
    progress: watch::Sender<Progress>,
    wanted: watch::Sender<Wanted>,
}

impl Shared {
    fn new(address: Arc<str>, common: Common, jwks: Jwks, origin: Origin, delay: Duration) -> Self {
        let next_refresh = Next::after(delay, &common.clock);
        let snapshot = Snapshot { jwks: Arc::new(jwks), origin, failing: None, next_refresh };
        let progress = Progress {
            started: 0,
            finished: 0,
            denials: 0,
            budget_opens: Instant::now(),
            has_keys: matches!(snapshot.origin, Origin::Fixed),
            is_hopeless: false,
        };
        Self {
            address,
            began: (common.clock)(),
            common,
            snapshot: ArcSwap::from_pointee(snapshot),
            progress: watch::Sender::new(progress),
            wanted: watch::Sender::new(Wanted::default()),
        }
    }

    fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Whether keys of this age can be used; `None` is no keys.
    fn is_usable(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| age < self.common.max_stale)
    }

    /// Many may want the same fetch; it is made once.
    fn want(&self, which: impl FnOnce(&mut Wanted) -> &mut u64, fetch: u64) {
        self.wanted.send_if_modified(|wanted| {
            let wanted = which(wanted);
            let is_news = fetch > *wanted;
            *wanted = fetch.max(*wanted);
            is_news
        });
    }
}

/// The owner of one pool's fetches.
struct Task {
    shared: Arc<Shared>,
    random: Random,
    began: Instant,
    budget: Budget,
    failures: u32,
    /// That the keys are too old was said already.
    is_stale: bool,
}

impl Task {
    /// Starts a task where there is none: at first, and after one that went with its runtime.
    fn spawn(shared: &Arc<Shared>) -> Result<Running, NoRuntime> {
        let runtime = Handle::try_current().map_err(|_| NoRuntime)?;
        if !has_timers() {
            return Err(NoRuntime);
        }
        let task = Self {
            shared: Arc::clone(shared),
            random: (shared.common.random)(),
            began: Instant::now(),
            budget: Budget::full(),
            failures: 0,
            is_stale: false,
        };
        // A fetch that went with the runtime will never be finished.
        task.publish(|progress| progress.finished = progress.started);
        let started = shared.progress().started;
        shared.wanted.send_replace(Wanted { on_demand: started, at_once: started });
        // Before anybody can want anything of this task.
        let wanted = shared.wanted.subscribe();
        let task = AbortOnDrop(runtime.spawn(task.run(wanted)));
        Ok(Running { task, runtime })
    }

    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let next_refresh = self.shared.snapshot.load().next_refresh.monotonic;
            let is_wanted = match timeout_at(next_refresh, wanted.changed()).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => true,
                Err(_) => false,
            };
            let asked = *wanted.borrow_and_update();
            let started = self.shared.progress().started;
            // What is due comes first, and is what everybody wants.
            if !is_wanted || next_refresh <= Instant::now() || asked.at_once > started {
                self.refresh().await;
            } else if asked.on_demand > started {
                self.refresh_on_demand().await;
            }
        }
    }

    async fn refresh_on_demand(&mut self) {
        let limits = Arc::clone(&self.shared.common.limits);
        let slot = timeout(MAX_WAIT, limits.fetches_on_demand.acquire()).await;
        let is_paid = slot.is_ok() && self.budget.charge(self.began.elapsed());
        if !is_paid {
            // The same fetch can be wanted again, by others than those who are denied it now.
            let started = self.shared.progress().started;
            self.shared.wanted.send_modify(|wanted| wanted.on_demand = started);
            self.publish(|progress| progress.denials = progress.denials.saturating_add(1));
            return;
        }
        if self.budget.opens_at() > self.began.elapsed() {
            tracing::warn!(
                jwks_url = %self.shared.address,
                "unknown key IDs have spent the budget for fetches, and are refused at once for now"
            );
        }
        // Fails as any other fetch; but what it costs is paid already.
        self.fetch_and_publish().await;
    }

    async fn refresh(&mut self) {
        // While the issuer is down, attempts are attempts, whoever wants them.
        if self.failures > 0 {
            self.budget.charge_even_if_spent(self.began.elapsed());
        }
        self.fetch_and_publish().await;
    }

    async fn fetch_and_publish(&mut self) {
        self.publish(|progress| progress.started = progress.next());
        let fetched = self.fetch().await;
        let before = self.shared.snapshot.load_full();
        let is_hopeless = fetched.as_ref().is_err_and(RefreshError::is_permanent);
        let (jwks, origin, failing, pause) = match fetched {
            Ok((jwks, max_age)) => {
                let (jwks, origin, pause) = self.succeeded(jwks, max_age, &before);
                (jwks, origin, None, pause)
            }
            Err(error) => {
                let (failing, pause) = self.failed(error, &before);
                (Arc::clone(&before.jwks), before.origin, Some(failing), pause)
            }
        };
        let next_refresh = Next::after(pause, &self.shared.common.clock);
        let snapshot = Snapshot { jwks, origin, failing, next_refresh };
        let has_keys = self.shared.is_usable(snapshot.age((self.shared.common.clock)()));
        self.shared.snapshot.store(Arc::new(snapshot));
        self.publish(|progress| {
            progress.finished = progress.started;
            progress.has_keys = has_keys;
            progress.is_hopeless = is_hopeless;
        });
    }

    /// Runs the fetch as a task of its own, so that a panic in it, even in its drop, stays there,
    /// and so that one that is late is gone for good.
    async fn fetch(&self) -> Result<(Jwks, Option<Duration>), RefreshError> {
        let fetcher = Arc::clone(&self.shared.common.fetcher);
        let address = Arc::clone(&self.shared.address);
        let mut fetch = AbortOnDrop(tokio::spawn(async move { fetcher.fetch(&address).await }));
        let JwksDocument { body, max_age } = match timeout(FETCH_TIMEOUT, &mut fetch.0).await {
            Ok(Ok(fetched)) => fetched?,
            Ok(Err(_)) => return Err(RefreshError::panicked()),
            Err(_) => return Err(RefreshError::timed_out()),
        };
        Ok((Jwks::from_json(body).map_err(RefreshError::document)?, max_age))
    }

    fn succeeded(
        &mut self,
        jwks: Jwks,
        max_age: Option<Duration>,
        before: &Snapshot,
    ) -> (Arc<Jwks>, Origin, Duration) {
        let jwks_url = &self.shared.address;
        tracing::debug!(%jwks_url, keys = jwks.key_ids().count(), "keys refreshed");
        if before.failing.is_some() {
            tracing::info!(%jwks_url, failures = self.failures, "key refresh works again");
        }
        self.report_changes(&before.jwks, &jwks);
        self.failures = 0;
        self.is_stale = false;
        // The same keys stay the same set, so that what was verified with them stays verified.
        let jwks = if before.jwks.has_same_keys(&jwks) {
            Arc::clone(&before.jwks)
        } else {
            Arc::new(jwks)
        };
        let wall = (self.shared.common.clock)();
        let origin = Origin::Fetched { monotonic: Instant::now(), wall };
        let interval = self.shared.common.interval;
        (jwks, origin, pause_after_success(interval, max_age, &mut self.random))
    }

    fn failed(&mut self, error: RefreshError, before: &Snapshot) -> (Failing, Duration) {
        self.failures = self.failures.saturating_add(1);
        let now = (self.shared.common.clock)();
        let age = before.age(now);
        let is_usable = self.shared.is_usable(age);
        let retry_after = error.retry_after();
        let pause = pause_after_failure(self.failures, is_usable, retry_after, &mut self.random);
        if retry_after.is_some() {
            self.budget.close_until(self.began.elapsed().saturating_add(pause));
        }
        tracing::warn!(
            jwks_url = %self.shared.address,
            error = %with_causes(&error),
            class = error.class(),
            failures = self.failures,
            age_s = age.map(|age| age.as_secs()),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "key refresh failed, the keys in use stay"
        );
        let is_stale = age.is_some() && !is_usable;
        if is_stale && !self.is_stale {
            tracing::error!(
                jwks_url = %self.shared.address,
                "the keys are too old to be used: every token is answered with 503"
            );
        }
        self.is_stale = is_stale;
        let since = before.failing.as_ref().map_or(now, |failing| failing.since);
        (Failing { since, error }, pause)
    }

    fn report_changes(&self, before: &Jwks, after: &Jwks) {
        let jwks_url = &self.shared.address;
        for id in after.key_ids().filter(|id| before.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key added");
        }
        for id in before.key_ids().filter(|id| after.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key removed");
        }
        if before.skipped() == after.skipped() {
            return;
        }
        for skipped in after.skipped() {
            let (index, reason) = (skipped.index, skipped.reason.as_str());
            if skipped.reason == Skip::Private {
                tracing::error!(%jwks_url, index, reason, "the issuer publishes a private key");
            } else {
                tracing::warn!(%jwks_url, index, reason, "a key of the set can not be used");
            }
        }
    }

    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        let budget_opens = self.began.checked_add(self.budget.opens_at()).unwrap_or(self.began);
        self.shared.progress.send_modify(|progress| {
            progress.budget_opens = budget_opens;
            change(progress);
        });
    }
}

/// What no clock can show is as good as a year.
fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).or_else(|| now.checked_add(A_YEAR)).unwrap_or(now)
}

/// A timeout by the timers of the runtime it is called on, which is driven while somebody waits;
/// where there are none, by those of the task's runtime.
fn timeout_on<F: Future>(task: &Handle, limit: Duration, future: F) -> Timeout<F> {
    if has_timers() {
        return timeout(limit, future);
    }
    let _entered = task.enter();
    timeout(limit, future)
}

/// Tokio says only by a panic that a runtime has no timers.
fn has_timers() -> bool {
    let try_one = || drop(tokio::time::sleep(Duration::ZERO));
    Handle::try_current().is_ok() && std::panic::catch_unwind(try_one).is_ok()
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A JWK Set in a file, for a machine without a way to the issuer. Here, since reading a file may
/// block, and this file alone knows where it may.
pub(crate) struct FileFetch {
    path: PathBuf,
}

impl FileFetch {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl FetchJwks for FileFetch {
    async fn fetch_jwks(&self, _url: &str) -> Result<JwksDocument, RefreshError> {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || read_document(&path)).await {
            Ok(read) => read.map(JwksDocument::new).map_err(RefreshError::transport),
            Err(_) => Err(RefreshError::panicked()),
        }
    }
}

fn read_document(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let limit = u64::try_from(MAX_DOCUMENT_LEN).unwrap_or(u64::MAX).saturating_add(1);
    let mut document = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut document)?;
    Ok(document)
}

/// Waits for all of them, one after the other: they run already.
pub(crate) async fn all_ready<'s>(
    sources: impl Iterator<Item = &'s Source>,
    time: Duration,
    patience: Patience,
    mut missing: impl FnMut(&Source, Missing),
) {
    let deadline = later(time);
    for source in sources {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(why) = source.ready(left, patience).await {
            missing(source, why);
        }
    }
}
