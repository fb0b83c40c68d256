//! A client of the MCP server that uses rmcp and the client credentials grant.
//!
//! `tests/run/mcp.py` drives it by its standard input and describes the commands and the answers. The
//! function `connect` shows what a Rust client does.

use std::env;
use std::error::Error;
use std::io;

use rmcp::RoleClient;
use rmcp::ServiceExt;
use rmcp::model::CallToolRequestParams;
use rmcp::service::RunningService;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationManager, ClientCredentialsConfig};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};

type Client = RunningService<RoleClient, ()>;

struct Settings {
    url: String,
    issuer: String,
    client_id: String,
    secret: String,
    scope: String,
}

/// Connects as a client that knows only the URL, the issuer and its own credentials.
async fn connect(settings: &Settings, steps: &mut Vec<String>) -> Result<Client, Box<dyn Error>> {
    let config = || StreamableHttpClientTransportConfig::with_uri(settings.url.clone());

    // The first request has no token. Its rejection names the metadata and the scope.
    let transport = StreamableHttpClientTransport::from_config(config());
    let Err(rejected) = ().serve(transport).await else {
        return Err("the server does not require a token".into());
    };
    let challenge = rejected.auth_challenge().ok_or("the rejection has no challenge")?.to_owned();
    steps.push("POST /mcp 401".to_owned());

    let mut manager = AuthorizationManager::new(&settings.url).await?;
    let resolution = manager.resolve_metadata_from_challenge(Some(&challenge)).await?;
    steps.push(format!("GET metadata {:?}", resolution.source));
    // Send the secret only to the issuer that it belongs to.
    if resolution.metadata.issuer.as_deref() != Some(&settings.issuer) {
        return Err("the server names another issuer".into());
    }
    manager.set_metadata(resolution.metadata);

    let scopes = match &*settings.scope {
        "" => manager.select_initial_scopes(&[]).await,
        scope => scope.split(' ').map(str::to_owned).collect(),
    };
    let credentials = ClientCredentialsConfig::ClientSecret {
        client_id: settings.client_id.clone(),
        client_secret: settings.secret.clone(),
        scopes,
        resource: Some(settings.url.clone()),
    };
    manager.configure_client_credentials(&credentials)?;
    manager.exchange_client_credentials(&credentials).await?;
    steps.push("POST /oauth2/token 200".to_owned());

    let http = AuthClient::new(reqwest::Client::default(), manager);
    let transport = StreamableHttpClientTransport::with_client(http, config());
    let client = ().serve(transport).await?;
    steps.push("POST /mcp 200 initialize".to_owned());
    Ok(client)
}

async fn call(client: &Client, tool: &str) -> Result<String, Box<dyn Error>> {
    let result = client.call_tool(CallToolRequestParams::new(tool.to_owned())).await?;
    let content = serde_json::to_value(&result.content)?;
    Ok(content[0]["text"].as_str().unwrap_or_default().to_owned())
}

/// Returns the texts of an error and of its causes.
fn text_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings: Value =
        serde_json::from_str(&env::args().nth(1).ok_or("usage: client SETTINGS")?)?;
    let setting = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    let settings = Settings {
        url: setting("url"),
        issuer: setting("issuer"),
        client_id: setting("client_id"),
        secret: setting("secret"),
        scope: setting("scope"),
    };

    let mut client = None;
    // The runtime's other threads run the session while this one waits for input.
    for line in io::stdin().lines() {
        let line = line?;
        let mut steps = Vec::new();
        let result = match (line.split_once(' '), &client) {
            (None, _) => connect(&settings, &mut steps).await.map(|connected| {
                client = Some(connected);
                "connected".to_owned()
            }),
            (Some(_), None) => Err("not connected".into()),
            (Some((_, tool)), Some(client)) => call(client, tool).await,
        };
        let answer = match result {
            Ok(result) => json!({ "result": result, "requests": steps }),
            Err(error) => json!({ "error": text_of(&*error), "requests": steps }),
        };
        println!("{answer}");
    }
    Ok(())
}
