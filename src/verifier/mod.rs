//! A verifier: rules, the keys that are current, and the time of day. The only folder that names
//! the system's clock.

mod builder;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{RefreshError, StartError, VerifyError, VerifyErrorKind, with_causes};
use crate::health::Health;
use crate::refresh::{Clock, NoKeys, Refresher, WaitUntil, all_ready};
use crate::telemetry::{self, Timer};
use crate::token_cache::{CacheEntry, TokenCache};
use crate::url::without_query;
use crate::verify::{AccessToken, Rules, TrustedPool, verify_with_pools};

pub use builder::VerifierBuilder;
pub(crate) use builder::{
    CONNECT_TIMEOUT, INTERVALS, MAX_KEY_AGE, REFRESH_INTERVAL, TOKEN_CACHE_BYTES,
};

/// Verifies access tokens with keys that it keeps current in the background.
///
/// A clone shares everything. When the last one is dropped, the background tasks end.
///
/// ```
/// use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};
///
/// let issuer = TestIssuer::new();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
/// let verifier = Verifier::builder(rules).with_jwks(issuer.jwks())?;
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
    /// For the caches of those who share the keys.
    cache_bytes: usize,
}

/// One pool: its rules, and the keys that count for these rules alone.
struct Pool {
    rules: Rules,
    keys: Arc<Refresher>,
}

impl Verifier {
    /// A verifier for the pool that these rules name; [`VerifierBuilder::add_pool`] adds others.
    pub fn builder(rules: Rules) -> VerifierBuilder {
        VerifierBuilder::new(rules)
    }

    /// Verifies a token. If its key is not among those held, which is so right after a rotation,
    /// waits for a refresh: at most a second, within limits that many such tokens can not exceed.
    ///
    /// # Errors
    ///
    /// When the token is not a good one, or with
    /// [`KeysUnavailable`](VerifyErrorKind::KeysUnavailable) when there are no current keys.
    pub async fn verify(&self, token: &str) -> Result<AccessToken, VerifyError> {
        let now = (self.shared.clock)();
        if let Some(result) = self.cached_at(token.as_bytes(), now) {
            return result;
        }
        let timer = Timer::start();
        let result = match self.verify_uncached(token, now) {
            Outcome::Final(result) => result,
            Outcome::UnknownKey(pool) => self.verify_with_newer_keys(token, pool).await,
        };
        timer.verified(&result);
        result
    }

    /// Verifies a token without waiting. If its key is not among those held, it is refused at
    /// once, and a refresh is asked for.
    ///
    /// # Errors
    ///
    /// As [`Verifier::verify`].
    pub fn try_verify(&self, token: &str) -> Result<AccessToken, VerifyError> {
        let now = (self.shared.clock)();
        if let Some(result) = self.cached_at(token.as_bytes(), now) {
            return result;
        }
        let timer = Timer::start();
        let result = match self.verify_uncached(token, now) {
            Outcome::Final(result) => result,
            Outcome::UnknownKey(pool) => {
                pool.keys.request_fetch();
                Err(VerifyError::new(VerifyErrorKind::UnknownKey))
            }
        };
        timer.verified(&result);
        result
    }

    /// The same keys under other rules, which must name a pool of this verifier's; it is the one
    /// pool of the new one. The task that refreshes the keys is shared, and ends with the last
    /// verifier that needs it.
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, StartError, UserPool, Verifier};
    /// # fn example(verifier: Verifier, pool: UserPool) -> Result<(), StartError> {
    /// let admins = Rules::new(pool, ClientIds::any()).with_groups(["admins"]);
    /// let for_admins = verifier.with_rules(admins)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the rules are wrong, or their pool is not one of this verifier's.
    pub fn with_rules(&self, rules: Rules) -> Result<Self, StartError> {
        let mut problems = rules.problems().collect::<Vec<_>>();
        let shared = self.shared.pools.iter().find(|pool| pool.rules.pool() == rules.pool());
        if shared.is_none() {
            problems.push("the rules name a pool whose keys this verifier has not".to_owned());
        }
        match shared {
            Some(pool) if problems.is_empty() => {
                let keys = Arc::clone(&pool.keys);
                let clock = Arc::clone(&self.shared.clock);
                Ok(Self::new(vec![Pool { rules, keys }], clock, self.shared.cache_bytes))
            }
            _ => Err(StartError::new(problems)),
        }
    }

    /// How the keys are doing. Of several pools the verifier is [`NotReady`](Health::NotReady)
    /// only when none can be served, so that one tenant's outage takes no replica out of service;
    /// [`health_of`](Self::health_of) tells of one pool.
    pub fn health(&self) -> Health {
        let now = (self.shared.clock)();
        Health::of_all(self.shared.pools.iter().map(|pool| pool.keys.health(now)))
    }

    /// How the keys of the pool with this issuer are doing; `None` where it is not trusted here.
    ///
    /// ```
    /// # use tower_cognito::{Health, Verifier};
    /// fn is_served(verifier: &Verifier, issuer: &str) -> bool {
    ///     verifier.health_of(issuer).is_some_and(|health| health != Health::NotReady)
    /// }
    /// ```
    pub fn health_of(&self, issuer: &str) -> Option<Health> {
        let (_, _, pool) = self.shared.pool_of(issuer).ok()?;
        Some(Health::of_all([pool.keys.health((self.shared.clock)())]))
    }

    /// Fetches the keys of every pool now, and waits for it: for a hook that tells of a rotation.
    /// Nothing limits how often, so never let a client trigger it.
    ///
    /// # Errors
    ///
    /// When the fetch fails; of several pools, the first error. The keys that are held stay.
    pub async fn refresh(&self) -> Result<(), RefreshError> {
        let refreshes = self.shared.pools.iter().map(|pool| pool.keys.refresh());
        // Each is wanted before the first is waited for.
        let refreshes = refreshes.collect::<Vec<_>>();
        let mut result = Ok(());
        for refresh in refreshes {
            result = result.and(refresh.await);
        }
        result
    }

    /// Ends the background tasks, and waits until they are gone. Tokens are still verified with
    /// the keys that are held, until those are too old. It is the end for verifiers that share
    /// these keys, too. Dropping the last of them also ends the tasks, without waiting.
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
            pool.keys.shut_down().await;
        }
    }

    /// Waits until every pool has keys.
    ///
    /// # Errors
    ///
    /// When the time is over; names every pool without keys, and why it has none.
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        self.wait_for_keys(within, WaitUntil::Timeout).await
    }

    /// [`Verifier::verify`] for a layer, after [`cached`](Self::cached); its future should not grow
    /// by that of a wait, so it is `None` where newer keys could change the verdict.
    pub(crate) fn verify_without_wait(
        &self,
        token: &str,
    ) -> Option<Result<AccessToken, VerifyError>> {
        let now = (self.shared.clock)();
        let timer = Timer::start();
        let result = match self.verify_uncached(token, now) {
            Outcome::Final(result) => result,
            Outcome::UnknownKey(pool) if pool.keys.is_fixed() => {
                Err(VerifyError::new(VerifyErrorKind::UnknownKey))
            }
            Outcome::UnknownKey(_) => return None,
        };
        timer.verified(&result);
        Some(result)
    }

    async fn verify_with_newer_keys(
        &self,
        token: &str,
        pool: &Pool,
    ) -> Result<AccessToken, VerifyError> {
        let mut verdict = Err(VerifyError::new(VerifyErrorKind::UnknownKey));
        let found = || match self.verify_uncached(token, (self.shared.clock)()) {
            Outcome::Final(result) => {
                verdict = result;
                true
            }
            Outcome::UnknownKey(_) => false,
        };
        pool.keys.wait_for_key(found).await;
        verdict
    }

    /// The verdict on a token that was verified before, if its keys are still the current ones.
    pub(crate) fn cached(&self, token: &[u8]) -> Option<Result<AccessToken, VerifyError>> {
        self.cached_at(token, (self.shared.clock)())
    }

    fn cached_at(&self, token: &[u8], now: SystemTime) -> Option<Result<AccessToken, VerifyError>> {
        let CacheEntry { token: verified, pool, keys } = self.shared.cache.get(token)?;
        let pool = self.shared.pools.get(pool)?;
        let result = match pool.keys.current(now) {
            Ok(current) if current.id() != keys => {
                self.shared.cache.remove(token);
                return None;
            }
            Ok(_) => pool.rules.recheck(&verified, now).map_err(VerifyError::new),
            Err(retry_after) => Err(VerifyError::keys_unavailable(retry_after)),
        };
        let result = result.map(|()| verified);
        telemetry::recalled(&result);
        Some(result)
    }

    fn verify_uncached(&self, token: &str, now: SystemTime) -> Outcome<'_> {
        let mut resolved = None;
        let result = verify_with_pools(token, now, |issuer| {
            let (issuer, index, pool) = self.shared.pool_of(issuer)?;
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
            (Err(VerifyErrorKind::UnknownKey), Some((_, pool, _))) => Outcome::UnknownKey(pool),
            (Err(VerifyErrorKind::KeysUnavailable), Some((_, _, Err(retry_after)))) => {
                Outcome::Final(Err(VerifyError::keys_unavailable(retry_after)))
            }
            (result, _) => Outcome::Final(result.map_err(VerifyError::new)),
        }
    }

    fn new(pools: Vec<Pool>, clock: Clock, cache_bytes: usize) -> Self {
        let by_issuer = pools.iter().enumerate().flat_map(|(index, pool)| {
            pool.rules.pool().issuer_names().iter().map(move |issuer| (Arc::clone(issuer), index))
        });
        let by_issuer = by_issuer.collect();
        let cache = TokenCache::new(cache_bytes);
        Self { shared: Arc::new(Shared { pools, by_issuer, clock, cache, cache_bytes }) }
    }

    async fn wait_for_keys(&self, within: Duration, until: WaitUntil) -> Result<(), StartError> {
        let mut problems = Vec::new();
        let sources = self.shared.pools.iter().map(|pool| &*pool.keys);
        all_ready(sources, within, until, |keys, NoKeys(error)| {
            let reason = error.map_or_else(|| "no answer yet".to_owned(), |e| with_causes(&e));
            let address = without_query(keys.address());
            problems.push(format!("no keys from {address}: {reason}"));
        })
        .await;
        if problems.is_empty() { Ok(()) } else { Err(StartError::new(problems)) }
    }
}

impl Shared {
    fn pool_of(&self, issuer: &str) -> Result<(&Arc<str>, usize, &Pool), VerifyErrorKind> {
        let known = self.by_issuer.get_key_value(issuer);
        known
            .and_then(|(issuer, index)| Some((issuer, *index, self.pools.get(*index)?)))
            .ok_or(VerifyErrorKind::UnknownIssuer)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shared.pools.iter().map(|pool| &pool.rules)).finish()
    }
}

enum Outcome<'v> {
    Final(Result<AccessToken, VerifyError>),
    /// Newer keys could change the verdict.
    UnknownKey(&'v Pool),
}
