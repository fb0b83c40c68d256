//! Tower layers that protect axum and tonic services with Amazon Cognito access tokens.
//!
#![doc = include_str!("docs/flow.svg")]
//!
//! ```
//! use axum::{Router, body::Bytes, routing::post};
//! use tower_cognito::{AccessToken, ClientIds, RequireScope, RequireToken, Rules, Verifier};
//! # use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A stand-in for Cognito. In production: `UserPool::new("ap-northeast-1_AbCdEfGhI")?`.
//! let issuer = tower_cognito::TestServer::bind("127.0.0.1:0").await?;
//! let pool = issuer.issuer().user_pool();
//!
//! let rules = Rules::new(pool, ClientIds::only(["5a1b2c3d4e5f6g7h8i9j0k1l2m"]));
//! let verifier = Verifier::builder(rules).connect().await?; // a wrong pool fails here
//!
//! let app = Router::new()
//!     .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
//!     .layer(RequireToken::new(verifier));
//!
//! async fn receive(token: AccessToken, event: Bytes) -> Bytes {
//!     println!("an event from {}", token.client_id());
//!     event
//! }
//! #
//! # let call = async |token: &str| {
//! #     let request = http::Request::post("/activity").header("authorization", token);
//! #     app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap().status()
//! # };
//! # let machine = issuer.issuer().machine_token("5a1b2c3d4e5f6g7h8i9j0k1l2m");
//! # assert_eq!(call("").await, 401);
//! # assert_eq!(call(&format!("Bearer {}", machine.sign())).await, 403);
//! # assert_eq!(call(&format!("Bearer {}", machine.scope("activity/*").sign())).await, 200);
//! # Ok(())
//! # }
//! ```
//!
//! # What is checked
//!
//! In this order. The first check that fails gives the error ([`VerifyErrorKind`]):
//!
//! 1. The token has at most 16 KiB, and is three parts of canonical base64url.
//! 2. The header is one JSON object without duplicate names. `alg` is `RS256`; `typ` is absent,
//!    `JWT` or `at+jwt`; there is a `kid`, and no `crit`, `b64`, `zip` or `enc`. Keys in a header are
//!    never read.
//! 3. The payload is one JSON object without duplicate names. `iss` is, byte for byte, a trusted
//!    issuer. `kid` names a key of that issuer.
//! 4. The signature is RSASSA-PKCS1-v1_5 with SHA-256, by that key.
//! 5. `token_use` is `access`, `client_id` is one of the [`ClientIds`], `exp` is in the future, and
//!    `nbf`, if present, is not; both are floored to the second. `sub` is not empty. A claim of the
//!    wrong type is an error, never "absent".
//! 6. `aud`, groups, scopes and the application's check, if the [`Rules`] require them. A token with
//!    `cnf` is rejected, because a bearer token cannot prove possession of a key.
//!
//! # What is not checked
//!
//! * **Revocation:** a Cognito access token is valid until `exp`. A list of revoked tokens belongs in
//!   [`Rules::with_check`].
//! * **Audience, by default:** set it with [`Rules::with_audience`] if the pool serves several APIs.
//! * **Removed keys** are trusted until the next successful refresh: for at most 5 minutes by default
//!   while Cognito is reachable.
//! * **The signature of a cached token:** a verified token is cached with the key set that verified
//!   it ([`VerifierBuilder::token_cache_bytes`]). Everything that can change is checked at every
//!   request: the keys, the times, scopes, and the application's check.
//! * **Age of the keys in an outage:** keys are used for 24 hours without a successful refresh. After
//!   that the response is 503, not 401.
//! * **The rest of a stream:** it is authorized once, and may outlive its token.
//! * ID tokens, sessions, login pages, opaque tokens, DPoP, mTLS, and every algorithm except RS256.
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `reqwest` (default) | fetches the keys over HTTPS; without it, set a [`FetchJwks`] or fixed keys |
//! | `axum` | [`AccessToken`] as an extractor |
//! | `tonic` | `TokenInterceptor`, and a [`Rejection`] as a `tonic::Status`; the layers need no feature |
//! | `metrics` | counts and times, see [Observability](docs::observability) |
//! | `test-issuer` | `TestIssuer` and `TestServer`, to test a service without a network |
//!
//! The feature `reqwest` turns on rustls with aws-lc-rs. If another crate uses rustls with another
//! provider, install a default provider when the program starts.
//!
//! # Where to look next
//!
//! * [Quick start](docs::quick_start), [Scopes](docs::scopes), [Testing](docs::testing),
//!   [Recipes](docs::recipes).
//! * [`RequireToken`] and [`RequireScope`]: the two layers; [`ScopeTable`]: the scopes of a whole
//!   service in one table.
//! * [Responses](docs::responses): each rejection as `curl -i` shows it; [Errors](docs::errors): each
//!   text, its cause, and what to do.
//! * [Configuration](docs::configuration), [Deployment](docs::deployment),
//!   [MCP and gRPC](docs::mcp_and_grpc), [Keys](docs::keys), [Observability](docs::observability),
//!   [Performance](docs::performance).
//! * [Coming from API Gateway](docs::api_gateway), [Works with](docs::works_with),
//!   [Choosing a crate](docs::comparison).
//! * [`Verifier`]: live keys, without a web framework; [`verify()`]: the plain function.
//! * `TestIssuer`: tokens for the tests of your service.
//! * [Security](docs::security), [Design](docs::design).

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// No input from a request or an issuer may cause a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod background;
mod base64url;
mod claims;
mod config;
mod error;
mod fetch;
mod health;
mod json;
mod jwks;
mod jws;
mod path;
#[cfg(feature = "reqwest")]
mod random;
mod refresh;
mod rejection;
mod resource_metadata;
mod schedule;
mod scope;
mod scope_table;
mod telemetry;
mod token_cache;
mod url;
mod user_pool;
mod verifier;
mod verify;

// The code of the pages is run by the package of the integration tests, which has the crates it needs.
#[cfg(not(doctest))]
pub mod docs;
#[cfg(feature = "axum")]
mod extract;
#[cfg(feature = "tonic")]
mod interceptor;
pub mod layer;
#[cfg(feature = "test-issuer")]
pub mod test_issuer;

pub use config::Config;
pub use error::{
    ConfigError, InvalidClaims, InvalidJwks, InvalidUrl, InvalidUserPoolId, RefreshError,
    RefreshErrorKind, StartError, StartErrorKind, VerifyError, VerifyErrorKind,
};
pub use fetch::{FetchJwks, JwksDocument};
pub use health::{Degraded, Health};
#[cfg(feature = "tonic")]
pub use interceptor::TokenInterceptor;
pub use jwks::Jwks;
pub use layer::require_group::RequireGroup;
pub use layer::require_scope::RequireScope;
pub use layer::require_token::RequireToken;
pub use layer::token_source::TokenSource;
pub use rejection::{Rejection, RejectionBody, RejectionKind};
pub use resource_metadata::ResourceMetadata;
pub use scope::{InvalidScope, Scope, Scopes, ScopesIter};
pub use scope_table::{Access, ScopeTable, TablePath};
#[cfg(feature = "test-issuer")]
pub use test_issuer::{issuer::TestIssuer, server::TestServer};
pub use user_pool::UserPool;
pub use verifier::{Verifier, VerifierBuilder};
pub use verify::{AccessToken, Actor, CheckError, ClientIds, Rules, verify};
