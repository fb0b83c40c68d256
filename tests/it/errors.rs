//! The exact texts of errors.

use std::error::Error;

use tower_cognito::{
    ClientIds, Jwks, RefreshError, Rules, Scope, UserPool, Verifier, VerifyError, VerifyErrorKind,
};

use super::support;

#[track_caller]
fn check(error: impl Error, expected: &str) {
    assert_eq!(error.to_string(), expected);
}

#[test]
fn verify_errors_have_a_kind_a_name_and_a_text() {
    for (kind, name, text) in [
        (
            VerifyErrorKind::BadSignature,
            "bad_signature",
            "token signature does not match: altered, or by another key",
        ),
        (
            VerifyErrorKind::Expired,
            "expired",
            "token has expired: its client needs a new one, or a clock is wrong",
        ),
        (
            VerifyErrorKind::Forbidden,
            "forbidden",
            "token is good, but groups or the application's check say no",
        ),
        (
            VerifyErrorKind::InvalidClaim,
            "invalid_claim",
            "token lacks a required claim or has one of the wrong type",
        ),
        (
            VerifyErrorKind::InvalidHeader,
            "invalid_header",
            "token header: no usable `kid`, another `typ`, or an extension",
        ),
        (
            VerifyErrorKind::KeysUnavailable,
            "keys_unavailable",
            "no current keys to verify with: see the failed key refreshes",
        ),
        (
            VerifyErrorKind::Malformed,
            "malformed",
            "token is no well-formed compact JWS: cut off, or something else",
        ),
        (
            VerifyErrorKind::NotYetValid,
            "not_yet_valid",
            "token is not valid yet (`nbf`): compare the clocks",
        ),
        (VerifyErrorKind::Revoked, "revoked", "token was revoked, says the application's check"),
        (
            VerifyErrorKind::SenderConstrained,
            "sender_constrained",
            "token is bound to a key (`cnf`), so it is no bearer token",
        ),
        (VerifyErrorKind::TooLarge, "too_large", "token is longer than 16 KiB"),
        (
            VerifyErrorKind::UnknownIssuer,
            "unknown_issuer",
            "token is of another issuer: `iss` is none that is trusted here",
        ),
        (
            VerifyErrorKind::UnknownKey,
            "unknown_key",
            "token was signed with a key that its issuer does not list",
        ),
        (
            VerifyErrorKind::UnsupportedAlgorithm,
            "unsupported_algorithm",
            "token is not signed with RS256, as Cognito's are",
        ),
        (
            VerifyErrorKind::WrongAudience,
            "wrong_audience",
            "token is for another audience: `aud` lacks the one asked for",
        ),
        (
            VerifyErrorKind::WrongClient,
            "wrong_client",
            "token is of another client: `client_id` is not among those named",
        ),
        (
            VerifyErrorKind::WrongTokenUse,
            "wrong_token_use",
            "token is no access token: an ID token, or of another kind",
        ),
    ] {
        let error = VerifyError::from(kind);
        assert_eq!(error.kind(), kind);
        assert_eq!(kind.as_str(), name);
        assert!(error.source().is_none());
        check(error, text);
    }
}

#[test]
fn setting_errors_name_the_invalid_part() {
    check(
        UserPool::new("ap-northeast-1").unwrap_err(),
        "invalid user pool id: it has no `_` between region and name; a good one looks like \
         `ap-northeast-1_AbCdEfGhI`",
    );
    check(
        UserPool::from_issuer("ftp://a").unwrap_err(),
        "invalid URL: it does not begin with `https://`; a good one looks like \
         `https://issuer.example/pool`",
    );
    check(
        "".parse::<Scope>().unwrap_err(),
        "invalid scope: it is empty; a good one looks like `activity/*`",
    );
    check(Jwks::from_json("{}").unwrap_err(), "invalid JWK Set: it has no member `keys`");
}

#[test]
fn refresh_errors_have_their_cause_as_source() {
    let error = RefreshError::transport("connection refused");
    assert_eq!(error.source().unwrap().to_string(), "connection refused");
    assert_eq!(error.class(), "transport");
    check(error, "the request failed");
    let error = RefreshError::status(404);
    assert!(error.source().is_none());
    assert_eq!(error.class(), "status");
    check(error, "the answer has status 404");
}

#[test]
fn reports_all_configuration_problems_together() {
    let seconds = std::time::Duration::from_secs;
    let pool = || UserPool::new("us-east-1_Example").unwrap();
    let rules = Rules::new(pool(), ClientIds::only([""; 0])).leeway(seconds(301)).audience("");
    let twice = Rules::new(pool(), ClientIds::only([" padded "]));
    let error = Verifier::builder(rules)
        .add_pool(twice)
        .refresh_interval(seconds(9))
        .max_key_age(seconds(8))
        .with_jwks(support::issuer().jwks())
        .unwrap_err();
    let us_east_1 = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example";
    assert_eq!(
        error.problems().collect::<Vec<_>>(),
        [
            &*format!("{us_east_1}: no client is named, so every token would be refused"),
            &*format!("{us_east_1}: leeway is 301s, and at most 300 s are allowed"),
            &*format!("{us_east_1}: audience is empty"),
            &*format!("{us_east_1}: a client id is empty or has white space around it"),
            &*format!("{us_east_1}: this issuer is named twice"),
            "https://issuer-cognito-idp.us-east-1.amazonaws.com/us-east-1_Example: this issuer is \
             named twice",
            "refresh interval is 9s, and at least 10 s are asked",
            "keys go stale after 8s, before a refresh at 9s",
            "fixed keys are one pool's, and several pools are named",
        ]
    );
    assert!(error.to_string().starts_with("can not start: "), "{error}");
    assert!(error.to_string().contains("; audience") || error.to_string().contains(": audience"));
}
