//! An embedded stand-in for Cognito, for tests and examples. It needs no AWS account and no
//! network.
//!
//! [`TestIssuer`](crate::TestIssuer) generates keys, signs tokens with the claims of Cognito's
//! tokens, and returns its JWK Set. [`TestServer`](crate::TestServer) serves a `TestIssuer` on a
//! loopback port and adds a discovery document and the two ways in which a machine gets a token.
//!
//! ```
//! use std::time::SystemTime;
//! use tower_cognito::{ClientIds, Rules, TestIssuer, VerifyErrorKind, verify};
//!
//! let issuer = TestIssuer::new();
//! let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
//! let (keys, now) = (issuer.jwks(), SystemTime::now());
//!
//! let valid = issuer.machine_token("my-client").scope("activity/*").sign();
//! assert!(verify(&valid, &keys, &rules, now).is_ok());
//!
//! let invalid = issuer.machine_token("my-client").claim("exp", "tomorrow").sign();
//! let error = verify(&invalid, &keys, &rules, now).unwrap_err();
//! assert_eq!(error.kind(), VerifyErrorKind::InvalidClaim);
//! ```
//!
//! # Key rotation and faults
//!
//! ```
//! use std::time::Duration;
//! use tower_cognito::test_issuer::Fault;
//! use tower_cognito::{ClientIds, Rules, TestServer, Verifier};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::bind("127.0.0.1:0").await?;
//! let issuer = server.issuer();
//! let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
//! let verifier = Verifier::builder(rules).connect().await?;
//! let old = issuer.machine_token("my-client").sign();
//!
//! issuer.rotate();
//! let new = issuer.machine_token("my-client").sign();
//! assert!(verifier.verify(&new).await.is_ok()); // waits for the new key
//! assert_eq!(server.jwks_requests(), 2);
//!
//! server.set_fault(Fault::Down);
//! assert!(verifier.refresh().await.is_err());
//! assert!(verifier.verify(&new).await.is_ok()); // the verifier keeps its keys
//! server.clear_fault();
//!
//! issuer.retire_old_keys();
//! verifier.refresh().await?;
//! assert!(verifier.verify(&old).await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # Invalid tokens
//!
//! ```
//! use std::time::SystemTime;
//! use tower_cognito::test_issuer::TokenBuilder;
//! use tower_cognito::TestIssuer;
//!
//! let issuer = TestIssuer::new();
//! let valid: TokenBuilder = issuer.user_token("my-client", "alice").escaped_slashes();
//! let expired = valid.clone().expires_at(SystemTime::UNIX_EPOCH).sign();
//! let without_key_id = valid.clone().without_header("kid").sign();
//! let twice = valid.payload_json().replace(r#""exp""#, r#""exp":1,"exp""#);
//! let duplicate_claim = valid.sign_texts(&valid.header_json(), &twice);
//! ```
//!
//! The issuer only signs tokens. It cannot construct an [`AccessToken`](crate::AccessToken).

#![expect(clippy::expect_used, reason = "only the machine or a test's own input can fail here")]

mod grant;
pub(crate) mod issuer;
pub(crate) mod server;
mod signer;
mod token;

pub use server::Fault;
pub use token::TokenBuilder;
