//! Measures the cost of a verification, as ratios to its minimum: a bare RSA-2048 signature check
//! with a parsed key.
//!
//!     cargo bench --bench cost                  # all rows; exits with 1 if a row misses its limit
//!     cargo bench --bench cost -- --counts      # few rounds; only counted rows can miss their limit
//!     cargo bench --bench cost -- --json FILE   # also writes the results for the chart
//!
//! To tolerate a noisy machine, the candidates alternate in each round, and the minimum time of
//! all rounds counts. Before, the program checks that each verifier rejects a token with a flipped
//! bit.

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use benches::requests::{Bare, CACHE, CLIENT, PATH, SCOPE, request, respond};
use benches::{Floor, Limit, flipped, run};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use tower::{Layer, Service};
use tower_cognito::{
    ClientIds, JwksDocument, RefreshError, RequireScope, RequireToken, Rules, TestIssuer, Verifier,
    VerifierBuilder,
};

fn main() -> ExitCode {
    let args = std::env::args().collect::<Vec<_>>();
    let counts_only = args.iter().any(|arg| arg == "--counts");
    let json = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    let mut report = Report { rounds: if counts_only { 3 } else { 1_000 }, ..Report::default() };

    let setting = Setting::new();
    report.verify(&setting);
    report.layers(&setting);
    report.many(&setting);
    report.distinct(&setting);
    report.threads(&setting);
    report.swaps(&setting);
    report.memory(&setting);
    report.scopes();

    if let Some(file) = json {
        std::fs::write(file, report.json()).unwrap();
    }
    let is_timed = !counts_only;
    let missed = report
        .rows
        .iter()
        .filter(|row| row.limit.is_miss(row.value) && (is_timed || row.is_counted));
    let missed = missed.map(|row| &*row.name).collect::<Vec<_>>();
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("missed: {}", missed.join("; "));
    ExitCode::FAILURE
}

/// An issuer, a machine token, and the bare RSA check of the token.
struct Setting {
    issuer: TestIssuer,
    token: String,
    flipped: String,
    floor: Floor,
    runtime: Runtime,
}

impl Setting {
    fn new() -> Self {
        let issuer = TestIssuer::new();
        let token = issuer.machine_token(CLIENT).scope(SCOPE).sign();
        let flipped = flipped(&token);
        let floor = Floor::new(&token, &issuer.jwks_json());
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { issuer, token, flipped, floor, runtime }
    }

    fn floor(&self) {
        assert!(black_box(&self.floor).check());
    }

    fn rules(&self) -> Rules {
        Rules::new(self.issuer.user_pool(), ClientIds::only([CLIENT]))
    }

    fn builder(&self, cache: usize) -> VerifierBuilder {
        Verifier::builder(self.rules()).token_cache_bytes(cache)
    }

    fn verifier(&self, cache: usize) -> Verifier {
        self.connected(self.builder(cache), self.issuer.jwks_json())
    }

    /// Creates a verifier with refreshed keys, as a service has them.
    fn connected(&self, builder: VerifierBuilder, document: String) -> Verifier {
        let fetch = move |_: String| {
            let document = document.clone();
            async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
        };
        let verifier = self.runtime.block_on(builder.jwks_fetcher(fetch).connect()).unwrap();
        self.check_rejects(&verifier);
        verifier
    }

    #[track_caller]
    fn check_rejects(&self, verifier: &Verifier) {
        assert!(verifier.try_verify(&self.token).is_ok());
        assert!(verifier.try_verify(&self.flipped).is_err());
    }

    fn headers(&self) -> HeaderMap {
        let authorization = format!("Bearer {}", self.token).parse().unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, authorization)])
    }
}

/// A measured operation and its number of repetitions in each round.
struct Timed<'s> {
    run: Box<dyn FnMut() + 's>,
    repeat: u32,
    least: Duration,
    all: Vec<Duration>,
}

impl<'s> Timed<'s> {
    fn new(repeat: u32, run: impl FnMut() + 's) -> Self {
        Self { run: Box::new(run), repeat, least: Duration::MAX, all: Vec::new() }
    }

    fn round(&mut self) {
        let began = Instant::now();
        for _ in 0..self.repeat {
            (self.run)();
        }
        let each = began.elapsed() / self.repeat;
        self.least = self.least.min(each);
        self.all.push(each);
    }

    fn least_ns(&self) -> f64 {
        self.least.as_secs_f64() * 1e9
    }

    fn spread(&self) -> (f64, f64) {
        let mut all = self.all.clone();
        all.sort();
        let ns = |at: usize| all[at.min(all.len() - 1)].as_secs_f64() * 1e9;
        (ns(all.len() / 2), ns(all.len()))
    }
}

/// Alternates the operations, so that a pause of the machine affects all of them.
fn in_turns<const N: usize>(rounds: u32, mut timed: [Timed<'_>; N]) -> [Timed<'_>; N] {
    timed.iter_mut().for_each(Timed::round);
    timed.iter_mut().for_each(|timed| {
        timed.all.clear();
        timed.least = Duration::MAX;
    });
    for _ in 0..rounds {
        timed.iter_mut().for_each(Timed::round);
    }
    timed
}

/// An allocator that counts only on demand. If it always counted, it would add a tenth to the time
/// of a request.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;
static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicI64 = AtomicI64::new(0);
static BYTES: AtomicI64 = AtomicI64::new(0);

fn count(allocations: i64, gained: usize, lost: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
        BYTES.fetch_add(gained as i64 - lost as i64, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Returns the number of allocations, and the bytes that stay allocated afterwards.
fn measure(run: impl FnOnce()) -> (f64, f64) {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
    run();
    IS_COUNTING.store(false, Ordering::Relaxed);
    (ALLOCATIONS.load(Ordering::Relaxed) as f64, BYTES.load(Ordering::Relaxed) as f64)
}

fn allocations(run: impl FnOnce()) -> f64 {
    measure(run).0
}

#[derive(Default)]
struct Report {
    rounds: u32,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    value: f64,
    limit: Limit,
    is_counted: bool,
    more: String,
}

impl Report {
    fn row(&mut self, name: &str, value: f64, is_counted: bool, more: String) {
        let limit = Limit::of("cost", name);
        let shown = if is_counted { format!("{value:.0}") } else { format!("{value:.4}") };
        println!("{name:58} {shown:>10}  {limit:16} {more:40} {}", limit.verdict(value));
        self.rows.push(Row { name: name.to_owned(), value, limit, is_counted, more });
    }

    fn timed(&mut self, name: &str, value: f64, more: String) {
        self.row(name, value, false, more);
    }

    fn counted(&mut self, name: &str, value: f64) {
        self.row(name, value, true, String::new());
    }

    /// Measures a new token, a cached token, and rejected tokens.
    fn verify(&mut self, setting: &Setting) {
        let Setting { issuer, token, .. } = setting;
        let (off, on) = (setting.verifier(0), setting.verifier(CACHE));
        let structure = token.replacen('.', "..", 1);
        let machine = || issuer.machine_token(CLIENT).scope(SCOPE);
        let alg = machine().header("alg", "HS256").sign();
        let kid = machine().header("kid", "another").sign();
        let reject = |token: &str| assert!(on.try_verify(black_box(token)).is_err());

        let [floor, new, seen, structure, alg, kid] = in_turns(
            self.rounds,
            [
                Timed::new(20, || setting.floor()),
                Timed::new(20, || drop(off.try_verify(black_box(token)).unwrap())),
                Timed::new(1_000, || drop(on.try_verify(black_box(token)).unwrap())),
                Timed::new(200, || reject(&structure)),
                Timed::new(200, || reject(&alg)),
                Timed::new(200, || reject(&kid)),
            ],
        );
        let base = floor.least_ns();
        let times = |timed: &Timed<'_>| {
            let (median, most) = timed.spread();
            format!("{:.0} ns, median {median:.0}, max {most:.0}", timed.least_ns())
        };
        let ratio = |timed: &Timed<'_>| timed.least_ns() / base;
        self.timed("the bare RSA check", 1.0, times(&floor));
        self.timed("new token, not cached", ratio(&new), times(&new));
        self.timed("cached token", ratio(&seen), times(&seen));
        self.timed("rejected: structure", ratio(&structure), times(&structure));
        self.timed("rejected: algorithm", ratio(&alg), times(&alg));
        self.timed("rejected: unknown key ID", ratio(&kid), times(&kid));
        let count = allocations(|| drop(on.try_verify(token).unwrap()));
        self.counted("allocations, cached token", count);
        let bare = allocations(|| setting.floor());
        let count = allocations(|| drop(off.try_verify(token).unwrap())) - bare;
        self.counted("allocations, new token, beyond the bare RSA check", count);
    }

    // Inlined into `main`, it was compiled to slower code.
    #[inline(never)]
    fn layers(&mut self, setting: &Setting) {
        let verifier = setting.verifier(CACHE);
        let mut guarded = layers(&verifier).layer(<Bare>::default());
        let mut bare = <Bare>::default();
        let headers = setting.headers();
        let request = || request(&headers);
        let one = request();
        let baseline = allocations(|| drop(respond(&mut bare, one)));
        // Not counted: until a verifier accepts its first request, each one allocates once more, for
        // the warning that every request was rejected.
        drop(respond(&mut guarded, request()));
        let one = request();
        let layered = allocations(|| drop(respond(&mut guarded, one)));
        let allocations_added = layered - baseline;
        let guarded_router = Router::new()
            .route(PATH, get(|| async {}).layer(RequireScope::new(SCOPE)))
            .layer(RequireToken::new(verifier.clone()));
        let bare_router = Router::new().route(PATH, get(|| async {}));

        let [floor, baseline, layered, axum_baseline, axum_layered] = in_turns(
            // Use more rounds than elsewhere, because the result is a small difference of two
            // times.
            self.rounds * 4,
            [
                Timed::new(20, || setting.floor()),
                Timed::new(1_000, || drop(respond(&mut bare, request()))),
                Timed::new(1_000, || {
                    let response = respond(&mut guarded, request());
                    assert!(response.status() == 200);
                }),
                Timed::new(300, || drop(respond(&mut bare_router.clone(), request()))),
                Timed::new(300, || {
                    let response = respond(&mut guarded_router.clone(), request());
                    assert!(response.status() == 200);
                }),
            ],
        );
        let added = layered.least_ns() - baseline.least_ns();
        let of_axum = axum_layered.least_ns() - axum_baseline.least_ns();
        let base = floor.least_ns();
        let ns = |added: f64| format!("{added:.0} ns added");
        self.timed("layers, added to a bare service", added / base, ns(added));
        self.timed("layers, added to an axum router", of_axum / base, ns(of_axum));
        self.counted("allocations that the layers add", allocations_added);
    }

    /// Measures a thousand pools and a hundred keys, compared with one pool with two keys.
    fn many(&mut self, setting: &Setting) {
        let token = &setting.token;
        let few = setting.verifier(0);
        let mut builder = setting.builder(0);
        for pool in 1..1_000 {
            let pool = format!("https://issuer.example/pool-{pool}");
            let pool = tower_cognito::UserPool::from_issuer(&pool).unwrap();
            builder = builder.add_pool(Rules::new(pool, ClientIds::only([CLIENT])));
        }
        let pools = setting.connected(builder, setting.issuer.jwks_json());
        let mut jwks: Value = serde_json::from_str(&setting.issuer.jwks_json()).unwrap();
        let keys = jwks["keys"].as_array_mut().unwrap();
        let one = keys[0].clone();
        for number in keys.len()..100 {
            let mut key = one.clone();
            key["kid"] = format!("key-{number}").into();
            keys.push(key);
        }
        let keys = setting.connected(setting.builder(0), jwks.to_string());

        let [few, pools, keys] = in_turns(
            self.rounds,
            [&few, &pools, &keys].map(|verifier| {
                Timed::new(20, || drop(verifier.try_verify(black_box(token)).unwrap()))
            }),
        );
        let base = few.least_ns();
        self.timed("1,000 pools, to one", pools.least_ns() / base, String::new());
        self.timed("100 keys in a set, to two", keys.least_ns() / base, String::new());
    }

    /// Measures more valid tokens than the cache can hold, each used once in a round.
    fn distinct(&mut self, setting: &Setting) {
        let tokens = (0..200).map(|_| setting.issuer.machine_token(CLIENT).scope(SCOPE).sign());
        let tokens = tokens.collect::<Vec<_>>();
        // The cache holds about 50 of them.
        let (off, on) = (setting.verifier(0), setting.verifier(128 * 1024));
        let all = |verifier: &Verifier| {
            tokens.iter().for_each(|token| drop(verifier.try_verify(black_box(token)).unwrap()));
        };
        let rounds = self.rounds.div_ceil(5);
        let [off, on] = in_turns(rounds, [Timed::new(1, || all(&off)), Timed::new(1, || all(&on))]);
        let ratio = on.least_ns() / off.least_ns();
        self.timed("a stream of distinct tokens, cache on to off", ratio, String::new());
    }

    /// Measures one cached token on two threads, through axum and the layers.
    fn threads(&mut self, setting: &Setting) {
        let verifier = setting.verifier(CACHE);
        let bare = Router::new().route(PATH, get(|| async {}));
        let guarded = bare.clone().layer(layers(&verifier));
        let calls = if self.rounds > 10 { 1_000 } else { 100 };
        let rounds = self.rounds * 2;
        let [baseline, layered] = scaling(rounds, calls, setting, [bare, guarded]);
        let more = format!("{layered:.2} of 2, axum without layers {baseline:.2}");
        let name = "two threads, one hot token, to axum without us";
        let value = layered / baseline;
        self.timed(name, value, more);

        let [layered] =
            scaling(rounds, calls, setting, [layers(&verifier).layer(<Bare>::default())]);
        self.timed(
            "two threads, around a bare service",
            layered / 2.0,
            format!("{layered:.2} of 2"),
        );
    }

    /// Measures the slowest of a thousand verifications while another pool's keys change every
    /// millisecond.
    fn swaps(&mut self, setting: &Setting) {
        let token = &setting.token;
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sets = [TestIssuer::new().jwks_json(), TestIssuer::new().jwks_json()];
        let mine = setting.issuer.jwks_json();
        let turn = Arc::new(AtomicUsize::new(0));
        let fetch = move |url: String| {
            let document = if url.starts_with("https://other.example") {
                sets[turn.fetch_add(1, Ordering::Relaxed) % 2].clone()
            } else {
                mine.clone()
            };
            async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
        };
        let other = tower_cognito::UserPool::from_issuer("https://other.example/pool").unwrap();
        let other = Rules::new(other, ClientIds::only([CLIENT]));
        let (verifier, swapped) = runtime.block_on(async {
            let both = setting.builder(0).add_pool(other.clone()).jwks_fetcher(fetch.clone());
            let both = both.connect().await.unwrap();
            let swapped = both.share_keys(other).unwrap();
            (both, swapped)
        });
        setting.check_rejects(&verifier);
        let is_swapping = Arc::new(AtomicBool::new(false));
        let swapping = {
            let is_swapping = Arc::clone(&is_swapping);
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if is_swapping.load(Ordering::Relaxed) {
                        swapped.refresh().await.unwrap();
                    }
                }
            })
        };
        // Alternate blocks and use the least disturbed block of each side: the pauses of the
        // machine are longer than the differences measured here.
        let mut least = [f64::MAX; 2];
        for _ in 0..self.rounds.div_ceil(5) {
            for (side, swaps) in [(0, false), (1, true)] {
                is_swapping.store(swaps, Ordering::Relaxed);
                let mut times = (0..2_000)
                    .map(|_| {
                        let began = Instant::now();
                        drop(verifier.try_verify(black_box(token)).unwrap());
                        began.elapsed()
                    })
                    .collect::<Vec<_>>();
                times.sort();
                least[side] = least[side].min(times[times.len() * 999 / 1_000].as_secs_f64());
            }
        }
        swapping.abort();
        let ratio = least[1] / least[0];
        let more = format!("p99.9 {:.0} ns", least[1] * 1e9);
        self.timed("keys swapped each millisecond, p99.9 to steady", ratio, more);
    }

    /// Measures the memory of the cache after more distinct tokens than it can hold.
    fn memory(&mut self, setting: &Setting) {
        let distinct = if self.rounds > 10 { 20_000 } else { 6_000 };
        let tokens = (0..distinct).map(|number| {
            // These are signed tokens, and signing more of them would take minutes. The crate's own
            // tests fill the cache with a million entries.
            setting.issuer.machine_token(CLIENT).scope(SCOPE).claim("number", number).sign()
        });
        let (_, bytes) = measure(|| {
            let verifier = setting.builder(CACHE).build_with_jwks(setting.issuer.jwks()).unwrap();
            for token in tokens {
                drop(verifier.try_verify(&token).unwrap());
            }
            std::mem::forget(verifier);
        });
        self.counted("bytes held after more tokens than fit into 8 MiB", bytes);
    }

    /// Counts the allocations of each way to require a scope, beyond `RequireToken`.
    fn scopes(&mut self) {
        let count = |row: &str| {
            let mut run = run(row);
            (0..50).for_each(|_| run());
            // The minimum, because the thread of the refresh task allocates, too.
            (0..20).map(|_| allocations(&mut run)).fold(f64::INFINITY, f64::min)
        };
        for (base, ways) in [
            (
                "RequireToken",
                ["RequireToken, scope in the rules", "RequireToken, table of 41 rows"].as_slice(),
            ),
            (
                "axum, RequireToken",
                &[
                    "axum, RequireToken, scope in the rules",
                    "axum, both as one layer",
                    "axum, RequireToken, RequireScope",
                ],
            ),
        ] {
            let base_count = count(base);
            for way in ways {
                let name = format!("allocations, {way}, beyond {base}");
                self.counted(&name, count(way) - base_count);
            }
        }
    }

    fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            serde_json::json!({
                "name": row.name,
                "value": row.value,
                "at_most": row.limit.at_most,
                "at_least": row.limit.at_least,
                "is_counted": row.is_counted,
                "more": row.more,
            })
        });
        let mut text = serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).unwrap();
        writeln!(text).unwrap();
        text
    }
}

/// Returns both layers, the outer one first.
fn layers(verifier: &Verifier) -> (RequireToken, RequireScope) {
    (RequireToken::new(verifier.clone()), RequireScope::new(SCOPE))
}

/// Returns how much more work two threads do than one in the same time, for each service. The ideal
/// is 2.
fn scaling<S, B, const N: usize>(
    rounds: u32,
    calls: u32,
    setting: &Setting,
    services: [S; N],
) -> [f64; N]
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Sync,
{
    let work = |service: &S| {
        let mut service = service.clone();
        // Each thread has its own headers, as requests over a network do.
        let headers = setting.headers();
        for _ in 0..calls {
            let response = respond(&mut service, request(&headers));
            assert!(response.status() == 200);
        }
    };
    let mut least = [[Duration::MAX; 2]; N];
    for _ in 0..rounds {
        for (service, least) in services.iter().zip(&mut least) {
            for (threads, least) in (1..).zip(least) {
                let ready = AtomicUsize::new(0);
                // Measure from the first start to the last end, so that work that does not overlap
                // does not count as parallel.
                let time = std::thread::scope(|scope| {
                    let running = (0..threads).map(|_| {
                        scope.spawn(|| {
                            // Spin, because a barrier of the system would wake the threads one
                            // after the other.
                            ready.fetch_add(1, Ordering::SeqCst);
                            while ready.load(Ordering::SeqCst) < threads {
                                std::hint::spin_loop();
                            }
                            let began = Instant::now();
                            work(service);
                            (began, Instant::now())
                        })
                    });
                    let running = running.collect::<Vec<_>>();
                    let times = running.into_iter().map(|thread| thread.join().unwrap());
                    let (began, ended): (Vec<_>, Vec<_>) = times.unzip();
                    *ended.iter().max().unwrap() - *began.iter().min().unwrap()
                });
                *least = (*least).min(time);
            }
        }
    }
    least.map(|[one, two]| 2.0 * one.as_secs_f64() / two.as_secs_f64())
}
