//! Helpers of the test modules: one issuer, because RSA keys take time to generate, and its rules.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, Once};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tower::{Layer, Service};
use tower_cognito::layer::{RequireTokenService, ResponseBody};
use tower_cognito::test_issuer::{Fault, TokenBuilder};
use tower_cognito::{
    AccessToken, ClientIds, Rejection, RejectionKind, RequireToken, Rules, TestIssuer,
    TokenInterceptor, Verifier, VerifyErrorKind,
};

/// The body of a request that has none.
pub(crate) type EmptyBody = Empty<Bytes>;

pub(crate) const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// Returns the shared issuer. No test may rotate its keys.
pub(crate) fn issuer() -> &'static TestIssuer {
    static ISSUER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);
    &ISSUER
}

pub(crate) fn rules() -> Rules {
    Rules::new(issuer().user_pool(), ClientIds::only([CLIENT]))
}

/// The same rules, whose pool has the keys of [`issuer`] from a fetch at this time.
pub(crate) fn initially(rules: Rules, fetched_at: SystemTime) -> Rules {
    let pool = rules.pool().clone().with_initial_jwks(issuer().jwks(), fetched_at);
    Rules::new(pool, ClientIds::only([CLIENT]))
}

/// Returns a verifier with the keys of [`issuer`], which needs no network.
pub(crate) fn verifier() -> Verifier {
    verifier_of(rules())
}

pub(crate) fn verifier_of(rules: Rules) -> Verifier {
    Verifier::builder(rules).build_with_jwks(issuer().jwks()).unwrap()
}

/// The time of the tests that choose one.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// Returns a verifier that has no keys, because its issuer is down.
pub(crate) fn without_keys() -> Verifier {
    Verifier::builder(rules()).jwks_fetcher(Fault::Down).connect_lazy().unwrap()
}

/// Returns the builder of a valid token with these scopes.
pub(crate) fn machine(scope: &str) -> TokenBuilder {
    issuer().machine_token(CLIENT).scope(scope)
}

/// Returns a request with this `Authorization` header.
pub(crate) fn request(authorization: Option<&str>) -> Request<EmptyBody> {
    let mut request = Request::new(EmptyBody::new());
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
    }
    request
}

/// Returns a gRPC call with this `authorization` metadata.
pub(crate) fn grpc_call(authorization: Option<&str>) -> tonic::Request<()> {
    let headers = request(authorization).headers().clone();
    tonic::Request::from_parts(MetadataMap::from_headers(headers), Default::default(), ())
}

/// Responds with 200.
#[derive(Clone, Debug)]
pub(crate) struct Plain;

impl<B> Service<Request<B>> for Plain {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// The layer and the interceptor of one verifier.
pub(crate) struct Doors {
    layer: RequireTokenService<Inside>,
    interceptor: TokenInterceptor,
}

impl Doors {
    pub(crate) fn new(verifier: Verifier) -> Self {
        let interceptor = TokenInterceptor::new(verifier.clone());
        Self { layer: RequireToken::new(verifier).layer(Inside), interceptor }
    }

    /// Checks that both accept the token, and that the service inside finds it.
    #[track_caller]
    pub(crate) fn accept(&self, name: &str, token: &str) {
        let Some(value) = bearer_value(token) else { panic!("{name}: not a valid header value") };
        let (response, calls) = self.send(&value);
        assert_eq!(response.status(), 200, "{name}");
        assert_eq!(calls, [true], "{name}");
        let passed = self.intercept(&value).unwrap_or_else(|status| panic!("{name}: {status:?}"));
        assert!(passed.extensions().get::<AccessToken>().is_some(), "{name}");
    }

    /// Checks that both reject the token for this reason, and that the service inside is not
    /// called. A text that is not a valid header value, or that changes in a header, is skipped. An
    /// empty text, and one that is not ASCII or has a tab, is rejected as a malformed header.
    #[track_caller]
    pub(crate) fn reject(&self, name: &str, token: &str, reason: VerifyErrorKind) {
        let Some(value) = bearer_value(token).filter(|_| !token.starts_with(' ')) else {
            return;
        };
        let is_text = !token.is_empty() && token.is_ascii() && !token.contains('\t');
        let (status, kind, reason) = match reason {
            _ if !is_text => (400, RejectionKind::InvalidRequest, None),
            VerifyErrorKind::Expired => (401, RejectionKind::ExpiredToken, Some(reason)),
            _ => (401, RejectionKind::InvalidToken, Some(reason)),
        };
        let (response, calls) = self.send(&value);
        assert_eq!(response.status(), status, "{name}");
        let error = if is_text { r#"error="invalid_token""# } else { r#"error="invalid_request""# };
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.contains(error), "{name}: {challenge}");
        assert!(calls.is_empty(), "{name}: the service was called");
        assert!(response.extensions().get::<AccessToken>().is_none(), "{name}");
        let said = |rejection: Option<&Rejection>| {
            let rejection = rejection.unwrap();
            (rejection.kind(), rejection.verify_error().map(|error| error.kind()))
        };
        assert_eq!(said(response.extensions().get()), (kind, reason), "{name}");

        let Err(status) = self.intercept(&value) else {
            panic!("{name}: the interceptor accepts it")
        };
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{name}");
        let source = std::error::Error::source(&status).unwrap();
        assert_eq!(said(source.downcast_ref()), (kind, reason), "{name}");
    }

    /// Sends one request. Returns the response, and for each call of the service inside whether it
    /// found a token. With fixed keys, the future never waits.
    fn send(&self, value: &HeaderValue) -> (Response<ResponseBody<Empty<Bytes>>>, Vec<bool>) {
        let mut layer = self.layer.clone();
        let calls = Arc::new(Calls::default());
        let mut request = Request::new(EmptyBody::new());
        request.extensions_mut().insert(Arc::clone(&calls));
        request.headers_mut().insert(AUTHORIZATION, value.clone());
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(response) = pin!(layer.call(request)).poll(&mut context) else {
            panic!("the layer waits");
        };
        (response.unwrap(), calls.lock().unwrap().clone())
    }

    fn intercept(&self, value: &HeaderValue) -> Result<tonic::Request<()>, tonic::Status> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
        let metadata = MetadataMap::from_headers(headers);
        let request = tonic::Request::from_parts(metadata, Default::default(), ());
        self.interceptor.clone().call(request)
    }
}

/// Returns the value of the `Authorization` header, or `None` if no header can contain it.
pub(crate) fn bearer_value(token: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(format!("Bearer {token}").as_bytes()).ok()
}

/// For each call, whether a token was found.
type Calls = Mutex<Vec<bool>>;

/// Records its calls in the extensions of the request.
#[derive(Clone)]
struct Inside;

impl Service<Request<EmptyBody>> for Inside {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<EmptyBody>) -> Self::Future {
        let has_token = request.extensions().get::<AccessToken>().is_some();
        request.extensions().get::<Arc<Calls>>().unwrap().lock().unwrap().push(has_token);
        ready(Ok(Response::new(Empty::new())))
    }
}

/// Returns whether jsonwebtoken can verify tokens for comparison. With every feature it has two
/// providers and panics. Do not choose one here: that would hide the need for one in this crate.
pub(crate) fn has_second_opinion() -> bool {
    !cfg!(feature = "everything")
}

/// Serves the router on a free port of the loopback interface.
pub(crate) async fn serve(app: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// Sends one request on a new connection.
pub(crate) async fn http_1(
    address: SocketAddr,
    request: http::request::Builder,
    body: &str,
) -> Response<Bytes> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let body = Full::<Bytes>::from(body.to_owned());
    let request = request.header("host", "localhost").body(body).unwrap();
    let (parts, body) = client.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The events of the thread that refreshes the keys of all tests that run in real time.
static REFRESHES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Captures the log of the thread that created it, at every level. One subscriber serves the whole
/// process, because `tracing` caches for the process whether a callsite is enabled.
pub(crate) struct Log {
    /// The URL whose refreshes are also captured, and the number of earlier events.
    refreshes: Option<(String, usize)>,
}

impl Log {
    pub(crate) fn of_this_thread() -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| ThreadLog)
                .init();
        });
        LOG.take();
        Self { refreshes: None }
    }

    /// Captures also the events of the background thread for the keys at this URL, which no other
    /// test uses.
    pub(crate) fn of_this_thread_and_keys_at(url: &str) -> Self {
        Self::of_this_thread();
        Self { refreshes: Some((url.to_owned(), REFRESHES.lock().unwrap().len())) }
    }

    pub(crate) fn take(&self) -> String {
        let mut log = String::from_utf8(LOG.take()).unwrap();
        if let Some((url, before)) = &self.refreshes {
            let events = REFRESHES.lock().unwrap();
            let field = format!("jwks_url={url}");
            let is_theirs = |event: &&String| event.split_whitespace().any(|word| word == field);
            log.extend(events[*before..].iter().filter(is_theirs).cloned());
        }
        log
    }
}

struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if std::thread::current().name() == Some("tower-cognito") {
            // Each event is written by one call, so this is one whole event.
            REFRESHES.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
        } else {
            LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
