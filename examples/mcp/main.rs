//! A Model Context Protocol server that requires Amazon Cognito access tokens.
//!
//!     cargo run -p mcp
//!
//! By default, it runs against an embedded stand-in for Cognito and prints how to call it. See
//! README.md for the settings.

use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use rmcp::handler::server::common::Extension;
use rmcp::model::{ErrorData, ServerCapabilities, ServerConfig};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use serde_json::Value;
use tokio::net::TcpListener;
use tower_cognito::{
    AccessToken, Config, RequireScope, RequireToken, ResourceMetadata, TestServer, Verifier,
};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing_subscriber::EnvFilter;

/// The scope that every request requires.
const CALL: &str = "mcp/call";
/// The scope that some tools also require.
const ADMIN: &str = "mcp/admin";

/// Returns the scope that a tool requires in addition to [`CALL`].
fn scope_of_tool(name: &str) -> Option<&'static str> {
    match name {
        "list_callers" => Some(ADMIN),
        _ => None,
    }
}

/// The longest request. A larger one is answered with status 413.
const MAX_BODY: usize = 1024 * 1024;

#[derive(Clone, Default)]
struct Tools {
    callers: Arc<Mutex<Vec<String>>>,
}

#[tool_router]
impl Tools {
    #[tool(description = "Returns who is calling")]
    fn whoami(&self, Extension(parts): Extension<Parts>) -> Result<String, ErrorData> {
        // rmcp puts the parts of the HTTP request into the extensions of each call. The token is that
        // of this call, also in a session that began with another token.
        let token = parts.extensions.get::<AccessToken>().ok_or_else(no_token)?;
        let caller = match token.username() {
            Some(user) => format!("user {user}"),
            None => format!("machine {}", token.client_id()),
        };
        self.callers.lock().unwrap_or_else(PoisonError::into_inner).push(caller.clone());
        Ok(caller)
    }

    #[tool(description = "Returns every caller of `whoami`; requires the scope mcp/admin")]
    fn list_callers(&self, Extension(parts): Extension<Parts>) -> Result<String, ErrorData> {
        // `require_scope_of_tool` has already checked it, but has read the body with another parser
        // than rmcp. This check decides.
        RequireScope::new(ADMIN)
            .authorize(&parts.extensions)
            .map_err(|rejection| ErrorData::invalid_request(rejection.to_string(), None))?;
        Ok(self.callers.lock().unwrap_or_else(PoisonError::into_inner).join(", "))
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

fn no_token() -> ErrorData {
    ErrorData::internal_error("the request did not pass `RequireToken`", None)
}

/// Rejects the call of a tool whose scope is missing with status 403. From the challenge, a client
/// learns which scopes to request. A tool itself cannot set the status: the response has begun.
async fn require_scope_of_tool(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    if let Some(scope) = called_tool(&body).as_deref().and_then(scope_of_tool)
        && let Err(rejection) = RequireScope::new(scope).authorize(&parts.extensions)
    {
        return rejection.into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// Returns the name of the tool that a message calls.
fn called_tool(message: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(message).ok()?;
    match message.get("method")?.as_str()? {
        "tools/call" => Some(message.get("params")?.get("name")?.as_str()?.to_owned()),
        _ => None,
    }
}

/// Creates the service. `resource` is its public URL, exactly as clients are told it: clients can send
/// any `Host`. `origins` are those of browser applications that may call it.
fn app(
    verifier: Verifier,
    issuer: &str,
    resource: &str,
    origins: &[String],
) -> Result<Router, Box<dyn Error>> {
    let url: Uri = resource.parse()?;
    // Clients request every scope that the metadata lists, so it lists only those that every client
    // may have.
    let metadata = ResourceMetadata::new(resource, [issuer])?
        .with_scopes([CALL])
        .with_name("Example of tower-cognito");

    // rmcp rejects every other `Host` and `Origin`, so that a web page cannot reach a server on this
    // machine by a host name of its own (DNS rebinding).
    let host = url.host().ok_or("the resource URL has no host")?;
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts([host])
        .with_allowed_origins(origins)
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_BODY);
    let tools = Tools::default();
    let mcp = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(LocalSessionManager::default()),
        config,
    );

    // The CORS layer is outside, because a browser sends no token with a preflight request, and must
    // be allowed to read the challenge and the metadata.
    let origins = origins.iter().map(|origin| HeaderValue::from_str(origin));
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.collect::<Result<Vec<_>, _>>()?))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // `mcp-protocol-version` and others, and since 2026-07-28 also `mcp-param-*`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([WWW_AUTHENTICATE, HeaderName::from_static("mcp-session-id")]);

    Ok(Router::new()
        .route_service(url.path(), mcp)
        .layer(from_fn(require_scope_of_tool))
        .layer(RequireToken::new(verifier).resource_metadata(&metadata))
        // Added after the layer, because a client reads it before it has a token.
        .route_service(metadata.path(), metadata.clone())
        .layer(cors))
}

/// Creates a verifier that accepts users and machines.
async fn connect(config: &Config, resource: &str) -> Result<Verifier, Box<dyn Error>> {
    // Cognito writes `aud` into the tokens of users whose client names the resource, and never into
    // those of machines. No other server has this scope, so it also shows for whom a token without
    // `aud` was issued.
    let rules =
        config.rules().clone().with_audience_if_present([resource]).with_required_scopes([CALL]);
    Ok(config.verifier_builder().connect().await?.share_keys(rules)?)
}

const MACHINE: &str = "1example0machine";
const ADMIN_MACHINE: &str = "2example0admin";
const SECRET: &str = "not-a-secret-outside-this-example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // By default, log the reason of each rejection, which clients do not see.
    let levels = EnvFilter::try_from_default_env();
    let levels = levels.unwrap_or_else(|_| EnvFilter::new("info,tower_cognito=debug,rmcp=warn"));
    tracing_subscriber::fmt().with_env_filter(levels).with_writer(std::io::stderr).init();

    let address = env::var("MCP_ADDRESS").unwrap_or_else(|_| "127.0.0.1:8000".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("MCP_ADDRESS: cannot listen on {address}: {error}"))?;
    // Cognito accepts `http://localhost` as a resource, but no `http` URL with an IP address.
    let port = listener.local_addr()?.port();
    let resource = env::var("MCP_RESOURCE");
    let resource = resource.unwrap_or_else(|_| format!("http://localhost:{port}/mcp"));
    // The default is that of the MCP Inspector.
    let origins = env::var("MCP_ORIGINS").unwrap_or_else(|_| "http://localhost:6274".to_owned());
    let origins = origins.split_whitespace().map(str::to_owned).collect::<Vec<_>>();

    // Keep the issuer as long as the service.
    let mut embedded = None;
    let is_configured =
        env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("COGNITO_"));
    let config = match is_configured {
        true => Config::from_env()?,
        false => {
            let server = embedded.insert(TestServer::bind("127.0.0.1:0").await?);
            server.add_client(MACHINE, SECRET, [CALL]);
            server.add_client(ADMIN_MACHINE, SECRET, [CALL, ADMIN]);
            let clients = format!("{MACHINE},{ADMIN_MACHINE}");
            let issuer = server.issuer().issuer();
            Config::from_vars([("COGNITO_ISSUER", issuer), ("COGNITO_CLIENT_IDS", &clients)])?
        }
    };
    let verifier = connect(&config, &resource).await?;
    let app = app(verifier, config.rules().pool().issuer(), &resource, &origins)?;

    println!("MCP_URL={resource}");
    if let Some(server) = &embedded {
        print_how_to_call(server, &resource);
    }
    println!("ready");
    let stopped = async { _ = tokio::signal::ctrl_c().await };
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        // The streams of sessions never end, so do not wait for them.
        () = stopped => {}
    }
    Ok(())
}

fn print_how_to_call(server: &TestServer, resource: &str) {
    let alice = server.issuer().user_token(MACHINE, "alice").scope(CALL);
    println!("ISSUER={}", server.issuer().issuer());
    println!("TOKEN_ENDPOINT_URL={}", server.token_endpoint_url());
    println!("CLIENT_ID={MACHINE}");
    println!("ADMIN_CLIENT_ID={ADMIN_MACHINE}");
    println!("CLIENT_SECRET={SECRET}");
    println!("USER_TOKEN={}", alice.claim("aud", resource).sign());
}

#[cfg(test)]
mod tests;
