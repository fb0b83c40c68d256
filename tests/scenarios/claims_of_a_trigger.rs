//! A service whose pool has a pre token generation trigger that adds `tenant_id` and
//! `entitlements`. Tokens without these claims are rejected, and handlers receive them as the
//! service's own type.

use axum::Router;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::request::Parts;
use serde::Deserialize;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, RequireToken, Rules, TestIssuer, UserPool, Verifier,
};

use crate::ask;

#[derive(Deserialize)]
struct Tenant {
    tenant_id: String,
    entitlements: Vec<String>,
}

fn rules(pool: UserPool) -> Rules {
    Rules::new(pool, ClientIds::only(["web"])).with_check(|token| {
        match token.deserialize_claims::<Tenant>() {
            Ok(tenant) if !tenant.tenant_id.is_empty() => Ok(()),
            _ => Err(CheckError::Forbidden),
        }
    })
}

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let token = <AccessToken as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
            .map_err(IntoResponse::into_response)?;
        token.deserialize_claims().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/tenant", get(|tenant: Tenant| async move { tenant.tenant_id }))
        .route("/export", get(export))
        .layer(RequireToken::new(verifier))
}

async fn export(tenant: Tenant) -> Result<&'static str, StatusCode> {
    if !tenant.entitlements.iter().any(|entitlement| entitlement == "export") {
        return Err(StatusCode::FORBIDDEN);
    }
    Ok("all of it")
}

#[tokio::test]
async fn rejects_tokens_without_a_tenant_and_checks_entitlements() {
    let issuer = TestIssuer::new();
    let verifier =
        Verifier::builder(rules(issuer.user_pool())).build_with_jwks(issuer.jwks()).unwrap();
    let app = app(verifier);
    let alice = issuer.user_token("web", "alice");
    let small = alice.clone().claim("tenant_id", "acme").claim("entitlements", ["read"]);
    let large = small.clone().claim("entitlements", ["read", "export"]).sign();
    let small = small.sign();

    assert_eq!(ask(&app, "GET /tenant", &small).await.body, "acme");
    assert_eq!(ask(&app, "GET /export", &small).await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&app, "GET /export", &large).await.body, "all of it");

    for token in [
        alice.clone(),
        alice.clone().claim("tenant_id", "acme").claim("entitlements", "export"),
        alice.clone().claim("tenant_id", "").claim("entitlements", ["export"]),
    ] {
        let answer = ask(&app, "GET /tenant", &token.sign()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
}
