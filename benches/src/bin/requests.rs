//! Runs the requests whose instructions `benches/rows.py` counts.
//!
//!     requests rows        # the names of the rows
//!     requests count ROW   # runs one row 200 times, for callgrind

use std::process::ExitCode;

use benches::requests::{ROWS, count};
use benches::run;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["rows"] => ROWS.iter().for_each(|(row, _)| println!("{row}")),
        ["count", row] => count(run(row)),
        _ => {
            eprintln!("usage: requests rows | requests count ROW");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
