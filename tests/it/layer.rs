//! The layers as a client sees them, besides the rows of `rejections`: settings, other sources of the
//! token, and what the service inside sees. A number in a test name is that of the hostile input.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_cognito::layer::ResponseBody;
use tower_cognito::{
    AccessToken, Rejection, RejectionKind, RequireScope, RequireToken, TokenSource, VerifyErrorKind,
};

use super::rejections::{INVALID, MALFORMED, MISSING, Row};
use super::support::{CLIENT, Log, machine, verifier};

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
        let client = token.map_or("anonymous", AccessToken::client_id).to_owned();
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

#[track_caller]
fn check(name: &str, (seen, calls): &(Seen, usize), row: &Row, reason: Option<VerifyErrorKind>) {
    assert_eq!(seen.status, row.status, "{name}");
    assert_eq!(seen.header(WWW_AUTHENTICATE), row.challenge.map(|[plain, _]| plain), "{name}");
    assert_eq!(seen.header(CONTENT_TYPE), Some("application/json"), "{name}");
    assert_eq!(seen.header(CACHE_CONTROL), Some("no-store"), "{name}");
    assert_eq!(seen.header(CONTENT_LENGTH), Some(&*row.json.len().to_string()), "{name}");
    assert_eq!(seen.body, row.json, "{name}");
    let rejection = seen.rejection.as_ref().unwrap();
    assert_eq!(rejection.kind(), row.kind, "{name}");
    assert_eq!(rejection.to_string(), row.display, "{name}");
    assert_eq!(rejection.verify_error().map(|error| error.kind()), reason, "{name}");
    assert_eq!(*calls, 0, "{name}: the service was called");
}

#[tokio::test]
async fn nested_scope_layers_without_token_layer_log_one_error() {
    let log = Log::of_this_thread();
    let only_scope = ServiceBuilder::new()
        .layer(RequireScope::new("activity/*"))
        .layer(RequireScope::new("activity/*"))
        .into_inner();
    let (seen, calls) = send(only_scope, bearer(&machine("activity/*").sign())).await;
    assert_eq!((seen.status, calls), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    let log = log.take();
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    assert!(log.contains("RequireScope"), "{log}");
}

#[tokio::test]
async fn service_that_is_not_ready_is_not_called() {
    #[derive(Debug, PartialEq)]
    struct Overloaded;

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
    let missing = Row { json: missing, ..MISSING };
    let cookie = format!("x-amzn-oidc-accesstoken={valid}");
    let mut in_uri = get(&[]);
    *in_uri.uri_mut() = format!("/?access_token={valid}").parse().unwrap();
    for (name, request) in [
        ("no header", get(&[])),
        ("Authorization", bearer(&valid)),
        ("cookie", with_lines(&http::header::COOKIE, &[cookie.as_bytes()])),
        ("URI", in_uri),
    ] {
        check(name, &send(stack(header_source()), request).await, &missing, None);
    }

    let challenge = r#"Bearer realm="api", error="invalid_request", error_description="The header x-amzn-oidc-accesstoken is malformed""#;
    let malformed = Row {
        challenge: Some([challenge; 2]),
        json: r#"{"error":"invalid_request","error_description":"The header x-amzn-oidc-accesstoken is malformed"}"#,
        display: "the header of the token is malformed",
        ..MALFORMED
    };
    for (name, lines) in [
        ("two lines", &[token, token][..]),
        ("two lines, one empty", &[token, b""]),
        ("empty", &[b""]),
        ("not ASCII", &[b"caf\xc3\xa9"]),
        ("a tab", &[b"a\tb"]),
    ] {
        let answer = send(stack(header_source()), with_lines(&ALB, lines)).await;
        check(name, &answer, &malformed, None);
    }
    for (name, value) in [("a scheme", with_scheme.as_bytes()), ("two tokens", b"a.b.c,d.e.f")] {
        let answer = send(stack(header_source()), with_lines(&ALB, &[value])).await;
        check(name, &answer, &INVALID, Some(VerifyErrorKind::Malformed));
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
