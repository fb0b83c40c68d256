//! The Tower layers: *require a token*, then *require a scope*.
//!
//! ```
//! use axum::{Router, routing::{get, post}};
//! use tower_cognito::{ClientIds, RequireScope, RequireToken, Rules, TestIssuer, Verifier};
//!
//! # let issuer = TestIssuer::new();
//! # let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
//! # let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks())?;
//! let app: Router = Router::new()
//!     .route("/activity", post(|| async {}).layer(RequireScope::new("activity/*")))
//!     .route("/item", get(|| async {}).layer(RequireScope::any_of(["item/read", "item/write"])))
//!     .layer(RequireToken::new(verifier));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A refusal is a response, never an error of the service: [`Rejection`](crate::Rejection) says
//! which one, and is found in the response's extensions. See
//! [Where the layers go](crate::docs::layers) for every way to place them.

mod bearer;
mod protocol;
mod require_scope;
mod require_token;
mod response;

pub use require_scope::{RequireScope, RequireScopeService};
pub use require_token::{RequireToken, RequireTokenService};
pub use response::{ResponseBody, ResponseFuture};

#[cfg(feature = "tonic")]
pub(crate) use bearer::{Credentials, Scheme, credentials};
#[cfg(feature = "axum")]
pub(crate) use protocol::Protocol;
pub(crate) use require_token::LayerMarker;
#[cfg(feature = "axum")]
pub(crate) use response::response as rejection_response;
