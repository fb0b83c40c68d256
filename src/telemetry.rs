//! Every log event, span field and metric of this crate. The page `docs::observability` lists
//! their names, which are kept stable.

use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::error::{RefreshError, VerifyError, with_causes};
use crate::jwks::{CompromisedKey, Jwks, SkipReason, SkippedKey};
use crate::rejection::{Rejection, RejectionKind};
use crate::url::without_query;
use crate::verify::AccessToken;

/// Describes every metric to the recorder, once for each verifier that is built.
pub(crate) fn describe_metrics() {
    #[cfg(feature = "metrics")]
    {
        use metrics::Unit::Seconds;
        use metrics::{describe_counter, describe_gauge, describe_histogram};

        describe_counter!("cognito_verifications_total", "verified tokens, by result and reason");
        describe_counter!("cognito_rejections_total", "rejected requests, by kind of rejection");
        describe_histogram!(
            "cognito_verify_duration_seconds",
            Seconds,
            "time to verify a token that is not cached"
        );
        describe_counter!("cognito_token_cache_hits_total", "verified tokens that were cached");
        describe_counter!("cognito_jwks_refreshes_total", "fetches of the keys, by result");
        describe_gauge!(
            "cognito_jwks_last_refresh_timestamp_seconds",
            Seconds,
            "Unix time of the last successful fetch of the keys, or 0"
        );
        describe_counter!(
            "cognito_unknown_kid_fetches_total",
            "requested fetches for an unknown key ID, by result"
        );
    }
}

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
pub(crate) fn cache_hit(result: &Result<AccessToken, VerifyError>) {
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

/// Logs and counts a rejected request, and records the reason in the current span. Call it once for
/// each rejection.
pub(crate) fn rejected(rejection: &Rejection) {
    let reason = rejection.reason();
    Span::current().record("cognito.refused", reason);
    match rejection.verify_error().and_then(VerifyError::wrong_client) {
        Some(client_id) => tracing::debug!(reason, client_id, "request rejected"),
        None => tracing::debug!(reason, "request rejected"),
    }
    #[cfg(feature = "metrics")]
    count_rejection(rejection.kind());
}

#[cfg(feature = "metrics")]
fn count_rejection(kind: RejectionKind) {
    // With literals only, a key is static, so that a rejection allocates nothing here.
    macro_rules! count {
        ($($kind:ident = $name:literal,)*) => {
            match kind {
                $(RejectionKind::$kind => {
                    metrics::counter!("cognito_rejections_total", "kind" => $name)
                })*
            }
        };
    }
    count! {
        ExpiredToken = "expired_token",
        Forbidden = "forbidden",
        InsufficientScope = "insufficient_scope",
        Internal = "internal",
        InvalidRequest = "invalid_request",
        InvalidToken = "invalid_token",
        MissingToken = "missing_token",
        Unavailable = "unavailable",
    }
    .increment(1);
}

/// Warns if every request is rejected. Each verifier has one.
///
/// The first token that is accepted ends this for good. From then on, it costs a request one load.
#[derive(Debug, Default)]
pub(crate) struct AllRejected {
    is_over: AtomicBool,
    streak: Mutex<Streak>,
}

/// The rejections since the start, or since the last warning.
#[derive(Debug, Default)]
struct Streak {
    by_reason: Vec<(&'static str, u32)>,
    has_token: bool,
    warnings: u32,
}

impl AllRejected {
    /// Returns `true` if a token was accepted.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Records that a request with a token was accepted.
    pub(crate) fn accepted(&self) {
        if !self.is_over() {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Records a rejection, and logs a warning if it completes a streak.
    pub(crate) fn rejected(&self, rejection: &Rejection) {
        if self.is_over() {
            return;
        }
        // A forked process may find the lock taken forever, and under contention an exact count is
        // not worth a wait.
        let Ok(mut streak) = self.streak.try_lock() else {
            return;
        };
        let completed = streak.add(rejection);
        drop(streak);
        if let Some(completed) = completed {
            completed.log();
        }
    }
}

impl Streak {
    /// Adds a rejection, and returns the streak if it is complete.
    fn add(&mut self, rejection: &Rejection) -> Option<Self> {
        self.has_token |= rejection.kind() != RejectionKind::MissingToken;
        let reason = rejection.reason();
        match self.by_reason.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.by_reason.push((reason, 1)),
        }
        // Each streak is twice as long as the one before, so that clients cannot flood the log.
        let first: u32 = if self.has_token { 20 } else { 200 };
        if self.rejections() < first.saturating_mul(2_u32.saturating_pow(self.warnings)) {
            return None;
        }
        let next = Self { warnings: self.warnings.saturating_add(1), ..Self::default() };
        Some(mem::replace(self, next))
    }

    fn rejections(&self) -> u32 {
        self.by_reason.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    fn log(&self) {
        let rejections = self.rejections();
        // If some requests have a token, those without one are often only probes.
        let missing_token = ("missing_token", 0);
        let with_token = self.by_reason.iter().filter(|(reason, _)| *reason != missing_token.0);
        let (reason, _) = with_token.max_by_key(|(_, count)| *count).unwrap_or(&missing_token);
        let page = "tower_cognito::docs::errors";
        if self.has_token {
            tracing::warn!(rejections, reason, page, "every request so far was rejected");
        } else {
            tracing::warn!(
                rejections,
                reason,
                page,
                "every request so far was rejected: none had a token in the configured place"
            );
        }
    }
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

    /// Records when the keys were fetched that the process starts with, if there are any.
    pub(crate) fn started(&self, last_refresh: Option<SystemTime>) {
        self.set_last_refresh(last_refresh);
    }

    /// Records a successful refresh at this time, after this many failed ones.
    pub(crate) fn refreshed(&self, before: &Jwks, after: &Jwks, failures: u32, now: SystemTime) {
        let jwks_url = self.0;
        tracing::debug!(%jwks_url, keys = after.key_ids().count(), "keys refreshed");
        if failures > 0 {
            tracing::info!(%jwks_url, failures, "key refresh recovered");
        }
        self.keys_changed(before, after);
        self.count_refresh("ok");
        self.set_last_refresh(Some(now));
    }

    /// Records a failed refresh. `age` is the age of the keys in use, if there are any,
    /// `last_refresh` is when they were fetched, and `pause` is the time until the next attempt.
    pub(crate) fn refresh_failed(
        &self,
        error: &RefreshError,
        failures: u32,
        age: Option<Duration>,
        last_refresh: Option<SystemTime>,
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
        // Repeated, for a recorder that was installed after the last one, or forgets idle metrics.
        self.set_last_refresh(last_refresh);
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
    fn set_last_refresh(&self, time: Option<SystemTime>) {
        let since_epoch = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let jwks_url = self.0.to_owned();
        metrics::gauge!("cognito_jwks_last_refresh_timestamp_seconds", "jwks_url" => jwks_url)
            .set(since_epoch.unwrap_or_default());
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
    fn set_last_refresh(&self, _: Option<SystemTime>) {}

    #[cfg(not(feature = "metrics"))]
    fn count_on_demand(&self, _: &'static str) {}
}

/// Logs the variables with the prefix of the settings that are ignored, when a verifier starts.
pub(crate) fn foreign_variables(names: &[String]) {
    if !names.is_empty() {
        tracing::warn!(names = %names.join(" "), "variables that are not settings are ignored");
    }
}

/// Logs that keys are fetched over plain http from a host that is not loopback, when a verifier
/// starts.
pub(crate) fn insecure_fetch(host: &str) {
    tracing::warn!(host, "keys are fetched over plain http, so that the network can replace them");
}
