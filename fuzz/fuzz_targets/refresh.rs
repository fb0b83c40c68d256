//! Compares the refresh engine with a simple model of it, under any sequence of events.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_cognito::{ClientIds, Rules};
use tower_cognito_fuzz::refresh_model::{Setup, run};
use tower_cognito_fuzz::setup::{self, CLAIMS, KEY_IDS, YES};

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let member = |number: u8| {
        let key_id = KEY_IDS[usize::from(number)];
        setup::member(key_id, &setup::modulus(2048, number), YES)
    };
    let token = |key_id| {
        let header = format!(r#"{{"kid":"{key_id}","alg":"RS256"}}"#);
        setup::token(&header, &CLAIMS.replace("1700000001", "9999999999"))
    };
    Setup {
        rules: Rules::new(setup::pool(), ClientIds::any()),
        members: [0, 1].map(member),
        tokens: [KEY_IDS[0], KEY_IDS[1], "k3"].map(token),
    }
});

fuzz_target!(|choices: &[u8]| {
    run(&SETUP, choices);
});
