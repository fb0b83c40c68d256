//! What no vector (see `vectors`) can express about the plain function `verify`: logs and sockets, bit
//! flips, clocks before 1970, settings beyond their limits, the application's check, and the claims of an
//! `AccessToken`. A number in a test name is that of the hostile input.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, Jwks, Rules, TestServer, Verifier, VerifyErrorKind, verify,
};

use super::fake_issuer::{Fake, Reply};
use super::socket_issuer::Server;
use super::support::{CLIENT, Doors, Log, issuer, machine, now, rules};

const NOW: u64 = 1_790_000_000;
const HOUR: u64 = 3600;
const MAX_TOKEN_LEN: usize = 16 * 1024;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn valid() -> TokenBuilder {
    machine("activity/*").issued_at(now())
}

/// Returns a JSON text unchanged, for values that `serde` would write differently.
fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn keys() -> &'static Jwks {
    static KEYS: LazyLock<Jwks> = LazyLock::new(|| issuer().jwks());
    &KEYS
}

/// Returns a layer and an interceptor with the same keys and rules, at the same time.
fn doors() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| {
        let verifier = Verifier::builder(rules()).clock(now).build_with_jwks(issuer().jwks());
        Doors::new(verifier.unwrap())
    });
    &DOORS
}

fn result_under(rules: &Rules, token: &str, now: SystemTime) -> Result<(), VerifyErrorKind> {
    verify(token, keys(), rules, now).map(|_| ()).map_err(|error| error.kind())
}

#[track_caller]
fn accept(name: &str, token: &str) -> AccessToken {
    match verify(token, keys(), &rules(), now()) {
        Ok(verified) => {
            doors().accept(name, token);
            verified
        }
        Err(error) => panic!("{name}: rejected with {:?}", error.kind()),
    }
}

fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().unwrap()
}

fn decoded_signature(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(parts(token)[2]).unwrap()
}

fn with_signature(token: &str, signature: &[u8]) -> String {
    let [header, payload, _] = parts(token);
    format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(start_paused = true)]
async fn h026_unknown_kid_is_not_in_a_fetched_url_or_a_log_line() {
    let fake = Fake::new(Reply::Set(issuer().jwks_json()));
    let verifier = fake.builder_for(rules()).clock(now).connect().await.unwrap();
    let log = Log::of_this_thread();
    let hostile = valid().header("kid", "../../SECRET\n' OR 1=1 \u{1b}[31m").sign();
    let error = verifier.verify(&hostile).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    let log = log.take();
    assert!(log.contains("keys refreshed"), "{log}");
    for secret in ["SECRET", "OR 1=1", "\u{1b}"] {
        assert!(!log.contains(secret), "{log}");
        assert!(!format!("{error} {error:?} {verifier:?}").contains(secret));
    }
    let expected = format!("{}/.well-known/jwks.json", issuer().issuer());
    assert_eq!(fake.urls(), [expected.clone(), expected], "once for the kid");
}

#[tokio::test]
async fn h027_url_in_the_header_is_never_fetched() {
    let other = Server::bind().await;
    let url = other.url();
    accept("known key", &valid().header("jku", &url).header("x5u", &url).sign());

    // An unknown key causes a fetch over HTTP, but not from this URL.
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::any());
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    let token = server.issuer().machine_token(CLIENT);
    let token = token.header("jku", &url).header("x5u", &url);
    assert!(verifier.verify(&token.sign()).await.is_ok());
    let error = verifier.verify(&token.header("kid", "attacker").sign()).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    assert_eq!(server.jwks_requests(), 2);
    assert_eq!(other.connections(), 0);
}

#[test]
fn empty_list_of_clients_rejects_every_token() {
    let no_clients = Rules::new(issuer().user_pool(), ClientIds::only([""; 0]));
    for client in [CLIENT, ""] {
        let token = valid().claim("client_id", client).sign();
        let any_client = Rules::new(issuer().user_pool(), ClientIds::any());
        assert_eq!(result_under(&any_client, &token, now()), Ok(()), "{client:?}");
        let verdict = result_under(&no_clients, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongClient), "{client:?}");
    }
}

#[track_caller]
fn check_time(
    token: &TokenBuilder,
    leeway: u64,
    now: SystemTime,
    verdict: Option<VerifyErrorKind>,
) {
    let rules = rules().with_leeway(Duration::from_secs(leeway));
    let expected = verdict.map_or(Ok(()), Err);
    assert_eq!(result_under(&rules, &token.sign(), now), expected, "leeway {leeway}, {now:?}");
}

#[test]
fn h038_leeway_is_capped_at_300_seconds() {
    let expired = Some(VerifyErrorKind::Expired);
    let early = Some(VerifyErrorKind::NotYetValid);
    for leeway in [300, 301, HOUR, u64::MAX] {
        check_time(&valid().claim("exp", NOW - 299), leeway, now(), None);
        check_time(&valid().claim("exp", NOW - 300), leeway, now(), expired);
        check_time(&valid().claim("nbf", NOW + 300), leeway, now(), None);
        check_time(&valid().claim("nbf", NOW + 301), leeway, now(), early);
    }
    let rules = rules().with_leeway(Duration::MAX);
    let token = valid().claim("exp", NOW - 300).sign();
    assert_eq!(result_under(&rules, &token, now()), Err(VerifyErrorKind::Expired));
}

#[test]
fn h069_clock_at_any_time_does_not_panic() {
    let far_future =
        (0..63).rev().find_map(|n| UNIX_EPOCH.checked_add(Duration::from_secs(1 << n)));
    let far_past = (0..63).rev().find_map(|n| UNIX_EPOCH.checked_sub(Duration::from_secs(1 << n)));
    let (far_future, far_past) = (far_future.unwrap(), far_past.unwrap());
    let expired = Some(VerifyErrorKind::Expired);
    let latest = valid().claim("exp", 253_402_300_799_i64);
    for leeway in [0, 300, u64::MAX] {
        check_time(&latest, leeway, now(), None);
        check_time(&latest, leeway, far_future, expired);
        check_time(&valid(), leeway, far_past, None);
        let early = valid().claim("nbf", NOW);
        check_time(&early, leeway, far_past, Some(VerifyErrorKind::NotYetValid));
        let earliest =
            valid().claim("exp", -377_705_116_800_i64).claim("nbf", -377_705_116_800_i64);
        check_time(&earliest, leeway, far_future, expired);
    }
    // Dates are floored before 1970, too.
    let before_1970 = |millis: u64| UNIX_EPOCH - Duration::from_millis(millis);
    let token = valid().claim("exp", raw("-0.5"));
    check_time(&token, 0, before_1970(1001), None);
    check_time(&token, 0, before_1970(1000), expired);
    check_time(&token, 0, before_1970(600), expired);
    let token = valid().claim("nbf", raw("-1.5"));
    check_time(&token, 0, before_1970(2000), None);
    check_time(&token, 0, before_1970(2001), Some(VerifyErrorKind::NotYetValid));
    // A clock that is set back before 1970 must not extend an expired token beyond the leeway.
    let expired_in_1969 = valid().claim("exp", -10);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(11), None);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(10), expired);
    check_time(&expired_in_1969, 0, UNIX_EPOCH, expired);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(6), None);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(5), expired);
}

#[test]
#[should_panic(expected = "the list of groups is empty")]
fn empty_list_of_groups_panics() {
    let _ = rules().with_groups([""; 0]);
}

#[test]
fn applications_check_gets_only_valid_tokens() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let rules = rules().with_audience("api").with_groups(["staff"]).with_check(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Err(CheckError::Revoked)
    });
    let good = valid().claim("aud", "api").claim("cognito:groups", ["staff"]);
    for count in 1..=3 {
        let verdict = result_under(&rules, &good.sign(), now());
        assert_eq!(verdict, Err(VerifyErrorKind::Revoked));
        assert_eq!(calls.load(Ordering::Relaxed), count, "it runs every time");
    }

    use VerifyErrorKind as Kind;
    let mut forged = decoded_signature(&good.sign());
    forged[0] ^= 1;
    let cases = [
        (Kind::BadSignature, with_signature(&good.sign(), &forged)),
        (Kind::Expired, good.clone().claim("exp", NOW).sign()),
        (Kind::Forbidden, good.clone().claim("cognito:groups", ["other"]).sign()),
        (Kind::InvalidClaim, good.clone().claim("sub", 1).sign()),
        (Kind::InvalidHeader, good.clone().header("crit", ["exp"]).sign()),
        (Kind::Malformed, "a.b".to_owned()),
        (Kind::NotYetValid, good.clone().claim("nbf", NOW + 1).sign()),
        (Kind::SenderConstrained, good.clone().claim("cnf", 1).sign()),
        (Kind::TooLarge, "a".repeat(MAX_TOKEN_LEN + 1)),
        (Kind::UnknownIssuer, good.clone().claim("iss", "other").sign()),
        (Kind::UnknownKey, good.clone().header("kid", "other").sign()),
        (Kind::UnsupportedAlgorithm, good.clone().header("alg", "RS512").sign()),
        (Kind::WrongAudience, good.clone().claim("aud", "other").sign()),
        (Kind::WrongClient, good.clone().claim("client_id", "other").sign()),
        (Kind::WrongTokenUse, good.clone().claim("token_use", "id").sign()),
    ];
    for (kind, token) in cases {
        assert_eq!(result_under(&rules, &token, now()), Err(kind));
        assert_eq!(calls.load(Ordering::Relaxed), 3, "{kind:?}");
    }
}

// Getters

#[test]
fn machine_token_has_the_expected_claims() {
    let text = valid().scope("activity/* item/read").claim("jti", "some-jti").sign();
    let token = accept("machine", &text);
    assert_eq!(token.subject(), CLIENT);
    assert_eq!(token.client_id(), CLIENT);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["activity/*", "item/read"]);
    assert_eq!(token.username(), None);
    assert_eq!(token.groups().count(), 0);
    assert_eq!(token.issuer(), issuer().issuer());
    assert_eq!(token.expires_at(), at(NOW + HOUR));
    assert_eq!(token.issued_at(), Some(now()));
    assert_eq!(token.jwt_id(), Some("some-jti"));
}

#[test]
fn user_token_has_the_expected_claims() {
    let text = issuer()
        .user_token(CLIENT, "ada")
        .issued_at(now())
        .claim("sub", "some-user")
        .claim("cognito:groups", ["staff", "admin"])
        .scope("openid item/read")
        .expires_at(at(NOW + 60))
        .sign();
    let token = accept("user", &text);
    assert_eq!(token.subject(), "some-user");
    assert_eq!(token.client_id(), CLIENT);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["openid", "item/read"]);
    assert_eq!(token.username(), Some("ada"));
    assert_eq!(token.groups().collect::<Vec<_>>(), ["staff", "admin"]);
    assert_eq!(token.issuer(), issuer().issuer());
    assert_eq!(token.expires_at(), at(NOW + 60));
    assert_eq!(token.issued_at(), Some(now()));
    assert!(token.jwt_id().is_some());
}

#[test]
fn absent_claims_are_none_or_empty() {
    let token = accept("bare", &valid().without_claim("scope").without_claim("jti").sign());
    assert_eq!(token.scopes().iter().count(), 0);
    assert_eq!(token.jwt_id(), None);
    assert_eq!(token.username(), None);
    assert_eq!(token.groups().count(), 0);
}

#[test]
fn escapes_are_decoded_in_every_text() {
    let token = valid()
        .claim("sub", raw(r#""s\u00fcb""#))
        .claim("username", raw(r#""a\"b\\c\n""#))
        .claim("jti", raw(r#""\u006ati""#))
        .claim("cognito:groups", raw(r#"["\u0067","\ud83d\ude00"]"#))
        .claim("scope", raw(r#""a\/b\u0020c""#));
    let token = accept("escaped", &token.sign());
    assert_eq!(token.subject(), "s\u{fc}b");
    assert_eq!(token.username(), Some("a\"b\\c\n"));
    assert_eq!(token.jwt_id(), Some("jti"));
    assert_eq!(token.groups().collect::<Vec<_>>(), ["g", "\u{1f600}"]);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["a/b", "c"]);
}

#[test]
fn h091_debug_output_contains_no_part_of_the_token() {
    let text = valid().claim("email", "ada@example.com").claim("jti", "some-jti").sign();
    let token = accept("good", &text);
    let rules = rules().with_check(|_| Ok(()));
    for shown in [format!("{token:?}"), format!("{token:#?}"), format!("{rules:?}")] {
        for part in parts(&text) {
            assert!(!shown.contains(part), "{shown}");
        }
        for secret in ["ada@example.com", "some-jti", "activity/*"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains(CLIENT), "{shown}");
    }
}
