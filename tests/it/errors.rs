//! The exact texts of errors.

use std::error::Error;
use std::time::{Duration, SystemTime};

use tower_cognito::{ClientIds, RefreshError, Rules, UserPool, Verifier, VerifyErrorKind};

use super::precedence::error_of;
use super::support;

#[track_caller]
fn check(error: impl Error, expected: &str) {
    assert_eq!(error.to_string(), expected);
}

#[test]
fn verify_errors_have_a_kind_a_name_and_a_text() {
    use VerifyErrorKind as Kind;

    for (kind, name, text) in [
        (Kind::BadSignature, "bad_signature", "signature does not match the key that `kid` names"),
        (Kind::Expired, "expired", "`exp` has passed"),
        (
            Kind::Forbidden,
            "forbidden",
            "forbidden by the required groups or the application's check",
        ),
        (
            Kind::InvalidClaim,
            "invalid_claim",
            "a required claim is missing, or a claim has the wrong type",
        ),
        (
            Kind::InvalidHeader,
            "invalid_header",
            "header has no usable `kid`, a wrong `typ`, or an extension",
        ),
        (Kind::KeysUnavailable, "keys_unavailable", "no current keys to verify with"),
        (Kind::Malformed, "malformed", "not a well-formed compact JWS"),
        (Kind::NotYetValid, "not_yet_valid", "`nbf` is in the future"),
        (Kind::Revoked, "revoked", "revoked according to the application's check"),
        (
            Kind::SenderConstrained,
            "sender_constrained",
            "not a bearer token: `cnf` binds it to a key",
        ),
        (Kind::TooLarge, "too_large", "token is longer than 16 KiB"),
        (Kind::UnknownIssuer, "unknown_issuer", "`iss` is not a trusted issuer"),
        (Kind::UnknownKey, "unknown_key", "`kid` does not name a key of the issuer"),
        (Kind::UnsupportedAlgorithm, "unsupported_algorithm", "`alg` is not `RS256`"),
        (Kind::WrongAudience, "wrong_audience", "`aud` does not contain a required audience"),
        (Kind::WrongClient, "wrong_client", "`client_id` is not an allowed client"),
        (
            Kind::WrongTokenUse,
            "wrong_token_use",
            "not an access token: `token_use` is not `access`",
        ),
    ] {
        let error = error_of(kind);
        assert_eq!(kind.as_str(), name);
        assert!(error.source().is_none());
        check(error, text);
    }
}

#[test]
fn refresh_errors_have_their_cause_as_source() {
    let error = RefreshError::transport("connection refused");
    assert_eq!(error.source().unwrap().to_string(), "connection refused");
    assert_eq!(error.kind().as_str(), "transport");
    check(error, "the request failed");
    let error = RefreshError::status(404);
    assert!(error.source().is_none());
    assert_eq!(error.kind().as_str(), "status");
    check(error, "the response has status 404, expected 200");
}

#[test]
fn reports_all_configuration_problems_together() {
    let seconds = Duration::from_secs;
    let pool = || UserPool::new("us-east-1_Example").unwrap();
    let rules =
        Rules::new(pool(), ClientIds::only([""; 0])).with_leeway(seconds(301)).with_audience("");
    let twice = Rules::new(pool(), ClientIds::only([" padded "]));
    let error = Verifier::builder(rules)
        .add_pool(twice)
        .refresh_interval(seconds(9))
        .max_key_age(seconds(8))
        .build_with_jwks(support::issuer().jwks())
        .unwrap_err();
    let us_east_1 = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example";
    assert_eq!(
        error.problems().collect::<Vec<_>>(),
        [
            &*format!("{us_east_1}: the list of client IDs is empty"),
            &*format!("{us_east_1}: leeway is 301s, but the maximum is 300s"),
            &*format!("{us_east_1}: an audience is empty"),
            &*format!("{us_east_1}: a client ID is empty or has whitespace around it"),
            &*format!("{us_east_1}: this issuer is set more than once"),
            "https://issuer-cognito-idp.us-east-1.amazonaws.com/us-east-1_Example: this issuer is \
             set more than once",
            "refresh interval is 9s, but the minimum is 10s",
            "maximum key age is 8s, but the minimum is the refresh interval, 9s",
            "fixed keys belong to one pool, but there are several pools",
        ]
    );
    assert!(error.to_string().starts_with("invalid configuration: "), "{error}");
}

#[test]
fn builder_has_the_documented_defaults() {
    let builder = format!("{:?}", Verifier::builder(support::rules()));
    for default in [
        "refresh_interval: 300s",
        "max_key_age: 86400s",
        "connect_timeout: 10s",
        "token_cache_bytes: 8388608",
    ] {
        assert!(builder.contains(default), "{default}: {builder}");
    }
}

#[test]
fn intervals_may_be_at_their_limits() {
    let is_valid = |interval, max_age| {
        let builder = Verifier::builder(support::rules()).refresh_interval(interval);
        builder.max_key_age(max_age).build_with_jwks(support::issuer().jwks()).is_ok()
    };
    let [shortest, longest] = [10, 24 * 60 * 60].map(Duration::from_secs);
    let little = Duration::from_millis(1);
    assert!(is_valid(shortest, shortest));
    assert!(is_valid(longest, longest));
    assert!(!is_valid(shortest - little, longest));
    assert!(!is_valid(longest + little, longest * 2));
    assert!(!is_valid(longest, longest - little));
}

#[test]
fn fixed_keys_exclude_every_setting_that_says_how_keys_are_fetched() {
    let issuer = support::issuer();
    let pool = || issuer.user_pool();
    let builder = |pool| Verifier::builder(Rules::new(pool, ClientIds::any()));
    assert!(builder(pool()).build_with_jwks(issuer.jwks()).is_ok());
    let now = SystemTime::now();
    for (setting, builder) in [
        ("file", builder(pool().with_jwks_file("/jwks.json"))),
        ("initial keys", builder(pool().with_initial_jwks(issuer.jwks(), now))),
        ("plain http", builder(pool().with_insecure_jwks_host("jwks.example").unwrap())),
        ("client", builder(pool()).http_client(reqwest::Client::builder())),
        ("fetcher", builder(pool()).jwks_fetcher(issuer.clone())),
    ] {
        let error = builder.build_with_jwks(issuer.jwks()).unwrap_err();
        let expected = "fixed keys are never fetched, but a way to fetch keys is set";
        assert_eq!(error.problems().collect::<Vec<_>>(), [expected], "{setting}");
    }
}
