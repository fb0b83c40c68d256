//! The one integration binary, a module for each boundary.

mod autotraits;
mod errors;
mod examples;
mod foreign;
mod jwks;
mod layer;
mod placement;
mod refresh;
mod scope;
mod support;
mod test_issuer;
mod tidy;
mod user_pool;
mod verify;
