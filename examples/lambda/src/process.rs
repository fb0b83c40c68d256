//! How a function starts and ends.

use std::process::ExitCode;

use lambda_http::Error;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a function until it ends, or until SIGTERM, which Lambda sends before it ends the process.
pub(crate) async fn run(function: impl Future<Output = Result<(), Error>>) -> ExitCode {
    lambda_http::tracing::init_default_subscriber();
    let ended = async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = function => ended,
            _ = terminated.recv() => Ok(()),
        }
    };
    match ended.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the function failed");
            ExitCode::FAILURE
        }
    }
}
