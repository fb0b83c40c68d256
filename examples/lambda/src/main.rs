//! The API of the quickstart as an AWS Lambda function: behind API Gateway, a function URL or an
//! Application Load Balancer.
//!
//! `COGNITO_USER_POOL_ID` and `COGNITO_CLIENT_IDS` name the user pool and its clients; `Config` has
//! the other settings. The README beside this says what to set on the function, and why.

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

/// How long the first keys may take. Lambda ends an init phase after 10 seconds.
const FIRST_KEYS: Duration = Duration::from_secs(6);
/// How long a request may wait for a refresh. A function has 3 seconds unless it is given more.
const LATE_KEYS: Duration = Duration::from_secs(1);

fn app(verifier: Verifier) -> Router {
    let keys = Keys { verifier: verifier.clone(), tried: Arc::default() };
    Router::new()
        .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
        .route("/item", get(items).layer(RequireScope::new("demo-dev/read")))
        .layer(RequireToken::new(verifier).http_rejections_only()) // there is no gRPC on Lambda
        .layer(from_fn_with_state(keys, refresh_if_due))
}

/// A text, since what is not text is sent in base64, and a REST API hands that on as it is.
async fn receive(token: AccessToken, event: String) -> impl IntoResponse {
    tracing::info!(client = token.client_id(), bytes = event.len(), "an event");
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
    /// Whether to wait for a refresh now. While the issuer is down it is tried once in a while, and
    /// not for each request. By the time of day, as the other clock may have been frozen as well.
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

/// Lambda freezes the process as soon as it has answered, and the task that refreshes the keys with
/// it. So a request that finds them overdue waits for the refresh: one that it merely woke would be
/// frozen with its answer, and a key that was withdrawn would be trusted on.
async fn refresh_if_due(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    if keys.are_due() {
        // What went wrong is logged by the task; the verifier knows for how long keys are good.
        let _ = timeout(LATE_KEYS, keys.verifier.refresh()).await;
    }
    next.run(request).await
}

// One request at a time: more threads would have nothing to do.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lambda_http::tracing::init_default_subscriber();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the function ends");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), lambda_http::Error> {
    let mut terminated = signal(SignalKind::terminate())?;
    let config = Config::from_env()?;
    let verifier = config.verifier_builder().connect_lazy()?;
    // Without keys requests get 503 with Retry-After, and each tries again. An init phase that failed
    // for that would be an error of the gateway's, and begin anew for each.
    if let Err(error) = verifier.ready(FIRST_KEYS).await {
        tracing::error!(%error, "there are no keys yet");
    }
    let app = app(verifier);
    tokio::select! {
        ended = lambda_http::run(app) => ended,
        _ = terminated.recv() => Ok(()),
    }
}
