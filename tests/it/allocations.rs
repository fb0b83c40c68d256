//! A token without a valid signature costs no allocation.

use std::time::SystemTime;

use allocation_counter::measure;
use tower_cognito::{TestIssuer, VerifyErrorKind, verify};

use super::support::{CLIENT, issuer, machine, rules};

/// Checks that a rejection costs no allocation.
#[track_caller]
fn check(token: &str, kind: VerifyErrorKind) {
    let (keys, rules, now) = (issuer().jwks(), rules(), SystemTime::now());
    let mut error = None;
    let counted = measure(|| error = verify(token, &keys, &rules, now).err());
    assert_eq!(error.map(|error| error.kind()), Some(kind));
    assert_eq!(counted.count_total, 0, "{kind:?}");
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
            check(&spelled.clone().header("kid", kid).sign(), VerifyErrorKind::BadSignature);
            check(&spelled.clone().header("kid", "unknown/").sign(), VerifyErrorKind::UnknownKey);
            check(&spelled.header("alg", "none").sign(), VerifyErrorKind::UnsupportedAlgorithm);
        }
    }
    let padded = machine("").claim("padding", "x".repeat(9_000)).header("kid", "unknown");
    check(&padded.sign(), VerifyErrorKind::UnknownKey);
}
