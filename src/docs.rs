//! Pages that belong to no single item.
//!
//! * [Where the layers go](layers): each placement in an axum router, and what it leaves open.
//! * [What clients see](refusals): each refusal as `curl -i` shows it, and as gRPC clients do.
//! * [When Cognito is down](outage): what happens minute by minute, and what to set.
//! * [Errors](errors): each text and log event, its cause, and what to do.
//! * [What it costs](cost): beside the bare signature check, and beside other crates.
//! * [Observability](observability): log events, span fields, metrics, readiness.
//! * [Hostile inputs](hostile): what may be brought, what is expected, and the tests that hold it.
//! * [Design](design): the code map, the invariants, and why.

pub mod layers {
    #![doc = include_str!("docs/layers.md")]
}

pub mod refusals {
    #![doc = include_str!("docs/refusals.md")]
}

pub mod errors {
    #![doc = include_str!("docs/errors.md")]
}

pub mod outage {
    #![doc = include_str!("docs/outage.md")]
}

pub mod cost {
    //! What a verification costs: beside the bare signature check, beside other crates, and a month.
    //!
    #![doc = include_str!("docs/cost.svg")]
    #![doc = include_str!("docs/cost.md")]
}

pub mod observability {
    #![doc = include_str!("docs/observability.md")]
}

pub mod hostile {
    #![doc = include_str!("docs/hostile.md")]
}

pub mod design {
    #![doc = include_str!("docs/design.md")]
}

/// The README, whose code is tested as everything else.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
