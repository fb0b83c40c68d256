//! Sends `Authorization` and `Content-Type` as bytes through the layers and checks which requests
//! are allowed and how the others are answered. The input is a byte of settings, a byte for the
//! required scope, and lines: the content type, then each value of `Authorization`. Control
//! characters, which no header contains, stand for whole tokens.

#![no_main]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use libfuzzer_sys::fuzz_target;
use tower_cognito::{AccessToken, Rejection, RequireScope, RequireToken, Verifier};
use tower_cognito_fuzz::challenge;
use tower_cognito_fuzz::setup::{self, CLAIMS, Case, HEADERS, YES};
use tower_cognito_fuzz::token::{Policy, Verdict, accepted};
use tower_layer::Layer;
use tower_service::Service;

const REALM: &str = "a, realm=b";

static STANDS_FOR: LazyLock<[String; 9]> = LazyLock::new(|| {
    let with = |from, to| setup::token(HEADERS[0], &CLAIMS.replace(from, to));
    [
        with("a/read a/*", "a/ a/b/c"),
        setup::token(HEADERS[0], CLAIMS),
        setup::token(HEADERS[1], CLAIMS),
        with("a/read a/*", "a/read"),
        with("1700000001", "1700000000"),
        with("client-1", "client-3"),
        setup::token(r#"{"kid":"k3","alg":"RS256"}"#, CLAIMS),
        with(r#""scope":"a/read a/*","#, ""),
        "x".repeat(16 * 1024 + 1),
    ]
});

struct Setting {
    verifier: Verifier,
    policy: Policy,
}

static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let [Case { rules, policy, now }, ..] = setup::cases();
    let builder = Verifier::builder(rules).clock(move || now);
    Setting { verifier: builder.build_with_jwks(setup::jwks(YES)).unwrap(), policy }
});

/// The expected result of a request.
#[derive(Debug, PartialEq)]
enum Expected {
    Anonymous,
    Passes(Verdict),
    /// The status, the error code of the challenge, and the gRPC status code.
    Rejected(u16, Option<&'static str>, i32),
}

#[derive(Clone, Copy)]
struct Settings {
    accepts_bare: bool,
    allows_anonymous: bool,
    is_http_rejections_only: bool,
    requires_scope: bool,
    method: usize,
}

fuzz_target!(|data: &[u8]| {
    let [settings, required, lines @ ..] = data else {
        return;
    };
    let settings = Settings {
        accepts_bare: settings & 1 != 0,
        allows_anonymous: settings & 2 != 0,
        is_http_rejections_only: settings & 4 != 0,
        requires_scope: settings & 8 == 0,
        method: usize::from(settings >> 4 & 3),
    };
    let mut text = Vec::new();
    for byte in lines {
        match STANDS_FOR.get(usize::from(*byte)) {
            Some(token) => text.extend_from_slice(token.as_bytes()),
            None => text.push(*byte),
        }
    }
    let mut lines = text.split(|byte| *byte == b'\n');
    let content_type = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        let Ok(value) = HeaderValue::from_bytes(content_type) else { return };
        headers.insert(CONTENT_TYPE, value);
    }
    for line in lines {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(AUTHORIZATION, value);
    }

    let (scope, is_met, named) = requirement(*required);
    let expected = expect(&headers, settings, is_met);
    let methods = [Method::POST, Method::GET, Method::HEAD, Method::PUT];
    let method = &methods[settings.method];
    // In the second round, a valid token is cached.
    for _ in 0..2 {
        let (response, reached) = send(settings, scope.clone(), method, &headers);
        let form =
            if settings.is_http_rejections_only { None } else { grpc_form(method, content_type) };
        // A missing token is rejected by the layer that requires one.
        let is_scope = match expected {
            Expected::Rejected(401, None, _) => settings.allows_anonymous,
            Expected::Rejected(_, error, _) => error == Some("insufficient_scope"),
            _ => false,
        };
        let named = named.filter(|_| is_scope && settings.requires_scope);
        check(response, reached, &expected, method, form, named);
    }
});

type IsMet = fn(&[String]) -> bool;

/// Returns the required scopes, a function that checks them, and their text in a challenge.
fn requirement(which: u8) -> (RequireScope, IsMet, Option<&'static str>) {
    fn has(scopes: &[String], one: &str) -> bool {
        scopes.iter().any(|scope| scope == one)
    }

    match which % 4 {
        0 => (RequireScope::new("a/*"), |all| has(all, "a/*"), Some("a/*")),
        1 => {
            let scope = RequireScope::any_of(["a/write", "a/read"]);
            (scope, |all| has(all, "a/write") || has(all, "a/read"), Some("a/write"))
        }
        2 => {
            let scope = RequireScope::all_of(["a/read", "a/*"]);
            (scope, |all| has(all, "a/*") && has(all, "a/read"), Some("a/read a/*"))
        }
        _ => {
            let is_met = |all: &[String]| {
                let is_name = |name: &str| !name.is_empty() && !name.contains('/');
                all.iter().any(|scope| scope.strip_prefix("a/").is_some_and(is_name))
            };
            (RequireScope::any_of_resource_server("a"), is_met, None)
        }
    }
}

/// Follows RFC 6750 section 2.1, and rejects the cases that it leaves open.
fn expect(headers: &HeaderMap, settings: Settings, is_met: IsMet) -> Expected {
    let missing = if settings.allows_anonymous && !settings.requires_scope {
        Expected::Anonymous
    } else {
        Expected::Rejected(401, None, 16)
    };
    let malformed = Expected::Rejected(400, Some("invalid_request"), 16);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return missing,
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return malformed,
    };
    let text = String::from_utf8_lossy(value).into_owned();
    let scheme = text.chars().take(6).collect::<String>().to_lowercase();
    let token = match (&*scheme, value.get(6)) {
        ("bearer", None | Some(b'\t')) => return malformed,
        ("bearer", Some(b' ')) => {
            let token = text[6..].trim_start_matches(' ');
            if token.is_empty() || !value.is_ascii() || token.contains('\t') {
                return malformed;
            }
            token
        }
        _ if !value.is_ascii() => return malformed,
        _ if settings.accepts_bare && text.contains('.') && !text.contains([' ', '\t']) => &text,
        _ => return missing,
    };
    match SETTING.policy.verdict(token) {
        Verdict::Expired | Verdict::Rejected => Expected::Rejected(401, Some("invalid_token"), 16),
        Verdict::Forbidden => Expected::Rejected(403, None, 7),
        Verdict::Accepted(claims) if settings.requires_scope && !is_met(&claims.scopes) => {
            Expected::Rejected(403, Some("insufficient_scope"), 7)
        }
        accepted => Expected::Passes(accepted),
    }
}

/// Returns the content type of a gRPC response, if the request is a gRPC call.
fn grpc_form(method: &Method, content_type: &[u8]) -> Option<&'static str> {
    let is_visible = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    if method != Method::POST || !content_type.iter().all(is_visible) {
        return None;
    }
    let text = std::str::from_utf8(content_type).ok()?.to_lowercase();
    let (media_type, _) = text.split_once(';').unwrap_or((&text, ""));
    let media_type = media_type.trim();
    let (kind, _) = media_type.split_once('+').unwrap_or((media_type, ""));
    match kind {
        "application/grpc" => Some("application/grpc"),
        "application/grpc-web" => Some("application/grpc-web+proto"),
        "application/grpc-web-text" => Some("application/grpc-web-text+proto"),
        _ => None,
    }
}

type Reached = Option<Option<AccessToken>>;

fn send(
    settings: Settings,
    scope: RequireScope,
    method: &Method,
    headers: &HeaderMap,
) -> (Response<Bytes>, Reached) {
    let mut layer = RequireToken::new(SETTING.verifier.clone()).realm(REALM);
    if settings.accepts_bare {
        layer = layer.accept_bare_token();
    }
    if settings.allows_anonymous {
        layer = layer.allow_anonymous();
    }
    if settings.is_http_rejections_only {
        layer = layer.http_rejections_only();
    }
    let inner = Inner::default();
    let mut request = Request::new(EmptyBody);
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers.clone();
    let response = if settings.requires_scope {
        answer(layer.layer(scope.layer(inner.clone())).call(request))
    } else {
        answer(layer.layer(inner.clone()).call(request))
    };
    let reached = inner.0.lock().unwrap().take();
    (response, reached)
}

fn answer<B>(response: impl Future<Output = Result<Response<B>, Infallible>>) -> Response<Bytes>
where
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(response).poll(&mut context) else {
        panic!("no future waits with fixed keys");
    };
    let (parts, body) = response.into_parts();
    let mut bytes = Bytes::new();
    let mut body = pin!(body);
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context) {
        bytes = frame.into_data().unwrap();
    }
    assert!(body.is_end_stream());
    Response::from_parts(parts, bytes)
}

/// A service that records whether it was called, and with which token.
#[derive(Clone, Default)]
struct Inner(Arc<Mutex<Reached>>);

/// The body of every request: it has ended, so that a layer does not read it.
struct EmptyBody;

impl Body for EmptyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

impl Service<Request<EmptyBody>> for Inner {
    type Response = Response<Empty>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Empty>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<EmptyBody>) -> Self::Future {
        *self.0.lock().unwrap() = Some(request.extensions().get::<AccessToken>().cloned());
        ready(Ok(Response::new(Empty)))
    }
}

struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

fn check(
    response: Response<Bytes>,
    reached: Reached,
    expected: &Expected,
    method: &Method,
    form: Option<&str>,
    named: Option<&str>,
) {
    let headers = response.headers();
    let one = |name: &str| {
        let values = headers.get_all(name).iter().collect::<Vec<_>>();
        assert!(values.len() <= 1, "{name} is repeated");
        values.first().map(|value| value.to_str().unwrap())
    };
    let (status, error, code) = match (expected, &reached) {
        (Expected::Anonymous, Some(None)) => return assert!(headers.is_empty()),
        (Expected::Passes(verdict), Some(Some(token))) => {
            assert_eq!(accepted(token), *verdict);
            return assert!(headers.is_empty());
        }
        (Expected::Rejected(status, error, code), None) => (*status, *error, *code),
        _ => panic!("expected {expected:?}, but the service received {reached:?}"),
    };
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.status(), status);
    assert_eq!(one(CACHE_CONTROL.as_str()), Some("no-store"));

    let text = one(WWW_AUTHENTICATE.as_str()).unwrap();
    let challenge = challenge::read(text).unwrap_or_else(|| panic!("{text}"));
    assert!(challenge.is_bearer(), "{text}");
    assert_eq!(challenge.print(), text);
    assert_eq!(challenge.get("realm"), Some(REALM));
    assert_eq!(challenge.get("error"), error);
    assert_eq!(challenge.get("error_description").is_some(), error.is_some());
    assert_eq!(challenge.get("scope"), named);

    if let Some(content_type) = form {
        assert_eq!(response.status(), 200);
        assert_eq!(one(CONTENT_TYPE.as_str()), Some(content_type));
        assert_eq!(one("grpc-status"), Some(&*code.to_string()));
        let message = one("grpc-message").unwrap();
        assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%'));
        assert!(response.body().is_empty());
        return;
    }
    assert_eq!(response.status(), status);
    assert_eq!(one("grpc-status"), None);
    assert_eq!(one(CONTENT_TYPE.as_str()), Some("application/json"));
    let length: usize = one(CONTENT_LENGTH.as_str()).unwrap().parse().unwrap();
    assert!(length > 0);
    assert_eq!(response.body().len(), if *method == Method::HEAD { 0 } else { length });
}
