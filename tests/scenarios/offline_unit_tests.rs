//! Unit tests of a user's service, without a network and without sleeping. The test controls the
//! clock: tokens expire, keys rotate and are retired, a scope is missing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tower_cognito::test_issuer::Fault;
use tower_cognito::{ClientIds, RequireScope, RequireToken, Rules, TestIssuer, Verifier};

use crate::ask;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/item", get(|| async { "hoge" }).layer(RequireScope::new("item/read")))
        .layer(RequireToken::new(verifier))
}

/// The setup of each test: a pool, a clock that stands still, and the app.
struct Bench {
    issuer: TestIssuer,
    now: Arc<Mutex<SystemTime>>,
    verifier: Verifier,
    app: Router,
}

impl Bench {
    async fn new() -> Self {
        let issuer = TestIssuer::new();
        let now = Arc::new(Mutex::new(SystemTime::now()));
        let clock = Arc::clone(&now);
        let verifier =
            Verifier::builder(Rules::new(issuer.user_pool(), ClientIds::only(["robot"])))
                .jwks_fetcher(issuer.clone())
                .clock(move || *clock.lock().unwrap())
                .connect()
                .await
                .unwrap();
        Self { app: app(verifier.clone()), issuer, now, verifier }
    }

    fn later(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
    }

    fn token(&self, scope: &str) -> String {
        let now = *self.now.lock().unwrap();
        self.issuer.machine_token("robot").issued_at(now).scope(scope).sign()
    }

    async fn status(&self, token: &str) -> StatusCode {
        ask(&self.app, "GET /item", token).await.status
    }
}

#[tokio::test]
async fn each_outcome_has_its_status() {
    let bench = Bench::new().await;
    assert_eq!(bench.status(&bench.token("item/read")).await, StatusCode::OK);
    assert_eq!(bench.status(&bench.token("item/write")).await, StatusCode::FORBIDDEN);
    let stranger = bench.issuer.machine_token("stranger").scope("item/read").sign();
    assert_eq!(bench.status(&stranger).await, StatusCode::UNAUTHORIZED);

    let rules = Rules::new(bench.issuer.user_pool(), ClientIds::only(["robot"]));
    let without_keys = Verifier::builder(rules).jwks_fetcher(Fault::Down).connect_lazy().unwrap();
    let answer = ask(&app(without_keys), "GET /item", &bench.token("item/read")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn token_is_rejected_from_the_second_of_its_expiry() {
    let bench = Bench::new().await;
    let token = bench.token("item/read");
    assert_eq!(bench.status(&token).await, StatusCode::OK);
    bench.later(HOUR - Duration::from_secs(1));
    assert_eq!(bench.status(&token).await, StatusCode::OK);
    bench.later(Duration::from_secs(1));
    assert_eq!(bench.status(&token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.status(&bench.token("item/read")).await, StatusCode::OK);
}

#[tokio::test]
async fn tokens_survive_a_rotation_but_not_the_end_of_their_key() {
    let bench = Bench::new().await;
    let old = bench.token("item/read");
    assert_eq!(bench.status(&old).await, StatusCode::OK);

    bench.issuer.rotate();
    let new = bench.token("item/read");
    assert_eq!(bench.status(&new).await, StatusCode::OK);
    assert_eq!(bench.status(&old).await, StatusCode::OK);

    bench.issuer.retire_old_keys();
    bench.verifier.refresh().await.unwrap();
    assert_eq!(bench.status(&new).await, StatusCode::OK);
    assert_eq!(bench.status(&old).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn missing_scope_is_403_and_is_in_the_challenge() {
    let bench = Bench::new().await;
    let answer = ask(&bench.app, "GET /item", &bench.token("item/write")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.ends_with(r#"scope="item/read""#), "{challenge}");
}
