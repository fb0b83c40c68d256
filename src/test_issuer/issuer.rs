//! A user pool in memory: keys, tokens and the JWK Set.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::TokenBuilder;
use super::signer::Signer;
use crate::user_pool::LocalFetch;
use crate::{FetchJwks, Jwks, JwksDocument, RefreshError, UserPool};

pub(super) const POOL_ID: &str = "us-east-1_TestIssuer";

/// A user pool that exists only in this process.
///
/// Clones are handles to the same pool. See the [module docs](crate::test_issuer) for an example.
#[derive(Clone)]
pub struct TestIssuer {
    issuer: Arc<str>,
    keys: Arc<RwLock<Keys>>,
    keys_from: KeysFrom,
}

/// Where a verifier of the pool fetches its keys.
#[derive(Clone, Copy)]
enum KeysFrom {
    /// The `TestIssuer` itself, because its URL is one of AWS.
    ThisProcess,
    /// The URL, at which a server listens.
    Url,
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
        let issuer = format!("https://cognito-idp.us-east-1.amazonaws.com/{POOL_ID}");
        Self::with_issuer(&issuer, KeysFrom::ThisProcess)
    }

    /// Returns the issuer, which is the `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the pool for [`Rules::new`](crate::Rules::new).
    ///
    /// A verifier of this pool fetches its keys from this `TestIssuer`, without a network. The
    /// exceptions are the issuer of a [`TestServer`](crate::TestServer), whose keys are fetched over
    /// HTTP from the loopback address, and a verifier or pool with another source of keys:
    /// [`jwks_fetcher`](crate::VerifierBuilder::jwks_fetcher),
    /// [`with_jwks_file`](UserPool::with_jwks_file) or [`with_jwks_url`](UserPool::with_jwks_url).
    ///
    /// ```
    /// use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let issuer = TestIssuer::new();
    /// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
    /// let verifier = Verifier::builder(rules).connect().await?;
    /// assert!(verifier.verify(&issuer.machine_token("my-client").sign()).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn user_pool(&self) -> UserPool {
        let fetcher: Option<Arc<LocalFetch>> = match self.keys_from {
            KeysFrom::ThisProcess => Some(Arc::new(self.clone())),
            KeysFrom::Url => None,
        };
        UserPool::from_issuer_and_fetcher(&self.issuer, fetcher)
            .expect("the issuer is an https or loopback URL")
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

    /// Creates a pool whose keys a server publishes at this URL.
    pub(super) fn served_at(issuer: &str) -> Self {
        Self::with_issuer(issuer, KeysFrom::Url)
    }

    fn with_issuer(issuer: &str, keys_from: KeysFrom) -> Self {
        let (access, id) = (Arc::new(Signer::generate()), Arc::new(Signer::generate()));
        let keys = Keys { access, id, replaced: Vec::new() };
        Self { issuer: issuer.into(), keys: Arc::new(RwLock::new(keys)), keys_from }
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
