//! The layers as a client sees them: the rows of the rejection table, and the requests that reach
//! the service inside. A number in a test name is the number of the hostile input.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_cognito::layer::ResponseBody;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, JwksDocument, RefreshError, Rejection, RejectionBody,
    RejectionKind, RequireScope, RequireToken, Rules, Verifier, VerifyErrorKind,
};

use super::support::{CLIENT, Log, issuer, machine, rules, verifier};

/// The parts of a response that a client and an outer layer see.
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    rejection: Option<Rejection>,
}

impl Seen {
    fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends one request to the layers around a service that counts its calls.
async fn send<L>(layer: L, request: Request<Full<Bytes>>) -> (Seen, usize)
where
    L: Layer<Counter>,
    L::Service: Service<
            Request<Full<Bytes>>,
            Response = Response<ResponseBody<ResponseBody<Full<Bytes>>>>,
            Error = Infallible,
        >,
{
    let counter = Counter::default();
    let calls = Arc::clone(&counter.calls);
    let response = layer.layer(counter).oneshot(request).await.unwrap();
    let rejection = response.extensions().get::<Rejection>().cloned();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let seen = Seen { status: parts.status, headers: parts.headers, body, rejection };
    (seen, calls.load(Ordering::SeqCst))
}

/// Responds with the client ID of the token in the extensions, and counts its calls.
#[derive(Clone, Default)]
struct Counter {
    calls: Arc<AtomicUsize>,
}

impl Service<Request<Full<Bytes>>> for Counter {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let token = request.extensions().get::<AccessToken>();
        let client = token.map_or("nobody", AccessToken::client_id).to_owned();
        ready(Ok(Response::new(Full::from(client))))
    }
}

fn get(authorization: &[&str]) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    for value in authorization {
        request.headers_mut().append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn bearer(token: &str) -> Request<Full<Bytes>> {
    get(&[&format!("Bearer {token}")])
}

fn stack(token: RequireToken) -> impl Layer<Counter, Service = Stacked> + Clone {
    ServiceBuilder::new().layer(token).layer(RequireScope::new("activity/*")).into_inner()
}

type Stacked =
    tower_cognito::layer::RequireTokenService<tower_cognito::layer::RequireScopeService<Counter>>;

struct Row {
    name: &'static str,
    status: u16,
    challenge: Option<&'static str>,
    body: &'static str,
    kind: RejectionKind,
    reason: Option<VerifyErrorKind>,
}

const INVALID: Row = Row {
    name: "invalid",
    status: 401,
    challenge: Some(
        r#"Bearer realm="api", error="invalid_token", error_description="The access token is invalid""#,
    ),
    body: r#"{"error":"invalid_token","error_description":"The access token is invalid"}"#,
    kind: RejectionKind::InvalidToken,
    reason: None,
};
const MISSING: Row = Row {
    name: "missing",
    status: 401,
    challenge: Some(r#"Bearer realm="api""#),
    body: r#"{"error":"unauthorized","error_description":"A bearer access token is required"}"#,
    kind: RejectionKind::MissingToken,
    reason: None,
};
const MALFORMED: Row = Row {
    name: "malformed",
    status: 400,
    challenge: Some(
        r#"Bearer realm="api", error="invalid_request", error_description="The Authorization header is malformed""#,
    ),
    body: r#"{"error":"invalid_request","error_description":"The Authorization header is malformed"}"#,
    kind: RejectionKind::InvalidRequest,
    reason: None,
};

#[track_caller]
fn check(seen: &Seen, calls: usize, row: &Row) {
    let name = row.name;
    assert_eq!(seen.status, row.status, "{name}");
    assert_eq!(seen.header(WWW_AUTHENTICATE), row.challenge, "{name}");
    assert_eq!(seen.header(CONTENT_TYPE), Some("application/json"), "{name}");
    assert_eq!(seen.header(CACHE_CONTROL), Some("no-store"), "{name}");
    assert_eq!(seen.header(CONTENT_LENGTH), Some(&*row.body.len().to_string()), "{name}");
    assert_eq!(seen.body, row.body, "{name}");
    let rejection = seen.rejection.as_ref().unwrap();
    assert_eq!(rejection.kind(), row.kind, "{name}");
    assert_eq!(rejection.verify_error().map(|error| error.kind()), row.reason, "{name}");
    assert_eq!(calls, 0, "{name}: the service was called");
}

#[tokio::test]
async fn valid_request_passes_with_its_token() {
    let valid = machine("activity/*").sign();
    for value in [
        format!("Bearer {valid}"),
        format!("bearer {valid}"),
        format!("BEARER {valid}"),
        format!("BeArEr   {valid}"),
    ] {
        let (seen, calls) = send(stack(RequireToken::new(verifier())), get(&[&value])).await;
        assert_eq!((seen.status, calls), (StatusCode::OK, 1), "{value:.8}");
        assert_eq!(seen.body, CLIENT);
        assert!(seen.rejection.is_none());
        assert!(seen.header(WWW_AUTHENTICATE).is_none());
    }
}

#[tokio::test]
async fn each_row_of_the_rejection_table_is_exact() {
    let valid = machine("activity/*").sign();
    let past = SystemTime::now() - Duration::from_secs(7200);
    let layer = stack(RequireToken::new(verifier()));

    let cases = [
        ("no header", get(&[]), MISSING),
        ("another scheme", get(&["Basic dXNlcjpwdw=="]), MISSING),
        ("DPoP", get(&[&format!("DPoP {valid}")]), MISSING),
        ("scheme in the middle", get(&[&format!("Basic xBearer {valid}")]), MISSING),
        ("only Bearer", get(&["Bearer"]), MALFORMED),
        ("Bearer and a space", get(&["Bearer "]), MALFORMED),
        ("a tab", get(&[&format!("Bearer\t{valid}")]), MALFORMED),
        ("two lines", get(&[&format!("Bearer {valid}"), &format!("Bearer {valid}")]), MALFORMED),
        ("garbage", bearer("garbage"), Row { reason: Some(VerifyErrorKind::Malformed), ..INVALID }),
        (
            "something after the token",
            bearer(&format!("{valid} extra")),
            Row { reason: Some(VerifyErrorKind::Malformed), ..INVALID },
        ),
        (
            "two tokens in one line",
            bearer(&format!("{valid},Bearer {valid}")),
            Row { reason: Some(VerifyErrorKind::Malformed), ..INVALID },
        ),
        (
            "an unknown key",
            bearer(&machine("activity/*").header("kid", "unknown").sign()),
            Row { reason: Some(VerifyErrorKind::UnknownKey), ..INVALID },
        ),
        (
            "another client",
            bearer(&issuer().machine_token("another").sign()),
            Row { reason: Some(VerifyErrorKind::WrongClient), ..INVALID },
        ),
        (
            "an ID token",
            bearer(&issuer().id_token(CLIENT, "alice").sign()),
            Row { reason: Some(VerifyErrorKind::WrongTokenUse), ..INVALID },
        ),
        (
            "expired",
            bearer(&machine("activity/*").issued_at(past).sign()),
            Row {
                name: "expired",
                status: 401,
                challenge: Some(
                    r#"Bearer realm="api", error="invalid_token", error_description="The access token expired""#,
                ),
                body: r#"{"error":"invalid_token","error_description":"The access token expired"}"#,
                kind: RejectionKind::ExpiredToken,
                reason: Some(VerifyErrorKind::Expired),
            },
        ),
        (
            "a scope is missing",
            bearer(&machine("activity/read").sign()),
            Row {
                name: "scope",
                status: 403,
                challenge: Some(
                    r#"Bearer realm="api", error="insufficient_scope", error_description="A required scope is missing", scope="activity/*""#,
                ),
                body: r#"{"error":"insufficient_scope","error_description":"A required scope is missing"}"#,
                kind: RejectionKind::InsufficientScope,
                reason: None,
            },
        ),
    ];
    for (name, request, row) in cases {
        let (seen, calls) = send(layer.clone(), request).await;
        check(&seen, calls, &Row { name, ..row });
        assert!(seen.header(RETRY_AFTER).is_none(), "{name}");
    }

    let mut opaque = get(&[]);
    let bytes = HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap();
    opaque.headers_mut().insert(AUTHORIZATION, bytes);
    let (seen, calls) = send(layer.clone(), opaque).await;
    check(&seen, calls, &Row { name: "opaque bytes", ..MALFORMED });
}

#[tokio::test]
async fn application_check_rejects_with_401_or_403() {
    let revoked = rules().with_check(|_| Err(CheckError::Revoked));
    let revoked = Verifier::builder(revoked).build_with_jwks(issuer().jwks()).unwrap();
    let valid = machine("activity/*").sign();
    let (seen, calls) = send(stack(RequireToken::new(revoked)), bearer(&valid)).await;
    let row = Row { name: "revoked", reason: Some(VerifyErrorKind::Revoked), ..INVALID };
    check(&seen, calls, &row);

    let forbidden = rules().with_check(|_| Err(CheckError::Forbidden));
    let forbidden = Verifier::builder(forbidden).build_with_jwks(issuer().jwks()).unwrap();
    let (seen, calls) = send(stack(RequireToken::new(forbidden)), bearer(&valid)).await;
    let row = Row {
        name: "forbidden",
        status: 403,
        challenge: Some(r#"Bearer realm="api""#),
        body: r#"{"error":"forbidden","error_description":"The request is not allowed with this token"}"#,
        kind: RejectionKind::Forbidden,
        reason: Some(VerifyErrorKind::Forbidden),
    };
    check(&seen, calls, &row);
}

#[tokio::test]
async fn missing_keys_are_503_with_retry_after() {
    let verifier = Verifier::builder(rules())
        .jwks_fetcher(|_| async { Err::<JwksDocument, _>(RefreshError::status(503)) })
        .connect_lazy()
        .unwrap();
    let valid = machine("activity/*").sign();
    let layer = stack(RequireToken::new(verifier));
    let (seen, calls) = send(layer.clone(), bearer(&valid)).await;
    let row = Row {
        name: "no keys",
        status: 503,
        challenge: None,
        body: r#"{"error":"temporarily_unavailable","error_description":"Access tokens cannot be verified now"}"#,
        kind: RejectionKind::Unavailable,
        reason: Some(VerifyErrorKind::KeysUnavailable),
    };
    check(&seen, calls, &row);
    assert_eq!(seen.header(RETRY_AFTER), Some("1"));

    // A missing token is rejected with 401 even without keys.
    let (seen, calls) = send(layer, get(&[])).await;
    check(&seen, calls, &MISSING);
}

#[tokio::test]
async fn scope_layer_without_token_layer_is_500_and_logs_an_error() {
    let log = Log::of_this_thread();
    let only_scope = ServiceBuilder::new()
        .layer(RequireScope::new("activity/*"))
        .layer(RequireScope::new("activity/*"))
        .into_inner();
    let (seen, calls) = send(only_scope, bearer(&machine("activity/*").sign())).await;
    let row = Row {
        name: "no RequireToken",
        status: 500,
        challenge: None,
        body: r#"{"error":"server_error","error_description":"The service is not set up correctly"}"#,
        kind: RejectionKind::Internal,
        reason: None,
    };
    check(&seen, calls, &row);
    let log = log.take();
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    assert!(log.contains("RequireScope"), "{log}");
}

#[tokio::test]
async fn h088_head_has_the_headers_of_get_and_no_body() {
    let layer = stack(RequireToken::new(verifier()));
    let (get_seen, _) = send(layer.clone(), get(&[])).await;
    let mut head = get(&[]);
    *head.method_mut() = Method::HEAD;
    let (head_seen, calls) = send(layer, head).await;
    assert_eq!(calls, 0);
    assert_eq!(head_seen.status, get_seen.status);
    assert_eq!(head_seen.headers, get_seen.headers);
    assert!(head_seen.body.is_empty() && !get_seen.body.is_empty());
}

#[tokio::test]
async fn h013_forged_token_in_extensions_is_removed() {
    let forged = verifier().try_verify(&machine("activity/*").sign()).unwrap();
    let token = RequireToken::new(verifier());
    let by_scope = Some(r#"Bearer realm="api", scope="activity/*""#);
    for (layer, challenge) in
        [(token.clone(), MISSING.challenge), (token.allow_anonymous(), by_scope)]
    {
        let mut request = get(&[]);
        request.extensions_mut().insert(forged.clone());
        let (seen, calls) = send(stack(layer), request).await;
        check(&seen, calls, &Row { challenge, ..MISSING });
    }
}

#[tokio::test]
async fn h010_token_in_query_is_ignored() {
    let mut request = get(&[]);
    let uri = format!("/activity?access_token={}", machine("activity/*").sign());
    *request.uri_mut() = uri.parse().unwrap();
    let (seen, calls) = send(stack(RequireToken::new(verifier())), request).await;
    check(&seen, calls, &MISSING);
}

/// Returns two nested `RequireToken` layers, which have the type that [`send`] takes.
fn tokens(layer: RequireToken) -> impl Layer<Counter, Service = Doubled> {
    ServiceBuilder::new().layer(layer.clone()).layer(layer).into_inner()
}

type Doubled =
    tower_cognito::layer::RequireTokenService<tower_cognito::layer::RequireTokenService<Counter>>;

#[tokio::test]
async fn h092_allow_anonymous_passes_missing_tokens_and_rejects_invalid_ones() {
    let anonymous = || RequireToken::new(verifier()).allow_anonymous();
    for value in [&[][..], &["Basic dXNlcjpwdw=="]] {
        let (seen, calls) = send(tokens(anonymous()), get(value)).await;
        assert_eq!((seen.status, calls), (StatusCode::OK, 1));
        assert_eq!(seen.body, "nobody");
    }
    let (seen, _) = send(tokens(anonymous()), bearer(&machine("").sign())).await;
    assert_eq!(seen.body, CLIENT);

    let (seen, calls) = send(tokens(anonymous()), bearer("bad")).await;
    let row = Row { name: "invalid", reason: Some(VerifyErrorKind::Malformed), ..INVALID };
    check(&seen, calls, &row);
    let (seen, calls) = send(tokens(anonymous()), get(&["Bearer"])).await;
    check(&seen, calls, &MALFORMED);

    // A required scope needs a token.
    let (seen, calls) = send(stack(anonymous()), get(&[])).await;
    let challenge = Some(r#"Bearer realm="api", scope="activity/*""#);
    check(&seen, calls, &Row { challenge, ..MISSING });
}

#[tokio::test]
async fn require_token_settings_apply_to_scope_layer_inside() {
    let layer = RequireToken::new(verifier()).realm("orders").rejection_body(|rejection| {
        let text = format!("{}: {}", rejection.status().as_u16(), rejection.error_code());
        RejectionBody::new(HeaderValue::from_static("text/plain"), text)
    });
    for (request, status, challenge, body) in [
        (get(&[]), 401, r#"Bearer realm="orders""#, "401: unauthorized"),
        (
            bearer(&machine("activity/read").sign()),
            403,
            r#"Bearer realm="orders", error="insufficient_scope", error_description="A required scope is missing", scope="activity/*""#,
            "403: insufficient_scope",
        ),
    ] {
        let (seen, calls) = send(stack(layer.clone()), request).await;
        assert_eq!((seen.status.as_u16(), calls), (status, 0));
        assert_eq!(seen.header(WWW_AUTHENTICATE), Some(challenge));
        assert_eq!(seen.header(CONTENT_TYPE), Some("text/plain"));
        assert_eq!(seen.header(CACHE_CONTROL), Some("no-store"));
        assert_eq!(seen.body, body);
    }
}

#[tokio::test]
async fn challenge_names_the_required_scopes() {
    for (scope, named) in [
        (RequireScope::any_of(["a/x", "a/y"]), Some("a/x")),
        (RequireScope::all_of(["a/x", "a/y"]), Some("a/x a/y")),
        (RequireScope::any_of_resource_server("a"), None),
    ] {
        let layer =
            ServiceBuilder::new().layer(RequireToken::new(verifier())).layer(scope).into_inner();
        let (seen, _) = send(layer, bearer(&machine("b/x").sign())).await;
        assert_eq!(seen.status, 403);
        let base = r#"Bearer realm="api", error="insufficient_scope", error_description="A required scope is missing""#;
        let challenge = named.map_or(base.to_owned(), |named| format!("{base}, scope=\"{named}\""));
        assert_eq!(seen.header(WWW_AUTHENTICATE), Some(&*challenge));
    }
}

#[test]
fn realm_that_would_break_the_challenge_panics() {
    for realm in ["", "a\"b", "a\\b", "a\r\nb", "caf\u{e9}"] {
        let built = std::panic::catch_unwind(|| RequireToken::new(verifier()).realm(realm));
        assert!(built.is_err(), "{realm:?}");
    }
    let _ = RequireToken::new(verifier()).realm("Orders API (v2)");
}

#[tokio::test]
async fn inner_error_and_readiness_pass_through() {
    #[derive(Debug, PartialEq)]
    struct Overloaded;

    let failing = service_fn(|_: Request<super::support::NoBody>| async {
        Err::<Response<()>, _>(Overloaded)
    });
    let mut request = Request::new(super::support::NoBody::new());
    let value = format!("Bearer {}", machine("a/b").sign());
    request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
    let service = RequireToken::new(verifier()).layer(RequireScope::new("a/b").layer(failing));
    assert_eq!(service.oneshot(request).await.err(), Some(Overloaded));

    // A service that is not ready is not called, and `poll_ready` returns its error.
    struct NeverReady;
    impl Service<Request<super::support::NoBody>> for NeverReady {
        type Response = Response<()>;
        type Error = Overloaded;
        type Future = Ready<Result<Response<()>, Overloaded>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Overloaded>> {
            Poll::Ready(Err(Overloaded))
        }

        fn call(&mut self, _request: Request<super::support::NoBody>) -> Self::Future {
            unreachable!("it was never ready")
        }
    }
    impl Clone for NeverReady {
        fn clone(&self) -> Self {
            Self
        }
    }
    let mut service = RequireToken::new(verifier()).layer(NeverReady);
    assert_eq!(service.ready().await.err(), Some(Overloaded));
}

#[tokio::test]
async fn service_polled_ready_is_called_after_a_wait() {
    let issuer = tower_cognito::TestIssuer::new();
    let document = issuer.jwks_json();
    let published = Arc::new(std::sync::Mutex::new(document));
    let verifier = {
        let published = Arc::clone(&published);
        Verifier::builder(Rules::new(issuer.user_pool(), ClientIds::only([CLIENT])))
            .jwks_fetcher(move |_| {
                let document = published.lock().unwrap().clone();
                async { Ok::<_, RefreshError>(JwksDocument::new(document)) }
            })
            .connect()
            .await
            .unwrap()
    };
    issuer.rotate();
    *published.lock().unwrap() = issuer.jwks_json();

    // Panics if a clone is called that was never polled ready.
    let limited = tower::limit::ConcurrencyLimit::new(
        service_fn(|_: Request<super::support::NoBody>| async {
            Ok::<_, Infallible>(Response::new(()))
        }),
        1,
    );
    let mut service = RequireToken::new(verifier).layer(limited);
    let mut request = Request::new(super::support::NoBody::new());
    let value = format!("Bearer {}", issuer.machine_token(CLIENT).sign());
    request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn h091_logs_and_debug_output_do_not_contain_the_token() {
    let log = Log::of_this_thread();
    let valid = machine("activity/*").sign();
    let signature = valid.rsplit_once('.').unwrap().1;
    let layer = stack(RequireToken::new(verifier()));
    let expired = machine("a/b").issued_at(SystemTime::UNIX_EPOCH).sign();
    let unknown = machine("a/b").header("kid", "attacker").sign();
    for request in [bearer(&valid), bearer(&expired), bearer(&unknown), bearer("abc.def.ghi")] {
        let (seen, _) = send(layer.clone(), request).await;
        if let Some(rejection) = seen.rejection {
            tracing::info!(?rejection, %rejection, "rejected");
        }
    }
    let token = verifier().try_verify(&valid).unwrap();
    tracing::info!(?token, verifier = ?verifier(), "verified");
    let log = log.take();
    assert!(log.contains("request rejected") && log.contains("expired"), "{log}");
    for secret in [signature, "abc.def", "eyJ", "attacker"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
