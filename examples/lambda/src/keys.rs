//! The keys in a process that Lambda freezes.

use std::time::Duration;

use lambda_http::Error;
use tokio::time::timeout;
use tower_cognito::{Config, Health, Verifier};

/// How long to wait for the first keys. Lambda ends an init phase after 10 seconds.
const FIRST_KEYS: Duration = Duration::from_secs(6);
/// How long a request waits for a refresh. The default timeout of a function is 3 seconds.
const LATE_KEYS: Duration = Duration::from_secs(1);

/// Returns a verifier with the settings of the environment.
///
/// It may have no keys yet. Then each request tries to fetch them again. A failed init phase would be
/// a gateway error and would run again for each request.
pub(crate) async fn connect() -> Result<Verifier, Error> {
    let verifier = Config::from_env()?.verifier_builder().connect_lazy()?;
    if let Err(error) = verifier.ready(FIRST_KEYS).await {
        tracing::error!(%error, "no keys yet");
    }
    Ok(verifier)
}

/// Waits for a refresh if the keys are overdue.
///
/// Lambda freezes the process after each response, including the task that refreshes the keys. A
/// refresh in the background would be frozen as well, and a removed key would stay trusted. While the
/// issuer is down, one request in 10 seconds waits, or one in a second if there are no keys.
pub(crate) async fn refresh_if_due(verifier: &Verifier) {
    let min_age = match verifier.health() {
        Health::Ready => return,
        Health::NotReady => Duration::from_secs(1),
        _ => Duration::from_secs(10),
    };
    // The task logs errors, and the verifier rejects tokens if its keys are too old.
    let _ = timeout(LATE_KEYS, verifier.refresh_if_older_than(min_age)).await;
}
