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
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER,
    SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_cognito::layer::ResponseBody;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, JwksDocument, RefreshError, Rejection, RejectionBody,
    RejectionKind, RequireScope, RequireToken, Rules, TokenSource, Verifier, VerifyErrorKind,
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

#[derive(Clone, Copy)]
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

    let failing = service_fn(|_: Request<super::support::EmptyBody>| async {
        Err::<Response<()>, _>(Overloaded)
    });
    let mut request = Request::new(super::support::EmptyBody::new());
    let value = format!("Bearer {}", machine("a/b").sign());
    request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
    let service = RequireToken::new(verifier()).layer(RequireScope::new("a/b").layer(failing));
    assert_eq!(service.oneshot(request).await.err(), Some(Overloaded));

    // A service that is not ready is not called, and `poll_ready` returns its error.
    struct NeverReady;
    impl Service<Request<super::support::EmptyBody>> for NeverReady {
        type Response = Response<()>;
        type Error = Overloaded;
        type Future = Ready<Result<Response<()>, Overloaded>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Overloaded>> {
            Poll::Ready(Err(Overloaded))
        }

        fn call(&mut self, _request: Request<super::support::EmptyBody>) -> Self::Future {
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
        service_fn(|_: Request<super::support::EmptyBody>| async {
            Ok::<_, Infallible>(Response::new(()))
        }),
        1,
    );
    let mut service = RequireToken::new(verifier).layer(limited);
    let mut request = Request::new(super::support::EmptyBody::new());
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

const ALB: HeaderName = HeaderName::from_static("x-amzn-oidc-accesstoken");

fn header_source() -> RequireToken {
    RequireToken::new(verifier()).token_source(TokenSource::header(ALB))
}

fn with_lines(name: &HeaderName, lines: &[&[u8]]) -> Request<Full<Bytes>> {
    let mut request = get(&[]);
    for line in lines {
        request.headers_mut().append(name, HeaderValue::from_bytes(line).unwrap());
    }
    request
}

#[tokio::test]
async fn token_in_another_header_is_read_without_a_scheme_and_nothing_else_is() {
    let valid = machine("activity/*").sign();
    let token = valid.as_bytes();
    let with_scheme = format!("Bearer {valid}");
    let (seen, calls) = send(stack(header_source()), with_lines(&ALB, &[token])).await;
    assert_eq!((seen.status.as_u16(), calls), (200, 1));
    assert_eq!(seen.body, CLIENT);

    let mut other = with_lines(&ALB, &[token]);
    other.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer bad"));
    let (seen, _) = send(stack(header_source()), other).await;
    assert_eq!(seen.status, 200, "`Authorization` was read");

    let missing = r#"{"error":"unauthorized","error_description":"An access token in the header x-amzn-oidc-accesstoken is required"}"#;
    let missing = Row { name: "missing", body: missing, ..MISSING };
    let cookie = format!("x-amzn-oidc-accesstoken={valid}");
    let mut in_uri = get(&[]);
    *in_uri.uri_mut() = format!("/?access_token={valid}").parse().unwrap();
    for request in
        [get(&[]), bearer(&valid), with_lines(&http::header::COOKIE, &[cookie.as_bytes()]), in_uri]
    {
        let (seen, calls) = send(stack(header_source()), request).await;
        check(&seen, calls, &missing);
    }

    let malformed = Row {
        challenge: Some(
            r#"Bearer realm="api", error="invalid_request", error_description="The header x-amzn-oidc-accesstoken is malformed""#,
        ),
        body: r#"{"error":"invalid_request","error_description":"The header x-amzn-oidc-accesstoken is malformed"}"#,
        ..MALFORMED
    };
    for (name, lines) in [
        ("two lines", &[token, token][..]),
        ("two lines, one empty", &[token, b""]),
        ("empty", &[b""]),
        ("not ASCII", &[b"caf\xc3\xa9"]),
        ("a tab", &[b"a\tb"]),
    ] {
        let (seen, calls) = send(stack(header_source()), with_lines(&ALB, lines)).await;
        check(&seen, calls, &Row { name, ..malformed });
        assert_eq!(seen.rejection.unwrap().to_string(), "the header of the token is malformed");
    }
    for (name, value) in [("a scheme", with_scheme.as_bytes()), ("two tokens", b"a.b.c,d.e.f")] {
        let (seen, calls) = send(stack(header_source()), with_lines(&ALB, &[value])).await;
        let reason = Some(VerifyErrorKind::Malformed);
        check(&seen, calls, &Row { name, reason, ..INVALID });
    }
}

#[tokio::test]
async fn verify_headers_reads_the_source_of_the_layer() {
    let valid = machine("").sign();
    let layer = header_source();
    let request = with_lines(&ALB, &[valid.as_bytes()]);
    assert!(layer.verify_headers(request.headers()).await.is_ok());
    assert!(layer.verify_header_values([valid.as_bytes()]).await.is_ok());
    let rejection = layer.try_verify_headers(bearer(&valid).headers()).unwrap_err();
    assert_eq!(rejection.kind(), RejectionKind::MissingToken);
    let offered = format!("chat.v1, bearer.{valid}");
    let layer = RequireToken::new(verifier()).token_source(TokenSource::websocket_protocol());
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
    assert!(layer.verify_headers(&headers).await.is_err());
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    assert!(layer.verify_headers(&headers).await.is_ok());
    assert!(layer.try_verify_header_values([offered.as_bytes()]).is_ok());
}

/// Sends one request, and returns its status and the headers that the service inside saw.
async fn seen_inside(
    layer: RequireToken,
    request: Request<Full<Bytes>>,
) -> (u16, Option<HeaderMap>) {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let record = Arc::clone(&seen);
    let inner = service_fn(move |request: Request<Full<Bytes>>| {
        *record.lock().unwrap() = Some(request.headers().clone());
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let headers = seen.lock().unwrap().take();
    (response.status().as_u16(), headers)
}

fn handshake(lines: &[&str]) -> Request<Full<Bytes>> {
    let mut request = get(&[]);
    let headers = request.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("WebSocket"));
    for line in lines {
        headers.append(SEC_WEBSOCKET_PROTOCOL, line.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn websocket_handshake_gives_the_token_and_the_service_inside_does_not_see_it() {
    let valid = machine("activity/*").sign();
    let layer = || RequireToken::new(verifier()).token_source(TokenSource::websocket_protocol());
    for (lines, left) in [
        (vec![format!("chat.v1, bearer.{valid}")], Some("chat.v1")),
        (vec![format!("bearer.{valid},chat.v1 ,chat.v2")], Some("chat.v1, chat.v2")),
        (vec!["chat.v1".to_owned(), format!("bearer.{valid}")], Some("chat.v1")),
        (vec![format!("bearer.{valid}")], None),
    ] {
        let lines = lines.iter().map(|line| &**line).collect::<Vec<_>>();
        let (status, headers) = seen_inside(layer(), handshake(&lines)).await;
        assert_eq!(status, 200, "{left:?}");
        let headers = headers.unwrap();
        let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().collect::<Vec<_>>();
        assert_eq!(values, left.into_iter().collect::<Vec<_>>());
        assert!(!format!("{headers:?}").contains(&valid));
    }

    // Two tokens, an empty one, and something that is not a token.
    let two = format!("bearer.{valid}, bearer.{valid}");
    let split = [format!("bearer.{valid}"), "bearer.bad".to_owned()];
    for (lines, status) in [
        (vec![&*two], 400),
        (vec![&*split[0], &*split[1]], 400),
        (vec!["bearer.", "chat.v1"], 400),
        (vec!["bearer.bad"], 401),
        (vec!["chat.v1"], 401),
        (vec![], 401),
    ] {
        assert_eq!(seen_inside(layer(), handshake(&lines)).await, (status, None), "{lines:?}");
    }

    // Other requests have no token.
    let offered = format!("chat.v1, bearer.{valid}");
    let mut post = handshake(&[&offered]);
    *post.method_mut() = Method::POST;
    let mut without_upgrade = handshake(&[&offered]);
    without_upgrade.headers_mut().remove("upgrade");
    let mut h2c = handshake(&[&offered]);
    h2c.headers_mut().insert("upgrade", HeaderValue::from_static("h2c"));
    let mut tunnel = handshake(&[&offered]);
    *tunnel.method_mut() = Method::CONNECT;
    *tunnel.version_mut() = http::Version::HTTP_2;
    *tunnel.uri_mut() = "api.example.com:443".parse().unwrap();
    let mut old = handshake(&[&offered]);
    *old.method_mut() = Method::CONNECT;
    for request in [post, without_upgrade, h2c, tunnel, old, bearer(&valid)] {
        let name = format!("{:?}", request.method());
        assert_eq!(seen_inside(layer(), request).await, (401, None), "{name}");
    }

    // The token is also removed if it is not read.
    let public = tower_cognito::ScopeTable::new([("GET /", tower_cognito::Access::public())]);
    let public = layer().scope_table(public.unwrap());
    let (status, headers) = seen_inside(public, handshake(&[&offered])).await;
    assert_eq!(
        (status, &headers.unwrap()[SEC_WEBSOCKET_PROTOCOL]),
        (200, &"chat.v1".parse().unwrap())
    );
}

#[tokio::test]
async fn websocket_over_http_2_is_a_connect_request_with_a_protocol() {
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let valid = machine("activity/*").sign();
    let layer = RequireToken::new(verifier()).token_source(TokenSource::websocket_protocol());
    let offered = Arc::new(std::sync::Mutex::new(None));
    let record = Arc::clone(&offered);
    let app = layer.layer(service_fn(move |request: Request<hyper::body::Incoming>| {
        *record.lock().unwrap() = request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned();
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    }));
    let (client, server) = tokio::io::duplex(65_536);
    let serve = hyper::service::service_fn(move |request| app.clone().oneshot(request));
    tokio::spawn(async move {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .enable_connect_protocol()
            .serve_connection(TokioIo::new(server), serve)
            .await
            .unwrap_or_default();
    });
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .unwrap();
    tokio::spawn(connection);
    // The client learns from the server's settings that it may send `:protocol`.
    let first = Request::get("http://localhost/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(client.send_request(first).await.unwrap().status(), 401);
    for (token, status) in [(&*valid, 200), ("bad", 401)] {
        let mut request = Request::connect("http://localhost/ws")
            .header(SEC_WEBSOCKET_PROTOCOL, format!("chat.v1, bearer.{token}"))
            .body(Full::<Bytes>::default())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        assert_eq!(client.send_request(request).await.unwrap().status(), status);
    }
    assert_eq!(offered.lock().unwrap().take().unwrap(), "chat.v1");
}

#[tokio::test]
async fn value_that_holds_the_token_is_marked_sensitive() {
    let valid = machine("activity/*").sign();
    let authorization = RequireToken::new(verifier());
    for (layer, name, request) in [
        (authorization.clone(), AUTHORIZATION, bearer(&valid)),
        (authorization.allow_anonymous(), AUTHORIZATION, bearer(&valid)),
        (header_source(), ALB, with_lines(&ALB, &[valid.as_bytes()])),
    ] {
        let (status, headers) = seen_inside(layer, request).await;
        let headers = headers.unwrap();
        assert_eq!(status, 200);
        assert!(headers[&name].is_sensitive());
        assert!(!format!("{headers:?}").contains(&valid));
    }
}

#[test]
fn contradictory_token_sources_panic() {
    let panics = |build: fn() -> RequireToken| std::panic::catch_unwind(build).is_err();
    let plain = || RequireToken::new(verifier());
    assert!(!panics(|| plain_source(TokenSource::authorization()).accept_bare_token()));
    assert!(panics(|| plain_source(TokenSource::header(ALB)).accept_bare_token()));
    assert!(panics(|| plain_source(TokenSource::websocket_protocol()).accept_bare_token()));
    assert!(panics(|| {
        RequireToken::new(verifier()).accept_bare_token().token_source(TokenSource::header(ALB))
    }));
    let _ =
        plain().token_source(TokenSource::header(ALB)).token_source(TokenSource::authorization());
    for name in [AUTHORIZATION, http::header::COOKIE, SEC_WEBSOCKET_PROTOCOL] {
        let built = std::panic::catch_unwind(|| TokenSource::header(name.clone()));
        assert!(built.is_err(), "{name}");
    }
}

fn plain_source(source: TokenSource) -> RequireToken {
    RequireToken::new(verifier()).token_source(source)
}
