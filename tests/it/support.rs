//! What the modules share: one issuer, since making RSA keys takes time, and its usual rules.

use std::sync::LazyLock;

use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};

pub const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// Never rotated.
pub fn issuer() -> &'static TestIssuer {
    static ISSUER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);
    &ISSUER
}

pub fn rules() -> Rules {
    Rules::new(issuer().user_pool(), ClientIds::only([CLIENT]))
}

/// With the keys of [`issuer`], and no network.
pub fn verifier() -> Verifier {
    Verifier::builder(rules()).with_jwks(issuer().jwks()).unwrap()
}

/// A good token with these scopes.
pub fn machine(scope: &str) -> TokenBuilder {
    issuer().machine_token(CLIENT).scope(scope)
}
