//! A shop whose front page is public and greets users who signed in by name. Invalid tokens are
//! still rejected, so that their clients notice.

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tower_cognito::{AccessToken, ClientIds, RequireScope, RequireToken, Rules};
use tower_cognito::{TestIssuer, Verifier};

use crate::ask;

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/", get(greet))
        .route("/orders", get(|| async { "none" }).layer(RequireScope::new("shop/orders")))
        .layer(RequireToken::new(verifier).allow_anonymous())
}

async fn greet(token: Option<AccessToken>) -> String {
    let name = token.as_ref().and_then(AccessToken::username).unwrap_or("stranger");
    format!("hello, {name}")
}

#[tokio::test]
async fn greets_by_name_and_rejects_an_invalid_token() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["shop"]));
    let app = app(Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap());
    let alice = issuer.user_token("shop", "alice").scope("shop/orders").sign();
    let expired = issuer.user_token("shop", "alice").expires_at(std::time::UNIX_EPOCH).sign();

    assert_eq!(ask(&app, "GET /", "").await.body, "hello, stranger");
    assert_eq!(ask(&app, "GET /", &alice).await.body, "hello, alice");
    assert_eq!(ask(&app, "GET /", &expired).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&app, "GET /orders", "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&app, "GET /orders", &alice).await.body, "none");
}
