//! What a verification costs: runs the program in `benches/cost/`, with the arguments given here.
//!
//! That is a package of its own, so that this crate is measured as an application has it: with the
//! features that are asked for, and not with those that the tests turn on (`metrics`, tokio's
//! `test-util`).

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let root = env!("CARGO_MANIFEST_DIR");
    // Cargo adds `--bench`.
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "--manifest-path"])
        .arg(format!("{root}/benches/cost/Cargo.toml"))
        .arg("--")
        .args(args)
        .status();
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
