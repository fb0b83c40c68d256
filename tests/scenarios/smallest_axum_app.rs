//! The smallest axum app: one route that requires a token. The test also plays the client, which
//! gets a token from the token endpoint and sends it over a socket.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http::StatusCode;
use tower_cognito::{
    AccessToken, ClientIds, RequireScope, RequireToken, Rules, TestServer, UserPool, Verifier,
};

async fn app(pool: UserPool) -> Result<Router, Box<dyn std::error::Error>> {
    let rules = Rules::new(pool, ClientIds::only(["mailer"]));
    let verifier = Verifier::builder(rules).connect().await?;
    Ok(Router::new()
        .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
        .layer(RequireToken::new(verifier)))
}

async fn receive(token: AccessToken, event: Bytes) -> Bytes {
    println!("an event from {}", token.client_id());
    event
}

#[tokio::test]
async fn serves_a_client_with_a_token_from_the_token_endpoint() {
    let cognito = TestServer::bind("127.0.0.1:0").await.unwrap();
    cognito.add_client("mailer", "secret", ["activity/*"]);
    let app = app(cognito.issuer().user_pool()).await.unwrap();
    let url = format!("{}/activity", crate::serve(app).await);

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(cognito.token_endpoint_url())
        .basic_auth("mailer", Some("secret"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let token = answer["access_token"].as_str().unwrap();

    let answer = client.post(&url).bearer_auth(token).body("an event").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "an event");

    let answer = client.post(&url).body("an event").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], r#"Bearer realm="api""#);
}
