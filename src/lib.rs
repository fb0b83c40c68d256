//! Tower layers.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod claims;
mod error;
mod fetch;
mod json;
mod jwks;
mod jws;
mod refresh;
mod rejection;
mod schedule;
mod scope;
mod user_pool;
mod verifier;
mod verify;

pub mod docs;
#[cfg(feature = "axum")]
pub mod extract;
pub mod layer;
#[cfg(feature = "test-issuer")]
pub mod test_issuer;

pub use error::{
    InvalidClaims, InvalidJwks, InvalidScope, InvalidUrl, InvalidUserPoolId, RefreshError,
    StartError, VerifyError, VerifyErrorKind,
};
pub use fetch::{FetchJwks, JwksDocument};
pub use jwks::Jwks;
pub use layer::{RequireScope, RequireToken};
pub use rejection::{RefusalBody, Rejection, RejectionKind};
pub use scope::{Scope, Scopes};
#[cfg(feature = "test-issuer")]
pub use test_issuer::{TestIssuer, TestServer};
pub use user_pool::UserPool;
pub use verifier::{Verifier, VerifierBuilder};
pub use verify::{AccessToken, ClientIds, Refused, Rules, verify};
