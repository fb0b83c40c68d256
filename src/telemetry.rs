//! Every log event, span field and metric of this crate. The page `docs::observability` lists
//! their names, which are kept stable.

use std::time::Duration;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::error::{RefreshError, VerifyError, with_causes};
use crate::jwks::{CompromisedKey, Jwks, SkipReason, SkippedKey};
use crate::url::without_query;
use crate::verify::AccessToken;

/// Measures the duration of a verification, with the feature `metrics`.
pub(crate) struct Timer {
    #[cfg(feature = "metrics")]
    started: std::time::Instant,
}

impl Timer {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            started: std::time::Instant::now(),
        }
    }

    /// Records that a token was verified, and the result.
    pub(crate) fn verified(self, result: &Result<AccessToken, VerifyError>) {
        #[cfg(feature = "metrics")]
        {
            count_verification(result);
            metrics::histogram!("cognito_verify_duration_seconds").record(self.started.elapsed());
        }
        #[cfg(not(feature = "metrics"))]
        let _ = result;
    }
}

/// Records that a cached token was presented, and the result.
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
    // `metrics::counter!` uses a static key if all labels are literals. Any other label costs one
    // allocation per call. The reasons that are literals here are those that a client can cause
    // without a signed token, and the most frequent one of the others: they allocate nothing.
    macro_rules! count_rejection {
        ($reason:expr, literals: $($literal:literal)*) => {
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
        Err(error) => count_rejection!(
            error.kind().as_str(),
            literals: "bad_signature" "expired" "invalid_header" "malformed" "too_large"
                "unknown_issuer" "unknown_key" "unsupported_algorithm"
        ),
    }
    .increment(1);
}

/// Records the caller in the current span: the request passes with this token.
pub(crate) fn admitted(token: &AccessToken) {
    // Fast path: without a subscriber, no span can be enabled.
    if LevelFilter::current() == LevelFilter::OFF {
        return;
    }
    let span = Span::current();
    if !span.is_disabled() {
        span.record("cognito.client_id", token.client_id());
        span.record("cognito.sub", token.subject());
    }
}

/// Logs a rejected request, and records the reason in the current span. Call it once for each
/// rejection.
pub(crate) fn rejected(reason: &'static str) {
    Span::current().record("cognito.refused", reason);
    tracing::debug!(reason, "request rejected");
}

/// Logs that a layer or extractor found no `RequireToken` outside it.
pub(crate) fn no_require_token(layer: &'static str) {
    tracing::error!(layer, "no `RequireToken` layer outside `{layer}`: every request is rejected");
}

/// Logs and counts the events of one key source, named by its address: a URL or a file.
pub(crate) struct KeyEvents<'s>(&'s str);

impl<'s> KeyEvents<'s> {
    pub(crate) fn at(address: &'s str) -> Self {
        Self(without_query(address))
    }

    /// Records a successful refresh, after this many failed ones.
    pub(crate) fn refreshed(&self, before: &Jwks, after: &Jwks, failures: u32) {
        let jwks_url = self.0;
        tracing::debug!(%jwks_url, keys = after.key_ids().count(), "keys refreshed");
        if failures > 0 {
            tracing::info!(%jwks_url, failures, "key refresh recovered");
        }
        self.keys_changed(before, after);
        self.count_refresh("ok");
        self.set_age(Duration::ZERO);
    }

    /// Records a failed refresh. `age` is the age of the keys in use, if there are any, and `pause`
    /// is the time until the next attempt.
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
                "key refresh failed, the current keys stay in use"
            ),
            None => tracing::warn!(
                %jwks_url, error = %error_text, class, failures, retry_in_ms,
                "key refresh failed, there are no keys"
            ),
        }
        self.count_refresh(error.kind().as_str());
        if let Some(age) = age {
            self.set_age(age);
        }
    }

    /// Logs that the keys have reached their maximum age.
    pub(crate) fn went_stale(&self) {
        tracing::error!(
            jwks_url = %self.0,
            "the keys are too old: every token is rejected with status 503"
        );
    }

    /// Records a fetch for an unknown key ID, and logs it if that was the last one in the budget.
    pub(crate) fn fetched_on_demand(&self, is_budget_spent: bool) {
        self.count_on_demand("made");
        if is_budget_spent {
            tracing::warn!(
                jwks_url = %self.0,
                "the fetch budget is exhausted: unknown key IDs are rejected without a fetch for now"
            );
        }
    }

    /// Counts a fetch for an unknown key ID that the budget did not allow.
    pub(crate) fn denied_on_demand(&self) {
        self.count_on_demand("denied");
    }

    /// Logs the keys that were added and removed.
    pub(crate) fn keys_changed(&self, before: &Jwks, after: &Jwks) {
        let jwks_url = self.0;
        for id in after.key_ids().filter(|id| before.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key added");
        }
        for id in before.key_ids().filter(|id| after.get(id).is_none()) {
            tracing::info!(%jwks_url, kid = ?id, "key removed");
        }
    }

    /// Logs the keys of a document that cannot be used, unless the last document had the same.
    pub(crate) fn keys_skipped(&self, before: &[SkippedKey], after: &[SkippedKey]) {
        if before == after {
            return;
        }
        let jwks_url = self.0;
        // `private_key_published` reports the others.
        for skipped in after.iter().filter(|skipped| skipped.reason != SkipReason::Private) {
            let (index, reason) = (skipped.index, skipped.reason.as_str());
            tracing::warn!(%jwks_url, index, reason, "a key in the JWK Set cannot be used");
        }
    }

    /// Logs that the issuer has published the private part of a key. `kid` is the ID of the key in
    /// use, or of the published one if the pool does not use it.
    pub(crate) fn private_key_published(&self, key: &CompromisedKey, in_use: &Jwks) {
        let (jwks_url, index) = (self.0, key.index);
        let kid = in_use.key_ids_of(&key.numbers).next().or(key.key_id.as_deref());
        let kid = kid.map(tracing::field::debug);
        tracing::error!(%jwks_url, kid, index, "the issuer publishes a private key");
    }

    #[cfg(feature = "metrics")]
    fn count_refresh(&self, result: &'static str) {
        let jwks_url = self.0.to_owned();
        metrics::counter!("cognito_jwks_refreshes_total", "jwks_url" => jwks_url, "result" => result)
            .increment(1);
    }

    #[cfg(feature = "metrics")]
    fn set_age(&self, age: Duration) {
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
    fn set_age(&self, _: Duration) {}

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
