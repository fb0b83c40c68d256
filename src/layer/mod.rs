//! The Tower layers [`RequireToken`](crate::RequireToken), [`RequireScope`] and
//! [`RequireGroup`](crate::RequireGroup).
//!
//! `RequireToken` verifies the access token of a request. The `RequireScope` and `RequireGroup` layers
//! inside it require scopes and groups of that token.
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
//! A rejection is a response, never an error of the service. The response's extensions contain the
//! [`Rejection`](crate::Rejection). See [Where the layers go](crate::docs::scopes#where-the-layers-go) for every way to
//! place the layers.
//!
//! This module contains the types that the layers return. Most applications never name them.

mod bearer;
mod drain;
mod protocol;
// The layers and the source of the token are exported at the crate root only.
pub(crate) mod require_group;
pub(crate) mod require_scope;
pub(crate) mod require_token;
mod response;
pub(crate) mod token_source;

pub use require_group::RequireGroupService;
pub use require_scope::RequireScopeService;
pub use require_token::RequireTokenService;
pub use response::{ResponseBody, ResponseFuture};

#[cfg(feature = "tonic")]
pub(crate) use bearer::{Credentials, Scheme, credentials};
#[cfg(feature = "axum")]
pub(crate) use protocol::Protocol;
#[cfg(feature = "tonic")]
pub(crate) use require_scope::RequireScope;
pub(crate) use require_token::LayerMarker;
#[cfg(feature = "axum")]
pub(crate) use response::response as rejection_response;
