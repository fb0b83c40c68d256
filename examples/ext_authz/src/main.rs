//! Verifies Amazon Cognito access tokens for Envoy in front of services in any language. It is an
//! `envoy.service.auth.v3.Authorization` server, which Envoy's filter `ext_authz` calls. The filter's
//! `http_service` can call it, too.
//!
//! `AUTHORIZER` (`host:port`) sets the address to listen on, `AUTHORIZER_HTTP` another one for
//! `http_service`, and `DRAIN_SECONDS` how long requests are still checked after SIGTERM. The user pool
//! is set by the variables of `Config`. See README.md.

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, DeniedHttpResponse,
    HeaderAppendAction, HeaderValue, HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::rpc;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{interval, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_cognito::{
    Access, AccessToken, Config, ConfigError, Health, Rejection, RequireScope, RequireToken, Scope,
    ScopeTable, Verifier,
};

mod over_http;

/// Returns the scopes of the whole API. Requests that match no row are rejected.
fn scopes() -> Result<ScopeTable, ConfigError> {
    ScopeTable::new([
        ("GET  /health", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::scope("demo-dev/read")),
        ("GET  /item/{id}", Access::scope("demo-dev/read")),
        ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
    ])
}

/// The headers that describe the token to the services behind Envoy. Envoy removes them from the
/// client's request.
const IDENTITY: [&str; 3] = ["x-auth-subject", "x-auth-client-id", "x-auth-scope"];

struct Authorizer {
    by_table: RequireToken,
    by_route: RequireToken,
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    /// Never returns an error: Envoy would count it against this host, and a client could cause it.
    async fn check(
        &self,
        check: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, Status> {
        Ok(tonic::Response::new(self.respond(check.into_inner()).await))
    }
}

impl Authorizer {
    fn new(verifier: Verifier) -> Result<Self, ConfigError> {
        let by_route = RequireToken::new(verifier);
        Ok(Self { by_table: by_route.clone().scope_table(scopes()?), by_route })
    }

    async fn respond(&self, check: CheckRequest) -> CheckResponse {
        let attributes = check.attributes.unwrap_or_default();
        let Some(http) = attributes.request.and_then(|request| request.http) else {
            return misconfigured("Envoy sends no HTTP attributes");
        };
        if http.header_map.is_some() {
            return misconfigured("`encode_raw_headers` is on");
        }
        let Some(request) = parse(&http) else {
            return denied(StatusCode::BAD_REQUEST, &HeaderMap::new(), String::new());
        };
        let admit = service_fn(admit);
        match scope_of_route(&attributes.context_extensions) {
            Ok(None) => answer(self.by_table.layer(admit), request).await,
            Ok(Some(scope)) => answer(self.by_route.layer(scope.layer(admit)), request).await,
            Err(problem) => misconfigured(problem),
        }
    }
}

/// Returns the parts of the request that are needed to authorize it, or `None` if it is invalid.
fn parse(http: &HttpRequest) -> Option<Request<String>> {
    let mut request = Request::builder().method(&*http.method).uri(&*http.path);
    if let Some(value) = http.headers.get("content-type") {
        request = request.header(CONTENT_TYPE, value);
    }
    // Envoy joins repeated headers with a comma, which no token contains. The layer rejects them.
    for line in http.headers.get("authorization").into_iter().flat_map(|value| value.split(',')) {
        request = request.header(AUTHORIZATION, line);
    }
    let request = request.body(String::new()).ok()?;
    // Parsing removes a fragment or a host, and then the checked path would differ from the routed
    // one.
    let path = request.uri().path_and_query()?;
    (path.as_str() == http.path).then_some(request)
}

/// Returns the scope that Envoy's configuration sets for a route. It replaces the table, and
/// clients cannot influence it.
fn scope_of_route(
    extensions: &HashMap<String, String>,
) -> Result<Option<RequireScope>, &'static str> {
    if extensions.keys().any(|name| name != "scope") {
        return Err("`context_extensions` has another key than `scope`");
    }
    let Some(scope) = extensions.get("scope") else {
        return Ok(None);
    };
    match scope.parse::<Scope>() {
        Ok(scope) => Ok(Some(RequireScope::new(scope.as_str()))),
        Err(_) => Err("`scope` in `context_extensions` is not one scope"),
    }
}

/// The service behind the layers. Every request that reaches it is allowed.
async fn admit(request: Request<String>) -> Result<Response<String>, Infallible> {
    let token = request.extensions().get::<AccessToken>().cloned();
    let mut response = Response::new(String::new());
    response.extensions_mut().insert(Admitted(token));
    Ok(response)
}

/// Marks the response to an allowed request. The status cannot: rejected gRPC calls also have 200.
#[derive(Clone)]
struct Admitted(Option<AccessToken>);

async fn answer<S, B>(guarded: S, request: Request<String>) -> CheckResponse
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let Ok(response) = guarded.oneshot(request).await;
    let (parts, body) = response.into_parts();
    if let Some(Admitted(token)) = parts.extensions.get() {
        return allowed(token.as_ref());
    }
    let Ok(body) = body.collect().await;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    // Envoy needs the HTTP status of the rejection for gRPC calls, too.
    let status = parts.extensions.get().map_or(StatusCode::FORBIDDEN, Rejection::status);
    denied(status, &parts.headers, body)
}

fn allowed(token: Option<&AccessToken>) -> CheckResponse {
    let identity = token.map(|token| {
        let scopes = token.scopes().iter().collect::<Vec<_>>().join(" ");
        [token.subject().to_owned(), token.client_id().to_owned(), scopes]
    });
    let mut ok = OkHttpResponse::default();
    for (name, value) in IDENTITY.into_iter().zip(identity.unwrap_or_default()) {
        if value.is_empty() {
            ok.headers_to_remove.push(name.to_owned());
        } else if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value {
            ok.headers.push(header(name, &value));
        } else {
            // The header would name another subject, client or scope than the token does.
            tracing::error!(name, "a claim of a valid token cannot be sent in a header");
            return denied(StatusCode::FORBIDDEN, &HeaderMap::new(), String::new());
        }
    }
    response(Code::Ok, HttpResponse::OkResponse(ok))
}

fn denied(status: StatusCode, headers: &HeaderMap, body: String) -> CheckResponse {
    let headers = headers
        .iter()
        .filter(|(name, _)| *name != CONTENT_LENGTH)
        .filter_map(|(name, value)| Some(header(name.as_str(), value.to_str().ok()?)))
        .collect();
    let status = Some(HttpStatus { code: status.as_u16().into() });
    let denied = DeniedHttpResponse { status, headers, body };
    response(Code::PermissionDenied, HttpResponse::DeniedResponse(denied))
}

/// Rejects the request, because Envoy's configuration does not define which requests are allowed.
fn misconfigured(problem: &str) -> CheckResponse {
    tracing::error!(problem, "Envoy is misconfigured");
    denied(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), String::new())
}

fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        // Never next to a header of this name that the client sent.
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn response(code: Code, http: HttpResponse) -> CheckResponse {
    let status = rpc::Status { code: code.into(), ..rpc::Status::default() };
    CheckResponse { status: Some(status), http_response: Some(http), ..CheckResponse::default() }
}

// One thread costs less processor time per request than several. Start one authorizer for each core.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let config = Config::from_env()?;
    if env::var_os("COGNITO_REQUIRED_SCOPES").is_some() {
        return Err("COGNITO_REQUIRED_SCOPES: the table or a route sets the required scopes".into());
    }
    let drain = drain()?;
    let listener = listen("AUTHORIZER", "127.0.0.1:50051").await?;
    let http_listener = match env::var_os("AUTHORIZER_HTTP") {
        Some(_) => Some(listen("AUTHORIZER_HTTP", "").await?),
        None => None,
    };
    let verifier = config.verifier_builder().connect().await?;
    let authorizer = Arc::new(Authorizer::new(verifier.clone())?);
    let (drains, mut is_draining) = watch::channel(false);
    let (reporter, health) = tonic_health::server::health_reporter();

    // Install the handler before the output says that the service runs.
    let stop = stop_signal()?;
    println!("AUTHORIZER={}", listener.local_addr()?);
    let mut http_server = None;
    if let Some(listener) = http_listener {
        println!("AUTHORIZER_HTTP={}", listener.local_addr()?);
        let app = over_http::app(Arc::clone(&authorizer), verifier.clone(), is_draining.clone());
        let drained = async move {
            _ = is_draining.wait_for(|is_draining| *is_draining).await;
            sleep(drain).await;
        };
        let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));
        let server = axum::serve(listener, app).with_graceful_shutdown(drained);
        http_server = Some(tokio::spawn(server.into_future()));
    }
    let drained = async move {
        report_health(&reporter, &verifier, stop).await;
        _ = drains.send(true);
        // During this time Envoy's health checks notice it and stop sending requests.
        sleep(drain).await;
        // Exit after 5 seconds even if a call stays open, such as a health watch.
        tokio::spawn(async {
            sleep(Duration::from_secs(5)).await;
            std::process::exit(0);
        });
    };
    Server::builder()
        .add_service(health)
        .add_service(AuthorizationServer::from_arc(authorizer))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), drained)
        .await?;
    if let Some(server) = http_server {
        server.await??;
    }
    Ok(())
}

/// Reports the health until the process is told to stop, and then reports "not serving".
async fn report_health(
    reporter: &HealthReporter,
    verifier: &Verifier,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut every_second = interval(Duration::from_secs(1));
    loop {
        let status = match verifier.health() {
            Health::NotReady => ServingStatus::NotServing,
            _ => ServingStatus::Serving,
        };
        reporter.set_service_status("", status).await;
        tokio::select! {
            () = &mut stop => break,
            _ = every_second.tick() => {}
        }
    }
    reporter.set_service_status("", ServingStatus::NotServing).await;
}

/// Returns how long to keep serving after SIGTERM. The default is twice the interval of Envoy's
/// health checks, so that at least one of them notices.
fn drain() -> Result<Duration, String> {
    let seconds = env::var("DRAIN_SECONDS").unwrap_or_else(|_| "4".to_owned());
    match seconds.parse() {
        Ok(seconds @ 0..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err("DRAIN_SECONDS: not a whole number from 0 to 300".to_owned()),
    }
}

async fn listen(variable: &str, default: &str) -> Result<TcpListener, String> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    TcpListener::bind(&address)
        .await
        .map_err(|error| format!("{variable}: cannot listen on {address}: {error}"))
}

/// Waits for Ctrl-C or for SIGTERM, which container platforms send. Signals count from this call
/// on.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}
