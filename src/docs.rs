//! Pages that belong to no single item.
//!
//! * [Where the layers go](layers): each placement in an axum router, and what it leaves open.
//! * [Design](design): the code map, the invariants, and why.

pub mod layers {
    //! # Where the layers go
    //!
    //! [`RequireToken`](crate::RequireToken) goes outside, [`RequireScope`](crate::RequireScope)
    //! inside it: *first* who calls, *then* what they may. Tower stacks nest in both orders,
    //! and a route can be left open without a word from the compiler, so here is each placement
    //! with what it leaves open.
    //!
    //! | placement | what it guards | what stays open |
    //! | --- | --- | --- |
    //! | last `.layer` of a router | every route before it, and the fallback: 404 and 405 are for those with a token | routes added after it |
    //! | `.route_layer` of a router | every route before it, wrong methods included | unknown paths (404), routes added after it |
    //! | `.route_layer` of a method router | the methods before it | wrong methods (405), methods added after it |
    //! | `post(a).layer(scope).get(b)` | `POST` | `GET`: it was added after the layer |
    //! | `ServiceBuilder` | as one `.layer`; its **first** layer is the outermost | as `.layer` |
    //! | inside `.nest` | the nested routes | the rest of the outer router |
    //! | `.merge` | each side by its own layers alone | a side without layers |
    //!
    //! ## The usual one
    //!
    //! The token once, as the last `.layer`; a scope at each route. Of calls to `.layer` the
    //! last is the outermost.
    //!
    //! ```
    //! use axum::{Router, routing::{get, post}};
    //! use tower_cognito::{RequireScope, RequireToken};
    //! # use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};
    //! # let issuer = TestIssuer::new();
    //! # let rules = Rules::new(issuer.user_pool(), ClientIds::any());
    //! # let verifier = Verifier::builder(rules).with_jwks(issuer.jwks())?;
    //!
    //! let app: Router = Router::new()
    //!     .route("/activity", post(|| async {}).layer(RequireScope::new("activity/*")))
    //!     .route("/item", get(|| async {}).layer(RequireScope::new("demo-dev/read")))
    //!     .layer(RequireToken::new(verifier))
    //!     .route("/health", get(|| async { "ok" })); // open, and meant to be
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```
    //!
    //! ## With `ServiceBuilder`
    //!
    //! The order is the other way round: the first is the outermost. A CORS layer goes before
    //! the token, since a preflight request carries none.
    //!
    //! ```
    //! use axum::{Router, routing::get};
    //! use tower::ServiceBuilder;
    //! use tower_cognito::{RequireScope, RequireToken};
    //! use tower_http::cors::{Any, CorsLayer};
    //! # use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};
    //! # let issuer = TestIssuer::new();
    //! # let rules = Rules::new(issuer.user_pool(), ClientIds::any());
    //! # let verifier = Verifier::builder(rules).with_jwks(issuer.jwks())?;
    //!
    //! let cors = CorsLayer::new().allow_origin(Any).allow_headers([http::header::AUTHORIZATION]);
    //! let app: Router = Router::new().route("/item", get(|| async {})).layer(
    //!     ServiceBuilder::new()
    //!         .layer(cors)
    //!         .layer(RequireToken::new(verifier))
    //!         .layer(RequireScope::any_in("demo-dev")),
    //! );
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```
    //!
    //! ## When they are put together wrongly
    //!
    //! A `RequireScope` that no `RequireToken` runs before answers every request with 500 and
    //! logs an error that names the layer. So does the
    //! [`AccessToken`](crate::AccessToken) extractor, also as an `Option`: a forgotten layer
    //! never looks like an anonymous request.
}

pub mod design {
    //! # Design
    //!
    //! ## Bird's eye view
    //!
    //! A request passes `RequireToken`, which takes the token from `Authorization` and gives it
    //! to the `Verifier`. The verifier loads the keys that are current and calls `verify`, a pure
    //! function. An `AccessToken` goes into the request's extensions, where `RequireScope` and
    //! the handler find it. Meanwhile one task for each pool refreshes its keys.
    //!
    //! ## Code map
    //!
    //! | file | question it answers |
    //! | --- | --- |
    //! | `error` | what can go wrong, one type per audience |
    //! | `user_pool` | which issuers are trusted, and where their keys are |
    //! | `scope` | what a scope is, and when a requirement is met |
    //! | `json` | private: what is one strict JSON object, and what is in it |
    //! | `claims` | private: what the payload of a Cognito token says |
    //! | `jws` | private: what a compact JWS consists of; nothing in it is trusted yet |
    //! | `jwks` | which keys a JWK Set holds; the only file that touches cryptography |
    //! | `verify` | is this token good? `verify`, `Rules`, `ClientIds`, `AccessToken`; pure |
    //! | `fetch` | where does a JWK Set come from? `FetchJwks`, and HTTPS |
    //! | `schedule` | private: when to fetch next; pure |
    //! | `refresh` | private: the task that keeps one pool's keys current; the only file that knows tokio |
    //! | `verifier` | current keys and the clock, given to `verify` |
    //! | `rejection` | the refusal table: status, challenge, body |
    //! | `layer` | `RequireToken`, `RequireScope`, and the response of both |
    //! | `extract` | feature `axum`: the extractor |
    //! | `test_issuer` | feature `test-issuer`: the embedded stand-in, made of the public API alone |
    //!
    //! Uses point one way:
    //!
    //! ```text
    //! extract, layer  -> rejection, verifier, verify, scope
    //! verifier        -> refresh -> fetch, schedule, jwks
    //! verifier        -> verify  -> claims, jws, jwks, scope, user_pool
    //! claims, jws, jwks -> json;  all of them -> error
    //! test_issuer     -> the public API
    //! ```
    //!
    //! ## Invariants
    //!
    //! Those that a program can check are checked by a test.
    //!
    //! * An `AccessToken` is made in one place, after every check. Holding one is the proof.
    //! * Nothing of a payload is used before its signature is good, but `iss`, to choose the pool.
    //! * A key is looked up in the set of the pool that the token names, never in another's.
    //! * A verdict depends on the token, the keys, the rules and the time: on no feature flag,
    //!   and on none of serde_json's or jsonwebtoken's that an application turns on.
    //! * `tokio` is named in `refresh` alone, the system clock in `verifier` alone (and in the
    //!   test issuer), cryptography in `jwks` alone (and in the test issuer's signer).
    //! * A request whose key is known waits for nothing and takes no lock.
    //! * No text, log line or response holds a byte of a token.
    //!
    //! ## Why
    //!
    //! **Why not `jsonwebtoken::decode`?** It parses the RSA key again for every token, treats an
    //! `iss`, `aud` or `sub` of the wrong type as absent, ignores `crit`, and needs a
    //! process-wide provider. Its JWK types are used here, member by member, behind a stricter
    //! look at each member.
    //!
    //! **Why raw JSON values?** Each claim is taken as its text first. "Of the wrong type" is
    //! then different from "absent", numbers are never rounded, and the features of serde_json
    //! that change how values are read do not matter.
    //!
    //! **Why RS256 alone?** Cognito signs with nothing else, and every further algorithm is
    //! attack surface.
    //!
    //! **Why two extensions?** `RequireToken` leaves the token for the handler. Where the layer
    //! has settings of its own, or lets a request pass without a token, it also leaves a private
    //! marker, so that what is inside can refuse in the same form and can tell an anonymous
    //! request from a forgotten layer. Under the default settings the token says enough, and a
    //! second insertion would cost every request an allocation.
    //!
    //! ## Deliberately absent
    //!
    //! Login pages, sessions, cookies; issuing tokens, outside the test issuer; introspection of
    //! opaque tokens; DPoP and mTLS binding; any check after the first byte of a request.
}

/// The README, whose code is tested as everything else.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
