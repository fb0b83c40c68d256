//! [`AccessToken`] as an axum extractor.

use std::sync::Arc;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::layer::{LayerMarker, Protocol, rejection_response};
use crate::rejection::Rejection;
use crate::telemetry;
use crate::verify::AccessToken;

/// Extracts the token that [`RequireToken`](crate::RequireToken) verified.
///
/// * *The request has no token* ([`allow_anonymous`](crate::RequireToken::allow_anonymous), or a
///   public row of a scope table): it is rejected with status 401.
/// * *No `RequireToken` processed the request*: it is rejected with status 500, because a forgotten
///   layer must not look like an anonymous request.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_cognito::AccessToken;
///
/// async fn who(token: AccessToken) -> String {
///     token.client_id().to_owned()
/// }
///
/// let app: Router = Router::new().route("/who", get(who));
/// ```
impl<S: Sync> FromRequestParts<S> for AccessToken {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        if let Some(token) = parts.extensions.get::<Self>() {
            return Ok(token.clone());
        }
        match parts.extensions.get::<LayerMarker>() {
            Some(LayerMarker { config, .. }) => {
                let rejection = Rejection::missing_token(Arc::clone(config));
                telemetry::rejected(&rejection);
                Err(rejection)
            }
            None => Err(reject_without_layer()),
        }
    }
}

/// Extracts the token that [`RequireToken`](crate::RequireToken) verified, or `None` if it let the
/// request pass without a token.
///
/// If no `RequireToken` processed the request, it is rejected with status 500.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_cognito::AccessToken;
///
/// // With `RequireToken::allow_anonymous`.
/// async fn greet(token: Option<AccessToken>) -> &'static str {
///     if token.is_some() { "hello again" } else { "hello" }
/// }
///
/// let app: Router = Router::new().route("/greet", get(greet));
/// ```
impl<S: Sync> OptionalFromRequestParts<S> for AccessToken {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        if let Some(token) = parts.extensions.get::<Self>() {
            return Ok(Some(token.clone()));
        }
        match parts.extensions.get::<LayerMarker>() {
            Some(_) => Ok(None),
            None => Err(reject_without_layer()),
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        // axum removes the body of a response to HEAD.
        rejection_response(self, Protocol::Http).map(Into::into)
    }
}

/// Logs the missing layer, and returns the rejection.
fn reject_without_layer() -> Rejection {
    telemetry::no_require_token("AccessToken");
    let rejection = Rejection::internal();
    telemetry::rejected(&rejection);
    rejection
}
