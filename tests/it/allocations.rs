//! A token without a valid signature costs no allocation.

use std::time::SystemTime;

use allocation_counter::measure;
use tower_cognito::{TestIssuer, VerifyErrorKind, verify};

use super::support::{CLIENT, issuer, machine, rules};

/// Checks that a rejection costs at most this many allocations.
#[track_caller]
fn check(token: &str, kind: VerifyErrorKind, allocations: u64) {
    let (keys, rules, now) = (issuer().jwks(), rules(), SystemTime::now());
    let mut error = None;
    let counted = measure(|| error = verify(token, &keys, &rules, now).err());
    assert_eq!(error.map(|error| error.kind()), Some(kind));
    let count = counted.count_total;
    assert!(count <= allocations, "{kind:?}: {count} allocations");
}

#[test]
fn p21_nothing_is_allocated_before_the_signature_is_verified() {
    let forged = TestIssuer::new();
    let key_id = issuer().jwks();
    let kid = key_id.key_ids().next().unwrap();
    for user in [false, true] {
        let token = |issuer: &TestIssuer| match user {
            true => issuer.user_token(CLIENT, "alice"),
            false => issuer.machine_token(CLIENT).scope("activity/*"),
        };
        for spelled in [token(&forged), token(&forged).escaped_slashes()] {
            check(&spelled.clone().header("kid", kid).sign(), VerifyErrorKind::BadSignature, 0);
            check(
                &spelled.clone().header("kid", "unknown/").sign(),
                VerifyErrorKind::UnknownKey,
                0,
            );
            check(&spelled.header("alg", "none").sign(), VerifyErrorKind::UnsupportedAlgorithm, 0);
        }
    }
}

#[test]
fn p21_cost_of_hostile_shapes_does_not_grow_with_their_length() {
    check("", VerifyErrorKind::Malformed, 0);
    check(".", VerifyErrorKind::Malformed, 0);
    for length in [100, 16_384] {
        check(&".".repeat(length), VerifyErrorKind::Malformed, 0);
        check(&"a".repeat(length), VerifyErrorKind::Malformed, 0);
    }
    check(&".".repeat(400_000), VerifyErrorKind::TooLarge, 0);
    let padded = machine("").claim("padding", "x".repeat(9_000)).header("kid", "unknown");
    check(&padded.sign(), VerifyErrorKind::UnknownKey, 0);
    let nested = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
    let nested = serde_json::value::RawValue::from_string(nested).unwrap();
    check(&machine("").claim("nested", nested).sign(), VerifyErrorKind::Malformed, NESTED);
}

/// The allocations of serde_json while it skips a value: its stack of brackets, which grows by
/// doubling, and the error.
const NESTED: u64 = 16;
