//! Pages that belong to no single item.
//!
//! * [Quick start](start): from nothing to a protected service.
//! * [Scopes](scopes): what opens what, and where to ask for it.
//! * [Where the layers go](layers): each placement in an axum router, and what it leaves open.
//! * [What clients see](responses): each refusal as `curl -i` shows it, and as gRPC clients do.
//! * [Where it runs](where_it_runs): which server or gateway, what to copy, what is tested.
//! * [Coming from API Gateway](api_gateway): what stays, and what clients notice.
//! * [Coming from another library](migrating): aws-jwt-verify, jwt-authorizer and others.
//! * [When Cognito is down](outage): what happens minute by minute, and what to set.
//! * [Errors](errors): each text and log event, its cause, and what to do.
//! * [Testing your service](testing): tokens, time travel, rotation, without a network.
//! * [Large fleets](fleet): what 10,000 replicas ask of Cognito, and what to change.
//! * [What it costs](cost): beside the bare signature check, and beside other crates.
//! * [Beside others](comparison): other crates, with file and line for each cell.
//! * [Observability](observability): log events, span fields, metrics, readiness.
//! * [Security](security): what is promised, against whom, and how it is shown.
//! * [Hostile inputs](hostile): what may be brought, what is expected, and the tests that hold it.
//! * [Limitations](limitations): what it does not do, and what to do instead.
//! * [Design](design): the code map, the invariants, and why.

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
    //! What judges tokens in which server or gateway, what to copy, and what is tested.
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
    //! What a verification costs: beside the bare signature check, beside other crates, and a month.
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
    //! What is promised, against whom, and how it is shown.
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
