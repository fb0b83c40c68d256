//! What a Model Context Protocol server needs: a client that knows its URL alone finds out from
//! the refusal where to get a token (RFC 9728), and a token for another resource is refused.
//!
//!     cargo run --example mcp_metadata
//!
//! It plays the client as well, and prints each step.

use std::error::Error;

use axum::Router;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tower_cognito::{
    ClientIds, RequireScope, RequireToken, ResourceMetadata, Rules, TestServer, Verifier,
};

const CLIENT_ID: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// The server. `resource` is its public URL, from the configuration: what clients send as `Host`
/// is not to be believed.
async fn app(resource: &str, issuer: &TestServer) -> Result<Router, Box<dyn Error>> {
    let pool = issuer.issuer().user_pool();
    let metadata = ResourceMetadata::new(resource, [pool.issuer()])?
        .with_scopes(["mcp/call"])
        .with_name("An MCP server");
    // The specification of MCP asks its servers to check that a token was issued for them.
    let rules = Rules::new(pool, ClientIds::only([CLIENT_ID])).with_audience(resource);
    let verifier = Verifier::builder(rules).connect().await?;

    Ok(Router::new()
        .route("/mcp", post(call_tool).layer(RequireScope::new("mcp/call")))
        .layer(RequireToken::new(verifier).resource_metadata(&metadata))
        // After the layer, so that anybody may read it.
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

    // The client begins with the URL and nothing else.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let refused = http.post(&resource).send().await?;
    let challenge = refused.headers()["www-authenticate"].to_str()?;
    println!("1. {}: {challenge}", refused.status());

    let (_, url) = challenge.split_once("resource_metadata=\"").ok_or("no metadata is named")?;
    let metadata = http.get(url.trim_end_matches('"')).send().await?.text().await?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    println!("2. {metadata}");

    // It would now ask the authorization server, and name the resource (RFC 8707). Cognito then
    // writes it into `aud`, as the stand-in does here.
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
