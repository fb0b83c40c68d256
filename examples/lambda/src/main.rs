//! The API of the quickstart as an AWS Lambda function: behind API Gateway, a function URL or an
//! Application Load Balancer.
//!
//! `COGNITO_USER_POOL_ID` and `COGNITO_CLIENT_IDS` set the user pool and its clients; `Config`
//! documents the other settings. The README explains the settings of the function.

#![forbid(unsafe_code)]

mod keys;
mod process;

use std::process::ExitCode;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_cognito::{AccessToken, RequireScope, RequireToken, Verifier};

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

async fn refresh_if_due(
    State(verifier): State<Verifier>,
    request: Request,
    next: Next,
) -> Response {
    keys::refresh_if_due(&verifier).await;
    next.run(request).await
}

// Lambda sends one request at a time, so one thread is enough.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    process::run(async { lambda_http::run(app(keys::connect().await?)).await }).await
}
