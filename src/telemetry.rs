//! Every log event, span field and metric that there is. The page `docs::observability` lists
//! their names, which are kept stable.

use std::time::Duration;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::error::{RefreshError, VerifyError, with_causes};
use crate::jwks::{Jwks, SkipReason};
use crate::url::without_query;
use crate::verify::AccessToken;

/// How long a verification takes, where that is measured.
pub(crate) struct Timer {
    #[cfg(feature = "metrics")]
    began: std::time::Instant,
}

impl Timer {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            began: std::time::Instant::now(),
        }
    }

    /// A token was judged.
    pub(crate) fn verified(self, result: &Result<AccessToken, VerifyError>) {
        #[cfg(feature = "metrics")]
        {
            count_verification(result);
            metrics::histogram!("cognito_verify_duration_seconds").record(self.began.elapsed());
        }
        #[cfg(not(feature = "metrics"))]
        let _ = result;
    }
}

/// A token was judged that had been verified before.
pub(crate) fn recalled(result: &Result<AccessToken, VerifyError>) {
    #[cfg(feature = "metrics")]
    {
        count_verification(result);
        metrics::counter!("cognito_token_cache_hits_total").increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = result;
}

#[cfg(feature = "metrics")]
fn count_verification(result: &Result<AccessToken, VerifyError>) {
    // Literal labels cost no allocation: for good tokens, and for what anybody may send.
    macro_rules! count_refusal {
        ($reason:expr, literally: $($literal:literal)*) => {
            match $reason {
                $($literal => metrics::counter!(
                    "cognito_verifications_total", "result" => "refused", "reason" => $literal
                ),)*
                other => metrics::counter!(
                    "cognito_verifications_total", "result" => "refused", "reason" => other
                ),
            }
        };
    }
    match result {
        Ok(_) => metrics::counter!(
            "cognito_verifications_total", "result" => "accepted", "reason" => "none"
        ),
        Err(error) => count_refusal!(
            error.kind().as_str(),
            literally: "bad_signature" "expired" "invalid_header" "malformed" "too_large"
                "unknown_issuer" "unknown_key" "unsupported_algorithm"
        ),
    }
    .increment(1);
}

/// A request goes on with this token.
pub(crate) fn admitted(token: &AccessToken) {
    // Nobody listens, as one load tells: then no span is enabled either.
    if LevelFilter::current() == LevelFilter::OFF {
        return;
    }
    let span = Span::current();
    if !span.is_disabled() {
        span.record("cognito.client_id", token.client_id());
        span.record("cognito.sub", token.subject());
    }
}

/// A request was refused.
pub(crate) fn rejected(reason: &'static str) {
    Span::current().record("cognito.refused", reason);
    tracing::debug!(reason, "request refused");
}

/// What needs a `RequireToken` around it has none.
pub(crate) fn no_require_token(layer: &'static str) {
    tracing::error!(
        layer,
        "no `RequireToken` layer runs outside this `{layer}`: every request is refused"
    );
}

/// One pool's key set, by the address that it is fetched from: a URL, or a file.
pub(crate) struct KeyEvents<'s>(&'s str);

impl<'s> KeyEvents<'s> {
    pub(crate) fn at(address: &'s str) -> Self {
        Self(without_query(address))
    }

    /// A refresh brought a good set, after so many that failed.
    pub(crate) fn refreshed(&self, before: &Jwks, after: &Jwks, failures: u32) {
        let jwks_url = self.0;
        tracing::debug!(%jwks_url, keys = after.key_ids().count(), "keys refreshed");
        if failures > 0 {
            tracing::info!(%jwks_url, failures, "key refresh works again");
        }
        self.changed(before, after);
        self.count_refresh("ok");
        self.show_age(Duration::ZERO);
    }

    pub(crate) fn refresh_failed(
        &self,
        error: &RefreshError,
        failures: u32,
        age: Option<Duration>,
        pause: Duration,
    ) {
        let (jwks_url, class, error_text) = (self.0, error.kind().as_str(), with_causes(error));
        let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        match age.map(|age| age.as_secs()) {
            Some(age_s) => tracing::warn!(
                %jwks_url, error = %error_text, class, failures, age_s, retry_in_ms,
                "key refresh failed, the keys in use stay"
            ),
            None => tracing::warn!(
                %jwks_url, error = %error_text, class, failures, retry_in_ms,
                "key refresh failed, and there are no keys yet"
            ),
        }
        self.count_refresh(error.kind().as_str());
        if let Some(age) = age {
            self.show_age(age);
        }
    }

    pub(crate) fn went_stale(&self) {
        tracing::error!(
            jwks_url = %self.0,
            "the keys are too old to be used: every token is answered with 503"
        );
    }

    /// A fetch for an unknown key ID, and whether the budget has another.
    pub(crate) fn fetched_on_demand(&self, is_budget_spent: bool) {
        self.count_on_demand("made");
        if is_budget_spent {
            tracing::warn!(
                jwks_url = %self.0,
                "unknown key IDs have spent the budget for fetches, and are refused at once for now"
            );
        }
    }

    /// A fetch for an unknown key ID that the budget does not allow.
    pub(crate) fn denied_on_demand(&self) {
        self.count_on_demand("denied");
    }

    fn changed(&self, before: &Jwks, after: &Jwks) {
        let jwks_url = self.0;
        for id in after.key_ids().filter(|id| before.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key added");
        }
        for id in before.key_ids().filter(|id| after.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key removed");
        }
        if before.skipped() == after.skipped() {
            return;
        }
        for skipped in after.skipped() {
            let (index, reason) = (skipped.index, skipped.reason.as_str());
            if skipped.reason == SkipReason::Private {
                tracing::error!(%jwks_url, index, reason, "the issuer publishes a private key");
            } else {
                tracing::warn!(%jwks_url, index, reason, "a key of the set can not be used");
            }
        }
    }

    #[cfg(feature = "metrics")]
    fn count_refresh(&self, result: &'static str) {
        let jwks_url = self.0.to_owned();
        metrics::counter!("cognito_jwks_refreshes_total", "jwks_url" => jwks_url, "result" => result)
            .increment(1);
    }

    #[cfg(feature = "metrics")]
    fn show_age(&self, age: Duration) {
        metrics::gauge!("cognito_jwks_age_seconds", "jwks_url" => self.0.to_owned()).set(age);
    }

    #[cfg(feature = "metrics")]
    fn count_on_demand(&self, result: &'static str) {
        metrics::counter!(
            "cognito_unknown_kid_fetches_total",
            "jwks_url" => self.0.to_owned(),
            "result" => result
        )
        .increment(1);
    }

    #[cfg(not(feature = "metrics"))]
    fn count_refresh(&self, _: &'static str) {}

    #[cfg(not(feature = "metrics"))]
    fn show_age(&self, _: Duration) {}

    #[cfg(not(feature = "metrics"))]
    fn count_on_demand(&self, _: &'static str) {}
}

/// Logs the variables with the prefix of the settings that are ignored, when a verifier starts.
pub(crate) fn foreign_variables(names: &[String]) {
    if !names.is_empty() {
        tracing::warn!(names = %names.join(" "), "variables that are no settings are ignored");
    }
}

/// Logs that keys are fetched over plain http from a host that is not loopback, when a verifier
/// starts.
pub(crate) fn insecure_fetch(host: &str) {
    tracing::warn!(host, "keys are fetched over plain http, so that the network can replace them");
}
