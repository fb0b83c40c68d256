//! An embedded stand-in for Cognito, for tests and examples: no AWS account, no network.
//!
//! [`TestIssuer`] makes keys, signs tokens of Cognito's shape and gives the JWK Set;
//! [`TestServer`] serves all that on a loopback port, with a token endpoint.
//!
//! ```
//! use std::time::SystemTime;
//! use tower_cognito::{ClientIds, Rules, TestIssuer, VerifyErrorKind, verify};
//!
//! let issuer = TestIssuer::new();
//! let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
//! let (keys, now) = (issuer.jwks(), SystemTime::now());
//!
//! let good = issuer.machine_token("my-client").scope("activity/*").sign();
//! assert!(verify(&good, &keys, &rules, now).is_ok());
//!
//! let spoilt = issuer.machine_token("my-client").claim("exp", "tomorrow").sign();
//! let error = verify(&spoilt, &keys, &rules, now).unwrap_err();
//! assert_eq!(error.kind(), VerifyErrorKind::InvalidClaim);
//! ```
//!
//! # Rotation and faults
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
//! assert!(verifier.verify(&new).await.is_ok()); // the keys stay
//! server.clear_fault();
//!
//! issuer.retire_old_keys();
//! verifier.refresh().await?;
//! assert!(verifier.verify(&old).await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # Tokens that should be refused
//!
//! ```
//! use std::time::SystemTime;
//! use tower_cognito::test_issuer::TokenBuilder;
//! use tower_cognito::TestIssuer;
//!
//! let issuer = TestIssuer::new();
//! let good: TokenBuilder = issuer.user_token("my-client", "alice").escaped_slashes();
//! let expired = good.clone().expires_at(SystemTime::UNIX_EPOCH).sign();
//! let without_key_id = good.clone().without_header("kid").sign();
//! let twice = good.payload_json().replace(r#""exp""#, r#""exp":1,"exp""#);
//! let duplicate_claim = good.sign_texts(&good.header_json(), &twice);
//! ```
//!
//! It signs tokens; it can not make an [`AccessToken`](crate::AccessToken).

#![expect(clippy::expect_used, reason = "what fails here is the machine, or a test's own input")]

mod server;
mod signer;
mod token;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use self::signer::Signer;
use crate::{FetchJwks, Jwks, JwksDocument, RefreshError, UserPool};

pub use server::{Fault, TestServer};
pub use token::TokenBuilder;

const POOL_ID: &str = "us-east-1_TestIssuer";

/// A user pool that exists in this process alone. A clone is the same pool.
///
/// See the [module docs](crate::test_issuer) for an example.
#[derive(Clone)]
pub struct TestIssuer {
    issuer: Arc<str>,
    keys: Arc<RwLock<Keys>>,
}

/// As Cognito has them: one that signs access tokens, one that signs ID tokens; and those that
/// were replaced and are still published.
struct Keys {
    access: Arc<Signer>,
    id: Arc<Signer>,
    replaced: Vec<Arc<Signer>>,
}

impl TestIssuer {
    /// A pool with new keys, whose issuer has the form of a real one. All of them have the same
    /// issuer: for several pools at once, give each a [`TestServer`].
    pub fn new() -> Self {
        Self::with_issuer(&format!("https://cognito-idp.us-east-1.amazonaws.com/{POOL_ID}"))
    }

    /// `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The pool, as [`Rules`](crate::Rules) want it.
    pub fn user_pool(&self) -> UserPool {
        UserPool::from_issuer(&self.issuer)
            .expect("the issuer was made here, as an https or loopback URL")
    }

    /// The JWK Set as it would be fetched now.
    pub fn jwks_json(&self) -> String {
        let keys = self.read();
        let published = [&keys.access, &keys.id].into_iter().chain(&keys.replaced);
        let members = published.map(|key| key.jwk()).collect::<Vec<_>>();
        format!(r#"{{"keys":[{}]}}"#, members.join(","))
    }

    /// The keys as they would be after a fetch now.
    pub fn jwks(&self) -> Jwks {
        Jwks::from_json(self.jwks_json()).expect("the set has two RSA keys made here")
    }

    /// A token for a machine, as the client credentials grant gives it: valid for an hour from
    /// now, without scopes.
    pub fn machine_token(&self, client_id: &str) -> TokenBuilder {
        TokenBuilder::machine(&self.issuer, client_id, Arc::clone(&self.read().access))
    }

    /// An access token for a user who signed in.
    pub fn user_token(&self, client_id: &str, username: &str) -> TokenBuilder {
        TokenBuilder::user(&self.issuer, client_id, username, Arc::clone(&self.read().access))
    }

    /// An ID token, which is no access token.
    pub fn id_token(&self, client_id: &str, username: &str) -> TokenBuilder {
        TokenBuilder::id(&self.issuer, client_id, username, Arc::clone(&self.read().id))
    }

    /// Signs access tokens with a new key from now on. The old one is still published.
    pub fn rotate(&self) {
        let new = Arc::new(Signer::generate());
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut keys.access, new);
        keys.replaced.push(old);
    }

    /// No longer publishes the keys that were replaced.
    pub fn retire_old_keys(&self) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replaced.clear();
    }

    fn with_issuer(issuer: &str) -> Self {
        let (access, id) = (Arc::new(Signer::generate()), Arc::new(Signer::generate()));
        let keys = Keys { access, id, replaced: Vec::new() };
        Self { issuer: issuer.into(), keys: Arc::new(RwLock::new(keys)) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its keys without a network, as they are at that moment; those of another pool it has not.
impl FetchJwks for TestIssuer {
    async fn fetch_jwks(&self, url: &str) -> Result<JwksDocument, RefreshError> {
        if url.strip_suffix("/.well-known/jwks.json") == Some(self.issuer()) {
            Ok(JwksDocument::new(self.jwks_json()))
        } else {
            Err(RefreshError::status(404))
        }
    }
}

impl Default for TestIssuer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
