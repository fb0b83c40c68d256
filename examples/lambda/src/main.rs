//! The API of the quickstart as an AWS Lambda function: behind API Gateway, a function URL or an
//! Application Load Balancer.
//!
//! `COGNITO_USER_POOL_ID` and `COGNITO_CLIENT_IDS` set the user pool and its clients; `Config`
//! documents the other settings. The README explains the settings of the function.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

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
    let keys = Keys { verifier: verifier.clone(), tried: Arc::default() };
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

#[derive(Clone)]
struct Keys {
    verifier: Verifier,
    tried: Arc<Mutex<Option<SystemTime>>>,
}

impl Keys {
    /// Returns `true` if this request should wait for a refresh. While the issuer is down, one
    /// request in 10 seconds waits, or one in a second if there are no keys. Uses the wall clock,
    /// because the monotonic clock can stop while the process is frozen.
    fn are_due(&self) -> bool {
        let pause = match self.verifier.health() {
            Health::Ready => return false,
            Health::NotReady => Duration::from_secs(1),
            _ => Duration::from_secs(10),
        };
        let now = SystemTime::now();
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = tried
            .and_then(|tried| now.duration_since(tried).ok())
            .is_some_and(|passed| passed < pause);
        if !is_early {
            *tried = Some(now);
        }
        !is_early
    }
}

/// Waits for a refresh if the keys are overdue.
///
/// Lambda freezes the process after each response, including the task that refreshes the keys. A
/// refresh in the background would be frozen as well, and a removed key would stay trusted.
async fn refresh_if_due(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    if keys.are_due() {
        // The task logs errors, and the verifier rejects tokens if its keys are too old.
        let _ = timeout(LATE_KEYS, keys.verifier.refresh()).await;
    }
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
