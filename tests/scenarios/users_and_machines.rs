//! A service with two kinds of callers: users, who are in groups, and other services, which have
//! scopes. One route serves both kinds, and each of the others serves one.

use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;
use tower_cognito::{
    AccessToken, ClientIds, RequireGroup, RequireScope, RequireToken, Rules, TestIssuer, UserPool,
    Verifier,
};

use crate::ask;

/// Users get their tokens through the app client `web`, and the importer is the app client
/// `importer`. Only `importer` is allowed to request the scope `shop/import`.
fn rules(pool: UserPool) -> Rules {
    Rules::new(pool, ClientIds::only(["web", "importer"]))
}

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/orders", get(orders))
        .route("/import", post(|| async { "imported" }).layer(RequireScope::new("shop/import")))
        .route("/prices", post(|| async { "changed" }).layer(RequireGroup::new("managers")))
        .layer(RequireToken::new(verifier))
}

/// A machine-to-machine token has no `username`.
async fn orders(token: AccessToken) -> String {
    match token.username() {
        Some(name) => format!("the orders of {name}"),
        None => format!("all orders, for {}", token.client_id()),
    }
}

#[tokio::test]
async fn each_kind_of_caller_reaches_its_routes() {
    let issuer = TestIssuer::new();
    let rules = rules(issuer.user_pool());
    let app = app(Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap());
    let importer = issuer.machine_token("importer").scope("shop/import").sign();
    let alice = issuer.user_token("web", "alice").sign();
    let manager = issuer.user_token("web", "bob").claim("cognito:groups", ["managers"]).sign();

    assert_eq!(ask(&app, "GET /orders", &importer).await.body, "all orders, for importer");
    assert_eq!(ask(&app, "GET /orders", &alice).await.body, "the orders of alice");
    for (line, token, status) in [
        ("POST /import", &importer, StatusCode::OK),
        ("POST /import", &manager, StatusCode::FORBIDDEN),
        ("POST /prices", &manager, StatusCode::OK),
        ("POST /prices", &alice, StatusCode::FORBIDDEN),
        ("POST /prices", &importer, StatusCode::FORBIDDEN),
    ] {
        assert_eq!(ask(&app, line, token).await.status, status, "{line}");
    }
}
