//! A user pool in memory: keys, tokens and the JWK Set.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::TokenBuilder;
use super::signer::Signer;
use crate::{FetchJwks, Jwks, JwksDocument, RefreshError, UserPool};

pub(super) const POOL_ID: &str = "us-east-1_TestIssuer";

/// A user pool that exists only in this process.
///
/// Clones are handles to the same pool. See the [module docs](crate::test_issuer) for an example.
#[derive(Clone)]
pub struct TestIssuer {
    issuer: Arc<str>,
    keys: Arc<RwLock<Keys>>,
}

/// The keys of a pool. Like Cognito, it signs access tokens and ID tokens with different keys.
struct Keys {
    access: Arc<Signer>,
    id: Arc<Signer>,
    /// Keys of access tokens that were replaced and are still published.
    replaced: Vec<Arc<Signer>>,
}

impl TestIssuer {
    /// Creates a pool with new keys.
    ///
    /// The issuer has the form of a real one and is the same for every pool created here. To use
    /// several pools together, create a [`TestServer`](crate::TestServer) for each.
    pub fn new() -> Self {
        Self::with_issuer(&format!("https://cognito-idp.us-east-1.amazonaws.com/{POOL_ID}"))
    }

    /// Returns the issuer, which is the `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the pool for [`Rules::new`](crate::Rules::new).
    pub fn user_pool(&self) -> UserPool {
        UserPool::from_issuer(&self.issuer).expect("the issuer is an https or loopback URL")
    }

    /// Returns the JWK Set that the pool publishes at present.
    pub fn jwks_json(&self) -> String {
        let keys = self.read();
        let published = [&keys.access, &keys.id].into_iter().chain(&keys.replaced);
        let members = published.map(|key| key.jwk()).collect::<Vec<_>>();
        format!(r#"{{"keys":[{}]}}"#, members.join(","))
    }

    /// Returns the parsed keys of [`jwks_json`](Self::jwks_json).
    pub fn jwks(&self) -> Jwks {
        Jwks::from_json(self.jwks_json()).expect("the set contains the RSA keys generated here")
    }

    /// Creates an access token as the client credentials grant issues it.
    ///
    /// It is valid for 1 hour from now and has no scopes.
    pub fn machine_token(&self, client_id: &str) -> TokenBuilder {
        TokenBuilder::machine(&self.issuer, client_id, Arc::clone(&self.read().access))
    }

    /// Creates an access token of a user who signed in.
    ///
    /// It is valid for 1 hour from now and has the scope `openid`.
    pub fn user_token(&self, client_id: &str, username: &str) -> TokenBuilder {
        TokenBuilder::user(&self.issuer, client_id, username, Arc::clone(&self.read().access))
    }

    /// Creates an ID token, which is not an access token.
    ///
    /// It is valid for 1 hour from now.
    pub fn id_token(&self, client_id: &str, username: &str) -> TokenBuilder {
        TokenBuilder::id(&self.issuer, client_id, username, Arc::clone(&self.read().id))
    }

    /// Replaces the key that signs access tokens.
    ///
    /// The old key stays in the JWK Set until [`retire_old_keys`](Self::retire_old_keys) is called.
    pub fn rotate(&self) {
        let new = Arc::new(Signer::generate());
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut keys.access, new);
        keys.replaced.push(old);
    }

    /// Removes the replaced keys from the JWK Set.
    pub fn retire_old_keys(&self) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).replaced.clear();
    }

    pub(super) fn with_issuer(issuer: &str) -> Self {
        let (access, id) = (Arc::new(Signer::generate()), Arc::new(Signer::generate()));
        let keys = Keys { access, id, replaced: Vec::new() };
        Self { issuer: issuer.into(), keys: Arc::new(RwLock::new(keys)) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the JWK Set without a network. Answers 404 for any other pool's URL.
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
