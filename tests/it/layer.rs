//! The layers as a client sees them, besides the rows of `rejections`: settings, other sources of the
//! token, and what the service inside sees. A number in a test name is that of the hostile input.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_cognito::{RejectionKind, RequireScope, RequireToken, TokenSource, VerifyErrorKind};

use super::rejections::{
    Case, Form, INVALID, Look, MALFORMED, MISSING, Outcome, Row, Seen, Transport, Unreachable,
    bearer, cases, check, check_outcome, direct, get,
};
use super::support::{CLIENT, Log, machine, verifier};

/// Sends one request to the layer, with a `RequireScope` inside.
async fn send(layer: RequireToken, request: Request<Body>) -> Seen {
    direct(layer, Some(RequireScope::new("activity/*")), request).await
}

#[track_caller]
fn check_rejected(name: &'static str, seen: &Seen, row: Row, reason: Option<VerifyErrorKind>) {
    let case = Case { name, row, reason, ..cases()[0].clone() };
    check(seen, &case, Look::Plain, Form::Http, Transport::Direct);
}

#[tokio::test]
async fn nested_scope_layers_without_token_layer_log_one_error() {
    let log = Log::of_this_thread();
    let scope = RequireScope::new("activity/*");
    let app = scope.layer(scope.layer(Unreachable));
    let response = app.oneshot(get(&bearer(&machine("activity/*").sign()))).await.unwrap();
    assert_eq!(response.status(), 500);
    let log = log.take();
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    assert!(log.contains("RequireScope"), "{log}");
}

#[tokio::test]
async fn service_that_is_not_ready_is_not_called() {
    #[derive(Debug, PartialEq)]
    struct Overloaded;

    #[derive(Clone)]
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
    let mut service = RequireToken::new(verifier()).layer(NeverReady);
    assert_eq!(service.ready().await.err(), Some(Overloaded));
}

const ALB: HeaderName = HeaderName::from_static("x-amzn-oidc-accesstoken");

fn header_source() -> RequireToken {
    RequireToken::new(verifier()).token_source(TokenSource::header(ALB))
}

fn with_lines(name: &HeaderName, lines: &[&[u8]]) -> Request<Body> {
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
    let seen = send(header_source(), with_lines(&ALB, &[token])).await;
    check_outcome(&seen, "valid", &Outcome::Passes(Some(CLIENT)));

    let mut other = with_lines(&ALB, &[token]);
    other.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer bad"));
    let seen = send(header_source(), other).await;
    assert_eq!(seen.status, 200, "`Authorization` was read");

    let missing = r#"{"error":"unauthorized","error_description":"An access token in the header x-amzn-oidc-accesstoken is required"}"#;
    let missing = Row { json: missing, ..MISSING };
    let cookie = format!("x-amzn-oidc-accesstoken={valid}");
    let mut in_uri = get(&[]);
    *in_uri.uri_mut() = format!("/?access_token={valid}").parse().unwrap();
    for (name, request) in [
        ("no header", get(&[])),
        ("Authorization", get(&bearer(&valid))),
        ("cookie", with_lines(&http::header::COOKIE, &[cookie.as_bytes()])),
        ("URI", in_uri),
    ] {
        check_rejected(name, &send(header_source(), request).await, missing, None);
    }

    let challenge = r#"Bearer realm="api", error="invalid_request", error_description="The header x-amzn-oidc-accesstoken is malformed""#;
    let malformed = Row {
        challenge: Some(challenge),
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
        let seen = send(header_source(), with_lines(&ALB, lines)).await;
        check_rejected(name, &seen, malformed, None);
    }
    for (name, value) in [("a scheme", with_scheme.as_bytes()), ("two tokens", b"a.b.c,d.e.f")] {
        let seen = send(header_source(), with_lines(&ALB, &[value])).await;
        check_rejected(name, &seen, INVALID, Some(VerifyErrorKind::Malformed));
    }
}

#[tokio::test]
async fn verify_headers_reads_the_source_of_the_layer() {
    let valid = machine("").sign();
    let layer = header_source();
    let request = with_lines(&ALB, &[valid.as_bytes()]);
    assert!(layer.verify_headers(request.headers()).await.is_ok());
    assert!(layer.verify_header_values([valid.as_bytes()]).await.is_ok());
    let rejection = layer.try_verify_headers(get(&bearer(&valid)).headers()).unwrap_err();
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
async fn seen_inside(layer: RequireToken, request: Request<Body>) -> (u16, Option<HeaderMap>) {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let record = Arc::clone(&seen);
    let inner = service_fn(move |request: Request<Body>| {
        *record.lock().unwrap() = Some(request.headers().clone());
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let headers = seen.lock().unwrap().take();
    (response.status().as_u16(), headers)
}

fn handshake(lines: &[&str]) -> Request<Body> {
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
    for request in [post, without_upgrade, h2c, tunnel, old, get(&bearer(&valid))] {
        let name = format!("{:?}", request.method());
        assert_eq!(seen_inside(layer(), request).await, (401, None), "{name}");
    }

    // The token is also removed if it is not read.
    let public =
        tower_cognito::ScopeTable::new([("GET /activity", tower_cognito::Access::public())]);
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
        (authorization.clone(), AUTHORIZATION, get(&bearer(&valid))),
        (authorization.allow_anonymous(), AUTHORIZATION, get(&bearer(&valid))),
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
