//! The one integration binary, a module for each boundary.

mod allocations;
mod autotraits;
mod doors;
mod errors;
mod examples;
mod faults;
mod foreign;
mod grpc;
mod jwks;
mod layer;
mod model;
mod pages;
mod placement;
mod promises;
mod refresh;
mod scope;
mod sockets;
mod support;
mod test_issuer;
mod tidy;
mod user_pool;
mod verify;
