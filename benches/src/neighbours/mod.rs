//! Other crates, set up according to their documentation, that verify the same token as
//! `tower-cognito`. The README of this package lists the checks of each.

mod keys;
mod layers;
mod verifiers;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Deserializer, de};
use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};

pub use self::layers::{Layered, Stack, layers};
pub use self::verifiers::{
    Neighbour, axum_jwt_auth_decoder, neighbours, tower_oauth2_resource_server,
};
use crate::requests::{CLIENT, SCOPE};

/// The `aud` of tokens that were requested for a resource (RFC 8707).
pub const AUDIENCE: &str = "https://api.example.com";

/// An issuer, its tokens, and the URL of its keys on this machine.
pub struct Setting {
    pub issuer: TestIssuer,
    pub token: Token,
    /// A token for the crate that rejects tokens without `aud`.
    pub token_with_audience: Token,
    pub jwks_url: String,
}

/// A machine token, and the same token with one flipped bit in its signature.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub flipped: String,
}

impl Setting {
    /// Creates the setting and serves the keys until the runtime is dropped.
    pub async fn new() -> Self {
        let issuer = TestIssuer::new();
        let machine = || issuer.machine_token(CLIENT).scope(SCOPE);
        let token = Token::new(machine().sign());
        let token_with_audience = Token::new(machine().claim("aud", AUDIENCE).sign());
        let jwks_url = keys::serve(issuer.jwks_json()).await;
        Self { issuer, token, token_with_audience, jwks_url }
    }

    pub fn verifier(&self, cache: usize) -> Verifier {
        let rules = Rules::new(self.issuer.user_pool(), ClientIds::only([CLIENT]));
        let builder = Verifier::builder(rules).token_cache_bytes(cache);
        builder.build_with_jwks(self.issuer.jwks()).expect("the issuer's own keys")
    }
}

impl Token {
    fn new(text: String) -> Self {
        let flipped = crate::flipped(&text);
        Self { text, flipped }
    }

    /// Checks that a candidate accepts the token and rejects the one with a flipped bit.
    #[track_caller]
    pub fn shown(&self, name: &str, mut accepts: impl FnMut(&str) -> bool) {
        assert!(accepts(&self.text), "{name} rejects the token");
        assert!(!accepts(&self.flipped), "{name} accepts a flipped bit in the signature");
        assert!(accepts(&self.text), "{name} rejects the token after another one");
    }
}

/// The claims that an application reads. The deserializer checks Cognito's own two claims: most
/// crates have no earlier place for this check, and it is their cheapest one.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    pub sub: String,
    #[serde(deserialize_with = "access")]
    pub token_use: String,
    pub scope: String,
    pub iss: String,
    pub exp: u64,
    #[serde(deserialize_with = "client")]
    pub client_id: String,
}

fn access<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    equal("access", deserializer)
}

fn client<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    equal(CLIENT, deserializer)
}

fn equal<'de, D: Deserializer<'de>>(expected: &str, from: D) -> Result<String, D::Error> {
    let value = String::deserialize(from)?;
    if value == expected { Ok(value) } else { Err(de::Error::custom("another value")) }
}

/// Polls a future that never waits, because each candidate already has its keys.
pub fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Installs the cryptography of jsonwebtoken, which is a setting of the process. If both of its
/// features are enabled, as for version 10 here, it panics at its first use unless one was
/// installed.
pub fn install_providers() {
    let installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nothing has used jsonwebtoken 12 before");
    let installed = jsonwebtoken_11::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nothing has used jsonwebtoken 11 before");
    let installed = jsonwebtoken_10::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nothing has used jsonwebtoken 10 before");
}

/// Returns the version of a dependency in `Cargo.lock` that begins with this text.
pub fn version(name: &str, beginning: &str) -> String {
    let entry = format!("name = \"{name}\"\nversion = \"{beginning}");
    let lock = include_str!("../../../Cargo.lock");
    let (_, rest) = lock.split_once(&entry).expect("it is a dependency");
    format!("{beginning}{}", rest.split('"').next().unwrap_or_default())
}
