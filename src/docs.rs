//! Guides about topics that concern several items.
//!
//! * [Quick start](start): from an empty project to a protected service.
//! * [Scopes](scopes): what each scope allows, and where to require it.
//! * [Where the layers go](layers): each placement in an axum router, and what it leaves open.
//! * [What clients see](responses): each rejection, as `curl -i` and as gRPC clients show it.
//! * [Where it runs](where_it_runs): the supported servers and gateways, what to copy, what is tested.
//! * [Coming from API Gateway](api_gateway): what stays the same, and what clients notice.
//! * [Coming from another library](migrating): aws-jwt-verify, jwt-authorizer and others.
//! * [When Cognito is down](outage): what happens minute by minute, and what to configure.
//! * [Errors](errors): each text and log event, its cause, and what to do.
//! * [Testing your service](testing): tokens, time travel and rotation, without a network.
//! * [Large fleets](fleet): the load of 10,000 replicas on Cognito, and how to reduce it.
//! * [What it costs](cost): compared with the bare signature check and with other crates.
//! * [Comparison](comparison): other crates, with file and line for each cell.
//! * [Observability](observability): log events, span fields, metrics, readiness.
//! * [Security](security): the guarantees, the attackers, and the evidence.
//! * [Hostile inputs](hostile): each hostile input, the expected result, and the tests for it.
//! * [Limitations](limitations): what the crate does not do, and the alternatives.
//! * [Design](design): the code map, the invariants, and the reasons.

pub mod start {
    #![doc = include_str!("docs/start.md")]
}

pub mod scopes {
    #![doc = include_str!("docs/scopes.md")]
}

pub mod layers {
    #![doc = include_str!("docs/layers.md")]
}

pub mod responses {
    #![doc = include_str!("docs/responses.md")]
}

pub mod errors {
    #![doc = include_str!("docs/errors.md")]
}

pub mod where_it_runs {
    //! What checks requests in each server or gateway, what to copy, and what is tested.
    //!
    #![doc = include_str!("docs/where.svg")]
    //!
    #![doc = include_str!("docs/where.md")]
}

pub mod api_gateway {
    #![doc = include_str!("docs/api_gateway.md")]
}

pub mod migrating {
    #![doc = include_str!("docs/migrating.md")]
}

pub mod outage {
    #![doc = include_str!("docs/outage.md")]
}

pub mod fleet {
    #![doc = include_str!("docs/fleet.md")]
}

pub mod testing {
    #![doc = include_str!("docs/testing.md")]
}

pub mod cost {
    //! The cost of a verification, compared with the bare signature check and with other crates, and per
    //! month.
    //!
    #![doc = include_str!("docs/cost.svg")]
    //!
    #![doc = include_str!("docs/cost.md")]
}

pub mod comparison {
    #![doc = include_str!("docs/comparison.md")]
}

pub mod observability {
    #![doc = include_str!("docs/observability.md")]
}

pub mod security {
    //! The guarantees of this crate, the attackers that it considers, and the evidence.
    //!
    //! [hostile]: crate::docs::hostile
    //!
    #![doc = include_str!("../SECURITY.md")]
}

pub mod hostile {
    #![doc = include_str!("docs/hostile.md")]
}

pub mod limitations {
    #![doc = include_str!("docs/limitations.md")]
}

pub mod design {
    #![doc = include_str!("docs/design.md")]
}
