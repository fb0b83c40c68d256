//! Keeps one pool's keys current. The only file that knows tokio.
//!
//! One task owns the pool's fetches, its backoff and its budget; nothing else changes them. What
//! it publishes are two immutable values: the [`Snapshot`] that requests read without waiting,
//! and the [`Progress`] that those watch who wait for a fetch.
//!
//! | the task waits for | then |
//! | --- | --- |
//! | the time of the next refresh | it fetches |
//! | a fetch that is wanted for an unknown key ID | it fetches if the budget allows, else it denies |
//!
//! | a fetch | keys | next refresh |
//! | --- | --- | --- |
//! | brings a good set | replaced, or kept if they are the same | after the interval |
//! | fails, is late, panics, or brings no good set | kept | after the backoff |
//!
//! There are no locks or atomics of our own here: the snapshot is swapped by arc-swap, the rest
//! are tokio's channels and semaphores.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::RefreshError;
use crate::fetch::{AnyFetchJwks, JwksDocument};
use crate::jwks::{Jwks, Skip};
use crate::schedule::{Budget, Random, pause_after_failure, pause_after_success};

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAITERS: usize = 1_024;
const MAX_FETCHES_ON_DEMAND: usize = 16;

/// The time of day. Everything else here is measured on the monotonic clock.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What the pools of one verifier have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) fetcher: Arc<dyn AnyFetchJwks>,
    pub(crate) clock: Clock,
    pub(crate) interval: Duration,
    pub(crate) max_stale: Duration,
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
    /// `None` where the keys are fixed.
    task: Option<AbortOnDrop<()>>,
}

/// There is no tokio runtime to run the task on.
#[derive(Debug)]
pub(crate) struct NoRuntime;

impl Source {
    /// Keys that never change and never age.
    pub(crate) fn fixed(jwks: Jwks, common: Common) -> Self {
        let origin = Origin::Fixed;
        let shared = Shared::new("".into(), common, Snapshot::new(Arc::new(jwks), origin));
        Self { shared: Arc::new(shared), task: None }
    }

    /// Starts the task, which fetches at once. `seed` are keys that were saved earlier.
    pub(crate) fn start(
        address: Arc<str>,
        common: Common,
        seed: Option<(Jwks, SystemTime)>,
    ) -> Result<Self, NoRuntime> {
        let runtime = Handle::try_current().map_err(|_| NoRuntime)?;
        let snapshot = match seed {
            Some((jwks, fetched_at)) => {
                let age = (common.clock)().duration_since(fetched_at).unwrap_or_default();
                let now = Instant::now();
                let monotonic = now.checked_sub(age).unwrap_or(now);
                Snapshot::new(Arc::new(jwks), Origin::Fetched { monotonic, wall: fetched_at })
            }
            None => Snapshot::new(Arc::new(Jwks::none()), Origin::Nowhere),
        };
        let shared = Arc::new(Shared::new(address, common, snapshot));
        let task = Task::new(Arc::clone(&shared));
        let task = AbortOnDrop(runtime.spawn(task.run()));
        Ok(Self { shared, task: Some(task) })
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    /// The keys to judge with at this time of day, or how long to wait before trying again.
    pub(crate) fn current(&self, now: SystemTime) -> Result<CurrentKeys, Duration> {
        let snapshot = self.shared.snapshot.load();
        match snapshot.age(now) {
            Some(age) if age < self.shared.common.max_stale => Ok(CurrentKeys(snapshot)),
            Some(_) => {
                let wait = snapshot.next_refresh.saturating_duration_since(Instant::now());
                Err(wait.clamp(Duration::from_secs(1), Duration::from_secs(30)))
            }
            None => Err(Duration::from_secs(1)),
        }
    }

    /// Wants a fetch for a key ID that the keys do not have, and does not wait for it.
    pub(crate) fn nudge(&self) {
        let progress = *self.shared.progress.borrow();
        if self.task.is_some() && !progress.is_fetching() && progress.is_budget_open() {
            self.shared.want(progress.started.saturating_add(1));
        }
    }

    /// Waits for newer keys, within limits, until `found` says that they have what was missing.
    ///
    /// Joins the fetch that is under way. That one may have begun before the issuer published the
    /// key, so if it does not bring it, or there is none, one more is asked for: as far as the
    /// budget allows.
    pub(crate) async fn look_again(&self, mut found: impl FnMut() -> bool) {
        let limits = &self.shared.common.limits;
        let (Some(_), Ok(_waiter)) = (&self.task, limits.waiters.try_acquire()) else {
            return;
        };
        let looking = async {
            let joined = self.shared.progress.borrow().is_fetching();
            if joined && self.next_fetch().await && found() {
                return;
            }
            if self.next_fetch().await {
                found();
            }
        };
        // Late keys are no use to this request, so the outcome does not matter.
        let _ = timeout(MAX_WAIT, looking).await;
    }

    /// Waits for the fetch that is under way, or else for one that it asks for. Answers at once
    /// with `false` if there is none to be had.
    async fn next_fetch(&self) -> bool {
        let mut watched = self.shared.progress.subscribe();
        let progress = *watched.borrow_and_update();
        let awaited = if progress.is_fetching() {
            progress.started
        } else if progress.is_budget_open() {
            let next = progress.started.saturating_add(1);
            self.shared.want(next);
            next
        } else {
            tracing::debug!(jwks_url = %self.shared.address, "no fetch for an unknown key ID");
            return false;
        };
        let settled = watched.wait_for(|now| now.finished >= awaited || now.denied >= awaited);
        settled.await.is_ok_and(|now| now.finished >= awaited)
    }

    /// Waits for the first keys until the deadline.
    pub(crate) async fn ready(
        &self,
        deadline: Duration,
        patience: Patience,
    ) -> Result<(), Missing> {
        let mut outcomes = self.shared.outcome.subscribe();
        let is_settled = |outcome: &Outcome| match &outcome.error {
            _ if outcome.has_keys => true,
            Some(error) => patience == Patience::UntilHopeless && error.is_permanent(),
            None => false,
        };
        let settled = timeout(deadline, outcomes.wait_for(is_settled)).await;
        let outcome = match settled {
            Ok(Ok(outcome)) => outcome.clone(),
            _ => self.shared.outcome.borrow().clone(),
        };
        if outcome.has_keys { Ok(()) } else { Err(Missing(outcome.error)) }
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
pub(crate) struct Missing(pub(crate) Option<Arc<RefreshError>>);

/// The keys that are current at the moment, without a reference count.
pub(crate) struct CurrentKeys(Guard<Arc<Snapshot>>);

impl Deref for CurrentKeys {
    type Target = Jwks;

    fn deref(&self) -> &Jwks {
        &self.0.jwks
    }
}

/// What a request sees: one load, no lock, never half of anything.
struct Snapshot {
    jwks: Arc<Jwks>,
    origin: Origin,
    next_refresh: Instant,
}

#[derive(Clone, Copy)]
enum Origin {
    Fetched { monotonic: Instant, wall: SystemTime },
    Fixed,
    Nowhere,
}

impl Snapshot {
    fn new(jwks: Arc<Jwks>, origin: Origin) -> Self {
        Self { jwks, origin, next_refresh: Instant::now() }
    }

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
}

/// How far the task is: fetches are counted from 1.
#[derive(Clone, Copy)]
struct Progress {
    started: u64,
    finished: u64,
    /// The last one that was wanted and not made, for the budget was spent.
    denied: u64,
    budget_opens: Instant,
}

impl Progress {
    fn is_fetching(&self) -> bool {
        self.started > self.finished
    }

    fn is_budget_open(&self) -> bool {
        self.budget_opens <= Instant::now()
    }
}

/// What came of the last fetch.
#[derive(Clone, Default)]
struct Outcome {
    has_keys: bool,
    error: Option<Arc<RefreshError>>,
}

struct Shared {
    address: Arc<str>,
    common: Common,
    snapshot: ArcSwap<Snapshot>,
    progress: watch::Sender<Progress>,
    outcome: watch::Sender<Outcome>,
    wanted: watch::Sender<u64>,
}

impl Shared {
    fn new(address: Arc<str>, common: Common, snapshot: Snapshot) -> Self {
        let has_keys = !matches!(snapshot.origin, Origin::Nowhere);
        let progress =
            Progress { started: 0, finished: 0, denied: 0, budget_opens: Instant::now() };
        Self {
            address,
            common,
            snapshot: ArcSwap::from_pointee(snapshot),
            progress: watch::Sender::new(progress),
            outcome: watch::Sender::new(Outcome { has_keys, error: None }),
            wanted: watch::Sender::new(0),
        }
    }

    /// Many may want the same fetch; it is made once.
    fn want(&self, fetch: u64) {
        self.wanted.send_if_modified(|wanted| {
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
}

impl Task {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            random: Random::from_process(),
            began: Instant::now(),
            budget: Budget::full(),
            failures: 0,
        }
    }

    async fn run(mut self) {
        let mut wanted = self.shared.wanted.subscribe();
        loop {
            let next_refresh = self.shared.snapshot.load().next_refresh;
            match timeout_at(next_refresh, wanted.changed()).await {
                Err(_) => {
                    // While the issuer is down, attempts are attempts, whoever wants them.
                    if self.failures > 0 {
                        self.budget.charge(self.began.elapsed());
                    }
                    self.refresh().await;
                }
                Ok(Ok(())) => {
                    let fetch = *wanted.borrow_and_update();
                    if fetch > self.shared.progress.borrow().started {
                        self.refresh_on_demand(fetch).await;
                    }
                }
                Ok(Err(_)) => return,
            }
        }
    }

    async fn refresh_on_demand(&mut self, fetch: u64) {
        let limits = Arc::clone(&self.shared.common.limits);
        let slot = timeout(MAX_WAIT, limits.fetches_on_demand.acquire()).await;
        if slot.is_ok() && self.budget.charge(self.began.elapsed()) {
            self.refresh().await;
        } else {
            self.publish_progress(|progress| progress.denied = fetch);
        }
    }

    async fn refresh(&mut self) {
        self.publish_progress(|progress| progress.started = progress.started.saturating_add(1));
        let fetched = self.fetch().await;
        let before = self.shared.snapshot.load_full();
        let (jwks, origin, pause) = match fetched {
            Ok((jwks, max_age)) => self.succeeded(jwks, max_age, &before),
            Err(error) => (Arc::clone(&before.jwks), before.origin, self.failed(error)),
        };
        let next_refresh = later(pause);
        self.shared.snapshot.store(Arc::new(Snapshot { jwks, origin, next_refresh }));
        if self.failures == 0 {
            self.shared.outcome.send_replace(Outcome { has_keys: true, error: None });
        }
        self.publish_progress(|progress| progress.finished = progress.started);
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
        self.failures = 0;
        self.report_changes(&before.jwks, &jwks);
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

    fn failed(&mut self, error: RefreshError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let has_keys = self.shared.outcome.borrow().has_keys;
        let retry_after = error.retry_after();
        let pause = pause_after_failure(self.failures, has_keys, retry_after, &mut self.random);
        tracing::warn!(
            jwks_url = %self.shared.address,
            error = %error,
            class = error.class(),
            failures = self.failures,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "key refresh failed, the keys in use stay"
        );
        self.shared.outcome.send_modify(|outcome| outcome.error = Some(Arc::new(error)));
        pause
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

    fn publish_progress(&self, change: impl FnOnce(&mut Progress)) {
        let budget_opens = self.began.checked_add(self.budget.opens_at()).unwrap_or(self.began);
        self.shared.progress.send_modify(|progress| {
            progress.budget_opens = budget_opens;
            change(progress);
        });
    }
}

fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).unwrap_or(now)
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
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
