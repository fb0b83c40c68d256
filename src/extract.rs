//! [`AccessToken`] as an axum extractor.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_cognito::AccessToken;
//!
//! async fn who(token: AccessToken) -> String {
//!     token.client_id().to_owned()
//! }
//!
//! // With `RequireToken::allow_anonymous`.
//! async fn greet(token: Option<AccessToken>) -> &'static str {
//!     if token.is_some() { "hello again" } else { "hello" }
//! }
//!
//! let app: Router = Router::new().route("/who", get(who)).route("/greet", get(greet));
//! ```
//!
//! Where no [`RequireToken`](crate::RequireToken) ran, both answer 500: a forgotten layer is the
//! application's mistake, and must not look like an anonymous request.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::layer::{LayerMarker, Protocol, rejection_response};
use crate::rejection::Rejection;
use crate::telemetry;
use crate::verify::AccessToken;

impl<S: Sync> FromRequestParts<S> for AccessToken {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        match (parts.extensions.get::<Self>(), parts.extensions.get::<LayerMarker>()) {
            (Some(token), _) => Ok(token.clone()),
            (None, Some(LayerMarker(settings))) => {
                let rejection = Rejection::missing_token(settings.clone());
                telemetry::rejected(rejection.reason());
                Err(rejection)
            }
            (None, None) => Err(no_layer()),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for AccessToken {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Rejection> {
        match (parts.extensions.get::<Self>(), parts.extensions.get::<LayerMarker>()) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(no_layer()),
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        // axum takes the body from the answer to HEAD itself.
        rejection_response(self, Protocol::Http).map(Into::into)
    }
}

fn no_layer() -> Rejection {
    telemetry::no_require_token("AccessToken");
    Rejection::internal()
}
