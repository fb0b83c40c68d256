//! Runs the program `cost` of the package `benches` with the same arguments. It measures the cost of a
//! verification.
//!
//! The program is a separate package, so that this crate is measured with an application's features
//! and without those that the tests enable (`metrics`, tokio's `test-util`).

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "-p", "benches", "--bin", "cost", "--"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .status();
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
