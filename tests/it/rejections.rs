//! Every row of the rejection table by every way: the layers without a socket, HTTP/1.1 and HTTP/2
//! sockets, the gRPC form and the interceptor. The tests compare the whole response with the texts
//! in this file. The module `grpc` sends the same cases with a real client. A number in a test name
//! is the number of the hostile input.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use allocation_counter::measure;
use axum::body::Body;
use axum::{Router, routing};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_cognito::test_issuer::{Fault, TokenBuilder};
use tower_cognito::{
    Access, AccessToken, CheckError, ClientIds, JwksDocument, RefreshError, Rejection,
    RejectionBody, RejectionKind, RequireGroup, RequireScope, RequireToken, ResourceMetadata,
    Rules, ScopeTable, TestIssuer, TokenInterceptor, Verifier, VerifyErrorKind,
};

use super::support::{
    CLIENT, Log, grpc_call, initially, issuer, machine, rules, verifier, verifier_of, without_keys,
};

/// One row, as it is sent.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) kind: RejectionKind,
    pub(crate) status: u16,
    /// With the default settings, and without [`scope`](Self::scope).
    pub(crate) challenge: Option<&'static str>,
    /// The scopes that the challenge names.
    pub(crate) scope: Option<&'static str>,
    pub(crate) json: &'static str,
    pub(crate) retry_after: Option<&'static str>,
    pub(crate) grpc_status: i32,
    pub(crate) grpc_message: &'static str,
    /// The text of the error, for the application and its log.
    pub(crate) display: &'static str,
    pub(crate) pushback: Option<&'static str>,
}

impl Row {
    pub(crate) fn challenge(&self) -> Option<String> {
        let scope = self.scope.map(|scope| format!(", scope=\"{scope}\"")).unwrap_or_default();
        self.challenge.map(|plain| format!("{plain}{scope}"))
    }

    /// Returns the code and the description of the error.
    fn error(&self) -> [String; 2] {
        let json: serde_json::Value = serde_json::from_str(self.json).unwrap();
        ["error", "error_description"].map(|name| json[name].as_str().unwrap().to_owned())
    }
}

pub(crate) const MISSING: Row = Row {
    kind: RejectionKind::MissingToken,
    status: 401,
    challenge: Some(r#"Bearer realm="api""#),
    scope: None,
    json: r#"{"error":"unauthorized","error_description":"A bearer access token is required"}"#,
    retry_after: None,
    grpc_status: 16,
    grpc_message: "missing bearer token",
    display: "the request has no bearer token",
    pushback: None,
};
pub(crate) const MALFORMED: Row = Row {
    kind: RejectionKind::InvalidRequest,
    status: 400,
    challenge: Some(
        r#"Bearer realm="api", error="invalid_request", error_description="The Authorization header is malformed""#,
    ),
    json: r#"{"error":"invalid_request","error_description":"The Authorization header is malformed"}"#,
    grpc_message: "malformed authorization metadata",
    display: "the `Authorization` header is malformed",
    ..MISSING
};
pub(crate) const INVALID: Row = Row {
    kind: RejectionKind::InvalidToken,
    challenge: Some(
        r#"Bearer realm="api", error="invalid_token", error_description="The access token is invalid""#,
    ),
    json: r#"{"error":"invalid_token","error_description":"The access token is invalid"}"#,
    grpc_message: "invalid access token",
    display: "the access token is invalid",
    ..MISSING
};
const EXPIRED: Row = Row {
    kind: RejectionKind::ExpiredToken,
    challenge: Some(
        r#"Bearer realm="api", error="invalid_token", error_description="The access token expired""#,
    ),
    json: r#"{"error":"invalid_token","error_description":"The access token expired"}"#,
    grpc_message: "access token expired",
    display: "the access token has expired",
    ..MISSING
};
const UNNAMED_SCOPE: Row = Row {
    kind: RejectionKind::InsufficientScope,
    status: 403,
    challenge: Some(
        r#"Bearer realm="api", error="insufficient_scope", error_description="A required scope is missing""#,
    ),
    json: r#"{"error":"insufficient_scope","error_description":"A required scope is missing"}"#,
    grpc_status: 7,
    grpc_message: "a required scope is missing",
    display: "a required scope is missing",
    ..MISSING
};
const SCOPE: Row = Row { scope: Some("activity/*"), ..UNNAMED_SCOPE };
const TWO_SCOPES: Row = Row { scope: Some("item/read item/write"), ..UNNAMED_SCOPE };
/// Of alternatives, only the first is named.
const ONE_OF_TWO_SCOPES: Row = Row { scope: Some("item/read"), ..UNNAMED_SCOPE };
const FORBIDDEN: Row = Row {
    kind: RejectionKind::Forbidden,
    status: 403,
    json: r#"{"error":"forbidden","error_description":"The request is not allowed with this token"}"#,
    grpc_status: 7,
    grpc_message: "the request is not allowed with this token",
    display: "the request is not allowed with this token",
    ..MISSING
};
const UNAVAILABLE: Row = Row {
    kind: RejectionKind::Unavailable,
    status: 503,
    challenge: None,
    json: r#"{"error":"temporarily_unavailable","error_description":"Access tokens cannot be verified now"}"#,
    retry_after: Some("1"),
    grpc_status: 14,
    grpc_message: "access tokens cannot be verified now",
    display: "no current keys are available to verify the token",
    pushback: Some("1000"),
    ..MISSING
};
/// Without a `RequireToken` there are no settings, so this row always looks the same.
const INTERNAL: Row = Row {
    kind: RejectionKind::Internal,
    status: 500,
    challenge: None,
    json: r#"{"error":"server_error","error_description":"The service is not set up correctly"}"#,
    grpc_status: 13,
    grpc_message: "the service is not set up correctly",
    display: "no `RequireToken` layer processed the request",
    ..MISSING
};

/// The same row, of a layer or an interceptor that requires `activity/*`.
const fn naming_activity(row: Row) -> Row {
    Row { scope: Some("activity/*"), ..row }
}

/// The heading of each row on the page Responses, and what its table of gRPC codes adds to the status.
pub(crate) const ROWS: [(&str, &str, Row); 8] = [
    ("No token", "no token", MISSING),
    ("Malformed `Authorization` header", "", MALFORMED),
    ("Invalid token", "invalid", INVALID),
    ("A token that has expired", "expired", EXPIRED),
    ("A scope is missing", "scope", ONE_OF_TWO_SCOPES),
    ("The request is forbidden", "otherwise", FORBIDDEN),
    ("There are no keys", "", UNAVAILABLE),
    ("`RequireToken` is missing", "", INTERNAL),
];

/// A request, the layers around the service, and the expected row.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) guard: Guard,
    /// The lines of the `Authorization` header.
    pub(crate) authorization: Vec<HeaderValue>,
    pub(crate) row: Row,
    pub(crate) reason: Option<VerifyErrorKind>,
}

impl Case {
    /// Returns the row of an interceptor, which knows the scopes that it requires.
    pub(crate) fn row_of_interceptor(&self) -> Row {
        match self.row.kind {
            RejectionKind::MissingToken
            | RejectionKind::InvalidToken
            | RejectionKind::ExpiredToken => naming_activity(self.row),
            _ => self.row,
        }
    }
}

/// A `RequireScope`, with a `RequireToken` around it if there is a verifier.
#[derive(Clone)]
pub(crate) struct Guard {
    verifier: Option<Verifier>,
    pub(crate) scope: RequireScope,
    table: Option<ScopeTable>,
}

impl Guard {
    pub(crate) fn new(verifier: Verifier) -> Self {
        Self { verifier: Some(verifier), scope: RequireScope::new("activity/*"), table: None }
    }

    fn of(rules: Rules) -> Self {
        Self::new(verifier_of(rules))
    }

    fn scope(scope: RequireScope) -> Self {
        Self { scope, ..Self::new(verifier()) }
    }

    pub(crate) fn require_token(&self) -> Option<RequireToken> {
        let layer = RequireToken::new(self.verifier.clone()?);
        Some(match &self.table {
            Some(table) => layer.scope_table(table.clone()),
            None => layer,
        })
    }

    /// Returns the interceptor with the same requirements, if there is one.
    pub(crate) fn interceptor(&self) -> Option<TokenInterceptor> {
        let verifier = self.verifier.clone().filter(|_| self.table.is_none())?;
        Some(TokenInterceptor::new(verifier).require_scope(self.scope.clone()))
    }
}

fn lines<const N: usize>(values: [impl AsRef<[u8]>; N]) -> Vec<HeaderValue> {
    values.iter().map(|value| HeaderValue::from_bytes(value.as_ref()).unwrap()).collect()
}

pub(crate) fn bearer(token: &str) -> Vec<HeaderValue> {
    lines([format!("Bearer {token}")])
}

pub(crate) fn valid_token() -> String {
    machine("activity/*").sign()
}

/// Returns the header and the payload of a valid token with the signature of another token.
fn with_wrong_signature() -> String {
    let (one, other) = (valid_token(), machine("activity/read").sign());
    let (signed, _) = one.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    format!("{signed}.{signature}")
}

/// Returns every row, by every cause.
pub(crate) fn cases() -> Vec<Case> {
    use VerifyErrorKind as Kind;

    let past = SystemTime::now() - Duration::from_secs(7200);
    let (usual, valid) = (|| machine("activity/*"), valid_token());
    let case = |name, authorization, row| Case {
        name,
        guard: Guard::new(verifier()),
        authorization,
        row,
        reason: None,
    };
    let text = |name, token: &str, row, reason| Case {
        reason: Some(reason),
        ..case(name, bearer(token), row)
    };
    let token = |name, token: TokenBuilder, row, reason| text(name, &token.sign(), row, reason);
    let scope = |name, required, granted, row| Case {
        guard: Guard::scope(required),
        ..case(name, bearer(&machine(granted).sign()), row)
    };
    let with_rules = |name, rules, row, reason| Case {
        guard: Guard::of(rules),
        ..text(name, &valid, row, reason)
    };
    let check = |error| rules().with_check(move |_| Err(error));
    let table = ScopeTable::new([("GET /health", Access::public())]).unwrap();
    let any_of = RequireScope::any_of(["item/read", "item/write"]);
    let all_of = RequireScope::all_of(["item/read", "item/write"]);
    let server = RequireScope::any_of_resource_server("item");
    vec![
        case("no header", vec![], MISSING),
        case("another scheme", lines(["Basic dXNlcjpwdw=="]), MISSING),
        case("a token without a scheme", lines([&valid]), MISSING),
        case("only Bearer", lines(["Bearer"]), MALFORMED),
        case("Bearer and a tab", lines([format!("Bearer\t{valid}")]), MALFORMED),
        case("two lines", [bearer(&valid), bearer(&valid)].concat(), MALFORMED),
        case("opaque bytes", lines([b"Bearer \xff\xfe"]), MALFORMED),
        case("not ASCII", lines(["Bearer caf\u{e9}"]), MALFORMED),
        text("not a JWS", "garbage", INVALID, Kind::Malformed),
        text("bad signature", &with_wrong_signature(), INVALID, Kind::BadSignature),
        token("unknown key", usual().header("kid", "unknown"), INVALID, Kind::UnknownKey),
        token("algorithm", usual().header("alg", "none"), INVALID, Kind::UnsupportedAlgorithm),
        token("an extension", usual().header("crit", ["exp"]), INVALID, Kind::InvalidHeader),
        token("another issuer", usual().claim("iss", "https://x"), INVALID, Kind::UnknownIssuer),
        token("another client", usual().claim("client_id", "x"), INVALID, Kind::WrongClient),
        token("an ID token", issuer().id_token(CLIENT, "alice"), INVALID, Kind::WrongTokenUse),
        token("a wrong type", usual().claim("exp", "tomorrow"), INVALID, Kind::InvalidClaim),
        token("bound to a key", usual().claim("cnf", ""), INVALID, Kind::SenderConstrained),
        token("not yet valid", usual().claim("nbf", 4_102_444_800_u64), INVALID, Kind::NotYetValid),
        token("expired", usual().issued_at(past), EXPIRED, Kind::Expired),
        with_rules("audience", rules().with_audience("https://x"), INVALID, Kind::WrongAudience),
        with_rules("revoked", check(CheckError::Revoked), INVALID, Kind::Revoked),
        with_rules("forbidden", check(CheckError::Forbidden), FORBIDDEN, Kind::Forbidden),
        with_rules("in no group", rules().with_groups(["admins"]), FORBIDDEN, Kind::Forbidden),
        scope("a scope is missing", RequireScope::new("activity/*"), "activity/read", SCOPE),
        scope("any scope of two", any_of, "activity/*", ONE_OF_TWO_SCOPES),
        scope("the other scope of two", all_of, "item/read", TWO_SCOPES),
        scope("a resource server", server, "activity/*", UNNAMED_SCOPE),
        Case {
            guard: Guard { table: Some(table), ..Guard::new(verifier()) },
            ..case("not in the table", bearer(&valid), FORBIDDEN)
        },
        Case {
            guard: Guard::new(without_keys()),
            ..text("no keys yet", &valid, UNAVAILABLE, Kind::KeysUnavailable)
        },
        Case {
            guard: Guard { verifier: None, ..Guard::new(verifier()) },
            ..case("no RequireToken", bearer(&valid), INTERNAL)
        },
    ]
}

/// The settings of the `RequireToken`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    Plain,
    /// With a realm and a metadata URL.
    Marked,
    Problem,
    Text,
}

/// The last parameter of a challenge of [`Look::Marked`].
const METADATA: &str =
    r#", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource/orders""#;

const LOOKS: [Look; 4] = [Look::Plain, Look::Marked, Look::Problem, Look::Text];

impl Look {
    fn set(self, layer: RequireToken) -> RequireToken {
        match self {
            Self::Plain => layer,
            Self::Marked => {
                let servers = ["https://issuer.example/pool"];
                let metadata =
                    ResourceMetadata::new("https://api.example.com/orders", servers).unwrap();
                layer.realm("Orders (v2)").resource_metadata(&metadata)
            }
            Self::Problem => layer.rejection_body(RejectionBody::problem),
            Self::Text => layer.rejection_body(|rejection| {
                let (error, description) = (rejection.error_code(), rejection.error_description());
                let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
                RejectionBody::new(content_type, format!("{error}: {description}\n"))
            }),
        }
    }

    fn challenge(self, row: &Row) -> Option<String> {
        let plain = row.challenge()?;
        let marked = || plain.replacen(r#"realm="api""#, r#"realm="Orders (v2)""#, 1) + METADATA;
        Some(if matches!(self, Self::Marked) { marked() } else { plain })
    }

    fn body(self, row: &Row) -> (&'static str, String) {
        let ([error, detail], status) = (row.error(), row.status);
        match self {
            Self::Problem if row.kind != RejectionKind::Internal => {
                let title = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
                let problem = format!(
                    r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","error":"{error}"}}"#
                );
                ("application/problem+json", problem)
            }
            Self::Text if row.kind != RejectionKind::Internal => {
                ("text/plain; charset=utf-8", format!("{error}: {detail}\n"))
            }
            _ => ("application/json", row.json.to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    /// The service is called directly, without a connection.
    Direct,
    Http1,
    Http2,
}

type App = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// A connection to an app.
struct Connection {
    client: Client,
    inside: Arc<Mutex<Inside>>,
}

enum Client {
    Direct(App),
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

/// What the app on the other side of a connection records.
#[derive(Default)]
struct Inside {
    /// For each call of the innermost service, the client ID of the token in the extensions.
    calls: Vec<Option<String>>,
    /// The extensions of the response, as an outer layer sees them.
    extensions: Extensions,
}

/// The result of a request.
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Whether the client knew from the headers that there is no body.
    is_headers_only: bool,
    calls: Vec<Option<String>>,
    rejection: Option<Rejection>,
    has_token: bool,
}

impl Connection {
    /// Connects to a service that responds with 200, inside these layers.
    async fn open(
        transport: Transport,
        token: Option<RequireToken>,
        scope: Option<RequireScope>,
    ) -> Self {
        let inside = Arc::<Mutex<Inside>>::default();
        let calls = Arc::clone(&inside);
        let mut app: App = BoxCloneService::new(service_fn(move |request: Request<Body>| {
            let token = request.extensions().get::<AccessToken>();
            calls.lock().unwrap().calls.push(token.map(|token| token.client_id().to_owned()));
            ready(Ok(Response::new(Body::from("inside"))))
        }));
        if let Some(scope) = scope {
            app = boxed(scope.layer(app));
        }
        if let Some(token) = token {
            app = boxed(token.layer(app));
        }
        Self::to(transport, app, inside).await
    }

    async fn to(transport: Transport, app: App, inside: Arc<Mutex<Inside>>) -> Self {
        let seen = Arc::clone(&inside);
        let app = app.map_response(move |response| {
            seen.lock().unwrap().extensions = response.extensions().clone();
            response
        });
        let app = BoxCloneService::new(app);
        let client = match transport {
            Transport::Direct => Client::Direct(app),
            Transport::Http1 => {
                let io = TokioIo::new(serve(app, transport).await);
                let (client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Client::Http1(client)
            }
            Transport::Http2 => {
                let io = TokioIo::new(serve(app, transport).await);
                let (client, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                Client::Http2(client)
            }
        };
        Self { client, inside }
    }

    async fn case(transport: Transport, look: Look, case: &Case) -> Self {
        let token = case.guard.require_token().map(|layer| look.set(layer));
        Self::open(transport, token, Some(case.guard.scope.clone())).await
    }

    async fn send(&mut self, mut request: Request<Body>) -> Seen {
        std::mem::take(&mut *self.inside.lock().unwrap());
        let sent = async {
            match &mut self.client {
                Client::Direct(app) => app.clone().oneshot(request).await.unwrap(),
                Client::Http1(client) => {
                    let host = HeaderValue::from_static("localhost");
                    request.headers_mut().insert(http::header::HOST, host);
                    client.send_request(request).await.unwrap().map(Body::new)
                }
                Client::Http2(client) => {
                    let uri = format!("http://localhost{}", request.uri());
                    *request.uri_mut() = uri.parse().unwrap();
                    client.ready().await.unwrap();
                    client.send_request(request).await.unwrap().map(Body::new)
                }
            }
        };
        let response = timeout(Duration::from_secs(20), sent).await.unwrap();
        let (parts, body) = response.into_parts();
        let is_headers_only = http_body::Body::is_end_stream(&body);
        let body = body.collect().await.unwrap().to_bytes();
        let Inside { calls, extensions } = std::mem::take(&mut *self.inside.lock().unwrap());
        Seen {
            status: parts.status,
            headers: sorted(&parts.headers),
            body,
            is_headers_only,
            calls,
            rejection: extensions.get::<Rejection>().cloned(),
            has_token: extensions.get::<AccessToken>().is_some(),
        }
    }
}

/// Sends one request through these layers, without a connection.
pub(crate) async fn direct(
    token: RequireToken,
    scope: Option<RequireScope>,
    request: Request<Body>,
) -> Seen {
    Connection::open(Transport::Direct, Some(token), scope).await.send(request).await
}

fn boxed<S, B>(service: S) -> App
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    BoxCloneService::new(service.map_response(|response: Response<B>| response.map(Body::new)))
}

/// Starts a server for one connection, without `date` headers, and connects to it.
async fn serve(app: App, transport: Transport) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            app.clone().oneshot(request.map(Body::new))
        });
        // The client may close the connection at any time.
        match transport {
            Transport::Http2 => hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .auto_date_header(false)
                .serve_connection(io, service)
                .await
                .unwrap_or_default(),
            Transport::Direct | Transport::Http1 => hyper::server::conn::http1::Builder::new()
                .auto_date_header(false)
                .serve_connection(io, service)
                .await
                .unwrap_or_default(),
        }
    });
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let mut headers = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect::<Vec<_>>();
    headers.sort();
    headers
}

fn request(method: Method, authorization: &[HeaderValue]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri("/activity").body(Body::empty());
    for value in authorization {
        request.as_mut().unwrap().headers_mut().append(AUTHORIZATION, value.clone());
    }
    request.unwrap()
}

pub(crate) fn get(authorization: &[HeaderValue]) -> Request<Body> {
    request(Method::GET, authorization)
}

fn post(authorization: &[HeaderValue], content_type: &str) -> Request<Body> {
    let mut request = request(Method::POST, authorization);
    request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
    request
}

/// The form of a rejection.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Http,
    HttpHead,
    /// With this content type.
    Grpc(&'static str),
}

#[track_caller]
pub(crate) fn check(seen: &Seen, case: &Case, look: Look, form: Form, transport: Transport) {
    let Case { name, row, .. } = case;
    let name = format!("{name}, {look:?}, {transport:?}");
    let mut headers = vec![("cache-control", "no-store".to_owned())];
    let (status, body) = match form {
        Form::Http | Form::HttpHead => {
            let (content_type, body) = look.body(row);
            headers.push(("content-length", body.len().to_string()));
            headers.push(("content-type", content_type.to_owned()));
            headers.extend(row.retry_after.map(|n| ("retry-after", n.to_owned())));
            headers.extend(look.challenge(row).map(|c| ("www-authenticate", c)));
            (row.status, if matches!(form, Form::Http) { body } else { String::new() })
        }
        Form::Grpc(content_type) => {
            headers.push(("content-type", content_type.to_owned()));
            headers.push(("grpc-message", row.grpc_message.to_owned()));
            headers.extend(row.pushback.map(|n| ("grpc-retry-pushback-ms", n.to_owned())));
            headers.push(("grpc-status", row.grpc_status.to_string()));
            headers.extend(look.challenge(row).map(|c| ("www-authenticate", c)));
            // It is 500 without a `RequireToken`: `http_rejections_only` could not be set.
            (if row.status == 500 { 500 } else { 200 }, String::new())
        }
    };
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value));
    assert_eq!(seen.status.as_u16(), status, "{name}");
    assert_eq!(seen.headers, headers.collect::<Vec<_>>(), "{name}");
    assert_eq!(seen.body, body, "{name}");
    assert_eq!(seen.is_headers_only, body.is_empty(), "{name}");
    assert_eq!(seen.calls, [], "{name}: the service was called");
    assert!(!seen.has_token, "{name}: the response has a token");
    let rejection = seen.rejection.as_ref().unwrap();
    check_rejection(rejection, case, look, &name);
}

#[track_caller]
fn check_rejection(rejection: &Rejection, case: &Case, look: Look, name: &str) {
    let row = &case.row;
    assert_eq!(rejection.kind(), row.kind, "{name}");
    assert_eq!(rejection.to_string(), row.display, "{name}");
    assert_eq!(rejection.status(), row.status, "{name}");
    assert_eq!(rejection.verify_error().map(|error| error.kind()), case.reason, "{name}");
    let challenge = rejection.challenge();
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(challenge, look.challenge(row), "{name}");
    let retry_after = rejection.retry_after().map(|delay| delay.as_secs().to_string());
    assert_eq!(retry_after.as_deref(), row.retry_after, "{name}");
}

async fn every_case_by(transport: Transport) {
    for look in LOOKS {
        for case in cases() {
            let mut connection = Connection::case(transport, look, &case).await;
            let seen = connection.send(get(&case.authorization)).await;
            check(&seen, &case, look, Form::Http, transport);
        }
    }
}

#[tokio::test]
async fn each_row_is_exact_for_layers() {
    every_case_by(Transport::Direct).await;
}

#[tokio::test]
async fn each_row_is_exact_over_http_1() {
    every_case_by(Transport::Http1).await;
}

#[tokio::test]
async fn each_row_is_exact_over_http_2() {
    every_case_by(Transport::Http2).await;
}

#[tokio::test]
async fn each_row_is_exact_in_grpc_form_for_every_http_form() {
    for look in LOOKS {
        for case in cases() {
            for transport in [Transport::Direct, Transport::Http2] {
                let mut connection = Connection::case(transport, look, &case).await;
                let seen = connection.send(post(&case.authorization, "application/grpc")).await;
                check(&seen, &case, look, Form::Grpc("application/grpc"), transport);
            }
        }
    }
}

#[tokio::test]
async fn each_row_is_exact_for_interceptor() {
    let mut rows = 0;
    for case in cases() {
        let Some(interceptor) = case.guard.interceptor() else {
            continue;
        };
        rows += 1;
        check_intercepted(interceptor, &case).await;
    }
    assert!(rows > 20, "{rows}");
}

async fn check_intercepted(interceptor: TokenInterceptor, case: &Case) {
    let case = &Case { row: case.row_of_interceptor(), ..case.clone() };
    let Case { name, row, .. } = case;
    let sent = post(&case.authorization, "application/grpc");
    let metadata = MetadataMap::from_headers(sent.headers().clone());
    let call = tonic::Request::from_parts(metadata, Extensions::new(), ());
    let status = interceptor.clone().call(call).unwrap_err();
    assert_eq!(status.code() as i32, row.grpc_status, "{name}");
    assert_eq!(status.message(), row.grpc_message, "{name}");
    assert_eq!(status.details(), b"", "{name}");
    let mut metadata = vec![("cache-control".to_owned(), "no-store".to_owned())];
    let pushback = row.pushback.map(|n| ("grpc-retry-pushback-ms".to_owned(), n.to_owned()));
    metadata.extend(pushback);
    let challenge = Look::Plain.challenge(row);
    metadata.extend(challenge.map(|text| ("www-authenticate".to_owned(), text)));
    assert_eq!(sorted(status.metadata().as_ref()), metadata, "{name}");
    let source = std::error::Error::source(&status).unwrap();
    let rejection = source.downcast_ref::<Rejection>().unwrap();
    check_rejection(rejection, case, Look::Plain, name);

    let inside = Arc::<Mutex<Inside>>::default();
    let calls = Arc::clone(&inside);
    let app = service_fn(move |_: Request<Body>| {
        calls.lock().unwrap().calls.push(None);
        ready(Ok::<_, Infallible>(Response::new(tonic::body::Body::empty())))
    });
    let app = InterceptedService::new(app, interceptor);
    let response = app.oneshot(sent).await.unwrap();
    assert_eq!(response.status(), 200, "{name}");
    metadata.push(("content-type".to_owned(), "application/grpc".to_owned()));
    // tonic percent-encodes spaces, too.
    metadata.push(("grpc-message".to_owned(), row.grpc_message.replace(' ', "%20")));
    metadata.push(("grpc-status".to_owned(), row.grpc_status.to_string()));
    metadata.sort();
    assert_eq!(sorted(response.headers()), metadata, "{name}");
    assert_eq!(inside.lock().unwrap().calls, [], "{name}: the service was called");
}

#[tokio::test]
async fn valid_request_passes_every_transport_with_its_token() {
    let guard = Guard::new(verifier());
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        for look in LOOKS {
            let token = guard.require_token().map(|layer| look.set(layer));
            let mut connection =
                Connection::open(transport, token, Some(guard.scope.clone())).await;
            for request in [
                get(&bearer(&valid_token())),
                post(&bearer(&valid_token()), "application/json"),
                post(&bearer(&valid_token()), "application/grpc"),
            ] {
                let seen = connection.send(request).await;
                assert_eq!((seen.status, &*seen.body), (StatusCode::OK, &b"inside"[..]));
                assert_eq!(seen.calls, [Some(CLIENT.to_owned())], "{look:?}, {transport:?}");
                assert!(seen.rejection.is_none());
                let added = seen.headers.iter().filter(|(name, _)| name != "content-length");
                assert_eq!(added.count(), 0, "{:?}", seen.headers);
            }
        }
    }
}

#[tokio::test]
async fn head_has_every_header_of_get_and_keeps_the_connection() {
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        for look in [Look::Plain, Look::Text] {
            for case in cases() {
                let mut connection = Connection::case(transport, look, &case).await;
                let mut grpc = post(&case.authorization, "application/grpc");
                *grpc.method_mut() = Method::HEAD;
                for head in [request(Method::HEAD, &case.authorization), grpc] {
                    let seen = connection.send(head).await;
                    check(&seen, &case, look, Form::HttpHead, transport);
                }
                // The connection can still be used.
                let seen = connection.send(get(&case.authorization)).await;
                check(&seen, &case, look, Form::Http, transport);
            }
        }
    }
}

#[tokio::test]
async fn grpc_web_request_gets_its_own_content_type() {
    let cases = cases();
    for transport in [Transport::Direct, Transport::Http2] {
        for case in &cases {
            let mut connection = Connection::case(transport, Look::Plain, case).await;
            for (sent, answered) in [
                ("application/grpc+proto", "application/grpc"),
                ("Application/GRPC; charset=utf-8", "application/grpc"),
                ("application/grpc-web", "application/grpc-web+proto"),
                ("application/grpc-web+proto", "application/grpc-web+proto"),
                ("application/grpc-web-text", "application/grpc-web-text+proto"),
                ("application/grpc-web-text+proto", "application/grpc-web-text+proto"),
            ] {
                let seen = connection.send(post(&case.authorization, sent)).await;
                check(&seen, case, Look::Plain, Form::Grpc(answered), transport);
            }
            for sent in ["application/grpcx", "application/json", "text/plain; application/grpc"] {
                let seen = connection.send(post(&case.authorization, sent)).await;
                check(&seen, case, Look::Plain, Form::Http, transport);
            }
            let mut other = post(&case.authorization, "application/grpc");
            *other.method_mut() = Method::PUT;
            let seen = connection.send(other).await;
            check(&seen, case, Look::Plain, Form::Http, transport);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stale_keys_are_503_with_time_until_next_attempt() {
    let clock = SystemTime::now();
    let verifier = Verifier::builder(initially(rules(), clock - Duration::from_secs(25 * 3600)))
        .clock(move || clock)
        .jwks_fetcher(|_| async {
            let wait = Duration::from_secs(20);
            Err::<JwksDocument, _>(RefreshError::status(503).with_retry_after(wait))
        })
        .connect_lazy()
        .unwrap();
    verifier.refresh().await.unwrap_err();
    let case = Case {
        name: "too old",
        guard: Guard::new(verifier),
        authorization: bearer(&valid_token()),
        row: Row { retry_after: Some("20"), pushback: Some("20000"), ..UNAVAILABLE },
        reason: Some(VerifyErrorKind::KeysUnavailable),
    };
    let mut connection = Connection::case(Transport::Direct, Look::Plain, &case).await;
    let seen = connection.send(get(&case.authorization)).await;
    check(&seen, &case, Look::Plain, Form::Http, Transport::Direct);
    let seen = connection.send(post(&case.authorization, "application/grpc")).await;
    check(&seen, &case, Look::Plain, Form::Grpc("application/grpc"), Transport::Direct);
    check_intercepted(case.guard.interceptor().unwrap(), &case).await;
    // A fraction of a second is rounded up.
    tokio::time::advance(Duration::from_millis(500)).await;
    let seen = connection.send(get(&case.authorization)).await;
    check(&seen, &case, Look::Plain, Form::Http, Transport::Direct);
}

#[tokio::test]
async fn http_rejections_only_gives_every_rejection_the_http_form() {
    for transport in [Transport::Direct, Transport::Http2] {
        for look in [Look::Plain, Look::Marked] {
            for case in cases() {
                let Some(token) = case.guard.require_token() else {
                    continue;
                };
                let token = look.set(token.http_rejections_only());
                let scope = Some(case.guard.scope.clone());
                let mut connection = Connection::open(transport, Some(token), scope).await;
                for content_type in ["application/grpc", "application/grpc-web-text"] {
                    let seen = connection.send(post(&case.authorization, content_type)).await;
                    check(&seen, &case, look, Form::Http, transport);
                }
            }
        }
    }
}

#[tokio::test]
async fn http_rejections_only_applies_to_scope_layer_without_token() {
    let public = ScopeTable::new([("POST /activity", Access::public())]).unwrap();
    let case = &Case { row: naming_activity(MISSING), ..cases()[0].clone() };
    for token in [
        RequireToken::new(verifier()).http_rejections_only().allow_anonymous(),
        RequireToken::new(verifier()).http_rejections_only().scope_table(public),
    ] {
        let scope = Some(case.guard.scope.clone());
        let seen = direct(token, scope, post(&[], "application/grpc")).await;
        check(&seen, case, Look::Plain, Form::Http, Transport::Direct);
    }
}

#[tokio::test]
async fn extractor_rejects_like_the_layers() {
    let find = |name| cases().into_iter().find(|case| case.name == name).unwrap();
    let (missing, internal) = (find("no header"), find("no RequireToken"));
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        for look in LOOKS {
            let inside = Arc::<Mutex<Inside>>::default();
            let calls = Arc::clone(&inside);
            let show = async move |token: AccessToken| {
                calls.lock().unwrap().calls.push(Some(token.client_id().to_owned()));
            };
            let bare = Router::new().route("/activity", routing::get(show));
            let guarded = look.set(RequireToken::new(verifier()).allow_anonymous());
            let guarded = bare.clone().layer(guarded);
            for (case, app) in [(&missing, guarded.clone()), (&internal, bare)] {
                let mut connection =
                    Connection::to(transport, boxed(app), Arc::clone(&inside)).await;
                let seen = connection.send(get(&case.authorization)).await;
                check(&seen, case, look, Form::Http, transport);
                let seen = connection.send(request(Method::HEAD, &case.authorization)).await;
                check(&seen, case, look, Form::HttpHead, transport);
            }
            let mut connection = Connection::to(transport, boxed(guarded), inside).await;
            let seen = connection.send(get(&bearer(&valid_token()))).await;
            check_outcome(&seen, "valid", &Passes(Some(CLIENT)));
        }
    }
}

#[tokio::test]
async fn scope_layer_uses_settings_of_innermost_require_token() {
    let case = &cases().into_iter().find(|case| case.name == "a scope is missing").unwrap();
    let inner = RequireScope::new("activity/*");
    for look in [Look::Plain, Look::Marked, Look::Text] {
        let token = look.set(RequireToken::new(verifier()));
        let inside = Arc::<Mutex<Inside>>::default();
        let app = boxed(token.layer(inner.layer(Unreachable)));
        let app = boxed(RequireToken::new(verifier()).realm("outer").layer(app));
        let mut connection = Connection::to(Transport::Direct, app, inside).await;
        let seen = connection.send(get(&case.authorization)).await;
        check(&seen, case, look, Form::Http, Transport::Direct);
    }
}

/// The request passes with the token of this client or without a token, or it is rejected with this
/// row.
pub(crate) enum Outcome {
    Passes(Option<&'static str>),
    Fails(Row),
}

use Outcome::{Fails, Passes};

#[track_caller]
pub(crate) fn check_outcome(seen: &Seen, name: &str, outcome: &Outcome) {
    match outcome {
        Passes(client) => {
            assert_eq!(seen.status, 200, "{name}");
            assert_eq!(seen.calls, [client.map(str::to_owned)], "{name}");
        }
        Fails(row) => {
            assert_eq!(seen.status.as_u16(), row.status, "{name}");
            assert_eq!(seen.body, row.json, "{name}");
            assert_eq!(challenge_of(seen), row.challenge().as_deref(), "{name}");
            assert_eq!(seen.rejection.as_ref().map(Rejection::kind), Some(row.kind), "{name}");
            assert_eq!(seen.calls, [], "{name}: the service was called");
        }
    }
}

#[tokio::test]
async fn accept_bare_token_changes_only_bare_tokens() {
    let valid = valid_token();
    let expired = machine("").expires_at(SystemTime::UNIX_EPOCH).sign();
    for (name, authorization, strict, lenient) in [
        ("bare", lines([&valid]), Fails(MISSING), Passes(Some(CLIENT))),
        ("bare, expired", lines([&expired]), Fails(MISSING), Fails(EXPIRED)),
        ("bare, not a token", lines(["a.b.c"]), Fails(MISSING), Fails(INVALID)),
        ("with Bearer", bearer(&valid), Passes(Some(CLIENT)), Passes(Some(CLIENT))),
        ("no header", vec![], Fails(MISSING), Fails(MISSING)),
        ("Basic", lines(["Basic abc"]), Fails(MISSING), Fails(MISSING)),
        ("only Basic", lines(["Basic"]), Fails(MISSING), Fails(MISSING)),
        (
            "another scheme with a token",
            lines([format!("DPoP {valid}")]),
            Fails(MISSING),
            Fails(MISSING),
        ),
        ("bare and more", lines([format!("{valid} extra")]), Fails(MISSING), Fails(MISSING)),
        ("only Bearer", lines(["Bearer"]), Fails(MALFORMED), Fails(MALFORMED)),
        ("Bearer, a space", lines(["Bearer "]), Fails(MALFORMED), Fails(MALFORMED)),
        ("two lines", lines([&valid, &valid]), Fails(MALFORMED), Fails(MALFORMED)),
        (
            "bare and with Bearer",
            [lines([&valid]), bearer(&valid)].concat(),
            Fails(MALFORMED),
            Fails(MALFORMED),
        ),
    ] {
        let layer = RequireToken::new(verifier());
        for (layer, outcome) in [(layer.clone(), strict), (layer.accept_bare_token(), lenient)] {
            check_outcome(&direct(layer, None, get(&authorization)).await, name, &outcome);
        }
    }
}

/// The causes of `cases` are in the test of h092.
#[tokio::test]
async fn allow_anonymous_passes_missing_tokens_and_rejects_invalid_ones() {
    let valid = valid_token();
    let anonymous = || RequireToken::new(verifier()).allow_anonymous();
    for (name, layer, authorization, without_scope, with_scope) in [
        (
            "another scheme with a token",
            anonymous(),
            lines([format!("DPoP {valid}")]),
            Passes(None),
            Fails(naming_activity(MISSING)),
        ),
        (
            "bare, accepted",
            anonymous().accept_bare_token(),
            lines([&valid]),
            Passes(Some(CLIENT)),
            Passes(Some(CLIENT)),
        ),
        (
            "bare, accepted and invalid",
            anonymous().accept_bare_token(),
            lines(["a.b.c"]),
            Fails(INVALID),
            Fails(INVALID),
        ),
        ("valid", anonymous(), bearer(&valid), Passes(Some(CLIENT)), Passes(Some(CLIENT))),
        (
            "two lines",
            anonymous(),
            lines(["Basic abc", "Basic abc"]),
            Fails(MALFORMED),
            Fails(MALFORMED),
        ),
    ] {
        for (scope, outcome) in
            [(None, without_scope), (Some(RequireScope::new("activity/*")), with_scope)]
        {
            let seen = direct(layer.clone(), scope, get(&authorization)).await;
            check_outcome(&seen, name, &outcome);
        }
    }
}

/// Checks the outcome of `RequireToken` without a scope, directly and over HTTP/1.1, and of the
/// interceptor.
async fn check_everywhere(name: &str, authorization: Vec<HeaderValue>, outcome: Outcome) {
    let sent = post(&authorization, "application/grpc");
    let metadata = MetadataMap::from_headers(sent.headers().clone());
    let call = tonic::Request::from_parts(metadata, Extensions::new(), ());
    match (TokenInterceptor::new(verifier()).call(call), &outcome) {
        (Ok(call), Passes(client)) => {
            let token = call.extensions().get::<AccessToken>();
            assert_eq!(token.map(AccessToken::client_id), *client, "{name}");
        }
        (Err(status), Fails(row)) => {
            assert_eq!(status.code() as i32, row.grpc_status, "{name}");
            assert_eq!(status.message(), row.grpc_message, "{name}");
        }
        (result, _) => panic!("{name}: the interceptor returns {result:?}"),
    }
    for transport in [Transport::Direct, Transport::Http1] {
        let token = RequireToken::new(verifier());
        let mut connection = Connection::open(transport, Some(token), None).await;
        check_outcome(&connection.send(get(&authorization)).await, name, &outcome);
    }
}

#[tokio::test]
async fn h001_challenge_without_authorization_has_no_error() {
    check_everywhere("none", vec![], Fails(MISSING)).await;
}

#[tokio::test]
async fn h002_another_scheme_counts_as_no_token() {
    let valid = valid_token();
    for scheme in ["Basic", "DPoP", "Digest", "Negotiate", "AWS4-HMAC-SHA256", "Token"] {
        check_everywhere(scheme, lines([format!("{scheme} {valid}")]), Fails(MISSING)).await;
        check_everywhere(scheme, lines([scheme]), Fails(MISSING)).await;
    }
}

#[tokio::test]
async fn h003_scheme_is_case_insensitive() {
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let value = lines([format!("{scheme} {}", valid_token())]);
        check_everywhere(scheme, value, Passes(Some(CLIENT))).await;
    }
}

#[tokio::test]
async fn h004_bearer_without_token_is_malformed() {
    for value in ["Bearer", "bearer", "Bearer ", "Bearer    "] {
        check_everywhere(value, lines([value]), Fails(MALFORMED)).await;
    }
}

#[tokio::test]
async fn h005_accepts_several_spaces_and_rejects_a_tab() {
    let valid = valid_token();
    for scheme in ["Bearer  ", "Bearer         "] {
        let value = lines([format!("{scheme}{valid}")]);
        check_everywhere(scheme, value, Passes(Some(CLIENT))).await;
    }
    for value in ["Bearer \t", "Bearer a.b.c\td", &format!("Bearer\t{valid}")] {
        check_everywhere(value, lines([value]), Fails(MALFORMED)).await;
    }
    let value = lines([format!("Bearer \t{valid}")]);
    check_everywhere("a space and a tab", value, Fails(MALFORMED)).await;
}

#[tokio::test]
async fn h006_rejects_two_tokens_in_one_header() {
    let valid = valid_token();
    for value in [
        format!("Bearer {valid} extra"),
        format!("Bearer {valid} {valid}"),
        format!("Bearer {valid},Bearer {valid}"),
        format!("Bearer bad, Bearer {valid}"),
    ] {
        check_everywhere("one line", lines([value]), Fails(INVALID)).await;
    }
}

#[tokio::test]
async fn h007_rejects_duplicate_authorization_headers() {
    let valid = format!("Bearer {}", valid_token());
    for values in [
        [&*valid, &valid],
        ["Bearer bad", &valid],
        [&valid, "Bearer bad"],
        ["Basic abc", &valid],
        [&valid, "Basic abc"],
        [&valid, ""],
        ["", &valid],
    ] {
        check_everywhere("two lines", lines(values), Fails(MALFORMED)).await;
    }
}

#[tokio::test]
async fn h008_only_the_first_word_is_the_scheme() {
    let valid = valid_token();
    for prefix in
        ["xBearer ", "Basic xBearer ", "Basic Bearer ", "Bearer: ", "Bearer=", "\"Bearer "]
    {
        let value = lines([format!("{prefix}{valid}")]);
        check_everywhere(prefix, value, Fails(MISSING)).await;
    }
}

#[tokio::test]
async fn h009_non_ascii_bytes_are_malformed_at_every_position() {
    let valid = valid_token();
    for value in [
        [b"Bearer \x80", valid.as_bytes()].concat(),
        [b"Bearer ", valid.as_bytes(), b"\xc3\xa9"].concat(),
        [b"Bearer\xc2\xa0", valid.as_bytes()].concat(),
        b"\xff".to_vec(),
        "B\u{e9}arer abc".into(),
    ] {
        check_everywhere("not ASCII", lines([value]), Fails(MALFORMED)).await;
    }
}

#[tokio::test]
async fn h010_token_in_form_or_cookie_is_ignored() {
    let valid = valid_token();
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        let token = RequireToken::new(verifier());
        let mut connection = Connection::open(transport, Some(token), None).await;
        let mut request = post(&[], "application/x-www-form-urlencoded");
        *request.body_mut() = Body::from(format!("access_token={valid}"));
        *request.uri_mut() = format!("/activity?access_token={valid}").parse().unwrap();
        for name in ["cookie", "proxy-authorization", "x-amzn-oidc-accesstoken"] {
            request.headers_mut().insert(name, format!("Bearer {valid}").parse().unwrap());
        }
        check_outcome(&connection.send(request).await, "form", &Fails(MISSING));
    }
}

/// Returns a valid token of exactly this length.
fn token_of_length(length: usize) -> String {
    // Base64 does not have texts of every length, so the header adds the rest.
    let padded = |header: usize, payload: usize| {
        let token = machine("activity/*").header("pad", "x".repeat(header));
        token.claim("pad", "x".repeat(payload)).sign()
    };
    let payload = (length - padded(0, 0).len()) * 3 / 4 - 8;
    let pads = (0..4).flat_map(|header| (0..12).map(move |more| (header, payload + more)));
    let mut tokens = pads.map(|(header, payload)| padded(header, payload));
    tokens.find(|token| token.len() == length).unwrap()
}

#[tokio::test]
async fn h011_accepts_token_of_16_kib_and_rejects_a_longer_one() {
    check_everywhere("16 KiB", bearer(&token_of_length(16_384)), Passes(Some(CLIENT))).await;
    check_everywhere("16 KiB and one byte", bearer(&token_of_length(16_385)), Fails(INVALID)).await;

    let too_long = get(&bearer(&token_of_length(16_385)));
    let rejection = direct(RequireToken::new(verifier()), None, too_long).await.rejection.unwrap();
    assert_eq!(rejection.verify_error().unwrap().kind(), VerifyErrorKind::TooLarge);
}

#[tokio::test]
async fn h012_400_kb_of_dots_allocate_as_little_as_40_bytes() {
    let dots = |length| bearer(&".".repeat(length));
    check_everywhere("dots", dots(400_000), Fails(INVALID)).await;

    let app = RequireToken::new(verifier()).layer(Unreachable);
    let count = |length| {
        let (mut app, request) = (app.clone(), get(&dots(length)));
        let counted = measure(|| {
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut app.call(request)).poll(&mut context).is_ready());
        });
        (counted.count_total, counted.bytes_total)
    };
    // Take the minimum of many runs: if another test has enabled the log, its buffers grow
    // sometimes.
    let least = |length| (0..16).map(|_| count(length)).min();
    assert_eq!(least(400_000), least(40));
}

/// A service that no request may reach.
#[derive(Clone, Debug)]
pub(crate) struct Unreachable;

impl<B> Service<Request<B>> for Unreachable {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        panic!("the service was called")
    }
}

#[tokio::test]
async fn h013_forged_token_is_overwritten_or_removed() {
    let any_client = verifier_of(Rules::new(issuer().user_pool(), ClientIds::any()));
    let forged = any_client.try_verify(&issuer().machine_token("forged").sign()).unwrap();
    let public = ScopeTable::new([("GET /activity", Access::public())]).unwrap();
    let layer = || RequireToken::new(verifier());
    for (name, layer, authorization, outcome) in [
        ("strict", layer(), vec![], Fails(MISSING)),
        ("strict, own token", layer(), bearer(&valid_token()), Passes(Some(CLIENT))),
        ("anonymous", layer().allow_anonymous(), vec![], Passes(None)),
        ("anonymous, own", layer().allow_anonymous(), bearer(&valid_token()), Passes(Some(CLIENT))),
        ("public", layer().scope_table(public.clone()), vec![], Passes(None)),
        ("public, own", layer().scope_table(public), bearer(&valid_token()), Passes(None)),
    ] {
        let mut request = get(&authorization);
        request.extensions_mut().insert(forged.clone());
        check_outcome(&direct(layer, None, request).await, name, &outcome);
    }
}

#[tokio::test]
async fn h015_100_more_headers_change_nothing() {
    let more = |mut request: Request<Body>| {
        for number in 0..100 {
            let name = format!("x-authorization-{number}").parse::<http::HeaderName>().unwrap();
            request.headers_mut().insert(name, HeaderValue::from_static("Bearer abc"));
        }
        request
    };
    // Not over HTTP/1: hyper accepts at most 100 headers.
    for transport in [Transport::Direct, Transport::Http2] {
        for case in cases() {
            let mut connection = Connection::case(transport, Look::Plain, &case).await;
            let seen = connection.send(more(get(&case.authorization))).await;
            check(&seen, &case, Look::Plain, Form::Http, transport);
        }
        let token = Some(RequireToken::new(verifier()));
        let mut connection = Connection::open(transport, token, None).await;
        let seen = connection.send(more(get(&bearer(&valid_token())))).await;
        check_outcome(&seen, "valid", &Passes(Some(CLIENT)));
    }
}

#[tokio::test]
async fn h086_waits_for_pending_service_and_rejections_take_no_slot() {
    type Never = std::future::Pending<Result<Response<Body>, Infallible>>;
    let inner = service_fn(|_: Request<Body>| -> Never { std::future::pending() });
    let layers = (RequireToken::new(verifier()), RequireScope::new("activity/*"));
    let app = layers.layer(ConcurrencyLimit::new(inner, 1));
    for _ in 0..3 {
        assert_eq!(app.clone().oneshot(get(&[])).await.unwrap().status(), 401);
    }

    let mut context = Context::from_waker(Waker::noop());
    let (mut first, mut second) = (app.clone(), app);
    let call = first.ready().await.unwrap().call(get(&bearer(&valid_token())));
    assert!(second.poll_ready(&mut context).is_pending());
    drop(call);
    assert!(second.poll_ready(&mut context).is_ready());
}

#[tokio::test]
async fn h086_inner_error_passes_through_after_a_wait_for_keys() {
    #[derive(Debug, PartialEq)]
    struct Overloaded;

    let (issuer, verifier) = rotated().await;
    let failing = service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(Overloaded) });
    // Panics if it is called without having been polled ready.
    let failing = ConcurrencyLimit::new(failing, 1);
    let app = RequireToken::new(verifier).layer(RequireScope::new("activity/*").layer(failing));
    let token = issuer.machine_token(CLIENT).scope("activity/*").sign();
    let result = app.oneshot(get(&bearer(&token))).await;
    assert_eq!(result.err(), Some(Overloaded));
}

/// Returns an issuer that has rotated its keys, and a verifier that does not know the new key.
async fn rotated() -> (TestIssuer, Verifier) {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    issuer.rotate();
    (issuer, verifier)
}

#[tokio::test]
async fn rejection_after_a_wait_for_keys_is_the_same() {
    let (issuer, verifier) = rotated().await;
    let valid = issuer.machine_token(CLIENT).scope("activity/*").sign();
    let unknown = issuer.machine_token(CLIENT).header("kid", "unknown").sign();
    let other = issuer.machine_token("another").scope("activity/*").sign();
    let no_scope = issuer.machine_token(CLIENT).scope("activity/read").sign();
    for (name, token, row, reason) in [
        ("unknown", unknown, INVALID, Some(VerifyErrorKind::UnknownKey)),
        ("client", other, INVALID, Some(VerifyErrorKind::WrongClient)),
        ("scope", no_scope, SCOPE, None),
    ] {
        let guard = Guard::new(verifier.clone());
        let case = Case { name, guard, authorization: bearer(&token), row, reason };
        let mut connection = Connection::case(Transport::Direct, Look::Marked, &case).await;
        let seen = connection.send(get(&case.authorization)).await;
        check(&seen, &case, Look::Marked, Form::Http, Transport::Direct);
    }
    assert!(verifier.try_verify(&valid).is_ok());
}

/// A body that never arrives.
struct NeverArrives;

impl http_body::Body for NeverArrives {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn h087_upload_is_rejected_before_it_is_read() {
    for case in cases() {
        let mut connection = Connection::case(Transport::Direct, Look::Plain, &case).await;
        let mut request =
            request(Method::POST, &case.authorization).map(|_| Body::new(NeverArrives));
        // Too long to be read before the response. HTTP/2 has no `Connection: close`.
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("100000000"));
        *request.version_mut() = Version::HTTP_2;
        let began = Instant::now();
        let seen = connection.send(request).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{}: {:?}", case.name, began.elapsed());
        check(&seen, &case, Look::Plain, Form::Http, Transport::Direct);
    }
}

/// Sends these bytes to a `RequireToken` over HTTP/1, and reads until the end.
async fn exchange(request: String) -> String {
    let app = boxed(RequireToken::new(verifier()).layer(Unreachable));
    let mut stream = serve(app, Transport::Http1).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let read = stream.read_to_end(&mut response);
    timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn h087_socket_gets_the_response_during_the_upload() {
    let part = "x".repeat(1_000);
    let response = exchange(format!(
        "POST /activity HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer bad\r\n\
         content-type: application/octet-stream\r\ncontent-length: 100000000\r\n\r\n{part}"
    ))
    .await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
    assert!(head.contains(&*INVALID.challenge().unwrap()), "{head}");
    assert_eq!(body, INVALID.json);
}

#[tokio::test]
async fn h088_every_method_requires_a_token() {
    let token = RequireToken::new(verifier());
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        let mut connection = Connection::open(transport, Some(token.clone()), None).await;
        for method in ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "QUERY"] {
            let mut preflight = request(method.parse().unwrap(), &[]);
            let headers = preflight.headers_mut();
            headers.insert("origin", HeaderValue::from_static("https://app.example"));
            headers.insert("access-control-request-method", HeaderValue::from_static("GET"));
            check_outcome(&connection.send(preflight).await, method, &Fails(MISSING));
            let valid = request(method.parse().unwrap(), &bearer(&valid_token()));
            check_outcome(&connection.send(valid).await, method, &Passes(Some(CLIENT)));
        }
    }
}

#[tokio::test]
async fn h089_http_1_0_gets_an_http_1_0_response() {
    let response = exchange("GET /activity HTTP/1.0\r\n\r\n".to_owned()).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").collect::<Vec<_>>();
    lines.sort_unstable();
    let expected = [
        "HTTP/1.0 401 Unauthorized",
        "cache-control: no-store",
        "content-length: 80",
        "content-type: application/json",
        r#"www-authenticate: Bearer realm="api""#,
    ];
    assert_eq!((lines.as_slice(), body), (&expected[..], MISSING.json));
}

#[tokio::test]
async fn h090_response_contains_nothing_that_the_client_sent() {
    let mark = "MARKmark";
    let tokens = [
        mark.to_owned(),
        format!("{mark}.{mark}.{mark}"),
        machine("activity/*").header("kid", mark).sign(),
        machine("activity/*").header("alg", mark).sign(),
        machine("activity/*").claim("iss", mark).sign(),
        machine(mark).sign(),
        machine("activity/*").claim("client_id", mark).sign(),
        machine("activity/*").claim("token_use", mark).sign(),
        format!("{mark}\\\"\\r\\nset-cookie:{mark}"),
    ];
    for look in LOOKS {
        let token = look.set(RequireToken::new(verifier()));
        let scope = Some(RequireScope::new("activity/*"));
        let mut connection = Connection::open(Transport::Http1, Some(token), scope).await;
        for token in &tokens {
            for content_type in ["text/html", "application/grpc", "application/grpc-web-text"] {
                let mut request = post(&bearer(token), content_type);
                *request.uri_mut() = format!("/{mark}?{mark}").parse().unwrap();
                request.headers_mut().insert("origin", HeaderValue::from_static(mark));
                let seen = connection.send(request).await;
                let (headers, body) = (seen.headers, String::from_utf8_lossy(&seen.body));
                let response = format!("{headers:?} {body}");
                assert!(seen.rejection.is_some() && !response.contains(mark), "{response}");
                for part in token.split('.').filter(|part| part.len() > 10) {
                    assert!(!response.contains(part), "{response}");
                }
            }
        }
    }
}

#[test]
fn h090_settings_that_would_break_a_challenge_are_rejected() {
    for hostile in ["a\"b", "a\\b", "a\r\nb", "caf\u{e9}", "a b", ""] {
        let realm = std::panic::catch_unwind(|| RequireToken::new(verifier()).realm(hostile));
        assert_eq!(realm.is_ok(), hostile == "a b", "{hostile:?}");
        let resource = format!("https://api.example.com/{hostile}");
        let is_url = ResourceMetadata::new(&resource, ["https://issuer.example"]).is_ok();
        assert_eq!(is_url, hostile.is_empty(), "{hostile:?}");
        for build in [
            (|scope| RequireScope::new(scope)) as fn(&str) -> RequireScope,
            |scope| RequireScope::any_of([scope]),
            |scope| RequireScope::all_of(["a/b", scope]),
            RequireScope::any_of_resource_server,
        ] {
            assert!(std::panic::catch_unwind(|| build(hostile)).is_err(), "{hostile:?}");
        }
        assert!(ScopeTable::new([("GET /", Access::scope(hostile))]).is_err(), "{hostile:?}");
    }
}

/// Returns the challenge of a response.
fn challenge_of(seen: &Seen) -> Option<&str> {
    let header = seen.headers.iter().find(|(name, _)| name == "www-authenticate");
    header.map(|(_, value)| &**value)
}

/// Returns the scopes that a challenge names.
#[track_caller]
fn scopes_of(challenge: Option<&str>) -> Option<&str> {
    let (_, rest) = challenge.unwrap().split_once(", scope=\"")?;
    Some(rest.split_once('"').unwrap().0)
}

#[tokio::test]
async fn challenge_of_401_names_scopes_of_rules_and_of_table_row() {
    let past = SystemTime::now() - Duration::from_secs(7200);
    let expired = machine("").issued_at(past).sign();
    let table = ScopeTable::new([
        ("GET /activity", Access::all_of(["a/x", "a/y"])),
        ("POST /activity", Access::any_of(["a/read", "a/write"])),
        ("PUT /activity", Access::any_of_resource_server("a")),
        ("PATCH /activity", Access::authenticated()),
    ])
    .unwrap();
    let plain = RequireToken::new(verifier());
    let with_rules = RequireToken::new(verifier_of(rules().with_required_scopes(["base/use"])));
    for (method, layer, expected) in [
        (Method::GET, plain.clone(), None),
        (Method::GET, plain.clone().scope_table(table.clone()), Some("a/x a/y")),
        (Method::POST, plain.clone().scope_table(table.clone()), Some("a/read")),
        (Method::PUT, plain.clone().scope_table(table.clone()), None),
        (Method::PATCH, plain.clone().scope_table(table.clone()), None),
        // No row names this method.
        (Method::DELETE, plain.scope_table(table.clone()), None),
        (Method::GET, with_rules.clone(), Some("base/use")),
        (Method::GET, with_rules.clone().scope_table(table.clone()), Some("base/use a/x a/y")),
        (Method::DELETE, with_rules.scope_table(table), Some("base/use")),
    ] {
        for transport in [Transport::Direct, Transport::Http1] {
            let mut connection = Connection::open(transport, Some(layer.clone()), None).await;
            for (authorization, row) in
                [(vec![], MISSING), (bearer("bad"), INVALID), (bearer(&expired), EXPIRED)]
            {
                let seen = connection.send(request(method.clone(), &authorization)).await;
                check_outcome(&seen, method.as_str(), &Fails(Row { scope: expected, ..row }));
                assert_eq!(seen.rejection.unwrap().required_scopes(), []);
            }
        }
    }
}

/// Sends headers to the four methods that take no request, and checks that they decide alike.
async fn check_headers(
    layer: &RequireToken,
    headers: &HeaderMap,
) -> Result<AccessToken, Rejection> {
    let values = || headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let decided = layer.verify_headers(headers).await;
    let text = |result: &Result<AccessToken, Rejection>| format!("{result:?}");
    assert_eq!(text(&layer.try_verify_headers(headers)), text(&decided));
    assert_eq!(text(&layer.verify_header_values(values()).await), text(&decided));
    assert_eq!(text(&layer.try_verify_header_values(values())), text(&decided));
    decided
}

#[tokio::test]
async fn verify_headers_decides_like_the_layer() {
    let mut count = 0;
    for look in LOOKS {
        for case in cases() {
            let Some(layer) = case.guard.require_token() else { continue };
            // These are decided by a layer inside, or by the table.
            let is_of_route = case.reason.is_none()
                && [RejectionKind::InsufficientScope, RejectionKind::Forbidden]
                    .contains(&case.row.kind);
            let layer = look.set(layer.allow_anonymous());
            let headers = get(&case.authorization).headers().clone();
            let decided = check_headers(&layer, &headers).await;
            if is_of_route {
                assert_eq!(decided.unwrap().client_id(), CLIENT, "{}", case.name);
                continue;
            }
            count += 1;
            let rejection = decided.unwrap_err();
            check_rejection(&rejection, &case, look, case.name);
            let response = rejection.to_response();
            let seen = Seen {
                status: response.status(),
                headers: sorted(response.headers()),
                body: response.into_body(),
                is_headers_only: false,
                calls: vec![],
                rejection: Some(rejection),
                has_token: false,
            };
            check(&seen, &case, look, Form::Http, Transport::Direct);
        }
    }
    assert!(count > 80, "{count}");
    let headers = get(&bearer(&valid_token())).headers().clone();
    let decided = check_headers(&RequireToken::new(verifier()), &headers).await;
    assert_eq!(decided.unwrap().client_id(), CLIENT);
    // The settings of the layer count.
    let bare = get(&lines([valid_token()])).headers().clone();
    assert!(check_headers(&RequireToken::new(verifier()), &bare).await.is_err());
    let lenient = RequireToken::new(verifier()).accept_bare_token();
    assert_eq!(check_headers(&lenient, &bare).await.unwrap().client_id(), CLIENT);
}

#[tokio::test]
async fn verify_headers_names_scopes_of_rules_and_logs_each_rejection_once() {
    let log = Log::of_this_thread();
    let layer = RequireToken::new(verifier_of(rules().with_required_scopes(["base/use"])));
    let rejection = layer.verify_headers(&HeaderMap::new()).await.unwrap_err();
    let challenge = rejection.challenge().unwrap();
    assert_eq!(challenge, r#"Bearer realm="api", scope="base/use""#);
    let log = log.take();
    assert_eq!(log.matches("request rejected").count(), 1, "{log}");
    assert!(log.contains(r#"reason="missing_token""#), "{log}");
}

#[tokio::test]
async fn verify_headers_waits_for_a_new_key_and_its_try_form_does_not() {
    let (issuer, verifier) = rotated().await;
    let layer = RequireToken::new(verifier);
    let token = issuer.machine_token(CLIENT).sign();
    let headers = get(&bearer(&token)).headers().clone();
    let rejection = layer.try_verify_headers(&headers).unwrap_err();
    let kind = rejection.verify_error().map(|error| error.kind());
    assert_eq!(kind, Some(VerifyErrorKind::UnknownKey));
    assert_eq!(layer.verify_headers(&headers).await.unwrap().client_id(), CLIENT);
}

#[tokio::test]
async fn rules_of_several_pools_name_scopes_only_if_all_require_the_same() {
    let other_rules = || {
        let pool = tower_cognito::UserPool::new("us-east-1_Other").unwrap();
        Rules::new(pool, ClientIds::any())
    };
    let own_rules = || rules().with_required_scopes(["base/use"]);
    for (other_rules, expected) in [
        (other_rules().with_required_scopes(["base/use"]), Some("base/use")),
        (other_rules().with_required_scopes(["base/other"]), None),
        (other_rules(), None),
    ] {
        let verifier = Verifier::builder(own_rules())
            .add_pool(other_rules)
            .jwks_fetcher(Fault::Down)
            .connect_lazy()
            .unwrap();
        let seen = direct(RequireToken::new(verifier), None, get(&[])).await;
        assert_eq!(scopes_of(challenge_of(&seen)), expected);
    }
}

#[tokio::test]
async fn missing_scope_of_rules_names_every_scope_of_the_request() {
    let layer = RequireToken::new(verifier_of(rules().with_required_scopes(["base/use"])));
    let table = ScopeTable::new([("GET /activity", Access::scope("a/x"))]).unwrap();
    for (layer, granted, expected) in [
        (layer.clone(), "a/x", "base/use"),
        (layer.clone().scope_table(table.clone()), "a/x", "base/use a/x"),
        (layer.scope_table(table), "base/use", "base/use a/x"),
    ] {
        let mut connection = Connection::open(Transport::Direct, Some(layer), None).await;
        // In the second round, the token can be cached.
        for _ in 0..2 {
            let seen = connection.send(get(&bearer(&machine(granted).sign()))).await;
            let row = Row { scope: Some(expected), ..SCOPE };
            check_outcome(&seen, expected, &Fails(row));
            let rejection = seen.rejection.unwrap();
            let required = rejection.required_scopes().iter().map(|scope| scope.as_str());
            assert_eq!(required.collect::<Vec<_>>().join(" "), expected);
        }
    }
}

#[tokio::test]
async fn nested_layers_name_every_scope_in_one_challenge() {
    let layers = |inner: BoxCloneService<Request<Body>, Response<Body>, Infallible>| {
        let inner = boxed(RequireScope::new("mcp/admin").layer(inner));
        let inner = boxed(RequireScope::any_of(["mcp/read", "mcp/write"]).layer(inner));
        let inner = boxed(RequireScope::any_of_resource_server("mcp").layer(inner));
        let inner = boxed(RequireScope::new("mcp/call").layer(inner));
        let table = ScopeTable::new([("ANY /activity", Access::scope("mcp/use"))]).unwrap();
        let rules = rules().with_required_scopes(["base/use"]);
        boxed(RequireToken::new(verifier_of(rules)).scope_table(table).layer(inner))
    };
    let granted = machine("base/use mcp/use mcp/call mcp/write").sign();
    let expected = "mcp/admin base/use mcp/call mcp/use mcp/read";
    for transport in [Transport::Direct, Transport::Http1, Transport::Http2] {
        let app = layers(boxed(Unreachable));
        let mut connection = Connection::to(transport, app, Arc::default()).await;
        let seen = connection.send(get(&bearer(&granted))).await;
        assert_eq!(seen.status, 403);
        assert_eq!(scopes_of(challenge_of(&seen)), Some(expected));
        assert_eq!(seen.body, SCOPE.json);
        let rejection = seen.rejection.unwrap();
        let text = rejection.challenge().unwrap();
        assert_eq!(scopes_of(Some(text.to_str().unwrap())), Some(expected));
        let required = rejection.required_scopes().iter().map(|scope| scope.as_str());
        let required = required.collect::<Vec<_>>().join(" ");
        assert_eq!(required, "mcp/admin base/use mcp/read mcp/write mcp/call mcp/use");
        if !matches!(transport, Transport::Http1) {
            let seen = connection.send(post(&bearer(&granted), "application/grpc")).await;
            assert_eq!(seen.status, 200);
            assert_eq!(scopes_of(challenge_of(&seen)), Some(expected));
        }
    }
    // A rejection of an outer layer names only what is known there.
    let app = layers(boxed(Unreachable));
    let mut connection = Connection::to(Transport::Direct, app, Arc::default()).await;
    let seen = connection.send(get(&bearer(&machine("base/use mcp/use").sign()))).await;
    assert_eq!(scopes_of(challenge_of(&seen)), Some("mcp/call base/use mcp/use"));
    // A rejection without a challenge stays without one.
    let app = layers(boxed(RequireToken::new(without_keys()).layer(Unreachable)));
    let mut connection = Connection::to(Transport::Direct, app, Arc::default()).await;
    let granted = machine("base/use mcp/use mcp/call mcp/write mcp/admin").sign();
    let seen = connection.send(get(&bearer(&granted))).await;
    assert_eq!((seen.status.as_u16(), challenge_of(&seen)), (503, None));
    assert_eq!(seen.body, UNAVAILABLE.json);
}

#[test]
fn valid_request_allocates_nothing_more_in_nested_scope_layers() {
    let inner =
        service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty()))));
    let valid = bearer(&valid_token());
    let table = ScopeTable::new([("ANY /activity", Access::scope("activity/*"))]).unwrap();
    let rules = rules().with_required_scopes(["activity/*"]);
    let strict = RequireToken::new(verifier_of(rules)).scope_table(table);
    let scope = RequireScope::new("activity/*");
    let nested = scope.layer(scope.layer(inner));
    // Take the minimum of many runs: the first one caches the token.
    let least = |mut app: App| {
        let runs = (0..16).map(|_| {
            let request = get(&valid);
            let counted = measure(|| {
                let mut context = Context::from_waker(Waker::noop());
                assert!(app.call(request).as_mut().poll(&mut context).is_ready());
            });
            counted.count_total
        });
        runs.min().unwrap()
    };
    let without = least(BoxCloneService::new(
        RequireToken::new(verifier()).layer(inner).map_response(|response| response.map(Body::new)),
    ));
    // `Body::new` allocates once, whatever it wraps.
    let with_scopes = least(BoxCloneService::new(
        strict.layer(nested).map_response(|response| response.map(Body::new)),
    ));
    assert_eq!(with_scopes, without);
}

#[tokio::test]
async fn challenge_that_the_application_changed_is_left_as_it_is() {
    let inner = RequireScope::new("mcp/admin").layer(Unreachable);
    let changed = tower::util::MapResponse::new(inner, |mut response: Response<_>| {
        let own = HeaderValue::from_static("Bearer realm=\"own\"");
        response.headers_mut().insert("www-authenticate", own);
        response
    });
    let app = RequireToken::new(verifier()).layer(RequireScope::new("mcp/call").layer(changed));
    let mut connection = Connection::to(Transport::Direct, boxed(app), Arc::default()).await;
    let seen = connection.send(get(&bearer(&machine("mcp/call").sign()))).await;
    assert_eq!(challenge_of(&seen), Some(r#"Bearer realm="own""#));
    let challenge = seen.rejection.unwrap().challenge().unwrap();
    assert_eq!(scopes_of(Some(challenge.to_str().unwrap())), Some("mcp/admin mcp/call"));
}

#[test]
fn interceptor_names_every_scope_in_one_challenge() {
    let rules = rules().with_required_scopes(["base/use"]);
    let interceptor = TokenInterceptor::new(verifier_of(rules))
        .require_scope(RequireScope::new("a/b"))
        .require_scope(RequireScope::any_of(["c/d", "e/f"]));
    for token in ["bad".to_owned(), machine("").sign(), machine("base/use a/b").sign()] {
        let call = grpc_call(Some(&format!("Bearer {token}")));
        let status = interceptor.clone().call(call).unwrap_err();
        let challenge = status.metadata().get("www-authenticate").unwrap().to_str().unwrap();
        assert_eq!(scopes_of(Some(challenge)), Some("base/use a/b c/d"));
    }
}

#[test]
fn interceptor_requires_every_scope() {
    let interceptor = TokenInterceptor::new(verifier())
        .require_scope(RequireScope::new("a/b"))
        .require_scope(RequireScope::any_of(["c/d", "e/f"]));
    for (scopes, code) in [
        ("a/b e/f", None),
        ("a/b", Some(tonic::Code::PermissionDenied)),
        ("c/d e/f", Some(tonic::Code::PermissionDenied)),
    ] {
        let call = grpc_call(Some(&format!("Bearer {}", machine(scopes).sign())));
        let result = interceptor.clone().call(call);
        assert_eq!(result.err().map(|status| status.code()), code, "{scopes}");
    }
}

#[tokio::test]
async fn h091_debug_output_of_layers_and_rejections_does_not_contain_the_token() {
    let token = with_wrong_signature();
    let layer =
        RequireToken::new(verifier()).realm("orders").rejection_body(RejectionBody::problem);
    let scope = RequireScope::new("activity/*");
    let mut interceptor = TokenInterceptor::new(verifier()).require_scope(scope.clone());
    let mut app = layer.layer(scope.layer(RequireGroup::new("admins").layer(Unreachable)));
    let future = app.call(get(&bearer(&token)));
    let mut texts = format!("{layer:?} {interceptor:?} {app:?} {future:?}");
    for named in [
        "RequireTokenService",
        "RequireScopeService",
        "RequireGroupService",
        "ResponseFuture",
        "TokenInterceptor",
        "orders",
        "activity/*",
        "admins",
    ] {
        assert!(texts.contains(named), "{texts}");
    }
    let response = future.await.unwrap();
    let rejection = response.extensions().get::<Rejection>().unwrap();
    texts.push_str(&format!("{rejection:?} {rejection} {response:?}"));

    let status = interceptor.call(grpc_call(Some(&format!("Bearer {token}")))).unwrap_err();
    texts.push_str(&format!("{status:?} {status}"));
    assert!(texts.contains("ResponseBody") && texts.contains("BadSignature"), "{texts}");
    for part in token.split('.') {
        assert!(!texts.contains(part), "{texts}");
    }
}

#[tokio::test]
async fn h092_allow_anonymous_rejects_invalid_tokens() {
    let mut rejected = 0;
    for case in cases() {
        let Some(token) = case.guard.require_token() else {
            continue;
        };
        let scope = Some(case.guard.scope.clone());
        let layer = token.allow_anonymous();
        for (content_type, form) in
            [("text/plain", Form::Http), ("application/grpc", Form::Grpc("application/grpc"))]
        {
            let request = || post(&case.authorization, content_type);
            let seen = direct(layer.clone(), scope.clone(), request()).await;
            // A missing token is rejected by the scope layer, which knows its scope.
            let row = match case.row.kind {
                RejectionKind::MissingToken => naming_activity(MISSING),
                _ => case.row,
            };
            let case_with_scope = Case { row, ..case.clone() };
            check(&seen, &case_with_scope, Look::Plain, form, Transport::Direct);

            let seen = direct(layer.clone(), None, request()).await;
            match case.row.kind {
                RejectionKind::MissingToken => check_outcome(&seen, case.name, &Passes(None)),
                RejectionKind::InsufficientScope => {
                    check_outcome(&seen, case.name, &Passes(Some(CLIENT)));
                }
                _ => {
                    rejected += 1;
                    check(&seen, &case, Look::Plain, form, Transport::Direct);
                }
            }
        }
    }
    assert!(rejected > 30, "{rejected}");
}

#[tokio::test]
async fn connect_body_has_the_code_of_the_grpc_status() {
    let mut codes = std::collections::BTreeSet::new();
    for case in cases() {
        let Some(token) = case.guard.require_token() else {
            continue;
        };
        let layer = token.rejection_body(RejectionBody::connect);
        let scope = Some(case.guard.scope.clone());
        let seen = direct(layer, scope, post(&case.authorization, "application/json")).await;
        let code = match case.row.grpc_status {
            7 => "permission_denied",
            14 => "unavailable",
            16 => "unauthenticated",
            other => panic!("{}: {other}", case.name),
        };
        let [_, message] = case.row.error();
        let expected = format!(r#"{{"code":"{code}","message":"{message}"}}"#);
        assert_eq!(seen.body, expected, "{}", case.name);
        let content_type = ("content-type".to_owned(), "application/json".to_owned());
        assert!(seen.headers.contains(&content_type), "{}: {:?}", case.name, seen.headers);
        codes.insert(code);
    }
    assert_eq!(codes.len(), 3, "{codes:?}");
}
