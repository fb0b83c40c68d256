//! Authorizes requests for a gateway that sends a subrequest for each of them: nginx, Caddy, Traefik,
//! HAProxy or ingress-nginx. README.md in this folder shows their configurations.
//!
//!     FORWARD_AUTH_GATEWAY=nginx COGNITO_USER_POOL_ID=… COGNITO_CLIENT_IDS=… cargo run -p forward_auth
//!
//! `FORWARD_AUTH_GATEWAY` names the gateway: `caddy`, `haproxy`, `ingress-nginx`, `nginx` or
//! `traefik`. `FORWARD_AUTH` (`host:port`) sets the address to listen on; `Config` documents the
//! other settings.
//!
//! `/authorize` answers 204 if the request is allowed, 401 or 403 if it is rejected, 503 while
//! there are no keys, and 500 if the gateway is misconfigured. `/livez` and `/readyz` are for probes.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::signal;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_cognito::{Access, AccessToken, Config, ConfigError, Health, RequireToken, ScopeTable};

use original::{Convention, LogLimit, Problem};

mod original;

/// Returns the scopes of the service behind the gateway. Requests that match no row are rejected.
fn table() -> Result<ScopeTable, ConfigError> {
    ScopeTable::new([
        ("GET  /health", Access::public()),
        ("ANY  /public/{*rest}", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::scope("demo-dev/read")),
        ("GET  /item/{id}", Access::scope("demo-dev/read")),
        ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
    ])
}

/// Responds with the verdict on the client's request.
async fn authorize<S, B>(
    convention: Convention,
    logged: &LogLimit<Problem>,
    guarded: S,
    request: Request,
) -> Response
where
    S: Service<Request, Response = axum::http::Response<B>, Error = Infallible>,
    axum::http::Response<B>: IntoResponse,
{
    let request = match convention.original(request) {
        Ok(request) => request,
        Err(problem) => {
            if logged.allows(problem, Instant::now()) {
                let status = problem.status();
                let what = convention.describe(problem);
                if status.is_server_error() {
                    tracing::error!("{what}");
                } else {
                    tracing::info!("{what}");
                }
            }
            return problem.status().into_response();
        }
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

static UNSENDABLE: LogLimit<&str> = LogLimit::new();

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
        let value = value.unwrap_or_default();
        // Gateways remove surrounding white space, which would change the name.
        let sent = HeaderValue::from_str(value).ok().filter(|_| value.trim() == value);
        let Some(value) = sent else {
            if UNSENDABLE.allows(name, Instant::now()) {
                tracing::error!("a claim of a valid token cannot be sent in {name}");
            }
            return Ok(StatusCode::FORBIDDEN.into_response());
        };
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Answers requests to any other path.
async fn misdirected() -> StatusCode {
    static LOGGED: LogLimit<()> = LogLimit::new();
    if LOGGED.allows((), Instant::now()) {
        tracing::error!("a path is not /authorize: Envoy and Istio need examples/ext_authz");
    }
    StatusCode::NOT_FOUND
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
    let convention: Convention = env::var("FORWARD_AUTH_GATEWAY")
        .unwrap_or_default()
        .parse()
        .map_err(|problem| format!("FORWARD_AUTH_GATEWAY: {problem}"))?;
    // Until there are keys, public rows are served and all other requests are answered with 503.
    let verifier = Config::from_env()?.verifier_builder().connect_lazy()?;
    let ready = verifier.clone();
    let guarded = ServiceBuilder::new()
        // A gRPC rejection has status 200, which the gateway would treat as success.
        .layer(RequireToken::new(verifier).http_rejections_only().scope_table(table()?))
        .service_fn(admit);
    let logged = Arc::new(LogLimit::new());
    let answer = move |request| {
        let (guarded, logged) = (guarded.clone(), Arc::clone(&logged));
        async move { authorize(convention, &logged, guarded, request).await }
    };
    let readiness = move || async move {
        match ready.health() {
            Health::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    };
    let app = Router::new()
        .route("/authorize", any(answer))
        .route("/livez", get(StatusCode::OK))
        .route("/readyz", get(readiness))
        .fallback(misdirected);

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
