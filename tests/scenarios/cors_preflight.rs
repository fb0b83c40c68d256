//! A service that a page of another origin calls. The browser sends a preflight request without a
//! token before the request with one, and the page reads the challenge of a rejection.

use axum::Router;
use axum::routing::post;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    AUTHORIZATION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, StatusCode};
use tower_cognito::{ClientIds, RequireScope, RequireToken, Rules, TestIssuer, Verifier};
use tower_http::cors::CorsLayer;

use crate::serve;

const PAGE: HeaderValue = HeaderValue::from_static("https://app.example.com");

fn app(verifier: Verifier) -> Router {
    let cors = CorsLayer::new()
        .allow_origin([PAGE])
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([WWW_AUTHENTICATE]);
    Router::new()
        .route("/item", post(|| async { "stored" }).layer(RequireScope::new("item/write")))
        .layer(RequireToken::new(verifier))
        .layer(cors) // the last `.layer` is the outermost
}

#[tokio::test]
async fn answers_the_preflight_and_shows_rejections_to_the_page() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["web"]));
    let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap();
    let url = format!("{}/item", serve(app(verifier)).await);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    // As a browser sends it: no token, and the names of the headers that follow.
    let preflight = client
        .request(Method::OPTIONS, &url)
        .header(ORIGIN, PAGE)
        .header(ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET,POST");
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "authorization,content-type");

    let token = issuer.user_token("web", "alice").scope("item/write").sign();
    let answer = client.post(&url).header(ORIGIN, PAGE).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);

    // Without these headers, the page would see a network error instead of the rejection.
    let answer = client.post(&url).header(ORIGIN, PAGE).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
    assert_eq!(answer.headers()[ACCESS_CONTROL_EXPOSE_HEADERS], "www-authenticate");
    assert_eq!(answer.headers()[WWW_AUTHENTICATE], r#"Bearer realm="api""#);
}
