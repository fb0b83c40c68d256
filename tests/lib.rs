//! Runs the code of the documentation pages, which uses crates that only the tests need. The
//! integration tests are in `it/` and `scenarios/`.

#![cfg(doctest)]

#[doc = include_str!("../src/docs/start.md")]
mod start {}

#[doc = include_str!("../src/docs/scopes.md")]
mod scopes {}

#[doc = include_str!("../src/docs/layers.md")]
mod layers {}

#[doc = include_str!("../src/docs/responses.md")]
mod responses {}

#[doc = include_str!("../src/docs/errors.md")]
mod errors {}

#[doc = include_str!("../src/docs/where.md")]
mod where_it_runs {}

#[doc = include_str!("../src/docs/api_gateway.md")]
mod api_gateway {}

#[doc = include_str!("../src/docs/migrating.md")]
mod migrating {}

#[doc = include_str!("../src/docs/outage.md")]
mod outage {}

#[doc = include_str!("../src/docs/fleet.md")]
mod fleet {}

#[doc = include_str!("../src/docs/testing.md")]
mod testing {}

#[doc = include_str!("../src/docs/cost.md")]
mod cost {}

#[doc = include_str!("../src/docs/comparison.md")]
mod comparison {}

#[doc = include_str!("../src/docs/observability.md")]
mod observability {}

#[doc = include_str!("../src/docs/hostile.md")]
mod hostile {}

#[doc = include_str!("../src/docs/limitations.md")]
mod limitations {}

#[doc = include_str!("../src/docs/design.md")]
mod design {}

#[doc = include_str!("../README.md")]
mod readme {}

#[doc = include_str!("../SECURITY.md")]
mod security {}
