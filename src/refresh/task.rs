//! The task: the one owner of a pool's fetches, backoff and budget.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::shared::{
    Deadline, FailureState, FetchRequests, Origin, Progress, RefreshState, Snapshot,
};
use super::{FETCH_TIMEOUT, MAX_WAIT};
use crate::background::Home;
use crate::error::RefreshError;
use crate::fetch::JwksDocument;
use crate::jwks::{CompromisedKey, Jwks, KeySet, ReadJwks, SkippedKey, register_compromised};
use crate::schedule::{Budget, Random, pause_after_failure, pause_after_success};
use crate::telemetry::KeyEvents;

/// A task that was started.
pub(super) struct Running {
    pub(super) task: AbortOnDrop<()>,
    pub(super) home: Home,
}

impl Running {
    /// Returns `true` if nothing refreshes the keys: the task has ended, its paused runtime was
    /// dropped, or this process is a forked child.
    pub(super) fn is_gone(&self) -> bool {
        self.task.0.is_finished() || self.home.is_of_another_process()
    }

    /// Ends the task and waits until it is gone.
    pub(super) async fn end(mut self) {
        if self.home.is_of_another_process() {
            return self.forget_if_foreign();
        }
        self.task.0.abort();
        // The limit is for a paused runtime that is no longer driven.
        let _ = self.home.timeout(MAX_WAIT, &mut self.task.0).await;
    }

    /// Leaks a task of the parent process instead of aborting it: when the process was forked, threads
    /// that the child does not have may have held its locks.
    pub(super) fn forget_if_foreign(self) {
        if self.home.is_of_another_process() {
            mem::forget(self);
        }
    }
}

/// The owner of one pool's fetches.
pub(super) struct Task {
    shared: Arc<RefreshState>,
    random: Random,
    began: Instant,
    budget: Budget,
    failures: u32,
    /// Whether the event that the keys are too old was already logged.
    is_stale: bool,
    /// The keys of the last document that cannot be used. They are logged when they change.
    skipped: Vec<SkippedKey>,
    /// The keys whose private part the last document contains. They are logged when they change.
    compromised: Vec<CompromisedKey>,
}

impl Task {
    /// Starts a task: the first one, or one that replaces a task that is gone.
    pub(super) fn spawn(shared: &Arc<RefreshState>, home: Home) -> Running {
        let task = {
            // Enter the runtime on which the task runs, so that its times are on the same clock.
            let _entered = home.enter();
            let task = Self {
                shared: Arc::clone(shared),
                random: (shared.config.random)(),
                began: Instant::now(),
                budget: Budget::full(),
                failures: 0,
                is_stale: false,
                skipped: shared.current().key_set.skipped().to_vec(),
                compromised: Vec::new(),
            };
            // The fetch of a task that is gone will never finish.
            task.publish(|progress| progress.finished = progress.started);
            task
        };
        let started = shared.progress().started;
        shared.requests.send_replace(FetchRequests { unknown_key: started, explicit: started });
        // Subscribe before the task is visible, so that it receives every request.
        let requests = shared.requests.subscribe();
        let task = AbortOnDrop(home.spawn(task.run(requests)));
        Running { task, home }
    }

    async fn run(mut self, mut requests: watch::Receiver<FetchRequests>) {
        loop {
            let next_refresh = self.shared.snapshot.load().next_refresh.monotonic;
            let is_requested = match timeout_at(next_refresh, requests.changed()).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => true,
                Err(_) => false,
            };
            let requested = *requests.borrow_and_update();
            let started = self.shared.progress().started;
            // A refresh that is due comes first, and also answers the requests for an unknown key.
            if !is_requested || next_refresh <= Instant::now() || requested.explicit > started {
                self.refresh().await;
            } else if requested.unknown_key > started {
                self.refresh_on_demand().await;
            }
        }
    }

    async fn refresh_on_demand(&mut self) {
        let limits = Arc::clone(&self.shared.config.limits);
        let slot = timeout(MAX_WAIT, limits.fetches_on_demand.acquire()).await;
        let is_allowed = slot.is_ok() && self.budget.charge(self.began.elapsed());
        if !is_allowed {
            // Forget the request, so that a later one for the same fetch is noticed.
            let started = self.shared.progress().started;
            self.shared.requests.send_modify(|requests| requests.unknown_key = started);
            self.events().denied_on_demand();
            self.publish(|progress| progress.denials = progress.denials.saturating_add(1));
            return;
        }
        self.events().fetched_on_demand(self.budget.opens_at() > self.began.elapsed());
        // The budget is charged already, also if this fetch fails.
        self.fetch_and_publish().await;
    }

    async fn refresh(&mut self) {
        // While the issuer is down, every attempt counts against the budget, whatever its reason.
        if self.failures > 0 {
            self.budget.charge_even_if_spent(self.began.elapsed());
        }
        self.fetch_and_publish().await;
    }

    async fn fetch_and_publish(&mut self) {
        self.publish(|progress| {
            progress.started = progress.next();
            progress.started_at = Instant::now();
        });
        let fetched = self.fetch().await;
        let fetched = fetched.and_then(|(read, max_age)| Ok((self.usable_keys(read)?, max_age)));
        // Read after `usable_keys` has registered compromised keys, so that `before` contains none.
        let before = Guard::into_inner(self.shared.current());
        let has_permanent_error = fetched.as_ref().is_err_and(RefreshError::is_permanent);
        let (key_set, origin, failing, pause) = match fetched {
            Ok((jwks, max_age)) => {
                let (key_set, origin, pause) = self.succeeded(jwks, max_age, &before);
                (key_set, origin, None, pause)
            }
            Err(error) => {
                let (failing, pause) = self.failed(error, &before);
                (Arc::clone(&before.key_set), before.origin, Some(failing), pause)
            }
        };
        let next_refresh = Deadline::after(pause, &self.shared.config.clock);
        let max_key_age = self.shared.config.max_key_age;
        let snapshot = Snapshot::new(key_set, origin, failing, next_refresh, max_key_age);
        let has_keys =
            self.shared.is_usable(snapshot.age((self.shared.config.clock)(), Instant::now()));
        self.shared.snapshot.store(Arc::new(snapshot));
        self.publish(|progress| {
            progress.finished = progress.started;
            progress.has_keys = has_keys;
            progress.has_permanent_error = has_permanent_error;
        });
    }

    /// Runs the fetch as a separate task, so that a panic in it, also while it is dropped, does not end
    /// this one, and so that a late fetch is aborted. (A blocking read of a file cannot be aborted.)
    async fn fetch(&self) -> Result<(ReadJwks, Option<Duration>), RefreshError> {
        let fetcher = Arc::clone(&self.shared.config.fetcher);
        let address = Arc::clone(&self.shared.address);
        let mut fetch = AbortOnDrop(tokio::spawn(async move { fetcher.fetch(&address).await }));
        let JwksDocument { body, max_age } = match timeout(FETCH_TIMEOUT, &mut fetch.0).await {
            Ok(Ok(fetched)) => fetched?,
            Ok(Err(_)) => return Err(RefreshError::panicked()),
            Err(_) => return Err(RefreshError::timed_out()),
        };
        Ok((Jwks::read(&body).map_err(RefreshError::document)?, max_age))
    }

    /// Returns the keys that may be used. Whatever the result is, the keys whose private part was
    /// fetched are not trusted any more, by any verifier of this process.
    fn usable_keys(&mut self, mut read: ReadJwks) -> Result<Jwks, RefreshError> {
        let in_use = self.shared.current();
        for key in read.compromised.iter().filter(|key| !self.compromised.contains(key)) {
            self.events().private_key_published(key, &in_use.key_set);
            register_compromised(&key.numbers);
        }
        self.compromised.clone_from(&read.compromised);
        read.skip_compromised();
        self.events().keys_skipped(&self.skipped, read.skipped());
        self.skipped = read.skipped().to_vec();
        read.into_usable().map_err(RefreshError::document)
    }

    fn succeeded(
        &mut self,
        jwks: Jwks,
        max_age: Option<Duration>,
        before: &Snapshot,
    ) -> (Arc<KeySet>, Origin, Duration) {
        let wall = (self.shared.config.clock)();
        self.events().refreshed(&before.key_set, &jwks, self.failures, wall);
        self.failures = 0;
        self.is_stale = false;
        let key_set = KeySet::reuse_if_unchanged(jwks, &before.key_set);
        let origin = Origin::Fetched { monotonic: Instant::now(), wall };
        let interval = self.shared.config.interval;
        (key_set, origin, pause_after_success(interval, max_age, &mut self.random))
    }

    fn failed(&mut self, error: RefreshError, before: &Snapshot) -> (FailureState, Duration) {
        self.failures = self.failures.saturating_add(1);
        let now = (self.shared.config.clock)();
        let age = before.age(now, Instant::now());
        let is_usable = self.shared.is_usable(age);
        let retry_after = error.retry_after();
        let pause = pause_after_failure(self.failures, is_usable, retry_after, &mut self.random);
        if retry_after.is_some() {
            self.budget.close_until(self.began.elapsed().saturating_add(pause));
        }
        let last_refresh = before.origin.fetched_at();
        self.events().refresh_failed(&error, self.failures, age, last_refresh, pause);
        let is_stale = age.is_some() && !is_usable;
        if is_stale && !self.is_stale {
            self.events().went_stale();
        }
        self.is_stale = is_stale;
        let since = before.failing.as_ref().map_or(now, |failing| failing.since);
        let last_attempt = Deadline { monotonic: Instant::now(), wall: now };
        (FailureState { since, last_attempt, error }, pause)
    }

    fn events(&self) -> KeyEvents<'_> {
        KeyEvents::at(&self.shared.address)
    }

    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        let budget_opens = self.began.checked_add(self.budget.opens_at()).unwrap_or(self.began);
        self.shared.progress.send_modify(|progress| {
            progress.budget_opens = budget_opens;
            change(progress);
        });
    }
}

pub(super) struct AbortOnDrop<T>(pub(super) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
