//! An axum service with a scope for each route, the token in a handler, a custom claim, a route for
//! readiness probes, and rejections as problem documents.
//!
//!     cargo run --example axum
//!
//! It sends requests to itself and prints the responses.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, Health, RejectionBody, RequireScope, RequireToken, Rules,
    TestServer, Verifier,
};

const CLIENT_ID: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

fn app(verifier: Verifier) -> Router {
    let read = RequireScope::any_of(["item/read", "item/write"]);
    let write = RequireScope::new("item/write");
    Router::new()
        .route("/item/{id}", get(item).layer(read).merge(axum::routing::put(put_item).layer(write)))
        .route("/whoami", get(whoami))
        .layer(RequireToken::new(verifier.clone()).rejection_body(RejectionBody::problem))
        // Added after the layer, so it needs no token.
        .route("/health", get(health).with_state(verifier))
}

async fn item(Path(id): Path<u32>) -> String {
    format!("item {id}")
}

/// Takes the token as an argument. The handler is called only if the token was verified.
async fn put_item(token: AccessToken, Path(id): Path<u32>) -> String {
    format!("item {id} was written by {}", token.client_id())
}

/// The claims that a pre token generation trigger adds.
#[derive(serde::Deserialize)]
struct TenantClaims {
    tenant: String,
}

async fn whoami(token: AccessToken) -> Result<String, StatusCode> {
    let claims: TenantClaims = token.deserialize_claims().map_err(|_| StatusCode::FORBIDDEN)?;
    Ok(format!("{} of tenant {}", token.subject(), claims.tenant))
}

/// Reports "not ready" only if there are no keys. Old keys still verify tokens.
async fn health(State(verifier): State<Verifier>) -> (StatusCode, String) {
    match verifier.health() {
        Health::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "no keys".to_owned()),
        Health::Degraded(degraded) => {
            (StatusCode::OK, format!("the keys are {:?} old", degraded.age().unwrap_or_default()))
        }
        _ => (StatusCode::OK, "ok".to_owned()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `UserPool::new("ap-northeast-1_AbCdEfGhI")?`.
    let issuer = TestServer::bind("127.0.0.1:0").await?;
    let rules =
        Rules::new(issuer.issuer().user_pool(), ClientIds::only([CLIENT_ID])).with_check(|token| {
            match token.subject() {
                "blocked" => Err(CheckError::Forbidden),
                _ => Ok(()),
            }
        });
    let app = app(Verifier::builder(rules).connect().await?);

    let machine = || issuer.issuer().machine_token(CLIENT_ID);
    let reader = machine().scope("item/read").claim("tenant", "blue").sign();
    let writer = machine().scope("item/write").sign();
    let blocked = machine().scope("item/read").claim("sub", "blocked").sign();
    for (who, token, method, path) in [
        ("anonymous", None, "GET", "/health"),
        ("anonymous", None, "GET", "/item/7"),
        ("reader", Some(&reader), "GET", "/item/7"),
        ("reader", Some(&reader), "PUT", "/item/7"),
        ("writer", Some(&writer), "PUT", "/item/7"),
        ("reader", Some(&reader), "GET", "/whoami"),
        ("writer", Some(&writer), "GET", "/whoami"),
        ("blocked", Some(&blocked), "GET", "/item/7"),
    ] {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{who:9} {method} {path:7} -> {status} {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
