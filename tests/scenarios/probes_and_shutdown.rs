//! A pod that can start while Cognito is down, answers its probes, and shuts down gracefully:
//! requests in flight are still answered.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower_cognito::test_issuer::Fault;
use tower_cognito::{ClientIds, Health, RequireToken, Rules, TestServer, Verifier};

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/", get(|| async { "in" }))
        .layer(RequireToken::new(verifier.clone()))
        .route("/live", get(|| async {}))
        .route("/ready", get(ready).with_state(verifier))
}

async fn ready(State(verifier): State<Verifier>) -> StatusCode {
    match verifier.health() {
        Health::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

async fn run(
    listener: TcpListener,
    rules: Rules,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let verifier = Verifier::builder(rules).connect_lazy()?;
    axum::serve(listener, app(verifier.clone())).with_graceful_shutdown(stop).await?;
    verifier.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn becomes_ready_with_the_first_keys_and_shuts_down_gracefully() {
    let cognito = TestServer::bind("127.0.0.1:0").await.unwrap();
    cognito.set_fault(Fault::Down);
    let rules = Rules::new(cognito.issuer().user_pool(), ClientIds::only(["web"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let service = tokio::spawn(run(listener, rules, async { stopped.await.unwrap_or(()) }));

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| client.get(format!("{url}{path}")).send().await.unwrap();
    assert_eq!(get("/live").await.status(), StatusCode::OK);
    assert_eq!(get("/ready").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let token = cognito.issuer().machine_token("web").sign();
    let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");

    cognito.clear_fault();
    let is_ready = async { while get("/ready").await.status() != StatusCode::OK {} };
    timeout(Duration::from_secs(30), is_ready).await.unwrap();
    let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);

    drop(client);
    stop.send(()).unwrap();
    service.await.unwrap().unwrap();
}
