//! A verifier: rules, the current keys, and the time of day. The only folder that names the system's
//! clock.

mod builder;
mod key_source;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::key_source::KeySource;
use crate::error::{
    ConfigError, RefreshError, StartError, VerifyError, VerifyErrorKind, with_causes,
};
use crate::health::Health;
use crate::jwks::KeySetId;
use crate::refresh::{Clock, NoKeys, Refresher, WaitUntil, all_ready};
use crate::scope::Requirement;
use crate::telemetry::{self, AllRejected, Timer};
use crate::token_cache::{CacheEntry, TokenCache};
use crate::url::without_query;
use crate::verify::{AccessToken, Invalid, Rules, TrustedPool, verify_with_pools};

pub use builder::VerifierBuilder;
pub(crate) use builder::{
    CONNECT_TIMEOUT, INTERVALS, MAX_KEY_AGE, REFRESH_INTERVAL, SettingNames, TOKEN_CACHE_BYTES,
};

/// The shortest time between two fetches that a client can trigger.
const MIN_FETCH_AGE: Duration = Duration::from_secs(1);

/// Verifies access tokens with keys that it keeps current in the background.
///
/// A clone shares everything. When the last one is dropped, the background tasks end.
///
/// ```
/// use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};
///
/// let issuer = TestIssuer::new();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
/// let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks())?;
///
/// let token = issuer.machine_token("my-client").sign();
/// assert_eq!(verifier.try_verify(&token)?.client_id(), "my-client");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
}

struct Shared {
    pools: Vec<Pool>,
    by_issuer: HashMap<Arc<str>, usize>,
    clock: Clock,
    cache: TokenCache,
    /// The size of the cache, which verifiers that [share the keys](Verifier::share_keys) also get.
    cache_bytes: usize,
    all_rejected: Arc<AllRejected>,
}

/// One pool: its rules, and the only keys that may sign its tokens.
struct Pool {
    rules: Rules,
    keys: KeySource,
}

impl Verifier {
    /// Creates a builder for the pool that these rules name.
    ///
    /// [`VerifierBuilder::add_pool`] adds other pools.
    pub fn builder(rules: Rules) -> VerifierBuilder {
        VerifierBuilder::new(rules)
    }

    /// Verifies a token. If its key is unknown, as right after a rotation, waits for a refresh: at
    /// most one second, within limits that any number of such tokens cannot exceed.
    ///
    /// # Errors
    ///
    /// Returns an error if the token is not valid under the rules, or with
    /// [`KeysUnavailable`](VerifyErrorKind::KeysUnavailable) if there are no current keys.
    pub async fn verify(&self, token: &str) -> Result<AccessToken, VerifyError> {
        match self.attempt(token) {
            Attempt::Done(result) => result,
            Attempt::UnknownKey(unknown) => self.verify_with_newer_keys(token, unknown).await,
        }
    }

    /// Verifies a token without waiting. If its key is unknown, rejects the token at once and
    /// requests a refresh.
    ///
    /// # Errors
    ///
    /// Returns an error if [`Verifier::verify`] would return one, or if the key is unknown.
    pub fn try_verify(&self, token: &str) -> Result<AccessToken, VerifyError> {
        match self.attempt(token) {
            Attempt::Done(result) => result,
            Attempt::UnknownKey(unknown) => self.reject_unknown_key(unknown),
        }
    }

    /// Creates a verifier with the same keys and other rules, which must name one of this
    /// verifier's pools.
    ///
    /// That pool is the only one of the new verifier. Both share the task that refreshes the keys,
    /// which ends with the last verifier that needs it. Each has its own token cache.
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, ConfigError, Rules, UserPool, Verifier};
    /// # fn example(verifier: Verifier, pool: UserPool) -> Result<(), ConfigError> {
    /// let admins = Rules::new(pool, ClientIds::any()).with_groups(["admins"]);
    /// let for_admins = verifier.share_keys(admins)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the rules are invalid, or name a pool that this verifier does not have.
    pub fn share_keys(&self, rules: Rules) -> Result<Self, ConfigError> {
        let mut problems = rules.problems().collect::<Vec<_>>();
        let known = self.shared.pools.iter().find(|pool| pool.rules.pool() == rules.pool());
        if known.is_none() {
            let problem = "this verifier was not built with the pool that the rules name";
            problems.push(problem.to_owned());
        }
        match known {
            Some(pool) if problems.is_empty() => {
                let keys = pool.keys.clone();
                let clock = Arc::clone(&self.shared.clock);
                Ok(Self::new(vec![Pool { rules, keys }], clock, self.shared.cache_bytes))
            }
            _ => Err(ConfigError::new(problems)),
        }
    }

    /// Returns the health of the keys.
    ///
    /// A verifier of several pools is [`NotReady`](Health::NotReady) only if no pool has usable
    /// keys, so that the outage of one tenant does not take the replica out of service;
    /// [`health_of`](Self::health_of) reports on one pool.
    pub fn health(&self) -> Health {
        let now = (self.shared.clock)();
        Health::of_all(self.shared.pools.iter().map(|pool| pool.keys.health(now)))
    }

    /// Returns the health of the keys of the pool with this issuer, or `None` if the issuer is not
    /// trusted.
    ///
    /// ```
    /// # use tower_cognito::{Health, Verifier};
    /// fn is_served(verifier: &Verifier, issuer: &str) -> bool {
    ///     verifier.health_of(issuer).is_some_and(|health| health != Health::NotReady)
    /// }
    /// ```
    pub fn health_of(&self, issuer: &str) -> Option<Health> {
        let (_, _, pool) = self.shared.pool_of(issuer)?;
        Some(Health::of_all([pool.keys.health((self.shared.clock)())]))
    }

    /// Fetches the keys of every pool now and waits for them, for a hook that reports a rotation.
    ///
    /// The number of calls is not limited, and a pause that the issuer requests is ignored. If a client
    /// can trigger it, call [`refresh_if_older_than`](Self::refresh_if_older_than) instead.
    ///
    /// # Errors
    ///
    /// Returns an error if a fetch fails; with several pools, the first error. The current keys
    /// stay in use.
    pub async fn refresh(&self) -> Result<(), RefreshError> {
        first_error(self.shared.pools.iter().map(|pool| pool.keys.refresh())).await
    }

    /// Fetches the keys of every pool whose last fetch, successful or not, ended at least this long
    /// ago, and waits for them. The minimum is 1 second; a shorter time counts as the minimum.
    ///
    /// Any client may trigger it. Calls join the fetch in progress, unless it started more than
    /// 1 second ago. If the issuer requested a pause (`Retry-After`), no fetch is made before the pause
    /// is over, which is at most 5 minutes. The time is the larger one of two clocks, so it also passes
    /// while a sandbox is frozen.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_cognito::Verifier;
    /// # async fn example(verifier: Verifier) {
    /// // For a hook without authentication: at most one fetch in a minute.
    /// if let Err(error) = verifier.refresh_if_older_than(Duration::from_secs(60)).await {
    ///     eprintln!("{error}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if a fetch fails, if the last one has failed and it is too early for another, or
    /// if the fetch in progress has lasted more than 1 second; with several pools, the first error. The
    /// current keys stay in use.
    pub async fn refresh_if_older_than(&self, min_age: Duration) -> Result<(), RefreshError> {
        let now = (self.shared.clock)();
        let min_age = min_age.max(MIN_FETCH_AGE);
        let pools = self.shared.pools.iter();
        first_error(pools.map(|pool| pool.keys.refresh_if_older_than(min_age, now))).await
    }

    /// Ends the background tasks and waits until they are gone.
    ///
    /// Tokens are still verified with the current keys, until these are too old. Verifiers that
    /// share the keys are affected too. Dropping the last of them also ends the tasks, without
    /// waiting.
    ///
    /// ```no_run
    /// # use axum::Router;
    /// # use tokio::net::TcpListener;
    /// # use tower_cognito::Verifier;
    /// # async fn example(app: Router, listener: TcpListener, verifier: Verifier) -> std::io::Result<()> {
    /// let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    /// axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    /// verifier.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(&self) {
        for pool in &self.shared.pools {
            if let Some(refresher) = pool.keys.refresher() {
                refresher.shut_down().await;
            }
        }
    }

    /// Waits until every pool has keys, at most this long.
    ///
    /// # Errors
    ///
    /// Returns an error if the time is over. It names every pool without keys and the reason.
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        self.wait_for_keys(within, WaitUntil::Timeout).await
    }

    /// Returns the scopes that the rules of every pool require. Returns `None` if the pools differ: a
    /// client without a token could belong to any of them.
    pub(crate) fn common_requirement(&self) -> Option<&'static Requirement> {
        let mut requirements = self.shared.pools.iter().map(|pool| pool.rules.requirement());
        let first = requirements.next()??;
        requirements.all(|other| other == Some(first)).then_some(first)
    }

    /// Verifies a token that is not cached, for a layer. The layer has called
    /// [`cached`](Self::cached) before, with the bytes of the header, which need not be UTF-8.
    ///
    /// If newer keys could change the result, the layer then calls
    /// [`verify_with_newer_keys`](Self::verify_with_newer_keys), whose future is too large to be part
    /// of every request.
    pub(crate) fn verify_without_wait(&self, token: &str) -> Attempt {
        self.attempt_uncached(token, (self.shared.clock)())
    }

    /// Waits for newer keys, and verifies the token again each time the keys have changed, within the
    /// limits of [`verify`](Self::verify). If no fetch is allowed, or if the keys are still the same
    /// afterwards, the token is rejected without another verification.
    pub(crate) async fn verify_with_newer_keys(
        &self,
        token: &str,
        UnknownKey { pool, keys, timer }: UnknownKey,
    ) -> Result<AccessToken, VerifyError> {
        let mut result = Err(VerifyError::new(VerifyErrorKind::UnknownKey));
        let verify_again = || match self.verify_uncached(token, (self.shared.clock)()) {
            Outcome::Final(verified) => {
                result = verified;
                None
            }
            Outcome::UnknownKey(_, keys) => Some(keys),
        };
        let has_waited = match self.shared.refresher(pool) {
            Some(refresher) => refresher.wait_for_key(keys, verify_again).await,
            None => false,
        };
        // During the wait, the keys may have become too old. Then the token may have a newer key that
        // was never fetched, so the client should try again (503) and not get a new token (401).
        if let (Err(error), Some(pool), true) = (&result, self.shared.pools.get(pool), has_waited)
            && error.kind() == VerifyErrorKind::UnknownKey
            && let Err(retry_after) = pool.keys.current((self.shared.clock)())
        {
            result = Err(VerifyError::keys_unavailable(retry_after));
        }
        timer.verified(&result);
        result
    }

    /// Rejects the token without a wait, and requests a refresh.
    pub(crate) fn reject_unknown_key(
        &self,
        UnknownKey { pool, timer, .. }: UnknownKey,
    ) -> Result<AccessToken, VerifyError> {
        if let Some(refresher) = self.shared.refresher(pool) {
            refresher.request_fetch();
        }
        let result = Err(VerifyError::new(VerifyErrorKind::UnknownKey));
        timer.verified(&result);
        result
    }

    /// Returns the result for a cached token, or `None` if the token must be verified: it is not cached,
    /// or the key set that verified it was replaced.
    ///
    /// The result is an error if the keys are too old, or if [`Rules::recheck`] rejects the token. The
    /// entry then stays in the cache, and is checked again at the next request.
    #[inline]
    pub(crate) fn cached(&self, token: &[u8]) -> Option<Result<AccessToken, VerifyError>> {
        self.cached_at(token, (self.shared.clock)())
    }

    /// Returns the state that logs a warning if the layers of this verifier reject every request.
    pub(crate) fn all_rejected(&self) -> &Arc<AllRejected> {
        &self.shared.all_rejected
    }

    fn attempt(&self, token: &str) -> Attempt {
        let now = (self.shared.clock)();
        match self.cached_at(token.as_bytes(), now) {
            Some(result) => Attempt::Done(result),
            None => self.attempt_uncached(token, now),
        }
    }

    fn attempt_uncached(&self, token: &str, now: SystemTime) -> Attempt {
        let timer = Timer::start();
        match self.verify_uncached(token, now) {
            Outcome::Final(result) => {
                timer.verified(&result);
                Attempt::Done(result)
            }
            Outcome::UnknownKey(pool, keys) => {
                Attempt::UnknownKey(UnknownKey { pool, keys, timer })
            }
        }
    }

    // Inlining saves about 17 instructions of a request with a cached token.
    #[inline(always)]
    fn cached_at(&self, token: &[u8], now: SystemTime) -> Option<Result<AccessToken, VerifyError>> {
        let CacheEntry { token: verified, pool, keys } = self.shared.cache.get(token)?;
        let pool = self.shared.pools.get(pool)?;
        let result = match pool.keys.current(now) {
            // The token is verified again. If it is still valid, its new entry replaces this one. If
            // not, this one stays until it is evicted, but it is never used, because no ID is reused.
            Ok(current) if current.id() != keys => return None,
            Ok(_) => pool.rules.recheck(&verified, now).map_err(|kind| pool.rules.error(kind)),
            Err(retry_after) => Err(VerifyError::keys_unavailable(retry_after)),
        };
        let result = result.map(|()| verified);
        telemetry::cache_hit(&result);
        Some(result)
    }

    /// Verifies the token once, with the current keys of its pool.
    fn verify_uncached(&self, token: &str, now: SystemTime) -> Outcome {
        // The pool that the issuer chose, and its keys. It stays `None` if the issuer is not trusted.
        let mut resolved = None;
        let result = verify_with_pools(token, now, |issuer| {
            let pool = self.shared.pool_of(issuer);
            let (issuer, index, pool) = pool.ok_or(VerifyErrorKind::UnknownIssuer)?;
            let (_, _, keys) = resolved.insert((index, pool, pool.keys.current(now)));
            let keys = keys.as_ref().map_err(|_| VerifyErrorKind::KeysUnavailable)?;
            let header_cache = Some(keys.header_cache());
            Ok(TrustedPool { rules: &pool.rules, issuer, keys, header_cache })
        });
        match (result, resolved) {
            (Ok(verified), Some((pool, _, Ok(keys)))) => {
                let entry = CacheEntry { token: verified.clone(), pool, keys: keys.id() };
                self.shared.cache.insert(token, entry);
                Outcome::Final(Ok(verified))
            }
            // `VerifyErrorKind` does not contain the delay before a retry. It is only in `resolved`.
            (
                Err(Invalid { kind: VerifyErrorKind::KeysUnavailable, .. }),
                Some((_, _, Err(retry_after))),
            ) => Outcome::Final(Err(VerifyError::keys_unavailable(retry_after))),
            (Err(Invalid { kind: VerifyErrorKind::UnknownKey, .. }), Some((pool, _, Ok(keys)))) => {
                Outcome::UnknownKey(pool, keys.id())
            }
            // All other errors of a trusted issuer's token. Some contain what the pool's rules require.
            (result, Some((_, pool, _))) => {
                Outcome::Final(result.map_err(|invalid| pool.rules.error(invalid)))
            }
            // The issuer is not trusted, or an error came before it was known.
            (result, None) => {
                Outcome::Final(result.map_err(|Invalid { kind, .. }| VerifyError::new(kind)))
            }
        }
    }

    fn new(pools: Vec<Pool>, clock: Clock, cache_bytes: usize) -> Self {
        let by_issuer = pools.iter().enumerate().flat_map(|(index, pool)| {
            pool.rules.pool().issuer_names().iter().map(move |issuer| (Arc::clone(issuer), index))
        });
        let by_issuer = by_issuer.collect();
        let cache = TokenCache::new(cache_bytes);
        let all_rejected = Arc::default();
        let shared = Shared { pools, by_issuer, clock, cache, cache_bytes, all_rejected };
        Self { shared: Arc::new(shared) }
    }

    async fn wait_for_keys(&self, within: Duration, until: WaitUntil) -> Result<(), StartError> {
        let mut problems = Vec::new();
        let refreshers = self.shared.pools.iter().filter_map(|pool| pool.keys.refresher());
        all_ready(refreshers, within, until, |refresher, NoKeys(error)| {
            let reason = error.map_or_else(|| "no response yet".to_owned(), |e| with_causes(&e));
            let address = without_query(refresher.address());
            problems.push(format!("no keys from {address}: {reason}"));
        })
        .await;
        if problems.is_empty() { Ok(()) } else { Err(StartError::no_keys(problems)) }
    }
}

async fn first_error(
    refreshes: impl Iterator<Item = impl Future<Output = Result<(), RefreshError>>>,
) -> Result<(), RefreshError> {
    // Requests every fetch before it waits for the first.
    let refreshes = refreshes.collect::<Vec<_>>();
    let mut result = Ok(());
    for refresh in refreshes {
        result = result.and(refresh.await);
    }
    result
}

impl Shared {
    /// Returns the pool of a trusted issuer, its index, and the issuer without a new allocation.
    fn pool_of(&self, issuer: &str) -> Option<(&Arc<str>, usize, &Pool)> {
        let (issuer, index) = self.by_issuer.get_key_value(issuer)?;
        Some((issuer, *index, self.pools.get(*index)?))
    }

    /// Returns the task that can fetch newer keys of this pool. Returns `None` for fixed keys.
    fn refresher(&self, pool: usize) -> Option<&Refresher> {
        self.pools.get(pool)?.keys.refresher()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shared.pools.iter().map(|pool| &pool.rules)).finish()
    }
}

/// The result of a verification without a wait.
pub(crate) enum Attempt {
    Done(Result<AccessToken, VerifyError>),
    /// Newer keys could change the result, unless the keys are fixed.
    UnknownKey(UnknownKey),
}

/// The pool has no key with the token's key ID.
pub(crate) struct UnknownKey {
    pool: usize,
    /// The key set that has no such key.
    keys: KeySetId,
    /// Measures the whole verification, including the wait for newer keys.
    timer: Timer,
}

/// The result of one verification with the current keys.
enum Outcome {
    Final(Result<AccessToken, VerifyError>),
    /// The key set with this ID, which is the current one of the pool with this index, has no key with
    /// the token's key ID.
    UnknownKey(usize, KeySetId),
}
