//! Compares the refresh engine with the model of the fuzz target `refresh`, under random sequences of
//! events. A failure prints the choices, which are also an input of that target.

#[path = "../../fuzz/src/choices.rs"]
mod choices;
#[path = "../../fuzz/src/refresh_model.rs"]
mod model;

use self::model::{Setup, run};
use super::fake_issuer::{Dice, Keys, keys, rules, unknown};

const SEEDS: u64 = 200;
const CHOICES: usize = 160;

/// Prints the choices that led to a failure.
struct Trace(Vec<u8>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:?}", self.0);
        }
    }
}

#[test]
fn engine_matches_the_model_under_random_events() {
    let Keys { old, new, old_token, new_token, .. } = keys();
    let setup = Setup {
        rules: rules(),
        members: [old.clone(), new.clone()],
        tokens: [old_token.clone(), new_token.clone(), unknown(0)],
    };
    let mut fetches = 0;
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let choices = std::iter::repeat_with(|| u8::try_from(dice.below(256)).unwrap());
        let trace = Trace(choices.take(CHOICES).collect());
        fetches += run(&setup, &trace.0);
    }
    println!("{SEEDS} sequences with {fetches} fetches");
    assert!(fetches > 1_000, "{fetches} fetches");
}
