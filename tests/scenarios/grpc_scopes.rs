//! A gRPC service whose methods `Check` and `Watch` require different scopes: once with the layer
//! and a table, once with the interceptor and checks in the methods.

use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};
use tower_cognito::{
    Access, ClientIds, RequireScope, RequireToken, Rules, ScopeTable, TestIssuer, TokenInterceptor,
    Verifier,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn health() -> HealthService {
    HealthService::from_health_reporter(HealthReporter::new())
}

async fn with_the_layer(verifier: Verifier, incoming: TcpIncoming) -> Result<(), BoxError> {
    let table = ScopeTable::new([
        ("GRPC /grpc.health.v1.Health/Check", Access::scope("health/check")),
        ("GRPC /grpc.health.v1.Health/Watch", Access::scope("health/watch")),
    ])?;
    Server::builder()
        .layer(RequireToken::new(verifier).scope_table(table))
        .add_service(HealthServer::new(health()))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

async fn with_the_interceptor(verifier: Verifier, incoming: TcpIncoming) -> Result<(), BoxError> {
    let service = HealthServer::with_interceptor(Scoped(health()), TokenInterceptor::new(verifier));
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}

/// Requires a scope in each method, because an interceptor does not see which method is called.
struct Scoped(HealthService);

#[tonic::async_trait]
impl Health for Scoped {
    type WatchStream = <HealthService as Health>::WatchStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        RequireScope::new("health/check").authorize(request.extensions())?;
        self.0.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        RequireScope::new("health/watch").authorize(request.extensions())?;
        self.0.watch(request).await
    }
}

#[tokio::test]
async fn each_method_requires_its_own_scope() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["prober"]));
    let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap();

    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let layered = incoming.local_addr().unwrap();
    tokio::spawn(with_the_layer(verifier.clone(), incoming));
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let intercepted = incoming.local_addr().unwrap();
    tokio::spawn(with_the_interceptor(verifier, incoming));

    for address in [layered, intercepted] {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let client = HealthClient::new(channel.connect().await.unwrap());
        let prober = issuer.machine_token("prober").scope("health/check").sign();
        assert_eq!(codes(&client, &prober).await, [Code::Ok, Code::PermissionDenied]);
        let watcher = issuer.machine_token("prober").scope("health/watch").sign();
        assert_eq!(codes(&client, &watcher).await, [Code::PermissionDenied, Code::Ok]);
        let stranger = issuer.machine_token("stranger").scope("health/check").sign();
        assert_eq!(codes(&client, &stranger).await, [Code::Unauthenticated; 2]);
    }
}

/// Calls `Check` and `Watch` with a token and returns the codes.
async fn codes(client: &HealthClient<Channel>, token: &str) -> [Code; 2] {
    let request = || {
        let mut request = Request::new(HealthCheckRequest { service: String::new() });
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    let mut client = client.clone();
    let check = client.check(request()).await.map(drop);
    let watch = client.watch(request()).await.map(drop);
    [check, watch].map(|answer| answer.map_or_else(|status| status.code(), |()| Code::Ok))
}
