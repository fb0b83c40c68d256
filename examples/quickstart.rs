//! An API that requires a scope for each route, and an issuer of tokens for it.
//!
//!     cargo run --example quickstart
//!
//! By default, the issuer is an embedded stand-in for Cognito. `COGNITO_USER_POOL_ID` and
//! `COGNITO_CLIENT_IDS` select a real user pool; `COGNITO_ISSUER` and `COGNITO_JWKS_URL` select an
//! emulator or another process. `Config` documents the other settings. `QUICKSTART_API` and
//! `QUICKSTART_ISSUER` (`host:port`) set the addresses to listen on.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal;
use tower::ServiceExt;
use tower_cognito::test_issuer::Fault;
use tower_cognito::{AccessToken, Config, RequireScope, RequireToken, TestServer, Verifier};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const CLIENT_ID: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";
const CLIENT_SECRET: &str = "1example2secret3of4the5quickstart6no7protection8at9all0";
const SCOPES: [&str; 3] = ["activity/*", "activity/read", "demo-dev/read"];

/// Creates the service. The rest of this file runs it on a machine without an AWS account.
fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
        .route("/item", get(items).layer(RequireScope::new("demo-dev/read")))
        .route("/admin", get(items).layer(RequireScope::new("demo-dev/admin")))
        .layer(RequireToken::new(verifier))
}

async fn receive(token: AccessToken, event: Bytes) -> Bytes {
    tracing::info!(client = token.client_id(), event = ?String::from_utf8_lossy(&event));
    event
}

async fn items() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], r#"[{"test": "hoge"}]"#)
}

#[tokio::main]
async fn main() -> ExitCode {
    // By default, log the reason of each rejection, which clients do not see.
    let levels = env::var("RUST_LOG").ok().and_then(|levels| levels.parse().ok());
    let levels = levels.unwrap_or_else(|| {
        let usual = Targets::new().with_default(LevelFilter::INFO);
        usual.with_target("tower_cognito", LevelFilter::DEBUG)
    });
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(log).with(levels).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let configured = match env::vars_os().any(|(name, _)| is_setting(&name)) {
        true => Some(Config::from_env()?),
        false => None,
    };
    let listener = listen("QUICKSTART_API", "127.0.0.1:8080").await?;
    let api = format!("http://{}", listener.local_addr()?);

    // Keep the issuer as long as the service.
    let mut embedded = None;
    let config = match configured {
        Some(config) => config,
        None => {
            let server = embedded.insert(embedded_issuer().await?);
            let issuer = server.issuer().issuer();
            Config::from_vars([("COGNITO_ISSUER", issuer), ("COGNITO_CLIENT_IDS", CLIENT_ID)])?
        }
    };
    let verifier = config.verifier_builder().connect().await?;
    let mut app = app(verifier);
    if embedded.is_some() {
        let down = get(move |request| without_keys(config.clone(), request));
        app = app.route("/without-keys", down);
    }

    // Install the handler before the output says that the service runs.
    let stopped = stop_signal()?;
    match &embedded {
        Some(server) => print_how_to_call(server, &api),
        None => println!("API_URL={api}/item\nACTIVITY_URL={api}/activity"),
    }
    let stopped = async {
        stopped.await;
        // Exit after 5 seconds even if a client keeps its request open.
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            std::process::exit(0);
        });
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

/// Returns `true` also for another case, so that `Config` can report it.
fn is_setting(name: &OsStr) -> bool {
    name.to_string_lossy().to_ascii_uppercase().starts_with("COGNITO_")
}

async fn listen(variable: &str, default: &str) -> Result<TcpListener, String> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    TcpListener::bind(&address)
        .await
        .map_err(|error| format!("{variable}: cannot listen on {address}: {error}"))
}

async fn embedded_issuer() -> Result<TestServer, String> {
    let address = env::var("QUICKSTART_ISSUER").unwrap_or_else(|_| "127.0.0.1:9000".to_owned());
    let server = TestServer::bind(&address)
        .await
        .map_err(|error| format!("QUICKSTART_ISSUER: cannot listen on {address}: {error}"))?;
    server.add_client(CLIENT_ID, CLIENT_SECRET, SCOPES);
    Ok(server)
}

/// Answers as the service does while Cognito is down and no keys have been fetched.
async fn without_keys(config: Config, request: Request) -> Result<Response, (StatusCode, String)> {
    let verifier = config.verifier_builder().jwks_fetcher(Fault::Down).connect_lazy();
    let verifier = verifier.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    match app(verifier).oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

fn print_how_to_call(server: &TestServer, api: &str) {
    let issuer = server.issuer();
    let machine = |client| issuer.machine_token(client).scope(&SCOPES.join(" "));
    let two_hours_ago = SystemTime::now() - Duration::from_secs(2 * 60 * 60);

    println!("CLIENT_ID={CLIENT_ID}");
    println!("CLIENT_SECRET={CLIENT_SECRET}");
    println!("TOKEN_ENDPOINT_URL={}", server.token_endpoint_url());
    println!("API_URL={api}/item");
    println!("ACTIVITY_URL={api}/activity");
    let expired = machine(CLIENT_ID).issued_at(two_hours_ago).sign();
    println!("EXPIRED_TOKEN={expired}");
    println!("ID_TOKEN={}", issuer.id_token(CLIENT_ID, "alice").sign());
    println!("OTHER_CLIENT_TOKEN={}", machine("another-client").sign());
    println!("ready");
    let token_url = server.token_endpoint_url();
    println!(
        r#"
Paste this line into another shell. It gets a token by the client credentials grant, and sets the
values above that clients need:

export ACCESS_TOKEN=$(curl --silent --user '{CLIENT_ID}:{CLIENT_SECRET}' --data 'grant_type=client_credentials' '{token_url}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/') API_URL={api}/item ACTIVITY_URL={api}/activity TOKEN_ENDPOINT_URL={token_url} CLIENT_ID={CLIENT_ID} CLIENT_SECRET={CLIENT_SECRET} EXPIRED_TOKEN={expired}

Then paste any of these:

# 200: send an event; the response repeats it
curl --include --header "Authorization: Bearer $ACCESS_TOKEN" --data '{{"message":"Hello"}}' {api}/activity

# 200: get the items
curl --include --header "Authorization: Bearer $ACCESS_TOKEN" {api}/item

# 401: no token, and an expired token
curl --include {api}/item
curl --include --header "Authorization: Bearer $EXPIRED_TOKEN" {api}/item

# 403: the token does not have the scope demo-dev/admin
curl --include --header "Authorization: Bearer $ACCESS_TOKEN" {api}/admin

# 503: a service that has no keys, because Cognito is down
curl --include --header "Authorization: Bearer $ACCESS_TOKEN" {api}/without-keys

The other tokens above get 401, too. The lines below say why.
Press Ctrl-C to stop it."#
    );
}

/// Waits for Ctrl-C or for SIGTERM, which container platforms send. Signals count from this call
/// on.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use signal::unix::{SignalKind, signal};

    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async { _ = signal::ctrl_c().await })
}
