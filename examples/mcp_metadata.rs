//! A Model Context Protocol server. A client that knows only its URL learns from the rejection
//! where to get a token (RFC 9728). The server rejects tokens that were issued for another
//! resource.
//!
//!     cargo run --example mcp_metadata
//!
//! It also plays the client and prints each step.

use std::error::Error;

use axum::Router;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tower_cognito::{
    ClientIds, RequireScope, RequireToken, ResourceMetadata, Rules, TestServer, Verifier,
};

const CLIENT_ID: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// Creates the server. `resource` is its public URL and comes from the configuration, because
/// clients can send any `Host`.
async fn app(resource: &str, issuer: &TestServer) -> Result<Router, Box<dyn Error>> {
    let pool = issuer.issuer().user_pool();
    let metadata = ResourceMetadata::new(resource, [pool.issuer()])?
        .with_scopes(["mcp/call"])
        .with_name("An MCP server");
    // MCP requires a server to check that a token was issued for it.
    let rules = Rules::new(pool, ClientIds::only([CLIENT_ID])).with_audience(resource);
    let verifier = Verifier::builder(rules).connect().await?;

    Ok(Router::new()
        .route("/mcp", post(call_tool).layer(RequireScope::new("mcp/call")))
        .layer(RequireToken::new(verifier).resource_metadata(&metadata))
        // Added after the layer, so that it can be read without a token.
        .route_service(metadata.path(), metadata.clone()))
}

async fn call_tool() -> &'static str {
    r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"42"}]}}"#
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = TestServer::bind("127.0.0.1:0").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let resource = format!("http://{}/mcp", listener.local_addr()?);
    let app = app(&resource, &issuer).await?;
    tokio::spawn(async { axum::serve(listener, app).await });

    // The client knows only the URL.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let rejected = http.post(&resource).send().await?;
    let challenge = rejected.headers()["www-authenticate"].to_str()?;
    println!("1. {}: {challenge}", rejected.status());

    let (_, url) = challenge
        .split_once("resource_metadata=\"")
        .ok_or("the challenge has no resource_metadata")?;
    let metadata = http.get(url.trim_end_matches('"')).send().await?.text().await?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    println!("2. {metadata}");

    // A real client would now request a token for this resource (RFC 8707), and Cognito would put
    // the resource into `aud`. Here the test issuer does so.
    assert_eq!(metadata["resource"], *resource);
    let token = |audience: &str| {
        let user = issuer.issuer().user_token(CLIENT_ID, "alice");
        user.scope("mcp/call").claim("aud", audience).sign()
    };
    for audience in [&*resource, "https://other.example/mcp"] {
        let call = http.post(&resource).bearer_auth(token(audience)).send().await?;
        println!("3. with a token for {audience}: {}, {}", call.status(), call.text().await?);
    }
    Ok(())
}
