//! Drives the service without a socket.

use std::sync::LazyLock;

use axum::body::Body;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN,
};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;
use tower_cognito::TestIssuer;

use super::*;

const RESOURCE: &str = "https://mcp.example.com/mcp";
const DOCUMENT: &str = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"0"}}}"#;
const BROWSER: &str = "https://app.example.com";

/// Generating keys takes most of the time of a test.
static ISSUER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);

struct Server {
    app: Router,
}

impl Server {
    async fn new() -> Self {
        let issuer = &ISSUER;
        let rules = tower_cognito::Rules::new(
            issuer.user_pool(),
            tower_cognito::ClientIds::only([MACHINE, ADMIN_MACHINE]),
        );
        let rules = rules.with_audience_if_present([RESOURCE]).with_required_scopes([CALL]);
        let verifier = Verifier::builder(rules).connect().await.unwrap();
        let app = app(verifier, issuer.issuer(), RESOURCE, &[BROWSER.to_owned()]).unwrap();
        Self { app }
    }

    fn machine(&self, scope: &str) -> String {
        ISSUER.machine_token(MACHINE).scope(scope).sign()
    }

    fn user(&self, audience: &str) -> String {
        ISSUER.user_token(MACHINE, "alice").scope(CALL).claim("aud", audience).sign()
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> (http::response::Parts, String) {
        let request = request.header(HOST, "mcp.example.com").body(Body::from(body)).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Sends a message as a client without a session does.
    async fn post(&self, token: &str, message: String) -> (http::response::Parts, String) {
        let request = Request::post("/mcp")
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        let request = match token {
            "" => request,
            _ => request.header(AUTHORIZATION, format!("Bearer {token}")),
        };
        self.send(request, message).await
    }

    /// Calls a tool in a new session.
    async fn call(&self, token: &str, tool: &str) -> (http::response::Parts, String) {
        let params = json!({ "name": tool, "arguments": {} });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        self.send_in_session(token, call.to_string()).await
    }

    /// Sends a message in a new session.
    async fn send_in_session(
        &self,
        token: &str,
        message: String,
    ) -> (http::response::Parts, String) {
        let (parts, body) = self.post(token, INITIALIZE.to_owned()).await;
        if parts.status != StatusCode::OK {
            return (parts, body);
        }
        let session = parts.headers["mcp-session-id"].clone();
        let in_session = |message: String| {
            let request = Request::post("/mcp")
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream")
                .header("mcp-protocol-version", "2025-11-25")
                .header("mcp-session-id", session.clone())
                .header(AUTHORIZATION, format!("Bearer {token}"));
            self.send(request, message)
        };
        in_session(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned()).await;
        in_session(message).await
    }
}

fn challenge(parts: &http::response::Parts) -> &str {
    parts.headers[WWW_AUTHENTICATE].to_str().unwrap()
}

#[tokio::test]
async fn rejection_leads_to_the_metadata_and_to_the_scope() {
    let server = Server::new().await;
    let (parts, _) = server.post("", String::new()).await;
    assert_eq!(parts.status, 401);
    let expected =
        format!(r#"Bearer realm="api", scope="mcp/call", resource_metadata="{DOCUMENT}""#);
    assert_eq!(challenge(&parts), expected);

    let path = DOCUMENT.parse::<Uri>().unwrap().path().to_owned();
    let (parts, body) = server.send(Request::get(path), String::new()).await;
    assert_eq!(parts.status, 200);
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["resource"], RESOURCE);
    assert_eq!(document["authorization_servers"], json!([ISSUER.issuer()]));
    assert_eq!(document["scopes_supported"], json!(["mcp/call"]));
}

#[tokio::test]
async fn tool_sees_the_machine_or_the_user_of_the_token() {
    let server = Server::new().await;
    for (token, caller) in [
        (server.machine(CALL), format!("machine {MACHINE}")),
        (server.user(RESOURCE), "user alice".to_owned()),
    ] {
        let (parts, body) = server.call(&token, "whoami").await;
        assert_eq!(parts.status, 200, "{body}");
        assert!(body.contains(&caller), "{body}");
    }
}

#[tokio::test]
async fn token_for_another_resource_or_without_the_scope_is_rejected() {
    let server = Server::new().await;
    let (parts, _) = server.call(&server.user("https://other.example/mcp"), "whoami").await;
    assert_eq!(parts.status, 401);
    assert!(challenge(&parts).contains(r#"error="invalid_token""#), "{}", challenge(&parts));
    // A resource that differs only by a slash is another one.
    let (parts, _) = server.call(&server.user(&format!("{RESOURCE}/")), "whoami").await;
    assert_eq!(parts.status, 401);
    let (parts, _) = server.call(&server.machine("other/x"), "whoami").await;
    assert_eq!(parts.status, 403);
    assert!(challenge(&parts).contains(r#"scope="mcp/call""#), "{}", challenge(&parts));
}

#[tokio::test]
async fn tool_with_a_scope_is_rejected_with_every_required_scope() {
    let server = Server::new().await;
    let (parts, _) = server.call(&server.machine(CALL), "list_callers").await;
    assert_eq!(parts.status, 403);
    let expected = format!(
        r#"Bearer realm="api", error="insufficient_scope", error_description="A required scope is missing", scope="mcp/admin mcp/call", resource_metadata="{DOCUMENT}""#
    );
    assert_eq!(challenge(&parts), expected);

    let (_, body) = server.call(&server.machine("mcp/call mcp/admin"), "whoami").await;
    assert!(body.contains(MACHINE), "{body}");
    let (parts, body) = server.call(&server.machine("mcp/call mcp/admin"), "list_callers").await;
    assert_eq!(parts.status, 200);
    assert!(body.contains(&format!("machine {MACHINE}")), "{body}");
}

/// The middleware and rmcp may read a body differently, so the tool also checks the scope.
#[tokio::test]
async fn tool_checks_its_scope_without_the_middleware() {
    let server = Server::new().await;
    let token = server.machine(CALL);
    server.call(&token, "whoami").await;
    server.call(&token, "whoami").await;
    let list = format!("machine {MACHINE}, machine {MACHINE}");
    let twice = |first, second| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{first}","name":"{second}","arguments":{{}}}}}}"#
        )
    };
    for message in [
        // The middleware finds no tool in a list of messages.
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_callers"}}]"#
            .to_owned(),
        twice("list_callers", "whoami"),
        twice("whoami", "list_callers"),
    ] {
        let (_, body) = server.send_in_session(&token, message).await;
        assert!(!body.contains(&list), "{body}");
    }

    let rules = tower_cognito::Rules::new(ISSUER.user_pool(), tower_cognito::ClientIds::any());
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    for (scope, is_allowed) in [(CALL, false), ("mcp/call mcp/admin", true)] {
        let token = verifier.verify(&ISSUER.machine_token(MACHINE).scope(scope).sign()).await;
        let mut parts = Request::new(()).into_parts().0;
        parts.extensions.insert(token.unwrap());
        let called = Tools::default().list_callers(Extension(parts));
        assert_eq!(called.is_ok(), is_allowed, "{scope}");
    }
}

#[tokio::test]
async fn browser_application_may_read_challenges_and_metadata() {
    let server = Server::new().await;
    let path = DOCUMENT.parse::<Uri>().unwrap().path().to_owned();
    let names =
        "authorization, content-type, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name";
    for path in ["/mcp", &path] {
        for (origin, is_allowed) in [(BROWSER, true), ("https://other.example", false)] {
            let preflight = Request::options(path)
                .header(ORIGIN, origin)
                .header(ACCESS_CONTROL_REQUEST_METHOD, "POST")
                .header(ACCESS_CONTROL_REQUEST_HEADERS, names);
            let (parts, _) = server.send(preflight, String::new()).await;
            assert_eq!(parts.status, 200, "{path}");
            assert_eq!(parts.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), is_allowed);
            let allowed = parts.headers[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
            assert!(names.split(", ").all(|name| allowed.contains(name)), "{allowed}");
        }
    }
    let rejected = Request::post("/mcp").header(ORIGIN, BROWSER);
    let (parts, _) = server.send(rejected, String::new()).await;
    assert_eq!(parts.status, 401);
    assert_eq!(parts.headers[ACCESS_CONTROL_ALLOW_ORIGIN], BROWSER);
    let exposed = parts.headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
    assert_eq!(exposed, "www-authenticate,mcp-session-id");
}

#[tokio::test]
async fn other_hosts_and_origins_are_forbidden_with_a_valid_token() {
    let server = Server::new().await;
    for (host, origin, status) in [
        ("mcp.example.com", BROWSER, 200),
        ("mcp.example.com", "https://other.example", 403),
        ("other.example", BROWSER, 403),
    ] {
        let request = Request::post("/mcp")
            .header(HOST, host)
            .header(ORIGIN, origin)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", server.machine(CALL)))
            .body(Body::from(INITIALIZE))
            .unwrap();
        let response = server.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{host} {origin}");
    }
}

#[tokio::test]
async fn body_above_the_limit_is_413() {
    let server = Server::new().await;
    let (parts, _) = server.post(&server.machine(CALL), " ".repeat(MAX_BODY + 1)).await;
    assert_eq!(parts.status, 413);
}
