//! What the programs in this package share.

#[cfg(feature = "neighbours")]
pub mod neighbours;
#[cfg(feature = "test-issuer")]
pub mod requests;

#[cfg(feature = "test-issuer")]
mod limits;
#[cfg(feature = "test-issuer")]
mod shared;

#[cfg(feature = "test-issuer")]
pub use crate::{limits::Limit, shared::Floor, shared::flipped};

#[cfg(feature = "test-issuer")]
define_run!(run, tower_cognito, jwks_fetcher, |rules| {
    rules.with_required_scopes([requests::SCOPE])
});
