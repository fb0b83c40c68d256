//! Two tonic servers and a client: one server with the layer around all services and a scope for
//! each method, the other with an interceptor around one service.
//!
//!     cargo run --example tonic
//!     cargo run --example tonic -- serve
//!
//! With `serve`, it prints the addresses of the servers and of a third one for a gateway, and serves
//! until it is stopped. gRPC-Web clients can call all of them. `COGNITO_USER_POOL_ID` and
//! `COGNITO_CLIENT_IDS` then select a real user pool, see `Config`.
//!
//! Any generated service works. This example uses gRPC's health service, whose types come with
//! tonic, so that it needs no generated code.

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_web::GrpcWebLayer;
use tower_cognito::{
    Access, AccessToken, Config, RejectionBody, RequireScope, RequireToken, ScopeTable, TestServer,
    TokenInterceptor, Verifier,
};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const CLIENT_ID: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

struct Service;

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = tokio_stream::Once<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if let Some(token) = request.extensions().get::<AccessToken>() {
            println!("          the method sees client {}", token.client_id());
        }
        Ok(Response::new(serving()))
    }

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::once(Ok(serving()))))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

/// Serves with the layer around all services. It sees the method, so each method can require another
/// scope, or none.
async fn with_layer(tokens: RequireToken) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let table = ScopeTable::new([
        ("GRPC /grpc.health.v1.Health/Check", Access::any_of_resource_server("health")),
        ("GRPC /grpc.health.v1.Health/Watch", Access::scope("health/watch")),
        ("GRPC /grpc.reflection.v1.ServerReflection/{*method}", Access::public()),
    ])?;
    let (listener, address) = listen().await?;
    let server = Server::builder()
        // gRPC-Web is also possible over HTTP/1.1.
        .accept_http1(true)
        .layer(tokens.scope_table(table))
        .layer(GrpcWebLayer::new())
        .add_service(HealthServer::new(Service));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(address)
}

/// Serves with an interceptor, which protects one service of a server.
async fn with_interceptor(verifier: Verifier) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let interceptor =
        TokenInterceptor::new(verifier).require_scope(RequireScope::new("health/read"));
    let (listener, address) = listen().await?;
    let server = Server::builder()
        .accept_http1(true)
        .layer(GrpcWebLayer::new())
        .add_service(HealthServer::with_interceptor(Service, interceptor));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(address)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match env::args().nth(1).as_deref() {
        None => call_both().await,
        Some("serve") => serve().await,
        Some(_) => Err("usage: tonic [serve]".into()),
    }
}

async fn call_both() -> Result<(), Box<dyn std::error::Error>> {
    let issuer = TestServer::bind("127.0.0.1:0").await?;
    let verifier = config(&issuer)?.verifier_builder().connect().await?;
    let machine = |scope| issuer.issuer().machine_token(CLIENT_ID).scope(scope).sign();
    let reader = machine("health/read");
    let watcher = machine("health/watch");

    let layered = with_layer(RequireToken::new(verifier.clone())).await?;
    let intercepted = with_interceptor(verifier).await?;
    for (name, address) in [("layer", layered), ("interceptor", intercepted)] {
        println!("{name}");
        for (who, token) in [("anonymous", ""), ("reader", &*reader), ("watcher", &*watcher)] {
            let (check, watch) = call(address, token).await?;
            println!("{who:9} Check: {check}");
            println!("{who:9} Watch: {watch}");
        }
    }
    Ok(())
}

fn config(issuer: &TestServer) -> Result<Config, Box<dyn std::error::Error>> {
    let issuer = issuer.issuer().issuer();
    Ok(Config::from_vars([("COGNITO_ISSUER", issuer), ("COGNITO_CLIENT_IDS", CLIENT_ID)])?)
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    // Log the reason of each rejection, which clients do not see.
    let levels = Targets::new().with_default(LevelFilter::INFO);
    let levels = levels.with_target("tower_cognito", LevelFilter::DEBUG);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(log).with(levels).init();

    // Keep the issuer as long as the servers.
    let issuer = TestServer::bind("127.0.0.1:0").await?;
    let is_configured =
        env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("COGNITO_"));
    let config = if is_configured { Config::from_env()? } else { config(&issuer)? };
    let verifier = config.verifier_builder().connect().await?;

    // Connect clients read the body of an HTTP rejection. gRPC rejections have no body.
    let tokens = || RequireToken::new(verifier.clone()).rejection_body(RejectionBody::connect);
    println!("LAYER={}", with_layer(tokens()).await?);
    println!("INTERCEPTOR={}", with_interceptor(verifier.clone()).await?);
    println!("HTTP_REJECTIONS_ONLY={}", with_layer(tokens().http_rejections_only()).await?);
    if !is_configured {
        let token = issuer.issuer().machine_token(CLIENT_ID).scope("health/read health/watch");
        println!("ACCESS_TOKEN={}", token.sign());
    }
    println!("ready");
    Ok(tokio::signal::ctrl_c().await?)
}

async fn listen() -> Result<(TcpListener, SocketAddr), std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Calls both methods with a token, or without one if it is empty.
async fn call(
    address: SocketAddr,
    token: &str,
) -> Result<(String, String), Box<dyn std::error::Error>> {
    let authorization = MetadataValue::try_from(format!("Bearer {token}"))?;
    let has_token = !token.is_empty();
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let mut client = HealthClient::with_interceptor(channel, move |mut request: Request<()>| {
        if has_token {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    });
    let check = client.check(HealthCheckRequest::default()).await;
    let watch = client.watch(HealthCheckRequest::default()).await;
    Ok((say(&check), say(&watch)))
}

fn say<T>(result: &Result<Response<T>, Status>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?}, {}", status.code(), status.message()),
    }
}
