//! Two tonic servers and a client: one server with the layer around all services and a scope for
//! each method, the other with an interceptor around one service.
//!
//!     cargo run --example tonic
//!
//! Any generated service works. This example uses gRPC's health service, whose types come with
//! tonic, so that it needs no generated code.

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
use tower_cognito::{
    Access, AccessToken, ClientIds, RequireScope, RequireToken, Rules, ScopeTable, TestServer,
    TokenInterceptor, Verifier,
};

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let issuer = TestServer::bind("127.0.0.1:0").await?;
    let rules = Rules::new(issuer.issuer().user_pool(), ClientIds::only([CLIENT_ID]));
    let verifier = Verifier::builder(rules).connect().await?;

    let machine = |scope| issuer.issuer().machine_token(CLIENT_ID).scope(scope).sign();
    let reader = machine("health/read");
    let watcher = machine("health/watch");

    // The layer sees the method, so each method can require another scope, or none.
    let table = ScopeTable::new([
        ("GRPC /grpc.health.v1.Health/Check", Access::any_of_resource_server("health")),
        ("GRPC /grpc.health.v1.Health/Watch", Access::scope("health/watch")),
        ("GRPC /grpc.reflection.v1.ServerReflection/{*method}", Access::public()),
    ])?;
    let (listener, layered) = listen().await?;
    let server = Server::builder()
        .layer(RequireToken::new(verifier.clone()).scope_table(table))
        .add_service(HealthServer::new(Service));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    // The interceptor protects one service of a server.
    let interceptor =
        TokenInterceptor::new(verifier).require_scope(RequireScope::new("health/read"));
    let (listener, intercepted) = listen().await?;
    let server =
        Server::builder().add_service(HealthServer::with_interceptor(Service, interceptor));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

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
