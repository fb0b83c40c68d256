//! RFC 9728: the URL of the document, its content, and its URL in every challenge.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_cognito::{Access, RequireScope, RequireToken, ResourceMetadata, ScopeTable, Verifier};

use super::support::{self, Plain, issuer, verifier};

const RESOURCE: &str = "https://api.example.com/mcp";

fn metadata(resource: &str) -> ResourceMetadata {
    ResourceMetadata::new(resource, [issuer().issuer()]).unwrap()
}

#[test]
fn well_known_string_is_inserted_between_host_and_path() {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    for (resource, origin, rest) in [
        ("https://api.example.com", "https://api.example.com", ""),
        ("https://api.example.com/", "https://api.example.com", ""),
        ("https://api.example.com/mcp", "https://api.example.com", "/mcp"),
        // Only a slash that directly follows the host is removed.
        ("https://api.example.com/mcp/", "https://api.example.com", "/mcp/"),
        ("https://api.example.com/a/b", "https://api.example.com", "/a/b"),
        ("https://api.example.com/a%20b", "https://api.example.com", "/a%20b"),
        ("https://api.example.com:8443", "https://api.example.com:8443", ""),
        ("https://api.example.com:8443/", "https://api.example.com:8443", ""),
        ("https://api.example.com:8443/x", "https://api.example.com:8443", "/x"),
        ("https://192.0.2.1/x", "https://192.0.2.1", "/x"),
        ("http://localhost:8080/x", "http://localhost:8080", "/x"),
        ("http://127.0.0.1", "http://127.0.0.1", ""),
        ("http://[::1]", "http://[::1]", ""),
        ("http://[::1]:8080/", "http://[::1]:8080", ""),
        ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]", "/x"),
        // The host ends with the same text as the path.
        ("https://com/com", "https://com", "/com"),
        ("https://x/x/x", "https://x", "/x/x"),
    ] {
        let metadata = metadata(resource);
        assert_eq!(metadata.path(), format!("{WELL_KNOWN}{rest}"), "{resource}");
        assert_eq!(metadata.url(), format!("{origin}{WELL_KNOWN}{rest}"), "{resource}");
    }
}

/// The other invalid URLs are those of `user_pool`.
#[test]
fn new_rejects_plain_http_to_other_hosts() {
    let expected = "invalid URL: plain `http` is allowed only for loopback hosts; expected a URL such as \
                    `https://issuer.example/pool`";
    for url in ["http://api.example.com", "http://localhost.example.com", "http://[2001:db8::1]"] {
        for error in [
            ResourceMetadata::new(url, ["https://issuer.example"]).unwrap_err(),
            ResourceMetadata::new(RESOURCE, ["https://issuer.example", url]).unwrap_err(),
        ] {
            assert_eq!(error.to_string(), expected, "{url}");
        }
    }
}

#[test]
fn new_rejects_an_empty_list_of_authorization_servers() {
    for new in [ResourceMetadata::new, ResourceMetadata::new_insecure] {
        let error = new(RESOURCE, [] as [&str; 0]).unwrap_err();
        let expected = "invalid URL: the list of authorization servers is empty; expected a URL \
                        such as `https://issuer.example/pool`";
        assert_eq!(error.to_string(), expected);
    }
}

/// A client sends its secret to a server that the document names.
#[test]
fn plain_http_to_another_host_needs_the_insecure_constructor() {
    let (resource, server) = ("http://mcp:8080/mcp", "http://cognito:9229/local_1");
    for (resource, server) in [
        (resource, "https://issuer.example"),
        ("https://api.example.com", server),
        (resource, server),
    ] {
        assert!(ResourceMetadata::new(resource, [server]).is_err(), "{resource} {server}");
        assert!(ResourceMetadata::new_insecure(resource, [server]).is_ok(), "{resource} {server}");
    }
    let metadata = ResourceMetadata::new_insecure(resource, [server]).unwrap();
    assert_eq!(metadata.url(), "http://mcp:8080/.well-known/oauth-protected-resource/mcp");
    for (resource, server) in [
        ("http://mcp?x", server),
        ("http://a@mcp", server),
        (resource, "ftp://cognito"),
        (resource, "http://cognito#x"),
    ] {
        let metadata = ResourceMetadata::new_insecure(resource, [server]);
        assert!(metadata.is_err(), "{resource} {server}");
    }
}

async fn response_to(service: &ResourceMetadata, method: Method) -> (u16, http::HeaderMap, String) {
    let mut request = support::request(None);
    *request.method_mut() = method;
    let (parts, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn document_contains_the_settings() {
    for (metadata, expected) in [
        (
            metadata(RESOURCE),
            json!({
                "resource": RESOURCE,
                "authorization_servers": [issuer().issuer()],
                "bearer_methods_supported": ["header"],
            }),
        ),
        (
            ResourceMetadata::new(
                "https://api.example.com/",
                ["https://a.example", "https://b.example/x"],
            )
            .unwrap()
            .with_scopes(["mcp/call", "mcp/*"])
            .with_name("Caf\u{e9} \"Example\""),
            json!({
                "resource": "https://api.example.com/",
                "authorization_servers": ["https://a.example", "https://b.example/x"],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["mcp/call", "mcp/*"],
                "resource_name": "Caf\u{e9} \"Example\"",
            }),
        ),
        (
            metadata(RESOURCE)
                .with_scopes(["a/b"])
                .with_scopes(["c/d"])
                .with_name("x")
                .with_name("y"),
            json!({
                "resource": RESOURCE,
                "authorization_servers": [issuer().issuer()],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["c/d"],
                "resource_name": "y",
            }),
        ),
    ] {
        let (status, headers, body) = response_to(&metadata, Method::GET).await;
        assert_eq!(status, 200);
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    }
}

#[tokio::test]
async fn changing_a_clone_keeps_the_original() {
    let first = metadata(RESOURCE);
    let named = first.clone().with_name("Example");
    let (_, _, body) = response_to(&first, Method::GET).await;
    assert!(!body.contains("resource_name"), "{body}");
    let (_, _, body) = response_to(&named, Method::GET).await;
    assert!(body.contains(r#""resource_name":"Example""#), "{body}");
    assert_eq!(first.url(), named.url());
}

#[tokio::test]
async fn service_allows_only_get_and_head() {
    let metadata = metadata(RESOURCE);
    let (_, of_get, document) = response_to(&metadata, Method::GET).await;
    let (status, headers, body) = response_to(&metadata, Method::HEAD).await;
    assert_eq!((status, &*body), (200, ""));
    assert_eq!(headers, of_get, "{document}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "FOO"] {
        let name = method;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (status, headers, body) = response_to(&metadata, method).await;
        assert_eq!((status, &*body), (405, ""), "{name}");
        assert_eq!(headers[ALLOW], "GET, HEAD", "{name}");
        assert!(!headers.contains_key(CONTENT_TYPE), "{name}");
    }
}

#[test]
fn with_scopes_panics_on_invalid_scopes() {
    for scopes in [&[][..], &[""], &["a b"], &["a/b", "c\"d"]] {
        let built = std::panic::catch_unwind(|| {
            let _ = metadata(RESOURCE).with_scopes(scopes.iter().copied());
        });
        assert!(built.is_err(), "{scopes:?}");
    }
}

async fn call(app: &Router, request: Request<Body>) -> Response<String> {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
}

fn request(method: &str, uri: &str, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Body::empty()).unwrap()
}

fn app(verifier: Verifier) -> Router {
    let metadata = metadata(RESOURCE).with_scopes(["mcp/call"]);
    Router::new()
        .route("/mcp", get(|| async { "ok" }).layer(RequireScope::new("mcp/call")))
        .layer(RequireToken::new(verifier).resource_metadata(&metadata))
        .route_service(metadata.path(), metadata.clone())
}

#[tokio::test]
async fn document_mounted_after_the_layer_needs_no_token() {
    let app = app(verifier());
    let path = "/.well-known/oauth-protected-resource/mcp";
    for authorization in [None, Some("Bearer bad"), Some("Bearer")] {
        let response = call(&app, request("GET", path, authorization)).await;
        assert_eq!(response.status(), 200, "{authorization:?}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let document: Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(document["resource"], RESOURCE);
        assert_eq!(document["scopes_supported"], json!(["mcp/call"]));
    }
    let get = call(&app, request("GET", path, None)).await;
    let head = call(&app, request("HEAD", path, None)).await;
    assert_eq!((head.status().as_u16(), &**head.body()), (200, ""));
    assert_eq!(head.headers()[CONTENT_LENGTH], get.body().len().to_string());
    let post = call(&app, request("POST", path, None)).await;
    assert_eq!(
        (post.status().as_u16(), &post.headers()[ALLOW]),
        (405, &"GET, HEAD".parse().unwrap())
    );
    // Routes that were added before the layer stay protected.
    assert_eq!(call(&app, request("GET", "/mcp", None)).await.status(), 401);
    assert_eq!(call(&app, request("GET", &format!("{path}/x"), None)).await.status(), 401);
}

#[tokio::test]
async fn challenge_has_realm_and_url_whichever_is_set_first() {
    let metadata = metadata("https://api.example.com");
    let url = "https://api.example.com/.well-known/oauth-protected-resource";
    let layer = || RequireToken::new(verifier());
    for layer in [
        layer().realm("orders").resource_metadata(&metadata),
        layer().resource_metadata(&metadata).realm("orders"),
    ] {
        let response = layer.layer(Plain).oneshot(support::request(None)).await.unwrap();
        let challenge = format!(r#"Bearer realm="orders", resource_metadata="{url}""#);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
    }
}

#[tokio::test]
async fn client_headers_do_not_change_document_and_challenge() {
    let app = app(verifier());
    let plain = call(&app, request("GET", "/mcp", None)).await;
    let path = "/.well-known/oauth-protected-resource/mcp";
    let document = call(&app, request("GET", path, None)).await;
    for (name, value) in [
        (HOST.as_str(), "evil.example"),
        ("forwarded", "host=evil.example;proto=http"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
    ] {
        for (uri, expected) in [("/mcp", &plain), (path, &document)] {
            for uri in [uri.to_owned(), format!("http://evil.example{uri}")] {
                let mut forged = request("GET", &uri, None);
                forged
                    .headers_mut()
                    .insert(http::HeaderName::from_static(name), value.parse().unwrap());
                let response = call(&app, forged).await;
                assert_eq!(response.status(), expected.status(), "{name} {uri}");
                assert_eq!(response.headers(), expected.headers(), "{name} {uri}");
                assert_eq!(response.body(), expected.body(), "{name} {uri}");
            }
        }
    }
}

#[tokio::test]
async fn scope_table_leaves_the_document_public_and_nothing_else() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let table = || {
        ScopeTable::new([
            ("POST /mcp", Access::scope("mcp/call")),
            ("ANY /{*rest}", Access::authenticated()),
        ])
        .unwrap()
    };
    let metadata = metadata(RESOURCE);
    let inside =
        Router::new().route_service(metadata.path(), metadata.clone()).fallback(async move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
    let plain = || RequireToken::new(verifier());
    for layer in [
        plain().resource_metadata(&metadata).scope_table(table()),
        plain().scope_table(table()).resource_metadata(&metadata),
        // Only the document of the last call is public.
        plain()
            .scope_table(table())
            .resource_metadata(&self::metadata("https://api.example.com/old"))
            .resource_metadata(&metadata),
    ] {
        let app = inside.clone().layer(layer);
        for method in ["GET", "HEAD"] {
            let response = call(&app, request(method, metadata.path(), None)).await;
            assert_eq!(response.status(), 200, "{method}");
            // A token is not read there, so an invalid one does not matter.
            let invalid = request(method, metadata.path(), Some("Bearer bad"));
            assert_eq!(call(&app, invalid).await.status(), 200, "{method}");
        }
        for (method, path) in [
            ("POST", metadata.path()),
            ("OPTIONS", metadata.path()),
            ("GET", "/.well-known/oauth-protected-resource"),
            ("GET", "/.well-known/oauth-protected-resource/"),
            ("GET", "/.well-known/oauth-protected-resource/mcp/"),
            ("GET", "/.well-known/oauth-protected-resource/mcp/x"),
            ("GET", "/.well-known/oauth-protected-resource/old"),
            ("GET", "/.well-known/oauth-protected-resource/MCP"),
            ("GET", "/.well-known/oauth-protected-resource/%6dcp"),
            ("GET", "/.well-known/oauth-protected-resource/mcp;x"),
            ("GET", "/.well-known/openid-configuration"),
            ("GET", "/.well-known/anything"),
            ("GET", "/.well-known"),
            ("GET", "/elsewhere"),
        ] {
            let response = call(&app, request(method, path, None)).await;
            assert_eq!(response.status(), 401, "{method} {path}");
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0, "the fallback was reached");
}

#[test]
fn scope_table_that_requires_a_token_for_the_document_panics() {
    let document = "/.well-known/oauth-protected-resource/mcp";
    let build = |resource: &str, key: &str, access: Access| {
        let metadata = metadata(resource);
        let table = ScopeTable::new([(key, access)]).unwrap();
        let one = || {
            RequireToken::new(verifier()).resource_metadata(&metadata).scope_table(table.clone())
        };
        let other = || {
            RequireToken::new(verifier()).scope_table(table.clone()).resource_metadata(&metadata)
        };
        let built = [
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(one)).is_ok(),
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(other)).is_ok(),
        ];
        assert_eq!(built[0], built[1], "{resource}, {key}");
        built[0]
    };
    for (key, access, is_built) in [
        (format!("GET {document}"), Access::public(), true),
        (format!("ANY {document}"), Access::public(), true),
        (format!("POST {document}"), Access::authenticated(), true),
        (format!("GET {document}"), Access::authenticated(), false),
        (format!("ANY {document}"), Access::scope("mcp/call"), false),
        ("ANY /.well-known/{*rest}".to_owned(), Access::authenticated(), true),
    ] {
        assert_eq!(build(RESOURCE, &key, access), is_built, "{key}");
    }
    // A path that the table rejects as ambiguous.
    assert!(!build("https://api.example.com/a%2Fb", "GET /", Access::public()));
    assert!(!build("https://api.example.com/a//b", "GET /", Access::public()));
    // A row writes the same segment in another way.
    let other = "GET /.well-known/oauth-protected-resource/%6dcp/x";
    assert!(!build(RESOURCE, other, Access::public()));
}
