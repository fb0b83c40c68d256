//! Whoever can not sign gets no memory of us: counted, not timed.

use std::time::SystemTime;

use allocation_counter::measure;
use tower_cognito::{TestIssuer, VerifyErrorKind, verify};

use super::support::{CLIENT, issuer, machine, rules};

/// A refusal costs so many allocations at most.
#[track_caller]
fn check(token: &str, kind: VerifyErrorKind, allocations: u64) {
    let (keys, rules, now) = (issuer().jwks(), rules(), SystemTime::now());
    let mut refused = None;
    let counted = measure(|| refused = verify(token, &keys, &rules, now).err());
    assert_eq!(refused.map(|error| error.kind()), Some(kind));
    let count = counted.count_total;
    assert!(count <= allocations, "{kind:?}: {count} allocations");
}

#[test]
fn p21_nothing_is_allocated_before_the_signature_is_checked() {
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
fn p21_hostile_shapes_cost_no_more_the_larger_they_are() {
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

/// serde_json's own, while it skips a value: its stack of brackets grows by doubling, and then
/// the error.
const NESTED: u64 = 16;
