//! Judges requests for a gateway that asks before it hands them on: nginx by `auth_request`, Caddy
//! by `forward_auth`. README.md beside this file shows both.
//!
//!     COGNITO_USER_POOL_ID=… COGNITO_CLIENT_IDS=… cargo run -p forward_auth
//!
//! `FORWARD_AUTH` (`host:port`) says where to listen; `Config` has the other settings.
//!
//! `/authorize` answers 204 when the request may pass, 401 or 403 when it may not, 503 while there
//! are no keys, and 500 when the gateway is not set up as it should be.

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
use tower_cognito::{Access, AccessToken, Config, RequireToken, ScopeTable, StartError};

/// What the gateway says of the request that it asks about. It overwrites what the client sent.
const METHOD: &str = "x-original-method";
const URI: &str = "x-original-uri";

/// Of the service behind the gateway; what is not named here is refused.
fn table() -> Result<ScopeTable, StartError> {
    ScopeTable::new([
        ("GET  /health", Access::public()),
        ("ANY  /public/{*rest}", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::scope("demo-dev/read")),
        ("GET  /item/{id}", Access::scope("demo-dev/read")),
    ])
}

/// The verdict on the request that this one asks about.
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
    // nginx knows 401 and 403, and takes all else but 2xx for a failure of this service.
    if response.status() == StatusCode::BAD_REQUEST {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

/// The same request, with the method and the URI of the one that the gateway asks about.
fn original(mut request: Request) -> Result<Request, StatusCode> {
    let method = said_once(request.headers(), METHOD)?;
    let uri = said_once(request.headers(), URI)?;
    // What can not be read is the client's doing, and no failure of this service.
    let method = Method::try_from(method).map_err(|_| StatusCode::FORBIDDEN)?;
    let read = Uri::try_from(uri).map_err(|_| StatusCode::FORBIDDEN)?;
    // The service behind gets all of it: also a fragment, which reading has cut off.
    if read.path_and_query().is_none_or(|read| read.as_str() != uri) {
        return Err(StatusCode::FORBIDDEN);
    }
    *request.method_mut() = method;
    *request.uri_mut() = read;
    Ok(request)
}

fn said_once<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, StatusCode> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| StatusCode::FORBIDDEN),
        (first, _) => {
            let problem = if first.is_some() { "there twice" } else { "missing" };
            tracing::error!("{name} is {problem}: the gateway has to set it, over the client's");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Says yes, and who calls. Where a row is public that is nobody, which empty headers say: the
/// gateway overwrites with them what the client says of itself.
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
            tracing::error!("a claim of a good token can not be said in {name}");
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
        return Err("COGNITO_REQUIRED_SCOPES: the table says which scopes are needed".into());
    }
    // Without keys, the public rows are served already, and all else is 503.
    let verifier = Config::from_env()?.verifier().start()?;
    let guarded = ServiceBuilder::new()
        // A gRPC client would be refused with 200, which the gateway takes for a yes.
        .layer(RequireToken::new(verifier).http_rejections_only().scope_table(table()?))
        .service_fn(admit);
    let app =
        Router::new().route("/authorize", any(move |request| authorize(guarded.clone(), request)));

    let address = env::var("FORWARD_AUTH").unwrap_or_else(|_| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("FORWARD_AUTH: can not listen on {address}: {error}"))?;
    // Before anybody is told that it runs.
    let stopped = stop_signal()?;
    println!("AUTHORIZE_URL=http://{}/authorize", listener.local_addr()?);
    let stopped = async {
        stopped.await;
        // A gateway that keeps its request open must not keep this service.
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            std::process::exit(0);
        });
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

/// Ctrl-C, or SIGTERM as container platforms send it; listened for from this call on.
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
