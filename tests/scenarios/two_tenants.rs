//! A service for two customers, each with its own user pool and clients. **A pool that is added opens
//! every route to its tokens.** Two ways keep the customers apart: data is looked up by the issuer of
//! the token, and the routes of one customer have their own `RequireToken`.

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tower_cognito::{
    AccessToken, ClientIds, RequireToken, Rules, StartError, TestServer, UserPool, Verifier,
    VerifierBuilder,
};

use crate::ask;

fn verifier(blue: UserPool, green: UserPool) -> VerifierBuilder {
    Verifier::builder(Rules::new(blue, ClientIds::only(["blue-app"])))
        .add_pool(Rules::new(green, ClientIds::only(["green-app"])))
}

/// Creates the routes. `/report` serves both customers, `/forecast` only blue.
fn app(verifier: Verifier, blue: UserPool) -> Result<Router, StartError> {
    let for_blue = verifier.share_keys(Rules::new(blue, ClientIds::only(["blue-app"])))?;
    let of_blue = Router::new()
        .route("/forecast", get(|| async { "sunny" }))
        .route_layer(RequireToken::new(for_blue));
    Ok(Router::new()
        .route("/report", get(report))
        .route_layer(RequireToken::new(verifier))
        .merge(of_blue))
}

/// The key of every query is the issuer of the token, and never a parameter of the request.
async fn report(token: AccessToken) -> String {
    format!("the report of {}", token.issuer())
}

#[tokio::test]
async fn each_tenant_has_its_clients_and_one_has_its_own_route() {
    let blue = TestServer::bind("127.0.0.1:0").await.unwrap();
    let green = TestServer::bind("127.0.0.1:0").await.unwrap();
    let (blue, green) = (blue.issuer(), green.issuer());
    let verifier = verifier(blue.user_pool(), green.user_pool()).connect().await.unwrap();
    let app = app(verifier, blue.user_pool()).unwrap();
    let of_blue = blue.machine_token("blue-app").sign();
    let of_green = green.machine_token("green-app").sign();

    for (token, issuer) in [(&of_blue, blue), (&of_green, green)] {
        let expected = format!("the report of {}", issuer.issuer());
        assert_eq!(ask(&app, "GET /report", token).await.body, expected);
    }
    assert_eq!(ask(&app, "GET /forecast", &of_blue).await.status, StatusCode::OK);
    assert_eq!(ask(&app, "GET /forecast", &of_green).await.status, StatusCode::UNAUTHORIZED);

    let stranger = green.machine_token("blue-app").sign();
    assert_eq!(ask(&app, "GET /report", &stranger).await.status, StatusCode::UNAUTHORIZED);
    let forged = green.machine_token("blue-app").claim("iss", blue.issuer()).sign();
    assert_eq!(ask(&app, "GET /forecast", &forged).await.status, StatusCode::UNAUTHORIZED);
}
