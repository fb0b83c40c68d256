//! Compares this crate with an older build of it, in turns in one process. `benches/before.sh`
//! generates the package that it belongs to, and counts its instructions.
//!
//!     before time                     # all rows; the minimum of many rounds
//!     before count before|after ROW   # runs one row 200 times, for callgrind

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";
const SCOPE: &str = "activity/*";

fn request(headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static("/activity/events");
    *request.headers_mut() = headers.clone();
    request
}

/// Calls a service until its response is ready. It is not inlined, because a server does not inline
/// its service.
#[inline(never)]
fn respond<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>) -> S::Response
where
    S::Error: std::fmt::Debug,
{
    let mut future = std::pin::pin!(service.call(request));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(response) => return response.unwrap(),
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

#[derive(Clone)]
struct Bare;

impl Service<Request<Body>> for Bare {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Body::empty())))
    }
}

/// What callgrind counts.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    run();
    black_box(());
}

/// The names of the rows, and their repetitions in each round.
const ROWS: [(&str, u32); 16] = [
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

type Run = Box<dyn FnMut()>;

/// Returns an object with as many short members as fit into this many bytes, before its last member.
fn stuffed(object: &str, length: usize) -> String {
    let mut members = String::new();
    let mut number = 0_usize;
    while members.len() + object.len() < length {
        members.push_str(&format!("\"{}\":0,", to_name(number)));
        number += 1;
    }
    object.replacen('{', &format!("{{{members}"), 1)
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

macro_rules! build {
    ($name:ident, $krate:ident, $fetch:ident, |$rules:ident| $with_scope:expr) => {
        fn $name(row: &str) -> Run {
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
            let cache = if row.contains("cache off") { 0 } else { 8 * 1024 * 1024 };
            let builder = Verifier::builder(rules).token_cache_bytes(cache).$fetch(fetch);
            let verifier = runtime.block_on(builder.connect()).unwrap();
            let mut valid = HeaderMap::new();
            valid.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            let layer = || RequireToken::new(verifier.clone());
            let scope = || RequireScope::new(SCOPE);
            let table = |rows: usize| {
                let other = (1..rows).map(|row| format!("GET /resource{row}/events"));
                let keys = other.chain(["GET /activity/events".to_owned()]).collect::<Vec<_>>();
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
                    let $router = Router::<()>::new().route("/activity/events", get(|| async {}));
                    let service = $with;
                    Box::new(move || {
                        let _runtime = &runtime;
                        let response = respond(&mut service.clone(), request(&valid));
                        assert_eq!(response.status(), 200);
                    })
                }};
            }
            let unknown = || {
                let builder = issuer.machine_token(CLIENT).header("kid", "unknown");
                let sent = builder.sign();
                let mut parts = sent.split('.');
                let mut part = || {
                    let json = decode(parts.next().unwrap());
                    encode(&stuffed(&json, 4_800))
                };
                let (header, payload) = (part(), part());
                let signature = sent.rsplit('.').next().unwrap();
                format!("{header}.{payload}.{signature}")
            };
            match row {
                "bare service" => ok!(Bare),
                "cached token" => Box::new(move || {
                    let _runtime = &runtime;
                    drop(black_box(verifier.try_verify(black_box(&token)).unwrap()));
                }),
                "RequireToken" | "RequireToken, scope in the rules" => ok!(layer().layer(Bare)),
                "RequireToken, RequireScope" => ok!((layer(), scope()).layer(Bare)),
                "RequireToken, table of 1 row" => ok!(table(1).layer(Bare)),
                "RequireToken, table of 41 rows" => ok!(table(41).layer(Bare)),
                "axum" => router!(|router| router),
                "axum, RequireToken" | "axum, RequireToken, scope in the rules" => {
                    router!(|router| router.layer(layer()))
                }
                "axum, RequireToken, extractor" => {
                    async fn handle(token: AccessToken) {
                        drop(black_box(token));
                    }
                    router!(|_router| {
                        Router::<()>::new().route("/activity/events", get(handle)).layer(layer())
                    })
                }
                "axum, RequireToken, RequireScope" => {
                    router!(|router| router.layer(scope()).layer(layer()))
                }
                "axum, both as one layer" => {
                    router!(|router| router.layer((layer(), scope())))
                }
                "new token, cache off" => Box::new(move || {
                    let _runtime = &runtime;
                    drop(black_box(verifier.try_verify(black_box(&token)).unwrap()));
                }),
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
                    let mut service = layer().layer(Bare);
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

build!(before, before, fetch_with, |rules| rules);
build!(after, after, jwks_fetcher, |rules| rules.with_required_scopes([SCOPE]));

fn decode(part: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encode(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["count", build, row] => {
            let mut run = if *build == "before" { before(row) } else { after(row) };
            // Not counted: what only the first requests cost, and the fetch budget.
            (0..50).for_each(|_| run());
            (0..200).for_each(|_| measured(&mut run));
            ExitCode::SUCCESS
        }
        ["rows"] => {
            ROWS.iter().for_each(|(row, _)| println!("{row}"));
            ExitCode::SUCCESS
        }
        ["time", rest @ ..] => {
            let rounds = rest.first().map_or(300, |rounds| rounds.parse().unwrap());
            let mut all = ROWS.map(|(row, repeat)| {
                let mut runs = [before(row), after(row)];
                runs.iter_mut().for_each(|run| (0..50).for_each(|_| run()));
                (row, repeat, runs, [Duration::MAX; 2])
            });
            for _ in 0..rounds {
                for (_, repeat, runs, least) in &mut all {
                    for (run, least) in runs.iter_mut().zip(least) {
                        let began = Instant::now();
                        (0..*repeat).for_each(|_| run());
                        *least = (*least).min(began.elapsed() / *repeat);
                    }
                }
            }
            for (row, _, _, [before, after]) in all {
                println!("{row}\t{}\t{}", before.as_nanos(), after.as_nanos());
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: before time [ROUNDS] | before count before|after ROW");
            ExitCode::FAILURE
        }
    }
}
