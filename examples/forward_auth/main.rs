//! Authorizes requests for a gateway that sends a subrequest for each of them: nginx with
//! `auth_request`, Caddy with `forward_auth`. README.md in this folder shows both.
//!
//!     COGNITO_USER_POOL_ID=… COGNITO_CLIENT_IDS=… cargo run -p forward_auth
//!
//! `FORWARD_AUTH` (`host:port`) sets the address to listen on; `Config` documents the other
//! settings.
//!
//! `/authorize` answers 204 if the request is allowed, 401 or 403 if it is rejected, 503 while
//! there are no keys, and 500 if the gateway is misconfigured.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::net::TcpListener;
use tokio::signal;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_cognito::{Access, AccessToken, Config, ConfigError, RequireToken, ScopeTable};

/// The headers in which the gateway sends the method and the URI of the client's request. It
/// overwrites any headers of these names that the client sent.
const METHOD: &str = "x-original-method";
const URI: &str = "x-original-uri";

/// Returns the scopes of the service behind the gateway. Requests that match no row are rejected.
fn table() -> Result<ScopeTable, ConfigError> {
    ScopeTable::new([
        ("GET  /health", Access::public()),
        ("ANY  /public/{*rest}", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::scope("demo-dev/read")),
        ("GET  /item/{id}", Access::scope("demo-dev/read")),
    ])
}

/// Responds with the verdict on the client's request.
async fn authorize<S, B>(guarded: S, request: Request) -> Response
where
    S: Service<Request, Response = axum::http::Response<B>, Error = Infallible>,
    axum::http::Response<B>: IntoResponse,
{
    let request = match original(request) {
        Ok(request) => request,
        Err(status) => return status.into_response(),
    };
    let mut response = match guarded.oneshot(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    };
    // nginx accepts 2xx, 401 and 403, and treats every other status as a failure of this service.
    if response.status() == StatusCode::BAD_REQUEST {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

/// Returns the subrequest with the method and the URI of the client's request.
fn original(mut request: Request) -> Result<Request, StatusCode> {
    let method = single_value(request.headers(), METHOD)?;
    let uri = single_value(request.headers(), URI)?;
    // The client chose an invalid method or URI, so this is not a failure of this service.
    let method = Method::try_from(method).map_err(|_| StatusCode::FORBIDDEN)?;
    let parsed = Uri::try_from(uri).map_err(|_| StatusCode::FORBIDDEN)?;
    // The service receives the whole URI, including a fragment, which the parser has removed.
    if parsed.path_and_query().is_none_or(|parsed| parsed.as_str() != uri) {
        return Err(StatusCode::FORBIDDEN);
    }
    *request.method_mut() = method;
    *request.uri_mut() = parsed;
    Ok(request)
}

fn single_value<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, StatusCode> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| StatusCode::FORBIDDEN),
        (first, _) => {
            let problem = if first.is_some() { "repeated" } else { "missing" };
            tracing::error!("{name} is {problem}: the gateway must set it once");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Allows the request and names the caller in headers. On a public row without a token, the headers
/// are empty, so that the gateway overwrites any that the client sent.
async fn admit(request: Request) -> Result<Response, Infallible> {
    let token = request.extensions().get::<AccessToken>();
    let scopes = token.map(|token| token.scopes().iter().collect::<Vec<_>>().join(" "));
    let identity = [
        ("x-auth-subject", token.map(AccessToken::subject)),
        ("x-auth-client-id", token.map(AccessToken::client_id)),
        ("x-auth-scope", scopes.as_deref()),
    ];
    let mut response = StatusCode::NO_CONTENT.into_response();
    for (name, value) in identity {
        let Ok(value) = HeaderValue::from_str(value.unwrap_or_default()) else {
            tracing::error!("a claim of a valid token cannot be sent in {name}");
            return Ok(StatusCode::FORBIDDEN.into_response());
        };
        response.headers_mut().insert(name, value);
    }
    Ok(response)
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
    if env::var_os("COGNITO_REQUIRED_SCOPES").is_some() {
        return Err("COGNITO_REQUIRED_SCOPES: the table sets the required scopes".into());
    }
    // Until there are keys, public rows are served and all other requests are answered with 503.
    let verifier = Config::from_env()?.verifier_builder().connect_lazy()?;
    let guarded = ServiceBuilder::new()
        // A gRPC rejection has status 200, which the gateway would treat as success.
        .layer(RequireToken::new(verifier).http_rejections_only().scope_table(table()?))
        .service_fn(admit);
    let app =
        Router::new().route("/authorize", any(move |request| authorize(guarded.clone(), request)));

    let address = env::var("FORWARD_AUTH").unwrap_or_else(|_| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("FORWARD_AUTH: cannot listen on {address}: {error}"))?;
    // Install the handler before the output says that the service runs.
    let stopped = stop_signal()?;
    println!("AUTHORIZE_URL=http://{}/authorize", listener.local_addr()?);
    let stopped = async {
        stopped.await;
        // Exit after 5 seconds even if a gateway keeps its request open.
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            std::process::exit(0);
        });
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

/// Waits for Ctrl-C or for SIGTERM, which container platforms send. Signals count from this call
/// on.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use signal::unix::{SignalKind, signal};

    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async { _ = signal::ctrl_c().await })
}
