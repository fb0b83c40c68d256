//! A service behind an Application Load Balancer that signs users in (`authenticate-cognito`). It
//! sends the user's access token in a header of its own, without a scheme.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderName, Request, StatusCode};
use tower::ServiceExt as _;
use tower_cognito::{
    AccessToken, ClientIds, RequireToken, Rules, TestIssuer, TokenSource, Verifier,
};

const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-amzn-oidc-accesstoken");

/// The security group of the service admits only the load balancer, which replaces the header of
/// its clients.
fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/", get(|token: AccessToken| async move { token.subject().to_owned() }))
        .layer(RequireToken::new(verifier).token_source(TokenSource::header(ACCESS_TOKEN)))
}

#[tokio::test]
async fn reads_the_token_only_from_the_header_of_the_load_balancer() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["web"]));
    let app = app(Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap());
    let alice = issuer.user_token("web", "alice").sign();
    let id_token = issuer.id_token("web", "alice").sign();

    let bearer = format!("Bearer {alice}");
    for (headers, status) in [
        (vec![(ACCESS_TOKEN.as_str(), &*alice)], StatusCode::OK),
        (vec![(ACCESS_TOKEN.as_str(), &*id_token)], StatusCode::UNAUTHORIZED),
        (vec![(ACCESS_TOKEN.as_str(), &*alice); 2], StatusCode::BAD_REQUEST),
        (vec![("authorization", &*bearer)], StatusCode::UNAUTHORIZED),
        (vec![], StatusCode::UNAUTHORIZED),
    ] {
        let mut request = Request::get("/");
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{headers:?}");
    }
}
