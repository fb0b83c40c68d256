//! Pages that belong to no single item.
//!
//! * [Where the layers go](layers): each placement in an axum router, and what it leaves open.
//! * [When Cognito is down](outage): what happens minute by minute, and what to set.
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

pub mod outage {
    //! # When Cognito is down
    //!
    //! Nothing happens, for a day. Tokens are verified with the keys that are in memory; Cognito
    //! is asked for keys in the background, never while a request waits for a key that is known.
    //!
    //! | time | what your clients see | what happens inside |
    //! | --- | --- | --- |
    //! | before | 200 | the keys are fetched every 4 to 5 minutes |
    //! | 0:00, Cognito stops answering | 200 | nothing yet |
    //! | up to 0:05 | 200 | the next fetch fails, after 5 seconds at most; one warning in the log; [`health`](crate::Verifier::health) is `Degraded` |
    //! | the next minute | 200 | attempts after about 1, 2, 4, 8 and 16 seconds |
    //! | until it ends | 200 | an attempt every 15 to 30 seconds, 180 an hour at most; a `Retry-After` of Cognito's is honored, up to 5 minutes |
    //! | 24:00 since the last good fetch | **503** with `Retry-After` | the keys are too old to be trusted; `health` is `NotReady`; an error in the log |
    //! | Cognito is back | 200 within 30 seconds, or when the pause is over that it asked for | keys are replaced as a whole; `health` is `Ready` |
    //!
    //! It is 503 and not 401, since nothing is known against the tokens: a client that is told 401
    //! would throw its token away and ask Cognito, which is down, for another.
    //!
    //! ## A restart during the outage
    //!
    //! A process that starts without keys can not verify anything. It answers 503 with
    //! `Retry-After: 1` ([`start`](crate::VerifierBuilder::start)), or does not start
    //! ([`connect`](crate::VerifierBuilder::connect)), and has keys within 5 seconds of Cognito's
    //! return, unless Cognito asked for a longer pause. Where that is not enough, keep the last JWK Set somewhere and hand it in:
    //!
    //! ```
    //! # use std::time::SystemTime;
    //! use tower_cognito::{Jwks, Verifier};
    //! # use tower_cognito::{ClientIds, Rules, TestIssuer};
    //!
    //! # #[tokio::main(flavor = "current_thread")]
    //! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    //! # let issuer = TestIssuer::new();
    //! # let rules = Rules::new(issuer.user_pool(), ClientIds::any());
    //! # let (saved, saved_at) = (issuer.jwks_json(), SystemTime::now());
    //! let jwks = Jwks::from_json(saved)?;
    //! let verifier = Verifier::builder(rules).seed(jwks, saved_at).start()?;
    //! # assert!(verifier.try_verify(&issuer.machine_token("c").sign()).is_ok());
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! ## When keys rotate
    //!
    //! A token whose key is not known yet waits for one fetch that all such tokens share, for a
    //! second at most. So a rotation refuses no good token while Cognito answers within that
    //! second. At most 1,024 requests wait; whatever key IDs an attacker makes up, they cause two
    //! fetches and then one in 30 seconds, so that in the worst case a new key is known 30
    //! seconds later. A key ID that stays unknown is 401, never 503.
    //!
    //! A key that Cognito removes is refused after the next refresh, within 305 seconds;
    //! [`Verifier::refresh`](crate::Verifier::refresh) makes it now. If Cognito withdrew *all*
    //! keys, its answer would count as a failed refresh, and the old keys would be used until they
    //! are too old: restart to be rid of them at once.
    //!
    //! ## Sleep, frozen sandboxes, forks, runtimes
    //!
    //! The age of keys is the larger of what two clocks say: one stands still while a machine
    //! sleeps or AWS Lambda freezes its sandbox, the other can be set back. The first request
    //! after a thaw causes the refresh that is due, and is answered meanwhile. The background task
    //! lives on the tokio runtime that the verifier was started on; if that runtime is dropped,
    //! the next request on another one starts it again, and without any runtime verification goes
    //! on until the keys are too old. In a child process after `fork` there is
    //! no such task: it verifies until the keys are too old, and says `Degraded`. Build the
    //! verifier after the fork.
    //!
    //! ## What can be set
    //!
    //! | setting | unless set |
    //! | --- | --- |
    //! | [`refresh_interval`](crate::VerifierBuilder::refresh_interval) | 5 minutes; a `Cache-Control: max-age` of the issuer's may shorten it, to 60 seconds at least, and never lengthens it |
    //! | [`max_stale`](crate::VerifierBuilder::max_stale) | 24 hours |
    //! | [`connect_within`](crate::VerifierBuilder::connect_within) | 10 seconds |
    //! | [`http_client`](crate::VerifierBuilder::http_client) | a client without a proxy of its own; reqwest reads `HTTPS_PROXY` and `ALL_PROXY` |
    //! | [`jwks_file`](crate::VerifierBuilder::jwks_file), [`fetch_with`](crate::VerifierBuilder::fetch_with), [`with_jwks`](crate::VerifierBuilder::with_jwks) | keys from a file, from a closure, or fixed |
    //!
    //! What bounds an attacker can not be set: 5 seconds and 64 KiB for a fetch, no redirects, the
    //! budget for unknown keys, the number of requests that wait.
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
    //! | `health` | how the keys are doing, for a readiness probe |
    //! | `refresh` | private: what keeps one pool's keys current: its handle, what the task publishes (`shared`), the task (`task`), keys from a file (`file`); the only folder that knows tokio |
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
    //! verifier        -> refresh -> fetch, schedule, health, jwks
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
    //! * `tokio` is named in `refresh/` alone, the system clock in `verifier` alone (and in the
    //!   test issuer), cryptography in `jwks` alone (and in the test issuer's signer).
    //! * A request whose key is known waits for nothing, and takes no lock while refreshes are made
    //!   on time.
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
