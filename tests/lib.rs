//! Runs the code of the documentation pages, which uses crates that only the tests need. The
//! integration tests are in `it/` and `scenarios/`.

#![cfg(doctest)]

#[doc = include_str!("../src/docs/api_gateway.md")]
mod api_gateway {}

#[doc = include_str!("../src/docs/comparison.md")]
mod comparison {}

#[doc = include_str!("../src/docs/configuration.md")]
mod configuration {}

#[doc = include_str!("../src/docs/deployment.md")]
mod deployment {}

#[doc = include_str!("../src/docs/design.md")]
mod design {}

#[doc = include_str!("../src/docs/errors.md")]
mod errors {}

#[doc = include_str!("../src/docs/keys.md")]
mod keys {}

#[doc = include_str!("../src/docs/mcp_and_grpc.md")]
mod mcp_and_grpc {}

#[doc = include_str!("../src/docs/observability.md")]
mod observability {}

#[doc = include_str!("../src/docs/performance.md")]
mod performance {}

#[doc = include_str!("../src/docs/quick_start.md")]
mod quick_start {}

#[doc = include_str!("../src/docs/recipes.md")]
mod recipes {}

#[doc = include_str!("../src/docs/responses.md")]
mod responses {}

#[doc = include_str!("../src/docs/scopes.md")]
mod scopes {}

#[doc = include_str!("../src/docs/testing.md")]
mod testing {}

#[doc = include_str!("../src/docs/works_with.md")]
mod works_with {}

#[doc = include_str!("../README.md")]
mod readme {}

#[doc = include_str!("../SECURITY.md")]
mod security {}
