//! An axum server with one way of authorization, for `tests/run/load.sh`.
//!
//!     server none | cache-on | cache-off | tower-oauth2-resource-server | axum-jwt-auth
//!
//! Prints its URL and a token, one on each line, when it is ready, and serves until it is killed.
//! Before, it checks that the token is answered with 200, and with 401 if a signature bit is
//! flipped.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use axum_jwt_auth::Claims as AxumJwtAuth;
use benches::neighbours::{
    Claims, Setting, axum_jwt_auth_decoder, install_providers, tower_oauth2_resource_server,
};
use benches::requests::CACHE;
use http::{Request, StatusCode};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_cognito::RequireToken;

#[tokio::main]
async fn main() {
    let mode = std::env::args().nth(1).expect("the first argument is the mode");
    install_providers();
    let setting = Setting::new().await;
    let app = app(&mode, &setting).await;

    let with = |token: &str| {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        app.clone().oneshot(request.body(Body::empty()).expect("a token is ASCII"))
    };
    let Ok(accepted) = with(&setting.token.text).await;
    assert_eq!(accepted.status(), StatusCode::OK);
    let Ok(rejected) = with(&setting.token.flipped).await;
    let expected = if mode == "none" { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    assert_eq!(rejected.status(), expected);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("http://{}/", listener.local_addr().expect("it is bound"));
    println!("{}", setting.token.text);
    axum::serve(listener, app).await.expect("it serves until it is killed");
}

async fn app(mode: &str, setting: &Setting) -> Router {
    let plain = Router::new().route("/", get(|| async {}));
    match mode {
        "none" => plain,
        "cache-on" => plain.layer(RequireToken::new(setting.verifier(CACHE))),
        "cache-off" => plain.layer(RequireToken::new(setting.verifier(0))),
        "tower-oauth2-resource-server" => {
            plain.layer(tower_oauth2_resource_server(setting).await.into_layer())
        }
        "axum-jwt-auth" => Router::new()
            .route("/", get(|_: AxumJwtAuth<Claims>| async {}))
            .with_state(axum_jwt_auth_decoder(setting).await),
        _ => panic!("unknown mode: {mode}"),
    }
}
