//! The measured requests. `benches/before.sh` includes this file in a generated package, to compare
//! this crate with an older build of it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::marker::PhantomData;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Request, Response};
use tower::Service;

pub const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";
pub const SCOPE: &str = "activity/*";
pub const CACHE: usize = 8 * 1024 * 1024;
pub const PATH: &str = "/activity/events";

/// The names of the rows, and their repetitions in each timed round.
pub const ROWS: [(&str, u32); 16] = [
    ("bare service", 500),
    ("cached token", 500),
    ("RequireToken", 500),
    ("RequireToken, RequireScope", 500),
    ("RequireToken, scope in the rules", 500),
    ("RequireToken, table of 1 row", 500),
    ("RequireToken, table of 41 rows", 500),
    ("axum", 200),
    ("axum, RequireToken", 200),
    ("axum, RequireToken, extractor", 200),
    ("axum, RequireToken, RequireScope", 200),
    ("axum, both as one layer", 200),
    ("axum, RequireToken, scope in the rules", 200),
    ("new token, cache off", 10),
    ("unknown key, 13 KB, try_verify", 5),
    ("unknown key, 13 KB, RequireToken", 5),
];

/// One call of a row.
pub type Run = Box<dyn FnMut()>;

/// Runs a row. Callgrind counts the instructions of this function.
#[inline(never)]
pub fn measured(run: &mut dyn FnMut()) {
    run();
    black_box(());
}

/// Runs a row 200 times for callgrind.
pub fn count(mut run: Run) {
    // Not counted: the cost of the first requests, and the fetch budget.
    (0..50).for_each(|_| run());
    (0..200).for_each(|_| measured(&mut run));
}

/// A service that answers immediately.
pub struct Bare<R = Response<Body>>(PhantomData<fn() -> R>);

impl<R> Default for Bare<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> Clone for Bare<R> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<R: Default> Service<Request<Body>> for Bare<R> {
    type Response = R;
    type Error = Infallible;
    type Future = Ready<Result<R, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(R::default()))
    }
}

/// Creates a request. Each call creates its own, at the same cost for all rows.
pub fn request(headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static(PATH);
    *request.headers_mut() = headers.clone();
    request
}

/// Calls a service until its response is ready. It is not inlined, because a server does not inline
/// its service.
#[inline(never)]
pub fn respond<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>) -> S::Response
where
    S::Error: Debug,
{
    let mut future = std::pin::pin!(service.call(request));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(response) => return response.unwrap(),
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Returns a token of 13 KB with the signature of this one. Header and payload have as many short
/// members as fit.
pub fn stuffed(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let stuff = |part| {
        let json = String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        let mut members = String::new();
        for number in 0.. {
            if members.len() + json.len() >= 4_800 {
                break;
            }
            members.push_str(&format!("\"{}\":0,", to_name(number)));
        }
        URL_SAFE_NO_PAD.encode(json.replacen('{', &format!("{{{members}"), 1))
    };
    let parts = rest.split('.').map(stuff).collect::<Vec<_>>();
    format!("{}.{signature}", parts.join("."))
}

fn to_name(mut number: usize) -> String {
    let digits = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.~";
    let mut name = String::from("~");
    loop {
        name.push(char::from(digits[number % digits.len()]));
        number /= digits.len();
        if number == 0 {
            return name;
        }
    }
}

/// Defines a function that prepares a row for one build of this crate. It has the path of the crate,
/// and what differs between the builds.
#[macro_export]
macro_rules! define_run {
    ($name:ident, $krate:ident, $fetch:ident, |$rules:ident| $with_scope:expr) => {
        pub fn $name(row: &str) -> $crate::requests::Run {
            use std::hint::black_box;

            use axum::Router;
            use axum::routing::get;
            use http::HeaderMap;
            use http::header::AUTHORIZATION;
            use tower::Layer;
            use $crate::requests::{Bare, CACHE, CLIENT, PATH, SCOPE, request, respond, stuffed};
            use $krate::{
                Access, AccessToken, ClientIds, JwksDocument, RefreshError, RequireScope,
                RequireToken, Rules, ScopeTable, TestIssuer, Verifier,
            };

            thread_local! {
                static ISSUER: TestIssuer = TestIssuer::new();
            }
            let issuer = ISSUER.with(Clone::clone);
            let token = issuer.machine_token(CLIENT).scope(SCOPE).sign();
            let document = issuer.jwks_json();
            let fetch = move |_: String| {
                let document = document.clone();
                async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
            };
            // Its thread answers while the measured one runs.
            let runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
            let $rules = Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]));
            let rules = if row.contains("rules") { $with_scope } else { $rules };
            let cache = if row.contains("cache off") { 0 } else { CACHE };
            let builder = Verifier::builder(rules).token_cache_bytes(cache).$fetch(fetch);
            let verifier = runtime.block_on(builder.connect()).unwrap();
            let mut valid = HeaderMap::new();
            valid.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            let layer = || RequireToken::new(verifier.clone());
            let scope = || RequireScope::new(SCOPE);
            let table = |rows: usize| {
                let other = (1..rows).map(|row| format!("GET /resource{row}/events"));
                let keys = other.chain([format!("GET {PATH}")]).collect::<Vec<_>>();
                let rows = keys.iter().map(|key| (key.as_str(), Access::scope(SCOPE)));
                layer().scope_table(ScopeTable::new(rows).unwrap())
            };
            macro_rules! ok {
                ($service:expr) => {{
                    let mut service = $service;
                    Box::new(move || {
                        let _runtime = &runtime;
                        assert_eq!(respond(&mut service, request(&valid)).status(), 200);
                    })
                }};
            }
            macro_rules! router {
                (|$router:ident| $with:expr) => {{
                    let $router = Router::<()>::new().route(PATH, get(|| async {}));
                    let service = $with;
                    Box::new(move || {
                        let _runtime = &runtime;
                        let response = respond(&mut service.clone(), request(&valid));
                        assert_eq!(response.status(), 200);
                    })
                }};
            }
            let unknown = || stuffed(&issuer.machine_token(CLIENT).header("kid", "unknown").sign());
            match row {
                "bare service" => ok!(<Bare>::default()),
                "cached token" | "new token, cache off" => Box::new(move || {
                    let _runtime = &runtime;
                    drop(black_box(verifier.try_verify(black_box(&token)).unwrap()));
                }),
                "RequireToken" | "RequireToken, scope in the rules" => {
                    ok!(layer().layer(<Bare>::default()))
                }
                "RequireToken, RequireScope" => ok!((layer(), scope()).layer(<Bare>::default())),
                "RequireToken, table of 1 row" => ok!(table(1).layer(<Bare>::default())),
                "RequireToken, table of 41 rows" => ok!(table(41).layer(<Bare>::default())),
                "axum" => router!(|router| router),
                "axum, RequireToken" | "axum, RequireToken, scope in the rules" => {
                    router!(|router| router.layer(layer()))
                }
                "axum, RequireToken, extractor" => {
                    async fn handle(token: AccessToken) {
                        drop(black_box(token));
                    }
                    router!(|_router| {
                        Router::<()>::new().route(PATH, get(handle)).layer(layer())
                    })
                }
                "axum, RequireToken, RequireScope" => {
                    router!(|router| router.layer(scope()).layer(layer()))
                }
                "axum, both as one layer" => {
                    router!(|router| router.layer((layer(), scope())))
                }
                "unknown key, 13 KB, try_verify" => {
                    let token = unknown();
                    Box::new(move || {
                        let _runtime = &runtime;
                        assert!(black_box(verifier.try_verify(black_box(&token))).is_err());
                    })
                }
                "unknown key, 13 KB, RequireToken" => {
                    let mut headers = HeaderMap::new();
                    headers.insert(AUTHORIZATION, format!("Bearer {}", unknown()).parse().unwrap());
                    let mut service = layer().layer(<Bare>::default());
                    Box::new(move || {
                        let _guard = runtime.enter();
                        assert_eq!(respond(&mut service, request(&headers)).status(), 401);
                    })
                }
                other => panic!("no row {other}"),
            }
        }
    };
}
