//! The layer that requires a group of the token.

use std::convert::Infallible;
use std::future::pending;
use std::panic::catch_unwind;
use std::task::{Context, Waker};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Extensions, Request, Response};
use http_body_util::BodyExt;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_cognito::{Rejection, RejectionKind, RequireGroup, RequireScope, RequireToken};

use super::support::{CLIENT, Log, issuer, machine, verifier};

/// A valid token of a user in these groups.
fn member(groups: &[&str]) -> String {
    let token = issuer().user_token(CLIENT, "alice").scope("a/b").claim("cognito:groups", groups);
    format!("Bearer {}", token.sign())
}

fn app() -> Router {
    async fn handler() -> &'static str {
        "reached"
    }
    let both = ServiceBuilder::new().layer(RequireGroup::new("a")).layer(RequireGroup::new("b"));
    let scope =
        ServiceBuilder::new().layer(RequireGroup::new("a")).layer(RequireScope::new("x/write"));
    Router::new()
        .route("/one", post(handler).layer(RequireGroup::new("a")))
        .route("/any", post(handler).layer(RequireGroup::any_of(["a", "b"])))
        .route("/both", post(handler).layer(both))
        .route("/scope", post(handler).layer(scope))
}

async fn send(
    app: &Router,
    path: &str,
    authorization: Option<&str>,
    content_type: &str,
) -> Response<Body> {
    let mut request = Request::post(path).header(CONTENT_TYPE, content_type);
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn kind(response: &Response<Body>) -> Option<RejectionKind> {
    response.extensions().get::<Rejection>().map(Rejection::kind)
}

#[tokio::test]
async fn token_with_the_group_passes_and_any_other_is_forbidden() {
    let app = app().layer(RequireToken::new(verifier()));
    let forbidden = Some(RejectionKind::Forbidden);
    for (path, groups, expected) in [
        ("/one", &["a"][..], None),
        ("/one", &["b", "a"], None),
        ("/one", &["b"], forbidden),
        ("/one", &["A", "a ", "aa", ""], forbidden),
        ("/one", &[], forbidden),
        ("/any", &["b"], None),
        ("/any", &["c"], forbidden),
        ("/both", &["a", "b"], None),
        ("/both", &["a"], forbidden),
        ("/both", &["b"], forbidden),
        ("/scope", &["b"], forbidden),
        ("/scope", &["a"], Some(RejectionKind::InsufficientScope)),
    ] {
        let response = send(&app, path, Some(&member(groups)), "text/plain").await;
        assert_eq!(kind(&response), expected, "{path} {groups:?}");
        assert_eq!(response.status(), if expected.is_some() { 403 } else { 200 }, "{path}");
    }
    let machines = format!("Bearer {}", machine("a/b").sign());
    assert_eq!(kind(&send(&app, "/one", Some(&machines), "text/plain").await), forbidden);
    let missing = kind(&send(&app, "/one", None, "text/plain").await);
    assert_eq!(missing, Some(RejectionKind::MissingToken));
}

#[tokio::test]
async fn missing_group_is_rejected_in_the_form_of_the_outer_layer() {
    let log = Log::of_this_thread();
    let plain = app().layer(RequireToken::new(verifier()));
    let response = send(&plain, "/one", Some(&member(&["b"])), "text/plain").await;
    let challenge = r#"Bearer realm="api""#;
    assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected = br#"{"error":"forbidden","error_description":"The request is not allowed with this token"}"#;
    assert_eq!(&*body, expected);
    let log = log.take();
    assert!(log.contains(r#"request rejected reason="missing_group""#), "{log}");

    let named = app().layer(RequireToken::new(verifier()).realm("orders"));
    let response = send(&named, "/one", Some(&member(&["b"])), "text/plain").await;
    let challenge = r#"Bearer realm="orders""#;
    assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);

    let response = send(&plain, "/one", Some(&member(&["b"])), "application/grpc").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "7");
}

#[tokio::test]
async fn anonymous_request_is_401_and_a_forgotten_token_layer_is_500() {
    let anonymous = app().layer(RequireToken::new(verifier()).allow_anonymous());
    assert_eq!(send(&anonymous, "/one", None, "text/plain").await.status(), 401);
    assert_eq!(send(&anonymous, "/one", Some(&member(&["a"])), "text/plain").await.status(), 200);

    let log = Log::of_this_thread();
    let response = send(&app(), "/one", Some(&member(&["a"])), "text/plain").await;
    assert_eq!(kind(&response), Some(RejectionKind::Internal));
    assert_eq!(response.status(), 500);
    let log = log.take();
    assert!(log.contains("ERROR") && log.contains("RequireGroup"), "{log}");
}

#[tokio::test]
async fn waits_for_a_pending_service() {
    let inner = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    let mut first = RequireGroup::new("a").layer(ConcurrencyLimit::new(inner, 1));
    let mut second = first.clone();
    first.ready().await.unwrap();
    let mut context = Context::from_waker(Waker::noop());
    assert!(second.poll_ready(&mut context).is_pending());
    drop(first);
    assert!(second.poll_ready(&mut context).is_ready());
}

#[test]
fn authorize_checks_a_token_after_the_layers() {
    let extensions = |groups: &[&str]| {
        let token = member(groups);
        let mut extensions = Extensions::new();
        let token = verifier().try_verify(token.strip_prefix("Bearer ").unwrap()).unwrap();
        extensions.insert(token);
        extensions
    };
    let group = RequireGroup::any_of(["a", "b"]);
    let extensions_of_member = extensions(&["b"]);
    let token = group.authorize(&extensions_of_member).unwrap();
    assert_eq!(token.groups().collect::<Vec<_>>(), ["b"]);
    let rejection = group.authorize(&extensions(&["c"])).unwrap_err();
    assert_eq!((rejection.kind(), rejection.status().as_u16()), (RejectionKind::Forbidden, 403));
    let rejection = group.authorize(&Extensions::new()).unwrap_err();
    assert_eq!(rejection.kind(), RejectionKind::Internal);
}

#[test]
fn empty_group_panics() {
    for (groups, expected) in
        [(vec![], "the list of groups is empty"), (vec!["a", ""], "a group is empty")]
    {
        let panic = catch_unwind(|| RequireGroup::any_of(groups)).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), expected);
    }
}
