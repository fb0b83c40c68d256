//! The layers in an axum router: one test for each placement of the docs page "Where the layers
//! go", and the same over real sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{any, get, post};
use http::Method;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{ServiceBuilder, ServiceExt};
use tower_cognito::{
    Access, AccessToken, ClientIds, Rejection, RejectionBody, RejectionKind, RequireGroup,
    RequireScope, RequireToken, ResourceMetadata, Rules, ScopeTable, TestServer, Verifier,
};
use tower_http::cors::{Any, CorsLayer};

use super::support::{CLIENT, Log, issuer, machine, serve, verifier};

fn require_token() -> RequireToken {
    RequireToken::new(verifier())
}

fn with_scope(scope: &str) -> String {
    format!("Bearer {}", machine(scope).sign())
}

async fn status(app: &Router, method: Method, path: &str, authorization: Option<&str>) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap().status().as_u16()
}

async fn ok() -> &'static str {
    "ok"
}

#[tokio::test]
async fn layer_guards_routes_before_it_and_the_fallback() {
    let app = Router::new()
        .route("/activity", post(ok).layer(RequireScope::new("activity/*")))
        .route("/item", get(ok).layer(RequireScope::new("demo-dev/read")))
        .layer(require_token());
    let (activity, item) = (with_scope("activity/*"), with_scope("demo-dev/read"));

    assert_eq!(status(&app, Method::POST, "/activity", Some(&activity)).await, 200);
    assert_eq!(status(&app, Method::GET, "/item", Some(&item)).await, 200);
    assert_eq!(status(&app, Method::POST, "/activity", Some(&item)).await, 403);
    assert_eq!(status(&app, Method::GET, "/item", Some(&activity)).await, 403);
    assert_eq!(status(&app, Method::POST, "/activity", None).await, 401);
    // A client without a token does not learn which routes exist.
    assert_eq!(status(&app, Method::GET, "/nowhere", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/nowhere", Some(&item)).await, 404);
    assert_eq!(status(&app, Method::GET, "/activity", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/activity", Some(&activity)).await, 405);
}

#[tokio::test]
async fn route_added_after_the_layer_is_open() {
    let app =
        Router::new().route("/item", get(ok)).layer(require_token()).route("/health", get(ok));
    assert_eq!(status(&app, Method::GET, "/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/health", None).await, 200);
}

#[tokio::test]
async fn route_layer_keeps_404_and_method_router_layer_keeps_405() {
    let app = Router::new().route("/item", get(ok)).route_layer(require_token());
    assert_eq!(status(&app, Method::GET, "/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope(""))).await, 200);
    assert_eq!(status(&app, Method::GET, "/nowhere", None).await, 404);
    assert_eq!(status(&app, Method::POST, "/item", None).await, 401);
    assert_eq!(status(&app, Method::POST, "/item", Some(&with_scope(""))).await, 405);

    let app = Router::new().route("/item", get(ok).route_layer(require_token()));
    assert_eq!(status(&app, Method::GET, "/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope(""))).await, 200);
    assert_eq!(status(&app, Method::GET, "/nowhere", None).await, 404);
    assert_eq!(status(&app, Method::POST, "/item", None).await, 405);
}

#[tokio::test]
async fn method_added_after_a_method_router_layer_is_open() {
    let guarded = post(ok).layer(RequireScope::new("activity/*")).get(ok);
    let app = Router::new().route("/activity", guarded).layer(require_token());
    let other = with_scope("other/scope");
    assert_eq!(status(&app, Method::POST, "/activity", Some(&other)).await, 403);
    assert_eq!(status(&app, Method::GET, "/activity", Some(&other)).await, 200);
}

#[tokio::test]
async fn first_layer_of_a_service_builder_is_outermost() {
    let right = ServiceBuilder::new().layer(require_token()).layer(RequireScope::new("a/read"));
    let app = Router::new().route("/item", get(ok)).layer(right);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope("a/read"))).await, 200);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope("a/write"))).await, 403);

    // In the other order, the scope is checked before the token is verified: every request is
    // rejected, and the reason is logged.
    let wrong = ServiceBuilder::new().layer(RequireScope::new("a/read")).layer(require_token());
    let app = Router::new().route("/item", get(ok)).layer(wrong);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope("a/read"))).await, 500);
    assert_eq!(status(&app, Method::GET, "/item", None).await, 500);
}

#[tokio::test]
async fn last_layer_of_a_router_is_outermost() {
    let app = Router::new()
        .route("/item", get(ok))
        .layer(RequireScope::new("a/read"))
        .layer(require_token());
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope("a/read"))).await, 200);
    assert_eq!(status(&app, Method::GET, "/item", Some(&with_scope("a/write"))).await, 403);
}

#[tokio::test]
async fn nested_router_is_guarded_by_its_own_and_the_outer_layer() {
    let api = Router::new().route("/item", get(ok)).layer(require_token());
    let app = Router::new().nest("/api", api).route("/health", get(ok));
    assert_eq!(status(&app, Method::GET, "/api/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/health", None).await, 200);

    let api =
        Router::new().route("/item", get(ok)).layer(RequireScope::any_of_resource_server("a"));
    let app = Router::new().nest("/api", api).layer(require_token());
    assert_eq!(status(&app, Method::GET, "/api/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/api/item", Some(&with_scope("a/x"))).await, 200);
    assert_eq!(status(&app, Method::GET, "/api/item", Some(&with_scope("b/x"))).await, 403);

    let service = ServiceBuilder::new().layer(require_token()).service(get(ok));
    let app = Router::new().nest_service("/files", service);
    assert_eq!(status(&app, Method::GET, "/files", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/files", Some(&with_scope(""))).await, 200);
}

#[tokio::test]
async fn merged_router_keeps_only_its_own_layers() {
    let guarded = Router::new().route("/item", get(ok)).layer(require_token());
    let app = guarded.merge(Router::new().route("/health", get(ok)));
    assert_eq!(status(&app, Method::GET, "/item", None).await, 401);
    assert_eq!(status(&app, Method::GET, "/health", None).await, 200);
}

#[tokio::test]
async fn h088_cors_outside_answers_a_preflight_without_a_token() {
    let cors = CorsLayer::new().allow_origin(Any).allow_headers([AUTHORIZATION]);
    let app = Router::new()
        .route("/item", get(ok))
        .layer(ServiceBuilder::new().layer(cors).layer(require_token()));
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/item")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET")
        .body(Body::empty())
        .unwrap();
    assert_eq!(app.clone().oneshot(preflight).await.unwrap().status(), 200);
    assert_eq!(status(&app, Method::GET, "/item", None).await, 401);
    assert_eq!(status(&app, Method::OPTIONS, "/item", None).await, 200);
}

#[tokio::test]
async fn browser_reads_the_challenge_if_cors_outside_exposes_it() {
    let cors = CorsLayer::new()
        .allow_origin(["https://app.example".parse().unwrap()])
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION])
        .expose_headers([WWW_AUTHENTICATE]);
    let app = Router::new().route("/item", get(ok)).layer(require_token()).layer(cors);
    let request = |method: Method| {
        Request::builder().method(method).uri("/item").header("origin", "https://app.example")
    };
    let preflight = request(Method::OPTIONS)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization")
        .body(Body::empty())
        .unwrap();
    let response = app.clone().oneshot(preflight).await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "https://app.example");
    assert_eq!(header("access-control-allow-methods"), "GET,POST");
    assert_eq!(header("access-control-allow-headers"), "authorization");

    let rejected = request(Method::GET).body(Body::empty()).unwrap();
    let response = app.oneshot(rejected).await.unwrap();
    assert_eq!(response.status(), 401);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "https://app.example");
    assert_eq!(header("access-control-expose-headers"), "www-authenticate");
    assert_eq!(header("www-authenticate"), r#"Bearer realm="api""#);
}

#[tokio::test]
async fn only_preflight_requests_pass_without_a_token_if_they_are_allowed() {
    let table = ScopeTable::new([("GET /item", Access::scope("demo-dev/read"))]).unwrap();
    let inside = || {
        Router::new()
            .route("/item", any(async |token: Option<AccessToken>| token.is_some().to_string()))
            .route("/strict", any(async |token: AccessToken| token.client_id().to_owned()))
            .route("/group", any(ok).layer(RequireGroup::new("admins")))
            .fallback(ok)
            .layer(RequireScope::new("demo-dev/read"))
    };
    let origin = ("origin", "https://app.example");
    let asks = ("access-control-request-method", "GET");
    let valid = with_scope("demo-dev/read");
    for layer in [require_token(), require_token().scope_table(table.clone())] {
        let strict = inside().layer(layer.clone());
        let app = inside().layer(layer.allow_cors_preflight());
        let send = async |app: &Router, method: &str, path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        let none = (200, "false".to_owned());
        assert_eq!(send(&app, "OPTIONS", "/item", &[origin, asks]).await, none);
        // A token is ignored, even an invalid one.
        let invalid = ("authorization", "Bearer bad");
        assert_eq!(send(&app, "OPTIONS", "/item", &[origin, asks, invalid]).await, none);
        let valid = ("authorization", &*valid);
        assert_eq!(send(&app, "OPTIONS", "/item", &[origin, asks, valid]).await, none);
        for path in ["/group", "/other", "/a/..;/b", "/a%2Fb"] {
            assert_eq!(send(&app, "OPTIONS", path, &[origin, asks]).await.0, 200, "{path}");
        }
        // The extractor still requires a token.
        assert_eq!(send(&app, "OPTIONS", "/strict", &[origin, asks]).await.0, 401);

        for (method, headers) in [
            ("OPTIONS", &[][..]),
            ("OPTIONS", &[origin]),
            ("OPTIONS", &[asks]),
            ("GET", &[origin, asks]),
            ("POST", &[origin, asks]),
            ("options", &[origin, asks]),
            ("TRACE", &[origin, asks]),
        ] {
            assert_eq!(send(&app, method, "/item", headers).await.0, 401, "{method} {headers:?}");
        }
        assert_eq!(send(&strict, "OPTIONS", "/item", &[origin, asks]).await.0, 401);
        assert_eq!(send(&app, "GET", "/item", &[origin, asks, valid]).await.1, "true");
        assert_eq!(send(&app, "GET", "/group", &[origin, asks, valid]).await.0, 403);
        // An inner layer without the setting rejects it, whatever the outer one left.
        let nested = inside().layer(require_token()).layer(require_token().allow_cors_preflight());
        assert_eq!(send(&nested, "OPTIONS", "/item", &[origin, asks]).await.0, 401);
    }
}

#[tokio::test]
async fn rotation_under_two_hundred_connections_rejects_no_valid_token() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    let app = Router::new()
        .route("/item", get(ok).layer(RequireScope::new("demo-dev/read")))
        .layer(RequireToken::new(verifier));
    let address = serve(app).await;

    let rotated = Arc::new(tokio::sync::Barrier::new(201));
    let clients = (0..200).map(|_| {
        let (issuer, rotated) = (server.issuer().clone(), Arc::clone(&rotated));
        tokio::spawn(async move {
            let token = || issuer.machine_token(CLIENT).scope("demo-dev/read").sign();
            let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
            let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let mut send = async |token: &str| {
                let request = Request::get("/item").header("host", "localhost");
                let request = request.header(AUTHORIZATION, format!("Bearer {token}"));
                let response = client.send_request(request.body(Body::empty()).unwrap());
                let response = tokio::time::timeout(Duration::from_secs(20), response).await;
                let (parts, body) = response.unwrap().unwrap().into_parts();
                body.collect().await.unwrap();
                assert_eq!(parts.status, 200);
            };
            let old = token();
            send(&old).await;
            rotated.wait().await;
            rotated.wait().await;
            for token in [token(), old, token()] {
                send(&token).await;
            }
        })
    });
    let clients = clients.collect::<Vec<_>>();
    rotated.wait().await;
    server.issuer().rotate();
    rotated.wait().await;
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(server.jwks_requests(), 2);
}

#[tokio::test]
async fn scope_table_around_the_service_covers_routes_added_later() {
    use tower::Layer;
    use tower_cognito::{Access, ScopeTable};

    let table = || ScopeTable::new([("GET /item", Access::public())]).unwrap();
    let app = || Router::new().route("/item", get(ok));
    let guarded = require_token().scope_table(table()).layer(app().route("/new", get(ok)));
    let around = Router::new().fallback_service(guarded);
    assert_eq!(status(&around, Method::GET, "/item", None).await, 200);
    assert_eq!(status(&around, Method::GET, "/new", None).await, 401);
    assert_eq!(status(&around, Method::GET, "/unknown", None).await, 401);

    let last = app().layer(require_token().scope_table(table())).route("/new", get(ok));
    assert_eq!(status(&last, Method::GET, "/item", None).await, 200);
    assert_eq!(status(&last, Method::GET, "/new", None).await, 200);
    assert_eq!(status(&last, Method::GET, "/unknown", None).await, 401);
}

/// Requires a scope in a handler, as a service with several tools on one path does.
async fn call_tool(extensions: axum::http::Extensions, tool: String) -> Result<String, Rejection> {
    let scope = format!("mcp/{tool}");
    let token = RequireScope::new(&scope).authorize(&extensions)?;
    Ok(token.client_id().to_owned())
}

#[tokio::test]
async fn check_in_handler_rejects_like_the_layers_around_it() {
    let log = Log::of_this_thread();
    let metadata =
        ResourceMetadata::new("https://api.example.com/mcp", [issuer().issuer()]).unwrap();
    let inside = Router::new().route("/mcp", post(call_tool));
    let layered = inside.clone().layer(RequireScope::new("mcp/call"));
    let token = RequireToken::new(verifier())
        .realm("tools")
        .resource_metadata(&metadata)
        .rejection_body(RejectionBody::problem);
    let app = layered.layer(token.clone());
    let call = async |app: &Router, scope: Option<&str>, tool: &str| {
        let mut request = Request::post("/mcp");
        if let Some(scope) = scope {
            request = request.header("authorization", format!("Bearer {}", machine(scope).sign()));
        }
        let request = request.body(Body::from(tool.to_owned())).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let rejection = response.extensions().get::<Rejection>().map(Rejection::kind);
        let header = |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), header("www-authenticate"), header("content-type"), rejection)
    };
    let (status, ..) = call(&app, Some("mcp/call mcp/admin"), "admin").await;
    assert_eq!(status, 200);
    assert!(!log.take().contains("request rejected"));

    let rejected = call(&app, Some("mcp/call"), "admin").await;
    let challenge = r#"Bearer realm="tools", error="insufficient_scope", error_description="A required scope is missing", scope="mcp/admin mcp/call", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource/mcp""#;
    let problem = Some("application/problem+json".to_owned());
    let kind = Some(RejectionKind::InsufficientScope);
    assert_eq!(rejected, (403, Some(challenge.to_owned()), problem.clone(), kind));
    let log_text = log.take();
    let lines = log_text.lines().filter(|line| line.contains("request rejected"));
    let lines = lines.collect::<Vec<_>>();
    assert_eq!(lines.len(), 1, "{log_text}");
    assert!(lines[0].contains(r#"reason="insufficient_scope""#), "{log_text}");

    // Without a token, and without a layer.
    let anonymous = inside.clone().layer(token.allow_anonymous());
    let rejected = call(&anonymous, None, "admin").await;
    let challenge = r#"Bearer realm="tools", scope="mcp/admin", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource/mcp""#;
    let kind = Some(RejectionKind::MissingToken);
    assert_eq!(rejected, (401, Some(challenge.to_owned()), problem, kind));
    let (status, challenge, _, kind) = call(&inside, Some("mcp/admin"), "admin").await;
    assert_eq!((status, challenge, kind), (500, None, Some(RejectionKind::Internal)));
}
