//! Compares the refresh engine with a simple model of it, under random sequences of events. The
//! result of a fetch is fixed when it begins; the model folds over the fetches that have ended. A
//! failure prints the seed and the steps up to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tower_cognito::{Health, JwksDocument, RefreshError, Verifier, VerifyErrorKind};

use super::promises::{
    Dice, Fake, HOUR, Reply, keys, kind, ms, paused_runtime, rules, s, set, unknown,
};

const SEEDS: u64 = 100;
const STEPS: usize = 40;
const MAX_KEY_AGE: Duration = s(900);
const LIMIT: Duration = s(5);
/// Model and engine may see events within this time in a different order.
const TICK: Duration = ms(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Old,
    New,
    Unknown,
}

/// The tokens whose keys are in a JWK Set.
type Set = &'static [Token];

const SETS: [Set; 3] = [&[Token::Old], &[Token::New], &[Token::Old, Token::New]];

impl Token {
    fn text(self) -> String {
        match self {
            Self::Old => keys().old_token.clone(),
            Self::New => keys().new_token.clone(),
            Self::Unknown => unknown(0),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Gives(Set),
    Fails,
    Garbage,
    Hangs,
    Panics,
}

#[derive(Clone, Debug)]
enum Step {
    Pass(Duration),
    Answer(Answer, Duration),
    Verify(Token, usize),
    TryVerify(Token),
    Refresh,
    Clone,
    Drop,
}

impl Step {
    fn random(dice: &mut Dice) -> Self {
        let tokens = [Token::Old, Token::New, Token::Unknown];
        match dice.below(20) {
            0..4 => Self::Pass(ms(dice.below(2_000))),
            4..6 => Self::Pass(ms(dice.below(60_000))),
            6 => Self::Pass(ms(dice.below(400_000))),
            7 => Self::Pass(ms(dice.below(1_200_000))),
            8..12 => {
                let answer = match dice.below(8) {
                    number @ 0..4 => Answer::Gives(SETS[usize::try_from(number % 3).unwrap()]),
                    4 => Answer::Fails,
                    5 => Answer::Garbage,
                    6 => Answer::Hangs,
                    _ => Answer::Panics,
                };
                let takes = [0, 0, 100, 900, 1_100, 4_900, 6_000];
                let takes = takes[usize::try_from(dice.below(7)).unwrap()];
                Self::Answer(answer, ms(takes))
            }
            12..16 => Self::Verify(
                tokens[usize::try_from(dice.below(3)).unwrap()],
                [1, 5, 40][usize::try_from(dice.below(3)).unwrap()],
            ),
            16 | 17 => Self::TryVerify(tokens[usize::try_from(dice.below(3)).unwrap()]),
            18 => Self::Refresh,
            _ if dice.below(2) == 0 => Self::Clone,
            _ => Self::Drop,
        }
    }
}

/// A fetch and its result, unless all handles are dropped before it ends.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    begun: Instant,
    ends: Instant,
    brings: Result<Set, &'static str>,
}

/// The expected state of the engine after the fetches that have ended.
#[derive(Debug, Default)]
struct Model {
    keys: Option<(Set, Instant)>,
    failing: Option<(Instant, &'static str)>,
    failures: u32,
}

impl Model {
    fn at(now: Instant, fetches: &[Fetch]) -> Self {
        fetches.iter().filter(|fetch| fetch.ends <= now).fold(Self::default(), Self::after)
    }

    fn after(self, fetch: &Fetch) -> Self {
        match fetch.brings {
            Ok(set) => Self { keys: Some((set, fetch.ends)), ..Self::default() },
            Err(class) => {
                let (since, _) = self.failing.unwrap_or((fetch.ends, class));
                Self { failing: Some((since, class)), failures: self.failures + 1, ..self }
            }
        }
    }

    fn verdict(&self, token: Token, now: Instant) -> Option<VerifyErrorKind> {
        match self.keys {
            Some((set, fetched)) if now - fetched < MAX_KEY_AGE => {
                (!set.contains(&token)).then_some(VerifyErrorKind::UnknownKey)
            }
            _ => Some(VerifyErrorKind::KeysUnavailable),
        }
    }

    fn is_health(&self, health: &Health, now: Instant) -> bool {
        let fresh = self.keys.filter(|(_, fetched)| now - *fetched < MAX_KEY_AGE);
        match (fresh, self.failing, health) {
            (None, _, Health::NotReady) | (Some(_), None, Health::Ready) => true,
            (Some((_, fetched)), Some((_, class)), Health::Degraded(degraded)) => {
                let age = degraded.age().unwrap();
                let model_age = now - fetched;
                degraded.last_error().map(|kind| kind.as_str()) == Some(class)
                    && age.abs_diff(model_age) <= TICK
            }
            _ => false,
        }
    }

    /// Returns the shortest and the longest pause between the end of a fetch and the next one. The
    /// pauses are shorter if there are no current keys.
    fn next(&self, ended: Instant) -> (Duration, Duration) {
        if self.failures == 0 {
            return (s(240), s(300));
        }
        let longest = [ended - TICK, ended + TICK].map(|time| match self.keys {
            Some((_, fetched)) if time - fetched < MAX_KEY_AGE => {
                s(1 << (self.failures - 1).min(10)).min(s(30))
            }
            _ => ms(100 << (self.failures - 1).min(10)).min(s(5)),
        });
        (longest[0].min(longest[1]) / 2, longest[0].max(longest[1]))
    }
}

/// The engine, its fetches, and the present behavior of the issuer.
struct World {
    handles: Vec<Verifier>,
    fetches: Arc<Mutex<Vec<Fetch>>>,
    answer: Arc<Mutex<(Answer, Duration)>>,
    refreshes: Vec<Instant>,
    begun: Instant,
}

impl World {
    fn new() -> Self {
        let fetches = Arc::<Mutex<Vec<Fetch>>>::default();
        let answer = Arc::new(Mutex::new((Answer::Gives(SETS[0]), Duration::ZERO)));
        let (log, behavior) = (Arc::clone(&fetches), Arc::clone(&answer));
        let clock = Fake::new(Reply::Hang).clock();
        let builder = Verifier::builder(rules()).clock(clock).max_key_age(MAX_KEY_AGE);
        let fetch = move |_url: String| {
            let (answer, takes) = *behavior.lock().unwrap();
            let (brings, takes) = match answer {
                Answer::Hangs => (Err("timed_out"), LIMIT),
                _ if takes >= LIMIT => (Err("timed_out"), LIMIT),
                Answer::Gives(set) => (Ok(set), takes),
                Answer::Fails => (Err("status"), takes),
                Answer::Garbage => (Err("document"), takes),
                Answer::Panics => (Err("panicked"), takes),
            };
            let begun = Instant::now();
            log.lock().unwrap().push(Fetch { begun, ends: begun + takes, brings });
            async move {
                // A fetch that is expected to time out takes longer than its limit.
                sleep(if takes == LIMIT { LIMIT * 2 } else { takes }).await;
                match answer {
                    Answer::Gives(tokens) => {
                        let member = |token: &Token| match token {
                            Token::Old => &*keys().old,
                            _ => &*keys().new,
                        };
                        let members = tokens.iter().map(member).collect::<Vec<_>>();
                        Ok(JwksDocument::new(set(&members)))
                    }
                    Answer::Garbage => Ok(JwksDocument::new("<html>")),
                    Answer::Fails => Err(RefreshError::status(500)),
                    Answer::Panics => std::panic::resume_unwind(Box::new("this fetch panics")),
                    Answer::Hangs => std::future::pending().await,
                }
            }
        };
        let handles = vec![builder.jwks_fetcher(fetch).connect_lazy().unwrap()];
        Self { handles, fetches, answer, refreshes: Vec::new(), begun: Instant::now() }
    }

    /// Returns the model now and a moment ago. The engine must match one of the two.
    fn models(&self) -> [(Model, Instant); 2] {
        let fetches = self.fetches.lock().unwrap();
        let now = Instant::now();
        [now, now - TICK].map(|time| (Model::at(time, &fetches), time))
    }

    fn expect(&self, token: Token, verdict: Option<VerifyErrorKind>) {
        let models = self.models();
        let is_expected = models.iter().any(|(model, now)| model.verdict(token, *now) == verdict);
        assert!(is_expected, "{token:?}: unexpected verdict {verdict:?}: {models:?}");
    }

    async fn take(&mut self, step: Step, dice: &mut Dice) {
        let number = usize::try_from(dice.below(1_000)).unwrap() % self.handles.len();
        let verifier = self.handles[number].clone();
        match step {
            Step::Pass(time) => sleep(time).await,
            Step::Answer(answer, takes) => *self.answer.lock().unwrap() = (answer, takes),
            Step::TryVerify(token) => self.expect(token, kind(&verifier, &token.text())),
            Step::Verify(token, times) => {
                let was_unknown = self.models().iter().any(|(model, now)| {
                    model.verdict(token, *now) == Some(VerifyErrorKind::UnknownKey)
                });
                let begun = Instant::now();
                let requests = (0..times).map(|_| {
                    let (verifier, text) = (verifier.clone(), token.text());
                    tokio::spawn(async move {
                        let verdict = verifier.verify(&text).await.err().map(|error| error.kind());
                        (verdict, begun.elapsed())
                    })
                });
                let requests = requests.collect::<Vec<_>>();
                let longest = if was_unknown { s(1) + TICK } else { Duration::ZERO };
                for request in requests {
                    let (verdict, time) = request.await.unwrap();
                    self.expect(token, verdict);
                    assert!(time <= longest, "{token:?} was answered after {time:?}");
                }
            }
            Step::Refresh => {
                let begun = Instant::now();
                self.refreshes.push(begun);
                let class = verifier.refresh().await.err().map(|error| error.kind().as_str());
                assert!(begun.elapsed() <= LIMIT * 2 + TICK, "{:?}", begun.elapsed());
                let last = *self.fetches.lock().unwrap().last().unwrap();
                assert!(last.begun >= begun, "a refresh must begin a new fetch");
                assert_eq!(class, last.brings.err());
            }
            Step::Clone => self.handles.push(verifier),
            Step::Drop if self.handles.len() > 1 => drop(self.handles.swap_remove(number)),
            Step::Drop => {}
        }
    }

    /// Checks what must hold after every step, without causing a fetch.
    fn check(&self) {
        let verifier = &self.handles[0];
        let models = self.models();
        let health = verifier.health();
        let is_expected = models.iter().any(|(model, now)| model.is_health(&health, *now));
        assert!(is_expected, "{health:?}: {models:?}");
        for token in [Token::Old, Token::New] {
            let unknown = Some(VerifyErrorKind::UnknownKey);
            if models.iter().all(|(model, now)| model.verdict(token, *now) != unknown) {
                self.expect(token, kind(verifier, &token.text()));
            }
        }
        if let (Health::Degraded(degraded), Some((since, _))) = (&health, models[0].0.failing) {
            let clock = std::time::UNIX_EPOCH + s(2_000_000_000) + (since - self.begun);
            let since = degraded.since();
            let off = since.duration_since(clock).or_else(|_| clock.duration_since(since));
            assert!(off.unwrap() <= TICK, "{since:?} is not {clock:?}");
        }
    }

    /// Checks that every fetch began on schedule, or early and within the budget.
    fn check_fetches(&self) {
        let fetches = self.fetches.lock().unwrap().clone();
        let mut early = Vec::new();
        assert!(fetches[0].begun - self.begun <= TICK);
        let mut model = Model::default().after(&fetches[0]);
        for pair in fetches.windows(2) {
            let [before, fetch] = pair else { unreachable!("windows of two") };
            assert!(fetch.begun >= before.ends, "fetches overlap: {before:?} {fetch:?}");
            let pause = fetch.begun - before.ends;
            let (shortest, longest) = model.next(before.ends);
            assert!(
                pause <= longest + TICK,
                "pause is {pause:?}, at most {longest:?} expected, after {before:?}"
            );
            if pause < shortest {
                early.push(fetch.begun);
            }
            model = model.after(fetch);
        }
        // The budget: two fetches, then one in 30 s.
        for first in &early {
            let minute = |time: &&Instant| (*first..*first + s(60)).contains(*time);
            let refreshed = |time: &&Instant| (*first - s(15)..*first + s(60)).contains(*time);
            let paid = 4 + self.refreshes.iter().filter(refreshed).count();
            let fetches = early.iter().filter(minute).count();
            assert!(fetches <= paid, "{fetches} fetches in a minute, at most {paid} expected");
        }
        let last = fetches[fetches.len() - 1];
        if last.ends <= Instant::now() {
            let (_, longest) = model.next(last.ends);
            assert!(last.ends.elapsed() <= longest + TICK, "no fetch since {last:?}");
        }
    }
}

/// Prints the steps that led to a failure.
struct Trace {
    seed: u64,
    steps: Vec<Step>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}: {:#?}", self.seed, self.steps);
        }
    }
}

#[test]
fn engine_matches_the_model_under_random_events() {
    let mut fetches = 0;
    for seed in 0..SEEDS {
        paused_runtime().block_on(async {
            let mut dice = Dice(seed);
            let mut trace = Trace { seed, steps: Vec::new() };
            let mut world = World::new();
            if dice.below(3) == 0 {
                *world.answer.lock().unwrap() = (Answer::Fails, Duration::ZERO);
            }
            for _ in 0..STEPS {
                let step = Step::random(&mut dice);
                trace.steps.push(step.clone());
                world.take(step, &mut dice).await;
                sleep(TICK).await;
                world.check();
            }
            world.check_fetches();
            fetches += world.fetches.lock().unwrap().len();
            // Dropping the last handle ends all tasks and fetches.
            world.handles.clear();
            sleep(TICK).await;
            let before = world.fetches.lock().unwrap().len();
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
            sleep(HOUR).await;
            assert_eq!(world.fetches.lock().unwrap().len(), before);
        });
    }
    println!("{SEEDS} sequences with {fetches} fetches");
}
