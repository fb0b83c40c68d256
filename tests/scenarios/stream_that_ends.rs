//! A page with server-sent events. A browser's `EventSource` cannot set a header, so the token
//! comes in a cookie. A stream must not outlive the token that opened it.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;
use tower_cognito::{AccessToken, ClientIds, RequireToken, Rules, TestIssuer, Verifier};

fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/events", get(events))
        .layer(RequireToken::new(verifier))
        .layer(from_fn(token_of_cookie))
}

/// Copies the token of the cookie into the `Authorization` header, unless the request already has
/// one. It runs before `RequireToken`, which then verifies the token.
async fn token_of_cookie(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    if !headers.contains_key(header::AUTHORIZATION) {
        let token = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split("; "))
            .find_map(|pair| pair.strip_prefix("__Host-token="))
            .and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token);
        }
    }
    next.run(request).await
}

async fn events(token: AccessToken) -> Sse<ReceiverStream<Result<Event, Infallible>>> {
    let (sender, receiver) = mpsc::channel(1);
    let left = token.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
    tokio::spawn(timeout(left, async move {
        let mut ticks = interval(Duration::from_secs(60));
        loop {
            ticks.tick().await;
            if sender.send(Ok(Event::default().data("tick"))).await.is_err() {
                return;
            }
        }
    }));
    Sse::new(ReceiverStream::new(receiver))
}

#[tokio::test(start_paused = true)]
async fn stream_opens_with_a_cookie_and_ends_when_its_token_expires() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only(["web"]));
    let app = app(Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap());
    let open = |cookie: String| {
        let request = Request::get("/events").header("cookie", cookie);
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };

    let token = issuer.user_token("web", "alice").sign();
    let response = open(format!("theme=dark; __Host-token={token}")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let whole = response.into_body().collect();
    let body = timeout(Duration::from_secs(60 * 60), whole).await.unwrap().unwrap().to_bytes();
    assert!(body.starts_with(b"data: tick\n\ndata: tick\n\n"));

    let invalid = open("__Host-token=x.y.z".to_owned()).await.unwrap();
    assert_eq!(invalid.status(), StatusCode::UNAUTHORIZED);
    let none = open("theme=dark".to_owned()).await.unwrap();
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
}
