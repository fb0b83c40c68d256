//! Verifies Amazon Cognito access tokens for Envoy, in front of services in any language: an
//! `envoy.service.auth.v3.Authorization` server, which Envoy's filter `ext_authz` asks.
//!
//! `AUTHORIZER` (`host:port`) says where to listen, `DRAIN_SECONDS` how long requests are judged
//! after SIGTERM; the user pool comes from the variables of `Config`. README.md has the rest.

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

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
use tokio::time::{interval, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_cognito::{
    Access, AccessToken, Config, Health, Rejection, RequireScope, RequireToken, Scope, ScopeTable,
    StartError, Verifier,
};

/// The scopes of the whole API. What is not named here is refused.
fn scopes() -> Result<ScopeTable, StartError> {
    ScopeTable::new([
        ("GET  /health", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::scope("demo-dev/read")),
        ("GET  /item/{id}", Access::scope("demo-dev/read")),
        ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
    ])
}

/// What a service behind Envoy is told about the token. Envoy takes all of them away from what a
/// client sends.
const IDENTITY: [&str; 3] = ["x-auth-subject", "x-auth-client-id", "x-auth-scope"];

struct Authorizer {
    by_table: RequireToken,
    by_route: RequireToken,
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    /// Always an answer: an error would count against this host, and a client shall cause none.
    async fn check(
        &self,
        check: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, Status> {
        Ok(tonic::Response::new(self.judge(check.into_inner()).await))
    }
}

impl Authorizer {
    fn new(verifier: Verifier) -> Result<Self, StartError> {
        let by_route = RequireToken::new(verifier);
        Ok(Self { by_table: by_route.clone().scope_table(scopes()?), by_route })
    }

    async fn judge(&self, check: CheckRequest) -> CheckResponse {
        let attributes = check.attributes.unwrap_or_default();
        let Some(http) = attributes.request.and_then(|request| request.http) else {
            return misconfigured("it sends no HTTP attributes");
        };
        if http.header_map.is_some() {
            return misconfigured("`encode_raw_headers` is on");
        }
        let Some(request) = read(&http) else {
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

/// The part of the request that tokens and scopes are about; `None` where it is not plain HTTP.
fn read(http: &HttpRequest) -> Option<Request<()>> {
    let mut request = Request::builder().method(&*http.method).uri(&*http.path);
    if let Some(value) = http.headers.get("content-type") {
        request = request.header(CONTENT_TYPE, value);
    }
    // Envoy joins the lines of a header with a comma, which no token has. Two lines are malformed.
    for line in http.headers.get("authorization").into_iter().flat_map(|value| value.split(',')) {
        request = request.header(AUTHORIZATION, line);
    }
    let request = request.body(()).ok()?;
    // A fragment or a host in the path would be cut off, and another path judged than is routed.
    let path = request.uri().path_and_query()?;
    (path.as_str() == http.path).then_some(request)
}

/// What Envoy's configuration asks for instead of the table. Clients have no influence on it.
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

/// Stands behind the layers: what comes here may pass.
async fn admit(request: Request<()>) -> Result<Response<String>, Infallible> {
    let token = request.extensions().get::<AccessToken>().cloned();
    let mut response = Response::new(String::new());
    response.extensions_mut().insert(Admitted(token));
    Ok(response)
}

/// The yes. A status is none: refusals of gRPC calls have 200.
#[derive(Clone)]
struct Admitted(Option<AccessToken>);

async fn answer<S, B>(guarded: S, request: Request<()>) -> CheckResponse
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let Ok(response) = guarded.oneshot(request).await;
    let (parts, body) = response.into_parts();
    if let Some(Admitted(token)) = parts.extensions.get() {
        return allowed(token.as_ref());
    }
    let Ok(body) = body.collect().await;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    // Of a gRPC call too, as the status of a refusal has to be one for Envoy.
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
            // Sent on, it would be another name than the token has.
            tracing::error!(name, "a claim can not stand in a header");
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

/// Envoy is set up in a way that leaves open what may pass, so nothing does.
fn misconfigured(problem: &str) -> CheckResponse {
    tracing::error!(problem, "Envoy is not set up as this needs it");
    denied(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), String::new())
}

fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        // Never beside what the client sent under this name.
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn response(code: Code, http: HttpResponse) -> CheckResponse {
    let status = rpc::Status { code: code.into(), ..rpc::Status::default() };
    CheckResponse { status: Some(status), http_response: Some(http), ..CheckResponse::default() }
}

#[tokio::main]
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
        return Err("COGNITO_REQUIRED_SCOPES: scopes stand in the table, or in a route".into());
    }
    let drain = drain()?;
    let listener = listen("AUTHORIZER", "127.0.0.1:50051").await?;
    let verifier = config.verifier_builder().connect().await?;
    let authorizer = Authorizer::new(verifier.clone())?;
    let (reporter, health) = tonic_health::server::health_reporter();

    // Before anybody is told that it runs.
    let stop = stop_signal()?;
    println!("AUTHORIZER={}", listener.local_addr()?);
    let drained = async move {
        report_health(&reporter, &verifier, stop).await;
        // Envoy's health checks see it meanwhile, and send no more.
        sleep(drain).await;
        // Whoever keeps a call open, such as a watch of the health, must not keep the process.
        tokio::spawn(async {
            sleep(Duration::from_secs(5)).await;
            std::process::exit(0);
        });
    };
    Server::builder()
        .add_service(health)
        .add_service(AuthorizationServer::new(authorizer))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), drained)
        .await?;
    Ok(())
}

/// Says whether requests should be sent here, until the end is near.
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

/// Twice as long as Envoy's health checks are apart, so that one is sure to come.
fn drain() -> Result<Duration, String> {
    let seconds = env::var("DRAIN_SECONDS").unwrap_or_else(|_| "4".to_owned());
    match seconds.parse() {
        Ok(seconds @ 0..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err("DRAIN_SECONDS: not a number from 0 to 300".to_owned()),
    }
}

async fn listen(variable: &str, default: &str) -> Result<TcpListener, String> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    TcpListener::bind(&address)
        .await
        .map_err(|error| format!("{variable}: can not listen on {address}: {error}"))
}

/// Ctrl-C, or SIGTERM as container platforms send it; listened for from this call on.
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
