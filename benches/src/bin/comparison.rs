//! Measures the cost of verifying the same token with `tower-cognito` and with other crates, as
//! ratios to a bare RSA-2048 signature check with a parsed key.
//!
//!     cargo run --release -p benches --features neighbours --bin comparison
//!     …  -- --json FILE
//!
//! The candidates alternate in each round, and the minimum time of all rounds counts. Before,
//! the program checks that each of them accepts the token and rejects it with a flipped signature
//! bit.

use std::hint::black_box;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use benches::neighbours::{
    Layered, Neighbour, Setting, install_providers, layers, neighbours, version,
};
use benches::requests::CACHE;
use benches::{Floor, Limit};
use serde_json::json;

const ROUNDS: u32 = 1_000;

fn main() {
    let args = std::env::args().collect::<Vec<_>>();
    let json = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    install_providers();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _within = runtime.enter();
    let setting = runtime.block_on(Setting::new());

    let floor = Floor::new(&setting.token.text, &setting.issuer.jwks_json());
    let (off, on) = (setting.verifier(0), setting.verifier(CACHE));
    let ours = format!("tower-cognito {}", version("tower-cognito", ""));
    let token = &setting.token;
    let off = Neighbour::new(format!("{ours}, cache off"), token, move |token| {
        off.try_verify(token).is_ok()
    });
    let on = Neighbour::new(format!("{ours}, cached token"), token, move |token| {
        on.try_verify(token).is_ok()
    });
    let mut verifiers = vec![off, on];
    verifiers.extend(runtime.block_on(neighbours(&setting)));
    for verifier in &verifiers {
        verifier.token.shown(&verifier.name, &verifier.accepts);
    }
    let layers = runtime.block_on(layers(&setting));

    let mut rows = verify(&floor, &verifiers);
    println!();
    rows.extend(add(&floor, layers));
    if let Some(file) = json {
        let rows = rows.iter().map(Row::json).collect::<Vec<_>>();
        let text = serde_json::to_string_pretty(&rows).expect("names and numbers");
        std::fs::write(file, text + "\n").expect("the file can be written");
    }
}

/// Measures the verification of one token in a function call.
fn verify(floor: &Floor, verifiers: &[Neighbour]) -> Vec<Row> {
    let mut timed = vec![Timed::new("the bare RSA check", || floor.check())];
    timed.extend(verifiers.iter().map(|verifier| {
        let Neighbour { name, token, accepts } = verifier;
        Timed::new(name, move || accepts(black_box(&token.text)))
    }));
    in_turns(&mut timed);

    let (bare, ours) = (timed[0].least(), timed[1].least());
    let rows = timed.iter_mut().map(|timed| timed.row("verify", 0.0, 0, bare, ours));
    print("verify a token", rows.collect())
}

/// Measures the time that a layer adds to one request.
fn add(floor: &Floor, mut layers: Vec<Layered>) -> Vec<Row> {
    // The first one is the bare service, which rejects nothing.
    layers.iter_mut().skip(1).for_each(Layered::shown);
    let mut timed = vec![Timed::new("the bare RSA check", || floor.check())];
    timed.extend(layers.iter_mut().map(|layer| {
        let name = layer.name.clone();
        Timed::new(&name, move || layer.call())
    }));
    in_turns(&mut timed);

    let bare = timed[0].least();
    let (bare_service, allocations) = (timed[1].least(), timed[1].allocations());
    let ours = timed[2].least() - bare_service;
    let added = timed.iter_mut().skip(2);
    let rows = added.map(|timed| timed.row("layer", bare_service, allocations, bare, ours));
    print("what a layer adds to a request", rows.collect())
}

/// A measured operation and its time in each round, in nanoseconds.
struct Timed<'s> {
    name: String,
    run: Box<dyn FnMut() -> bool + 's>,
    repeat: u32,
    rounds: Vec<f64>,
}

impl<'s> Timed<'s> {
    fn new(name: &str, mut run: impl FnMut() -> bool + 's) -> Self {
        // Repeat it for half a millisecond, so that no row dominates a round.
        let began = Instant::now();
        let mut repeat = 0;
        while began.elapsed() < Duration::from_micros(500) {
            assert!(run(), "{name} rejects the token");
            repeat += 1;
        }
        Self { name: name.to_owned(), run: Box::new(run), repeat, rounds: Vec::new() }
    }

    fn round(&mut self) {
        let began = Instant::now();
        for _ in 0..self.repeat {
            assert!((self.run)(), "{} rejects the token", self.name);
        }
        self.rounds.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(self.repeat));
    }

    fn least(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn allocations(&mut self) -> u64 {
        measure(|| assert!((self.run)())).count_total
    }

    /// Subtracts the time and allocations of the same operation without the layer.
    fn row(&mut self, kind: &'static str, less: f64, fewer: u64, bare: f64, ours: f64) -> Row {
        let allocations = self.allocations() - fewer;
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let ns = [sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]];
        let ns = ns.map(|ns| ns - less);
        let (to_bare, to_ours) = (ns[0] / bare, ns[0] / ours);
        Row { kind, name: self.name.clone(), to_bare, to_ours, ns, allocations }
    }
}

/// Alternates the operations, so that a pause of the machine affects all of them.
fn in_turns(timed: &mut [Timed<'_>]) {
    timed.iter_mut().for_each(Timed::round);
    timed.iter_mut().for_each(|timed| timed.rounds.clear());
    for _ in 0..ROUNDS {
        timed.iter_mut().for_each(Timed::round);
    }
}

struct Row {
    kind: &'static str,
    name: String,
    to_bare: f64,
    to_ours: f64,
    ns: [f64; 3],
    allocations: u64,
}

impl Row {
    fn json(&self) -> serde_json::Value {
        let Self { kind, name, to_bare, to_ours, ns: [minimum, median, maximum], .. } = self;
        json!({
            "kind": kind,
            "name": name,
            "to_the_bare_rsa_check": to_bare,
            "to_tower_cognito": to_ours,
            "minimum_ns": minimum,
            "median_ns": median,
            "maximum_ns": maximum,
            "allocations": self.allocations,
        })
    }
}

fn print(title: &str, rows: Vec<Row>) -> Vec<Row> {
    println!(
        "{title:46} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "x bare RSA", "x ours", "min ns", "median", "max", "allocations"
    );
    for Row { name, to_bare, to_ours, ns: [minimum, median, maximum], allocations, .. } in &rows {
        let is_ours = name.starts_with("tower-cognito") || name.starts_with("the bare");
        let limit = Limit::of("comparison", if is_ours { name } else { "another crate, x ours" });
        println!(
            "{name:46} {to_bare:10.3} {to_ours:10.3} {minimum:10.0} {median:10.0} {maximum:10.0} \
             {allocations:12}  {limit:14} {}",
            limit.verdict(*to_ours)
        );
    }
    rows
}
