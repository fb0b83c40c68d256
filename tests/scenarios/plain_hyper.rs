//! A service without a framework: a function with the two layers around it, on hyper's own server.
//! The function reads the token from the request's extensions.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_cognito::Verifier;
use tower_cognito::{AccessToken, ClientIds, RequireScope, RequireToken, Rules, TestIssuer};

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(token) = request.extensions().get::<AccessToken>() else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    };
    Ok(Response::new(Full::from(format!("hello, {}", token.client_id()))))
}

async fn serve(listener: TcpListener, verifier: Verifier) -> std::io::Result<()> {
    let service = ServiceBuilder::new()
        .layer(RequireToken::new(verifier))
        .layer(RequireScope::new("hello/say"))
        .service_fn(hello);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            if let Err(error) =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}

#[tokio::test]
async fn hyper_serves_behind_both_layers() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["robot"]));
    let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, verifier));

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let valid = issuer.machine_token("robot").scope("hello/say").sign();
    let answer = client.get(&url).bearer_auth(valid).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello, robot");
    let other = issuer.machine_token("robot").scope("hello/hear").sign();
    let answer = client.get(&url).bearer_auth(other).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}
