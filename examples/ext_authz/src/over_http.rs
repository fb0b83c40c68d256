//! The same decisions for Envoy's `http_service`, which sends the client's method, path and headers in an
//! HTTP request instead of a gRPC message. See envoy_http.yaml.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use envoy_types::ext_authz::v3::pb::{CheckResponse, HeaderValueOption, HttpResponse};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{StatusCode, request};
use tokio::sync::watch;
use tower::{Layer, service_fn};
use tower_cognito::{Health, Verifier};

use crate::{Authorizer, admit, answer};

/// Precedes the client's path. Envoy's `path_prefix` sets it.
const PREFIX: &str = "/authorize";

/// Names the headers that Envoy removes from the client's request.
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Returns the service. `/readyz` is for health checks.
pub(crate) fn app(
    authorizer: Arc<Authorizer>,
    verifier: Verifier,
    is_draining: watch::Receiver<bool>,
) -> Router {
    let readiness = move || async move {
        if *is_draining.borrow() || matches!(verifier.health(), Health::NotReady) {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    };
    let check = move |request: Request| {
        let authorizer = Arc::clone(&authorizer);
        async move { respond(&authorizer, request).await }
    };
    Router::new().route("/readyz", get(readiness)).fallback(check)
}

async fn respond(authorizer: &Authorizer, request: Request) -> Response {
    let Some(request) = of_client(&request.into_parts().0) else {
        // Envoy treats it as a failure, and rejects the client's request.
        tracing::error!("a path does not begin with {PREFIX}, or no client can have sent it");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let response = answer(authorizer.by_table.layer(service_fn(admit)), request).await;
    as_http(response)
}

/// Returns the client's request without its body, as far as it is needed to authorize it.
fn of_client(sent: &request::Parts) -> Option<http::Request<String>> {
    let path = sent.uri.path_and_query()?.as_str().strip_prefix(PREFIX)?;
    if !path.starts_with('/') {
        return None;
    }
    let mut request = http::Request::builder().method(sent.method.clone()).uri(path);
    if let Some(value) = sent.headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, value);
    }
    for value in sent.headers.get_all(AUTHORIZATION) {
        // Envoy joins repeated headers with a comma, which no token contains. The layer rejects them.
        for line in value.as_bytes().split(|byte| *byte == b',') {
            request = request.header(AUTHORIZATION, line);
        }
    }
    request.body(String::new()).ok()
}

/// Returns the decision as an HTTP response. Envoy allows the request only if the status is 200.
fn as_http(response: CheckResponse) -> Response {
    let mut removed = Vec::new();
    let (status, headers, body) = match response.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            removed = ok.headers_to_remove;
            (StatusCode::OK, ok.headers, String::new())
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            // A rejection must never have the status of an allowed request.
            let status = status.filter(|status| !status.is_success());
            (status.unwrap_or(StatusCode::FORBIDDEN), denied.headers, denied.body)
        }
        _ => (StatusCode::FORBIDDEN, Vec::new(), String::new()),
    };
    let mut response = (status, body).into_response();
    // Only the headers of the rejection.
    response.headers_mut().remove(CONTENT_TYPE);
    for HeaderValueOption { header, .. } in headers {
        let header = header.unwrap_or_default();
        let pair = (HeaderName::try_from(header.key), HeaderValue::try_from(header.value));
        if let (Ok(name), Ok(value)) = pair {
            response.headers_mut().insert(name, value);
        }
    }
    if !removed.is_empty()
        && let Ok(value) = HeaderValue::try_from(removed.join(","))
    {
        response.headers_mut().insert(REMOVE, value);
    }
    response
}
