//! A service in a compose file with an emulator of Cognito. The issuer is a plain http URL, its
//! keys are at another URL, and the network is reachable only through an HTTP proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use http::StatusCode;
use tower_cognito::{ClientIds, InvalidUrl, RequireToken, Rules, TestIssuer, UserPool};
use tower_cognito::{Verifier, VerifierBuilder};

use crate::{ask, serve};

const ISSUER: &str = "http://cognito:9229/local_1a2b3c";
const KEYS: &str = "http://keys.internal:9229/local_1a2b3c/jwks.json";

fn pool() -> Result<UserPool, InvalidUrl> {
    UserPool::from_issuer(ISSUER)?
        .with_jwks_url(KEYS)?
        .with_insecure_jwks_host("keys.internal:9229")
}

fn verifier(pool: UserPool, proxy: &str) -> Result<VerifierBuilder, reqwest::Error> {
    let client = reqwest::Client::builder().proxy(reqwest::Proxy::all(proxy)?);
    Ok(Verifier::builder(Rules::new(pool, ClientIds::only(["web"])))
        .http_client(client)
        .connect_timeout(Duration::from_secs(2)))
}

fn app(verifier: Verifier) -> Router {
    Router::new().route("/", get(|| async { "in" })).layer(RequireToken::new(verifier))
}

#[tokio::test]
async fn fetches_the_keys_through_the_proxy() {
    let emulator = TestIssuer::new();
    let requests = Arc::new(AtomicUsize::new(0));
    let (document, counter) = (emulator.jwks_json(), Arc::clone(&requests));
    let proxy = Router::new().fallback(async move |request: Request| {
        counter.fetch_add(1, Ordering::Relaxed);
        // Requests to a proxy have an absolute URL.
        if request.uri() == KEYS { Ok(document) } else { Err(StatusCode::BAD_GATEWAY) }
    });
    let proxy = serve(proxy).await;

    let verifier = verifier(pool().unwrap(), &proxy).unwrap().connect().await.unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    let app = app(verifier);
    let token = emulator.user_token("web", "alice").claim("iss", ISSUER).sign();
    assert_eq!(ask(&app, "GET /", &token).await.status, StatusCode::OK);
    let elsewhere = emulator.user_token("web", "alice").sign();
    assert_eq!(ask(&app, "GET /", &elsewhere).await.status, StatusCode::UNAUTHORIZED);
}
