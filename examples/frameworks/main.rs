//! Calls each recipe with a valid token, without one, and with a token that lacks the scope.

#[path = "actix_web.rs"]
mod actix_web_recipe;
#[path = "aide.rs"]
mod aide_recipe;
#[path = "async_graphql.rs"]
mod async_graphql_recipe;
#[path = "poem.rs"]
mod poem_recipe;
#[path = "salvo.rs"]
mod salvo_recipe;
#[path = "tower_governor.rs"]
mod tower_governor_recipe;
#[path = "utoipa.rs"]
mod utoipa_recipe;
#[macro_use]
#[path = "warp.rs"]
mod warp_recipe;

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::thread;

use axum::Router;
use http::Request;
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower_cognito::{ClientIds, RequireToken, Rules, TestIssuer, Verifier};

const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

static ISSUER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);

fn tokens() -> RequireToken {
    let rules = Rules::new(ISSUER.user_pool(), ClientIds::only([CLIENT, "other"]));
    RequireToken::new(Verifier::builder(rules).build_with_jwks(ISSUER.jwks()).unwrap())
}

fn bearer(client: &str, scope: &str) -> String {
    format!("Bearer {}", ISSUER.machine_token(client).scope(scope).sign())
}

/// Sends one request over HTTP/1.1, and returns the status, the headers and the body.
async fn send(address: SocketAddr, head: &str, authorization: &[&str], body: &str) -> [String; 3] {
    let mut request = format!("{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for value in authorization {
        request.push_str(&format!("authorization: {value}\r\n"));
    }
    let length = body.len();
    request
        .push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all((request + body).as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let status = status.split(' ').nth(1).unwrap();
    [status.to_owned(), headers.to_ascii_lowercase(), body.to_owned()]
}

async fn check(address: SocketAddr) {
    check_with(address, "GET /item", "", CLIENT).await;
}

async fn check_with(address: SocketAddr, head: &str, body: &str, expected: &str) {
    let valid = bearer(CLIENT, "demo-dev/read");
    let [status, _, text] = send(address, head, &[&valid], body).await;
    assert_eq!(status, "200", "{text}");
    assert!(text.contains(expected), "{text}");

    let narrow = bearer(CLIENT, "activity/*");
    let foreign = bearer("stranger", "demo-dev/read");
    for (authorization, status, challenge) in [
        (&[][..], "401", r#"bearer realm="api""#),
        (&["Bearer garbage"], "401", r#"error="invalid_token""#),
        (&[&*foreign], "401", r#"error="invalid_token""#),
        (&[&*valid, &*valid], "400", r#"error="invalid_request""#),
        (&[&*narrow], "403", r#"scope="demo-dev/read""#),
    ] {
        let [actual, headers, text] = send(address, head, authorization, body).await;
        assert_eq!(actual, status, "{authorization:?}: {text}");
        let line = headers.lines().find(|line| line.starts_with("www-authenticate: "));
        assert!(line.is_some_and(|line| line.contains(challenge)), "{headers}");
        assert!(headers.contains("cache-control: no-store"), "{headers}");
        assert!(text.contains(r#""error":""#), "{text}");
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn actix_web() {
    use ::actix_web::{App, HttpServer, rt::System};

    let (sender, receiver) = tokio::sync::oneshot::channel();
    let tokens = tokens();
    thread::spawn(move || {
        System::new().block_on(async {
            let app = move || App::new().configure(actix_web_recipe::routes(tokens.clone()));
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.bind("127.0.0.1:0").unwrap();
            sender.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    check(receiver.await.unwrap()).await;
}

#[tokio::test]
async fn salvo() {
    use ::salvo::conn::Acceptor;
    use ::salvo::prelude::{Listener, Server, TcpListener};

    let acceptor = TcpListener::new("127.0.0.1:0").bind().await;
    let address = acceptor.holdings()[0].local_addr.clone().into_std().unwrap();
    tokio::spawn(Server::new(acceptor).serve(salvo_recipe::router(tokens())));
    check(address).await;
}

#[tokio::test]
async fn poem() {
    use ::poem::Server;
    use ::poem::listener::{Acceptor, Listener, TcpListener};

    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
    tokio::spawn(Server::new_with_acceptor(acceptor).run(poem_recipe::app(tokens())));
    check(address).await;
}

#[tokio::test]
async fn warp() {
    use ::warp::Filter;

    let service = service!(tokens());
    for (authorization, status) in [
        (Some(bearer(CLIENT, "demo-dev/read")), 200),
        (None, 401),
        (Some(bearer("stranger", "demo-dev/read")), 401),
        (Some(bearer(CLIENT, "activity/*")), 403),
    ] {
        let mut request = Request::get("/item");
        if let Some(value) = &authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Empty::<axum::body::Bytes>::new()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().contains_key("www-authenticate"), status != 200);
    }
}

#[tokio::test]
async fn utoipa() {
    let (app, api) = utoipa_recipe::app(tokens());
    check(serve(app).await).await;
    let api = api.to_json().unwrap();
    assert!(api.contains(r#""security":[{"cognito":["demo-dev/read"]}]"#), "{api}");
    assert!(
        api.contains(r#""securitySchemes":{"cognito":{"type":"http","scheme":"bearer"}}"#),
        "{api}"
    );
}

#[tokio::test]
async fn aide() {
    let mut api = ::aide::openapi::OpenApi::default();
    let app = aide_recipe::app(tokens(), &mut api);
    check(serve(app).await).await;
    assert!(api.paths.unwrap().paths.contains_key("/item"));
}

#[tokio::test]
async fn tower_governor() {
    let app = tower_governor_recipe::app(tokens());
    let address = serve(app).await;
    let mut statuses = Vec::new();
    let limited = bearer(CLIENT, "demo-dev/read");
    let other = bearer("other", "demo-dev/read");
    let narrow = bearer(CLIENT, "activity/*");
    let requests = [&[][..], &[&*narrow], &[&limited], &[&limited], &[&limited], &[&other]];
    for authorization in requests {
        let [status, ..] = send(address, "GET /item", authorization, "").await;
        statuses.push(status);
    }
    // A request without a valid token counts for no client.
    assert_eq!(statuses, ["401", "403", "200", "200", "429", "200"]);
}

#[tokio::test]
async fn async_graphql() {
    let address = serve(async_graphql_recipe::app(tokens())).await;
    let expected = format!(r#"{{"data":{{"client":"{CLIENT}"}}}}"#);
    check_with(address, "POST /graphql", r#"{"query":"{client}"}"#, &expected).await;
}
