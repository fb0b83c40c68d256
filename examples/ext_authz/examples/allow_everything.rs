//! Allows every request, without a look at it. Behind Envoy, it shows what a call to any authorizer
//! costs, so that the rest is the cost of the verification. `benches/envoy.py` measures it.
//!
//! `AUTHORIZER` (`host:port`) sets the address to listen on. It has one thread, as the authorizer has.

use std::env;
use std::error::Error;

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HttpResponse, OkHttpResponse,
};
use envoy_types::pb::google::rpc;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

struct AllowEverything;

#[tonic::async_trait]
impl Authorization for AllowEverything {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            ..CheckResponse::default()
        }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("AUTHORIZER").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("AUTHORIZER={}", listener.local_addr()?);
    // A new reporter says that the server is healthy.
    let (_reporter, health) = tonic_health::server::health_reporter();
    Server::builder()
        .add_service(health)
        .add_service(AuthorizationServer::new(AllowEverything))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
