//! A model of the refresh engine, and the checks that compare the engine with it after each step of
//! any sequence of events. Time is paused. The result of a fetch is fixed when it begins; the model
//! folds over the fetches that have ended.
//!
//! The fuzz target `refresh` searches for sequences, and the integration tests compile this file too
//! and run random ones.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};
use tower_cognito::{Health, JwksDocument, RefreshError, Rules, Verifier, VerifyErrorKind};

use super::choices::Choices;

const STEPS: usize = 60;
const INTERVAL: Duration = s(300);
const MAX_KEY_AGE: Duration = s(900);
const LIMIT: Duration = s(5);
/// Health is degraded if a refresh is later than this.
const OVERDUE: Duration = s(7);
/// Model and engine may see events within this time in a different order.
const TICK: Duration = ms(3);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What the engine gets: the rules of one pool, the members of a JWK Set, and the tokens. The first two
/// tokens are signed with the key of the same number, the third with a key that is never published.
/// None of them expires before 2100.
pub struct Setup {
    pub rules: Rules,
    pub members: [String; 2],
    pub tokens: [String; 3],
}

impl Setup {
    fn document(&self, set: Set) -> String {
        let members = set.iter().map(|token| &*self.members[*token]).collect::<Vec<_>>();
        format!(r#"{{"keys":[{}]}}"#, members.join(","))
    }
}

/// The number of a token.
type Token = usize;

/// The tokens whose keys are in a JWK Set.
type Set = &'static [Token];

const SETS: [Set; 3] = [&[0], &[1], &[0, 1]];

#[derive(Clone, Copy, Debug)]
enum Answer {
    Gives(Set, Option<Duration>),
    Fails(Option<Duration>),
    Garbage,
    Hangs,
    Panics,
}

/// The keys with their maximum age, or an error with its `Retry-After`.
type Brought = Result<(Set, Option<Duration>), (&'static str, Option<Duration>)>;

/// A fetch and its result, unless all handles are dropped before it ends.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    begun: Instant,
    ends: Instant,
    brings: Brought,
}

/// The expected state of the engine after the fetches that have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Model {
    keys: Option<(Set, Instant)>,
    /// The end of the first failed fetch in a row, and the error of the last one.
    failing: Option<(Instant, &'static str)>,
    failures: u32,
    /// The pause that the last answer requested.
    requested: Option<Duration>,
}

impl Model {
    fn at(now: Instant, fetches: &[Fetch]) -> Self {
        fetches.iter().filter(|fetch| fetch.ends <= now).fold(Self::default(), Self::after)
    }

    fn after(self, fetch: &Fetch) -> Self {
        match fetch.brings {
            Ok((set, requested)) => {
                Self { keys: Some((set, fetch.ends)), requested, ..Self::default() }
            }
            Err((class, requested)) => {
                let since = self.failing.map_or(fetch.ends, |(since, _)| since);
                let failing = Some((since, class));
                Self { failing, failures: self.failures + 1, requested, ..self }
            }
        }
    }
}

/// The engine, its fetches, and the present behavior of the issuer.
struct World<'s> {
    setup: &'s Setup,
    handles: Vec<Verifier>,
    fetches: Arc<Mutex<Vec<Fetch>>>,
    answer: Arc<Mutex<(Answer, Duration)>>,
    refreshes: Vec<Instant>,
    /// The times at which the wall clock jumped ahead, and by how much.
    jumps: Arc<Mutex<Vec<(Instant, Duration)>>>,
    begun: Instant,
    /// The time of the shutdown.
    ended: Option<Instant>,
}

impl<'s> World<'s> {
    fn new(setup: &'s Setup, first: (Answer, Duration)) -> Self {
        let begun = Instant::now();
        let fetches = Arc::<Mutex<Vec<Fetch>>>::default();
        let jumps = Arc::<Mutex<Vec<(Instant, Duration)>>>::default();
        let answer = Arc::new(Mutex::new(first));
        let (log, behavior, ahead) =
            (Arc::clone(&fetches), Arc::clone(&answer), Arc::clone(&jumps));
        let clock = move || {
            let ahead = ahead.lock().unwrap().iter().map(|(_, by)| *by).sum::<Duration>();
            start() + begun.elapsed() + ahead
        };
        let documents = SETS.map(|set| (set, setup.document(set)));
        let fetch = move |_url: String| {
            let (answer, takes) = *behavior.lock().unwrap();
            let (brings, takes) = match answer {
                Answer::Hangs => (Err(("timed_out", None)), LIMIT),
                _ if takes >= LIMIT => (Err(("timed_out", None)), LIMIT),
                Answer::Gives(set, max_age) => (Ok((set, max_age)), takes),
                Answer::Fails(retry_after) => (Err(("status", retry_after)), takes),
                Answer::Garbage => (Err(("document", None)), takes),
                Answer::Panics => (Err(("panicked", None)), takes),
            };
            let begun = Instant::now();
            log.lock().unwrap().push(Fetch { begun, ends: begun + takes, brings });
            let documents = documents.clone();
            async move {
                // A fetch that is expected to time out takes longer than its limit.
                sleep(if takes == LIMIT { LIMIT * 2 } else { takes }).await;
                match answer {
                    Answer::Gives(set, max_age) => {
                        let (_, text) = documents.into_iter().find(|(of, _)| *of == set).unwrap();
                        let document = JwksDocument::new(text);
                        Ok(match max_age {
                            Some(max_age) => document.with_max_age(max_age),
                            None => document,
                        })
                    }
                    Answer::Fails(Some(delay)) => {
                        Err(RefreshError::status(503).with_retry_after(delay))
                    }
                    Answer::Fails(None) => Err(RefreshError::status(500)),
                    Answer::Garbage => Ok(JwksDocument::new("<html>")),
                    // Resume without a message and without the hook that ends the fuzzer.
                    Answer::Panics => std::panic::resume_unwind(Box::new(())),
                    Answer::Hangs => std::future::pending().await,
                }
            }
        };
        let builder = Verifier::builder(setup.rules.clone()).clock(clock).max_key_age(MAX_KEY_AGE);
        let handles = vec![builder.jwks_fetcher(fetch).connect_lazy().unwrap()];
        Self { setup, handles, fetches, answer, refreshes: Vec::new(), jumps, begun, ended: None }
    }

    /// Returns the model at this time, a moment before and a moment after. The engine must match
    /// one of them.
    fn models(&self, time: Instant) -> [(Model, Instant); 3] {
        let fetches = self.fetches.lock().unwrap();
        [time, time - TICK.min(time - self.begun), time + TICK]
            .map(|time| (Model::at(time, &fetches), time))
    }

    /// Returns the age of the keys by the wall clock.
    fn age(&self, model: &Model, now: Instant) -> Option<Duration> {
        let (_, fetched) = model.keys?;
        let jumps = self.jumps.lock().unwrap();
        let ahead = jumps.iter().filter(|(time, _)| *time >= fetched && *time <= now);
        Some((now - fetched.min(now)) + ahead.map(|(_, by)| *by).sum::<Duration>())
    }

    /// Returns what the wall clock shows at this time.
    fn wall(&self, time: Instant) -> SystemTime {
        let jumps = self.jumps.lock().unwrap();
        let ahead = jumps.iter().filter(|(jump, _)| *jump <= time).map(|(_, by)| *by);
        start() + (time - self.begun) + ahead.sum::<Duration>()
    }

    fn is_usable(&self, model: &Model, now: Instant) -> bool {
        self.age(model, now).is_some_and(|age| age < MAX_KEY_AGE)
    }

    fn verdict(&self, model: &Model, token: Token, now: Instant) -> Option<VerifyErrorKind> {
        match model.keys {
            Some((set, _)) if self.is_usable(model, now) => {
                (!set.contains(&token)).then_some(VerifyErrorKind::UnknownKey)
            }
            _ => Some(VerifyErrorKind::KeysUnavailable),
        }
    }

    fn expect(&self, token: Token, verdict: Option<VerifyErrorKind>, time: Instant) {
        let models = self.models(time);
        let is = |(model, now): &(Model, Instant)| self.verdict(model, token, *now) == verdict;
        assert!(models.iter().any(is), "{token}: {verdict:?}: {models:?}");
    }

    fn is_health(&self, health: &Health, model: &Model, now: Instant) -> bool {
        if !self.is_usable(model, now) {
            return *health == Health::NotReady;
        }
        let age = self.age(model, now).unwrap();
        let lateness = age.saturating_sub(INTERVAL);
        let is_late = lateness > OVERDUE;
        match health {
            Health::Ready => model.failing.is_none() && !is_late,
            Health::Degraded(degraded) => {
                let class = degraded.last_error().map(|kind| kind.as_str());
                let is_since = match model.failing {
                    Some((since, _)) => is_near(degraded.since(), self.wall(since)),
                    None => is_late,
                };
                class == model.failing.map(|(_, class)| class)
                    && degraded.age().unwrap().abs_diff(age) <= 2 * TICK
                    && is_since
            }
            _ => false,
        }
    }

    /// Returns the shortest and the longest pause between the end of a fetch and the next one.
    fn next(&self, model: &Model, ended: Instant) -> (Duration, Duration) {
        if model.failures == 0 {
            let longest = model.requested.map_or(INTERVAL, |age| age.clamp(s(60), INTERVAL));
            return ((longest * 4 / 5).max(s(60)), longest);
        }
        if let Some(requested) = model.requested {
            let requested = requested.clamp(s(1), s(300));
            return (requested, requested);
        }
        let doublings = (model.failures - 1).min(10);
        let longest = [ended - TICK.min(ended - self.begun), ended + TICK].map(|time| {
            if self.is_usable(model, time) {
                s(1 << doublings).min(s(30))
            } else {
                ms(100 << doublings).min(s(5))
            }
        });
        (longest[0].min(longest[1]) / 2, longest[0].max(longest[1]))
    }

    async fn step(&mut self, choices: &mut Choices<'_>) {
        let number = choices.below(4) % self.handles.len();
        let verifier = self.handles[number].clone();
        match choices.below(16) {
            0..=3 => sleep(time(choices)).await,
            4..=6 => *self.answer.lock().unwrap() = answer(choices),
            7..=9 => self.verify(verifier, choices.below(3), choices.of(&[1, 5, 40])).await,
            10 | 11 => {
                let token = choices.below(3);
                self.expect(token, self.try_verify(&verifier, token), Instant::now());
            }
            12 => self.refresh(verifier).await,
            13 => self.handles.push(verifier),
            14 if self.handles.len() > 1 => drop(self.handles.swap_remove(number)),
            14 => self.shut_down(verifier).await,
            _ => {
                self.quiet().await;
                self.jumps.lock().unwrap().push((Instant::now(), time(choices)));
            }
        }
    }

    fn try_verify(&self, verifier: &Verifier, token: Token) -> Option<VerifyErrorKind> {
        verifier.try_verify(&self.setup.tokens[token]).err().map(|error| error.kind())
    }

    async fn verify(&self, verifier: Verifier, token: Token, times: usize) {
        let begun = Instant::now();
        let is_unknown = |(model, now): &(Model, Instant)| {
            self.verdict(model, token, *now) == Some(VerifyErrorKind::UnknownKey)
        };
        let may_wait = self.ended.is_none() && self.models(begun).iter().any(is_unknown);
        let requests = (0..times).map(|_| {
            let (verifier, text) = (verifier.clone(), self.setup.tokens[token].clone());
            tokio::spawn(async move {
                let verdict = verifier.verify(&text).await;
                (verdict.err().map(|error| error.kind()), Instant::now())
            })
        });
        let longest = if may_wait { s(1) + TICK } else { Duration::ZERO };
        for request in requests.collect::<Vec<_>>() {
            let (verdict, answered) = request.await.unwrap();
            self.expect(token, verdict, answered);
            assert!(answered - begun <= longest, "{token} waited for {:?}", answered - begun);
        }
    }

    async fn refresh(&mut self, verifier: Verifier) {
        let begun = Instant::now();
        let class = verifier.refresh().await.err().map(|error| error.kind().as_str());
        if self.ended.is_some() {
            assert_eq!(class, Some("transport"));
            return;
        }
        self.refreshes.push(begun);
        assert!(begun.elapsed() <= LIMIT * 2 + TICK, "{:?}", begun.elapsed());
        let last = *self.fetches.lock().unwrap().last().unwrap();
        assert!(last.begun >= begun, "a refresh must begin a new fetch");
        assert_eq!(class, last.brings.err().map(|(class, _)| class));
    }

    /// Waits until no fetch is about to end or has just ended.
    async fn quiet(&self) {
        let is_ending = |fetch: &Fetch| {
            let now = Instant::now();
            fetch.ends + TICK >= now && fetch.ends <= now + TICK
        };
        loop {
            sleep(TICK).await;
            if !self.fetches.lock().unwrap().iter().any(is_ending) {
                break;
            }
        }
    }

    async fn shut_down(&mut self, verifier: Verifier) {
        self.quiet().await;
        verifier.shutdown().await;
        let now = Instant::now();
        self.fetches.lock().unwrap().retain(|fetch| fetch.ends <= now);
        self.ended.get_or_insert(now);
    }

    /// Checks what must hold after every step, without causing a fetch.
    fn check(&self) {
        let verifier = &self.handles[0];
        let models = self.models(Instant::now());
        let health = verifier.health();
        let is = |(model, now): &(Model, Instant)| self.is_health(&health, model, *now);
        assert!(models.iter().any(is), "{health:?}: {models:?}");
        for token in [0, 1] {
            let unknown = Some(VerifyErrorKind::UnknownKey);
            if models.iter().all(|(model, now)| self.verdict(model, token, *now) != unknown) {
                self.expect(token, self.try_verify(verifier, token), Instant::now());
            }
        }
    }

    /// Checks that every fetch began on schedule, or early and within the budget.
    fn check_fetches(&self) {
        let fetches = self.fetches.lock().unwrap().clone();
        let jumps = self.jumps.lock().unwrap().clone();
        let Some(first) = fetches.first() else {
            // The engine was shut down before its first fetch.
            assert!(self.ended.is_some());
            return;
        };
        assert!(first.begun - self.begun <= TICK);
        let mut model = Model::default().after(first);
        let mut early = Vec::new();
        for pair in fetches.windows(2) {
            let [before, fetch] = pair else { unreachable!("windows of two") };
            assert!(fetch.begun >= before.ends, "fetches overlap: {before:?} {fetch:?}");
            let pause = fetch.begun - before.ends;
            let (shortest, longest) = self.next(&model, before.ends);
            assert!(
                pause <= longest + TICK,
                "pause is {pause:?}, at most {longest:?} expected, after {before:?}"
            );
            let since = before.begun..=fetch.begun;
            let is_woken = jumps.iter().any(|(time, _)| since.contains(time));
            let is_refresh = self.refreshes.iter().any(|time| since.contains(time));
            if pause + TICK < shortest && !is_woken {
                let must_wait = model.failures > 0 && model.requested.is_some();
                assert!(!must_wait || is_refresh, "{before:?} {fetch:?}");
                early.push(fetch.begun);
            }
            model = model.after(fetch);
        }
        // The budget: two fetches, then one in 30 s.
        for first in &early {
            let minute = |time: &&Instant| (*first..*first + s(60)).contains(*time);
            let refreshed = |time: &&Instant| (*first..*first + s(75)).contains(&(**time + s(15)));
            let paid = 4 + self.refreshes.iter().filter(refreshed).count();
            let count = early.iter().filter(minute).count();
            assert!(count <= paid, "{count} fetches in a minute, at most {paid} expected");
        }
        let last = fetches[fetches.len() - 1];
        if last.ends <= Instant::now() && self.ended.is_none() {
            let (_, longest) = self.next(&model, last.ends);
            assert!(last.ends.elapsed() <= longest + TICK, "no fetch since {last:?}");
        }
        if let Some(ended) = self.ended {
            assert!(last.begun <= ended);
        }
    }
}

/// Returns the time of the wall clock at the beginning.
fn start() -> SystemTime {
    UNIX_EPOCH + s(2_000_000_000)
}

fn is_near(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other).or_else(|_| other.duration_since(one));
    apart.is_ok_and(|apart| apart <= TICK)
}

fn time(choices: &mut Choices<'_>) -> Duration {
    let unit = choices.of(&[ms(1), ms(10), ms(100), s(1), s(10)]);
    unit * u32::from(choices.byte())
}

fn answer(choices: &mut Choices<'_>) -> (Answer, Duration) {
    let requested = |choices: &mut Choices<'_>| {
        [None, Some(s(0)), Some(s(20)), Some(s(100)), Some(s(1_000_000))][choices.below(5)]
    };
    let answer = match choices.below(8) {
        which @ 0..=2 => Answer::Gives(SETS[which], None),
        3 => Answer::Gives(SETS[choices.below(3)], requested(choices)),
        4 => Answer::Fails(requested(choices)),
        5 => Answer::Garbage,
        6 => Answer::Hangs,
        _ => Answer::Panics,
    };
    (answer, ms(choices.of(&[0, 100, 900, 1_100, 4_900, 6_000])))
}

/// Takes the steps that these choices are, and checks the engine after each one. Returns the number
/// of fetches.
pub fn run(setup: &Setup, choices: &[u8]) -> usize {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut choices = Choices(choices);
        let mut world = World::new(setup, answer(&mut choices));
        sleep(TICK).await;
        for _ in 0..STEPS {
            if choices.is_over() {
                break;
            }
            world.step(&mut choices).await;
            sleep(TICK).await;
            world.check();
        }
        world.check_fetches();
        // Dropping the last handle ends all tasks and fetches.
        world.handles.clear();
        sleep(TICK).await;
        let fetches = world.fetches.lock().unwrap().len();
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        sleep(s(3_600)).await;
        assert_eq!(world.fetches.lock().unwrap().len(), fetches);
        fetches
    })
}
