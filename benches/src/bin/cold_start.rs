//! A small axum service, to measure the time from its start to its first verified request.

use axum::Router;
use axum::routing::get;
use tower_cognito::{ClientIds, RequireToken, Rules, UserPool, Verifier};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name| std::env::var(name);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", variable("PORT")?.parse()?)).await?;
    let pool =
        UserPool::from_issuer(&variable("ISSUER")?)?.with_jwks_url(&variable("JWKS_URL")?)?;
    let rules = Rules::new(pool, ClientIds::only([variable("CLIENT_ID")?]));
    let verifier = Verifier::builder(rules).connect().await?;
    let app = Router::new().route("/", get(|| async { "ok" })).layer(RequireToken::new(verifier));
    axum::serve(listener, app).await?;
    Ok(())
}
