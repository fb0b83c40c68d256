//! Guides about topics that concern several items.
//!
//! Start here:
//!
//! * [Quick start](quick_start): from an empty project to a protected service.
//! * [Scopes](scopes): what each scope allows, and where to require it.
//! * [Responses](responses): each rejection, as `curl -i` and as gRPC clients show it.
//! * [Errors](errors): each text and log event, its cause, and what to do.
//! * [Testing](testing): tokens, time travel and rotation, without a network.
//! * [Recipes](recipes): tenants, users and machines, CORS, revocation, and more, each with a program.
//!
//! Operate a service:
//!
//! * [Configuration](configuration): settings in code, in the environment, or in a file.
//! * [Deployment](deployment): the supported servers and gateways, and large fleets.
//! * [MCP and gRPC](mcp_and_grpc): an MCP server, and what gRPC and Connect clients see.
//! * [Keys](keys): refreshes, rotation, and what happens when Cognito is down.
//! * [Observability](observability): log events, span fields, metrics, readiness.
//! * [Performance](performance): compared with the bare signature check and with other crates.
//!
//! Decide and review:
//!
//! * [Coming from API Gateway](api_gateway): what stays the same, and what clients notice.
//! * [Works with](works_with): emulators, OAuth clients and other programs that were used with it.
//! * [Choosing a crate](comparison): other crates, and how to move from them.
//! * [Security](security): the guarantees, the attackers, and the evidence.
//! * [Design](design): the code map, the invariants, the reasons, and the limitations.

pub mod quick_start {
    #![doc = include_str!("docs/quick_start.md")]
}

pub mod scopes {
    #![doc = include_str!("docs/scopes.md")]
}

pub mod responses {
    #![doc = include_str!("docs/responses.md")]
}

pub mod errors {
    #![doc = include_str!("docs/errors.md")]
}

pub mod testing {
    #![doc = include_str!("docs/testing.md")]
}

pub mod recipes {
    #![doc = include_str!("docs/recipes.md")]
}

pub mod configuration {
    #![doc = include_str!("docs/configuration.md")]
}

pub mod deployment {
    //! What checks requests in each server or gateway, what to copy, and what is tested.
    //!
    #![doc = include_str!("docs/deployment.svg")]
    //!
    #![doc = include_str!("docs/deployment.md")]
}

pub mod mcp_and_grpc {
    //! How to build an MCP server, and what gRPC and Connect clients see.
    //!
    #![doc = include_str!("docs/mcp_and_grpc.md")]
}

pub mod keys {
    #![doc = include_str!("docs/keys.md")]
}

pub mod observability {
    #![doc = include_str!("docs/observability.md")]
}

pub mod performance {
    //! What a request, a cold start and a build cost, next to other crates and Node.
    //!
    #![doc = include_str!("docs/performance.md")]
    //!
    //! # Time to verify one token
    //!
    #![doc = include_str!("docs/performance.svg")]
}

pub mod api_gateway {
    #![doc = include_str!("docs/api_gateway.md")]
}

pub mod works_with {
    #![doc = include_str!("docs/works_with.md")]
}

pub mod comparison {
    #![doc = include_str!("docs/comparison.md")]
}

pub mod security {
    //! The guarantees of this crate, the attackers that it considers, and the evidence.
    //!
    #![doc = include_str!("../SECURITY.md")]
}

pub mod design {
    #![doc = include_str!("docs/design.md")]
}
