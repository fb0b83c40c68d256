//! Claims as the application reads them, and its own checks. A number in a name is that of the hostile
//! input.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{Request, Response};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    AccessToken, CheckError, Rejection, RejectionKind, RequireScope, RequireToken, Rules,
    VerifyErrorKind,
};

use super::fake_issuer::{Fake, keys, new_set, old_set};
use super::support::{CLIENT, EmptyBody, issuer, machine, request, rules, verifier, verifier_of};

fn verified(token: &TokenBuilder) -> AccessToken {
    verifier().try_verify(&token.sign()).unwrap()
}

/// The only claim `x`, as this type.
fn claim<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    let token = machine("activity/*").claim("x", json!(0));
    let payload = token.payload_json().replace(r#""x":0"#, &format!(r#""x":{json}"#));
    let text = token.sign_texts(&token.header_json(), &payload);
    let token = verifier().try_verify(&text).unwrap();
    let typed = token.deserialize_claims::<X<T>>().map_err(|error| error.to_string());
    typed.map(|X(x)| x)
}

/// `{ "x": T, .. }` without the derive macro.
struct X<T>(T);

impl<'de, T: DeserializeOwned> serde::Deserialize<'de> for X<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(std::marker::PhantomData<T>);

        impl<'de, T: DeserializeOwned> serde::de::Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("claims with an x")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                let mut x = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "x" {
                        x = Some(map.next_value()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                x.ok_or_else(|| serde::de::Error::missing_field("x"))
            }
        }

        deserializer.deserialize_map(Members(std::marker::PhantomData)).map(Self)
    }
}

#[track_caller]
fn is<T: DeserializeOwned + Debug + PartialEq>(json: &str, expected: T) {
    assert_eq!(claim::<T>(json).as_ref(), Ok(&expected), "{json}");
}

#[test]
fn claim_of_any_json_type_deserializes() {
    is("true", true);
    is("false", false);
    is("null", ());
    is("null", None::<bool>);
    is("false", Some(false));
    is("0", 0_u8);
    is("-1", -1_i8);
    is("9223372036854775807", i64::MAX);
    is("-9223372036854775808", i64::MIN);
    is("18446744073709551615", u64::MAX);
    is("340282366920938463463374607431768211455", u128::MAX);
    is("9007199254740993", 9_007_199_254_740_993_i64);
    is("1.5e-3", 1.5e-3);
    is("-0.0", -0.0_f64);
    is("1e300", 1e300);
    is(r#""""#, String::new());
    is(r#""a b""#, "a b".to_owned());
    is(r#""caf\u00e9 \ud83d\ude00 é😀""#, "café 😀 é😀".to_owned());
    is(r#""a\/b\\\"\n\t""#, "a/b\\\"\n\t".to_owned());
    is(r#""\\/\\\/\\\\/\/""#, r"\/\/\\//".to_owned());
    is("[]", Vec::<bool>::new());
    is(r#"["a","b\/c"]"#, ["a", "b/c"].map(str::to_owned).to_vec());
    is("[[1],[2,3]]", vec![vec![1], vec![2, 3]]);
    is("{}", BTreeMap::<String, bool>::new());
    is(r#"{"b":1,"a":-1}"#, BTreeMap::from([("a".to_owned(), -1), ("b".to_owned(), 1)]));
    is(
        r#"{"a":[null,true,{"b":[1.5,"\/",{}]}],"":{}}"#,
        json!({"a": [null, true, {"b": [1.5, "/", {}]}], "": {}}),
    );
}

#[test]
fn nested_and_long_claim_deserializes() {
    let nested = format!("{}{}", "[".repeat(30), "]".repeat(30));
    let value = claim::<Value>(&nested).unwrap();
    assert_eq!(value.to_string(), nested);
    let long = format!("{:?}", "x".repeat(5_000));
    assert_eq!(claim::<String>(&long).unwrap().len(), 5_000);
}

#[test]
fn deserialized_claims_are_those_of_the_token() {
    let token = machine("activity/*").claim("tenant", "blue");
    let expected: Value = serde_json::from_str(&token.payload_json()).unwrap();
    for token in [token.clone(), token.escaped_slashes()] {
        let claims: Value = verified(&token).deserialize_claims().unwrap();
        assert_eq!(claims, expected);
        assert_eq!(claims["scope"], "activity/*");
    }
}

#[test]
fn escaped_slashes_do_not_change_claims() {
    let plain = issuer().user_token(CLIENT, "a/b").scope("x/y z/*").claim("x", "http://a/b");
    let plain = plain.claim("cognito:groups", ["g/h"]).claim("jti", "i/j");
    let escaped = plain.clone().escaped_slashes();
    assert!(escaped.payload_json().contains(r"http:\/\/a\/b"));
    let [plain, escaped] = [plain, escaped].map(|token| verified(&token));
    for token in [plain, escaped] {
        assert_eq!(token.username(), Some("a/b"));
        assert_eq!(token.issuer(), issuer().issuer());
        assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["x/y", "z/*"]);
        assert_eq!(token.groups().collect::<Vec<_>>(), ["g/h"]);
        assert_eq!(token.jwt_id(), Some("i/j"));
        assert_eq!(token.deserialize_claims::<X<String>>().unwrap().0, "http://a/b");
    }
}

/// Returns the column of the end of this text in a payload of one line.
fn column_after(payload: &str, text: &str) -> usize {
    payload.find(text).unwrap() + text.len()
}

#[test]
fn error_contains_a_position_and_no_value() {
    let token = machine("a/b").claim("x", "S3CR3T");
    let payload = token.payload_json();
    let token = verified(&token);
    let error = token.deserialize_claims::<X<u8>>().err().unwrap();
    let column = column_after(&payload, r#""x":"S3CR3T""#);
    let expected = format!("the claims do not have the expected shape, line 1 column {column}");
    assert_eq!(error.to_string(), expected);
    assert!(std::error::Error::source(&error).is_none());
    let debug = format!("{error:?}");
    assert_eq!(debug, format!("InvalidClaims {{ line: 1, column: {column} }}"));

    // A missing claim is reported at the end of the payload.
    let error = verified(&machine("a/b")).deserialize_claims::<X<u8>>().err().unwrap();
    assert!(error.to_string().contains("line 1 column "), "{error}");
    assert!(!error.to_string().contains("missing"), "{error}");

    for json in [r#""S3CR3T""#, r#"["S3CR3T"]"#, r#"{"S3CR3T":"S3CR3T"}"#, "987654321987654321"] {
        for error in [
            claim::<u8>(json).unwrap_err(),
            claim::<bool>(json).unwrap_err(),
            claim::<BTreeMap<u8, u8>>(json).unwrap_err(),
        ] {
            assert!(!error.contains("S3CR3T") && !error.contains("987654321"), "{error}");
            let digits = error.strip_prefix("the claims do not have the expected shape, line 1 ");
            assert!(digits.is_some_and(|rest| rest.starts_with("column ")), "{error}");
        }
    }
    // A payload may have several lines.
    let builder = machine("a/b");
    let lines = builder.payload_json().replace(',', ",\n").replacen('{', "{\"x\":\n\"S3CR3T\",", 1);
    let token = builder.sign_texts(&builder.header_json(), &lines);
    let error = verifier().try_verify(&token).unwrap().deserialize_claims::<X<u8>>();
    let error = error.err().unwrap().to_string();
    assert_eq!(error, "the claims do not have the expected shape, line 2 column 8");
}

#[track_caller]
fn verdict(rules: Rules, token: &TokenBuilder, expected: Option<VerifyErrorKind>) {
    let verifier = verifier_of(rules);
    let kind = verifier.try_verify(&token.sign()).err().map(|error| error.kind());
    assert_eq!(kind, expected, "{token:?}");
}

#[test]
fn groups_of_the_last_call_replace_the_others() {
    let rules = rules().with_groups(["readers"]).with_groups(["x"]);
    let reader = issuer().user_token(CLIENT, "alice").claim("cognito:groups", ["readers"]);
    verdict(rules, &reader, Some(VerifyErrorKind::Forbidden));
}

#[test]
fn missing_scope_names_the_scopes_of_the_rules_without_a_layer_outside() {
    let rules = rules().with_required_scopes(["base/use"]);
    let verifier = verifier_of(rules);
    let mut extensions = http::Extensions::new();
    extensions.insert(verifier.try_verify(&machine("base/use").sign()).unwrap());
    let rejection = RequireScope::new("mcp/admin").authorize(&extensions).unwrap_err();
    let required = rejection.required_scopes().iter().map(|scope| scope.as_str());
    assert_eq!(required.collect::<Vec<_>>(), ["mcp/admin", "base/use"]);
}

#[test]
fn audience_that_is_an_origin_is_accepted_with_and_without_a_slash() {
    let wrong = Some(VerifyErrorKind::WrongAudience);
    for (configured, sent, expected) in [
        ("https://a", "https://a/", None),
        ("https://a/", "https://a", None),
        ("http://a:80", "http://a:80/", None),
        ("http://a:80/", "http://a:80", None),
        // With a path, query or fragment, or another scheme, the slash counts.
        ("https://a/b", "https://a/b/", wrong),
        ("https://a/b/", "https://a/b", wrong),
        ("https://a?b", "https://a?b/", wrong),
        ("https://a?b/", "https://a?b", wrong),
        ("https://a#b", "https://a#b/", wrong),
        ("https:///", "https://", wrong),
        ("https://", "https:///", wrong),
        ("urn:a", "urn:a/", wrong),
        ("a/", "a", wrong),
    ] {
        verdict(rules().with_audience(configured), &machine("").claim("aud", sent), expected);
    }
}

#[test]
fn errors_of_the_check_say_what_they_mean() {
    assert_eq!(CheckError::Forbidden.to_string(), "the request is forbidden");
    assert_eq!(CheckError::Revoked.to_string(), "the token was revoked");
}

type Revoked = Arc<RwLock<HashSet<String>>>;

fn revocable(revoked: &Revoked) -> Rules {
    let revoked = Arc::clone(revoked);
    rules().with_check(move |token| match (token.jwt_id(), revoked.read()) {
        (Some(id), Ok(revoked)) if !revoked.contains(id) => Ok(()),
        _ => Err(CheckError::Revoked),
    })
}

async fn send(layer: &RequireToken, token: &str) -> Response<()> {
    let service = service_fn(|request: Request<EmptyBody>| async move {
        assert!(request.extensions().get::<AccessToken>().is_some());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service = layer.layer(RequireScope::new("a/b").layer(service));
    service.oneshot(request(Some(&format!("Bearer {token}")))).await.unwrap().map(drop)
}

#[track_caller]
fn is_rejected(response: &Response<()>, status: u16, challenge: &str, kind: RejectionKind) {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
    assert_eq!(response.extensions().get::<Rejection>().unwrap().kind(), kind);
}

const INVALID: &str =
    r#"Bearer realm="api", error="invalid_token", error_description="The access token is invalid""#;

#[tokio::test]
async fn token_is_rejected_from_the_first_request_after_its_revocation() {
    let revoked = Revoked::default();
    let verifier = verifier_of(revocable(&revoked));
    let layer = RequireToken::new(verifier.clone());
    let token = |id: &str| machine("a/b").claim("jti", id).sign();
    let (one, two) = (token("one"), token("two"));
    for round in 0..3 {
        for _ in 0..5 {
            assert_eq!(send(&layer, &one).await.status(), 200, "{round}");
            assert_eq!(send(&layer, &two).await.status(), 200, "{round}");
        }
        revoked.write().unwrap().insert("one".to_owned());
        for _ in 0..5 {
            let response = send(&layer, &one).await;
            is_rejected(&response, 401, INVALID, RejectionKind::InvalidToken);
            let rejection = response.extensions().get::<Rejection>().unwrap();
            let kind = rejection.verify_error().unwrap().kind();
            assert_eq!(kind, VerifyErrorKind::Revoked);
            assert_eq!(send(&layer, &two).await.status(), 200, "{round}");
            assert!(verifier.try_verify(&one).is_err() && verifier.verify(&one).await.is_err());
        }
        revoked.write().unwrap().remove("one");
    }
    let without = machine("a/b").without_claim("jti").sign();
    is_rejected(&send(&layer, &without).await, 401, INVALID, RejectionKind::InvalidToken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_under_traffic_is_seen_by_the_next_request() {
    let revoked = Revoked::default();
    let verifier = verifier_of(revocable(&revoked));
    let layer = RequireToken::new(verifier);
    let other = machine("a/b").claim("jti", "other").sign();
    let traffic = (0..2).map(|_| {
        let (layer, other) = (layer.clone(), other.clone());
        tokio::spawn(async move {
            for _ in 0..200 {
                assert_eq!(send(&layer, &other).await.status(), 200);
            }
        })
    });
    let traffic = traffic.collect::<Vec<_>>();
    for number in 0..50 {
        let id = format!("token-{number}");
        let token = machine("a/b").claim("jti", &id).sign();
        assert_eq!(send(&layer, &token).await.status(), 200, "{id}");
        revoked.write().unwrap().insert(id.clone());
        assert_eq!(send(&layer, &token).await.status(), 401, "{id}");
    }
    for task in traffic {
        task.await.unwrap();
    }
}

#[test]
fn date_before_the_epoch_is_read() {
    for seconds in [1_i64, 86_400] {
        let token = verified(&machine("").claim("iat", -seconds));
        let before = Duration::from_secs(seconds.unsigned_abs());
        assert_eq!(token.issued_at(), Some(UNIX_EPOCH - before));
    }
    assert_eq!(verified(&machine("").claim("iat", 0)).issued_at(), Some(UNIX_EPOCH));
}

#[test]
fn first_failing_check_gives_the_error() {
    let rejects = |id: &'static str, why: CheckError| {
        move |token: &AccessToken| if token.jwt_id() == Some(id) { Err(why) } else { Ok(()) }
    };
    let rules = rules()
        .with_check(rejects("a", CheckError::Revoked))
        .with_check(rejects("b", CheckError::Forbidden))
        .with_check(rejects("a", CheckError::Forbidden));
    let verifier = verifier_of(rules);
    let kind = |id: &str| {
        let token = machine("").claim("jti", id).sign();
        verifier.try_verify(&token).map(drop).map_err(|error| error.kind())
    };
    assert_eq!(kind("a"), Err(VerifyErrorKind::Revoked));
    assert_eq!(kind("b"), Err(VerifyErrorKind::Forbidden));
    assert_eq!(kind("c"), Ok(()));
}

#[test]
fn application_rejects_like_the_layers() {
    let mut extensions = http::Extensions::new();
    extensions.insert(verified(&machine("a/b")));
    let token = RequireScope::new("a/b").authorize(&extensions).unwrap();
    assert_eq!(token.client_id(), CLIENT);
    let rejection = RequireScope::all_of(["a/b", "c/d"]).authorize(&extensions).unwrap_err();
    assert_eq!(rejection.kind(), RejectionKind::InsufficientScope);
    let challenge = rejection.challenge().unwrap();
    assert!(challenge.to_str().unwrap().ends_with(r#"scope="a/b c/d""#), "{challenge:?}");

    let error = verifier().try_verify("abc").unwrap_err();
    let rejection = Rejection::from(error.clone());
    assert_eq!(rejection.source().unwrap().to_string(), error.to_string());
    assert_eq!((rejection.kind(), rejection.status().as_u16()), (RejectionKind::InvalidToken, 401));
}

#[tokio::test]
async fn forbidden_by_the_check_is_403_and_the_check_runs_last() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let rules = rules().with_groups(["staff"]).with_check(move |token| {
        count.fetch_add(1, Ordering::SeqCst);
        match token.username() {
            Some("alice") => Ok(()),
            _ => Err(CheckError::Forbidden),
        }
    });
    let verifier = verifier_of(rules);
    let layer = RequireToken::new(verifier);
    let user = |name: &str, groups: &[&str]| {
        issuer().user_token(CLIENT, name).scope("a/b").claim("cognito:groups", groups)
    };
    let forbidden = r#"Bearer realm="api""#;
    assert_eq!(send(&layer, &user("alice", &["staff"]).sign()).await.status(), 200);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let response = send(&layer, &user("bob", &["staff"]).sign()).await;
    is_rejected(&response, 403, forbidden, RejectionKind::Forbidden);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // The check gets only tokens that break no other rule.
    for token in [
        user("alice", &["guests"]),
        user("alice", &["staff"]).claim("client_id", "x"),
        user("alice", &["staff"]).issued_at(std::time::UNIX_EPOCH),
        user("alice", &["staff"]).claim("cnf", json!({})),
    ] {
        assert_ne!(send(&layer, &token.sign()).await.status(), 200);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn check_runs_for_a_token_that_waited_for_its_key() {
    let revoked = Revoked::default();
    let list = Arc::clone(&revoked);
    let rules = super::fake_issuer::rules().with_check(move |token| {
        let is_revoked = token.jwt_id().is_none_or(|id| list.read().unwrap().contains(id));
        if is_revoked { Err(CheckError::Revoked) } else { Ok(()) }
    });
    for is_revoked in [false, true] {
        let fake = Fake::new(old_set());
        let verifier = fake.builder_for(rules.clone()).connect().await.unwrap();
        let layer = RequireToken::new(verifier);
        fake.answers(new_set());
        let token = keys().issuer.machine_token(CLIENT).scope("a/b").claim("jti", "one");
        let token = token.claim("exp", 9_999_999_999_u64).sign();
        if is_revoked {
            revoked.write().unwrap().insert("one".to_owned());
        }
        let response = send(&layer, &token).await;
        assert_eq!(response.status(), if is_revoked { 401 } else { 200 });
        assert_eq!(fake.requests(), 2);
    }
}

/// RFC 8693 section 4.1.
#[test]
fn actor_of_an_exchanged_token_is_its_act_claim() {
    let user = || issuer().user_token(CLIENT, "alice").claim("sub", "the-user");
    assert!(verified(&user()).actor().is_none(), "the user acts directly");
    assert!(verified(&machine("a/b")).actor().is_none());

    let delegated = user().actor("service77");
    assert!(delegated.payload_json().contains(r#""act":{"sub":"service77"}"#));
    let token = verified(&delegated);
    assert_eq!(token.subject(), "the-user");
    assert_eq!(token.actor().unwrap().subject(), Some("service77"));

    for (json, subject) in [
        (r#"{"sub":"s77"}"#, Some("s77")),
        (r#"{"iss":"https://i.example","sub":"s77"}"#, Some("s77")),
        // Only the current actor counts, and not those before it.
        (r#"{"sub":"s77","act":{"sub":"s26"}}"#, Some("s77")),
        (r#"{"act":{"sub":"s26"}}"#, None),
        (r#"{"client_id":"c"}"#, None),
        ("{}", None),
        (r#"{"sub":"a\u002fb"}"#, Some("a/b")),
        (r#"{"s\u0075b":"s77"}"#, Some("s77")),
    ] {
        for token in [act(json), act(json).escaped_slashes()] {
            let token = verified(&token);
            assert_eq!(token.actor().unwrap().subject(), subject, "{json}");
            assert_eq!(format!("{:?}", token.actor().unwrap()), "Actor { .. }");
        }
    }
}

/// A user's token with this text as its `act` claim.
fn act(json: &str) -> TokenBuilder {
    let raw = serde_json::value::RawValue::from_string(json.to_owned()).unwrap();
    issuer().user_token(CLIENT, "alice").claim("act", raw)
}
