//! Compares this crate with an older build of it, in turns in one process. `benches/before.sh`
//! generates the package that it belongs to, and counts its instructions.
//!
//!     before time [ROUNDS]            # all rows; the minimum of many rounds
//!     before rows                     # the names of the rows
//!     before count before|after ROW   # runs one row 200 times, for callgrind

#[path = "../src/requests.rs"]
mod requests;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use requests::{ROWS, count};

define_run!(before, before, fetch_with, |rules| rules);
define_run!(after, after, jwks_fetcher, |rules| {
    rules.with_required_scopes([requests::SCOPE])
});

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["count", build, row] => {
            count(if *build == "before" { before(row) } else { after(row) });
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
            eprintln!("usage: before time [ROUNDS] | before rows | before count before|after ROW");
            ExitCode::FAILURE
        }
    }
}
