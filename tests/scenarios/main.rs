//! Programs as users of the crate write them, each in its own module with the tests that they would
//! write.

mod behind_a_load_balancer;
mod claims_of_a_trigger;
mod command_line;
mod cors_preflight;
mod emulator_behind_a_proxy;
mod grpc_scopes;
mod offline_unit_tests;
mod optional_sign_in;
mod plain_hyper;
mod probes_and_shutdown;
mod revocation_list;
mod smallest_axum_app;
mod stream_that_ends;
mod tenants_from_a_file;
mod two_tenants;
mod users_and_machines;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// A response as a client sees it.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

/// Sends a request, such as `GET /item`, with a token, or without one if `token` is empty.
async fn ask(app: &Router, line: &str, token: &str) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Serves an app on a free port and returns its URL.
async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    url
}
