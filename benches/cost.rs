//! Runs the program in `benches/cost/`, which measures what a verification costs, with the arguments
//! given here.
//!
//! The program is a package of its own, so that this crate is measured with the features that an
//! application has, and not with those that the tests turn on (`metrics`, tokio's `test-util`).

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "-p", "cost", "--"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .status();
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
