//! Verifies a text as a token; tower-cognito and the reference must return the same verdict, with a
//! valid signature and with an invalid one.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use tower_cognito_fuzz::token::{self, Check};

static CHECK: LazyLock<Check> = LazyLock::new(Check::default);

fuzz_target!(|data: &[u8]| {
    if let Ok(token) = std::str::from_utf8(data) {
        CHECK.token(token);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    token::mutate(data, size, max_size, seed, fuzzer_mutate)
});
