//! The API of the quickstart as an AWS Lambda function: behind API Gateway, a function URL or an
//! Application Load Balancer.
//!
//! `COGNITO_USER_POOL_ID` and `COGNITO_CLIENT_IDS` set the user pool and its clients; `Config`
//! documents the other settings. The README explains the settings of the function.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tower_cognito::{AccessToken, Config, Health, RequireScope, RequireToken, Verifier};

/// How long to wait for the first keys. Lambda ends an init phase after 10 seconds.
const FIRST_KEYS: Duration = Duration::from_secs(6);
/// How long a request waits for a refresh. The default timeout of a function is 3 seconds.
const LATE_KEYS: Duration = Duration::from_secs(1);

fn app(verifier: Verifier) -> Router {
    let keys = verifier.clone();
    Router::new()
        .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
        .route("/item", get(items).layer(RequireScope::new("demo-dev/read")))
        .layer(RequireToken::new(verifier).http_rejections_only()) // Lambda has no gRPC
        .layer(from_fn_with_state(keys, refresh_if_due))
}

/// Accepts only text. Other bodies are returned in base64, which a REST API does not decode.
async fn receive(token: AccessToken, event: String) -> impl IntoResponse {
    tracing::info!(client = token.client_id(), bytes = event.len(), "event received");
    ([(CONTENT_TYPE, "application/json")], event)
}

async fn items() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"[{"test": "hoge"}]"#)
}

/// Waits for a refresh if the keys are overdue.
///
/// Lambda freezes the process after each response, including the task that refreshes the keys. A
/// refresh in the background would be frozen as well, and a removed key would stay trusted. While the
/// issuer is down, one request in 10 seconds waits, or one in a second if there are no keys.
async fn refresh_if_due(
    State(verifier): State<Verifier>,
    request: Request,
    next: Next,
) -> Response {
    let min_age = match verifier.health() {
        Health::Ready => return next.run(request).await,
        Health::NotReady => Duration::from_secs(1),
        _ => Duration::from_secs(10),
    };
    // The task logs errors, and the verifier rejects tokens if its keys are too old.
    let _ = timeout(LATE_KEYS, verifier.refresh_if_older_than(min_age)).await;
    next.run(request).await
}

// Lambda sends one request at a time, so one thread is enough.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda_http::tracing::init_default_subscriber();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the function failed");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), lambda_http::Error> {
    let mut terminated = signal(SignalKind::terminate())?;
    let config = Config::from_env()?;
    let verifier = config.verifier_builder().connect_lazy()?;
    // Without keys, requests are answered with 503 and Retry-After, and each of them tries to fetch
    // again. A failed init phase would be a gateway error and would run again for each request.
    if let Err(error) = verifier.ready(FIRST_KEYS).await {
        tracing::error!(%error, "no keys yet");
    }
    let app = app(verifier);
    tokio::select! {
        ended = lambda_http::run(app) => ended,
        _ = terminated.recv() => Ok(()),
    }
}
