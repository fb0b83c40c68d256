//! The settings of a verifier, and its start.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Pool, Verifier};
#[cfg(feature = "reqwest")]
use crate::error::with_causes;
use crate::error::{RefreshError, StartError};
#[cfg(feature = "reqwest")]
use crate::fetch::HttpFetch;
use crate::fetch::{DynFetchJwks, FetchJwks, JwksDocument};
use crate::jwks::Jwks;
use crate::refresh::{
    Clock, FileFetch, Limits, NoBackgroundThread, RefreshConfig, Refresher, WaitUntil,
};
use crate::schedule::Random;
use crate::verify::Rules;

/// The settings of a [`Verifier`].
///
/// ```
/// use std::time::Duration;
/// use tower_cognito::{ClientIds, Rules, StartError, UserPool, VerifierBuilder, Verifier};
///
/// fn two_tenants(blue: UserPool, green: UserPool) -> VerifierBuilder {
///     Verifier::builder(Rules::new(blue, ClientIds::only(["client-of-blue"])))
///         .add_pool(Rules::new(green, ClientIds::only(["client-of-green"])))
///         .http_client(reqwest::Client::builder().user_agent("my-service"))
///         .refresh_interval(Duration::from_secs(120))
///         .max_key_age(Duration::from_secs(6 * 60 * 60))
///         .connect_timeout(Duration::from_secs(20))
/// }
///
/// /// The keys come from a file that something else keeps current.
/// async fn from_file(rules: Rules) -> Result<Verifier, StartError> {
///     Verifier::builder(rules).jwks_file("/run/cognito/jwks.json").connect().await
/// }
/// ```
#[must_use]
pub struct VerifierBuilder {
    pools: Vec<PoolSettings>,
    fetcher: Option<Arc<dyn DynFetchJwks>>,
    #[cfg(feature = "reqwest")]
    http_client: Option<reqwest::ClientBuilder>,
    clock: Clock,
    refresh_interval: Duration,
    max_key_age: Duration,
    connect_timeout: Duration,
    token_cache_bytes: usize,
}

#[derive(Debug)]
struct PoolSettings {
    rules: Rules,
    seed: Option<(Jwks, SystemTime)>,
    file: Option<PathBuf>,
}

impl PoolSettings {
    fn new(rules: Rules) -> Self {
        Self { rules, seed: None, file: None }
    }
}

impl VerifierBuilder {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            pools: vec![PoolSettings::new(rules)],
            fetcher: None,
            #[cfg(feature = "reqwest")]
            http_client: None,
            clock: Arc::new(SystemTime::now),
            refresh_interval: REFRESH_INTERVAL,
            max_key_age: MAX_KEY_AGE,
            connect_timeout: CONNECT_TIMEOUT,
            token_cache_bytes: TOKEN_CACHE_BYTES,
        }
    }

    /// Accepts the tokens of one more pool as well, under rules of its own.
    pub fn add_pool(mut self, rules: Rules) -> Self {
        self.pools.push(PoolSettings::new(rules));
        self
    }

    /// Starts with keys that were saved earlier, for the pool that was named last: a restart
    /// while the issuer is down serves at once. They age from `fetched_at` on.
    pub fn seed(mut self, jwks: Jwks, fetched_at: SystemTime) -> Self {
        if let Some(pool) = self.pools.last_mut() {
            pool.seed = Some((jwks, fetched_at));
        }
        self
    }

    /// Reads the keys of the pool that was named last from this file, at every refresh and for
    /// an unknown key ID. Replace it by renaming another over it, so that it is never half there.
    /// A file that can be read counts as fetched now, however old it is, so that
    /// [`max_key_age`](Self::max_key_age) never ends it: what writes the file has to remove it when its
    /// keys are too old to be trusted.
    pub fn jwks_file(mut self, path: impl Into<PathBuf>) -> Self {
        if let Some(pool) = self.pools.last_mut() {
            pool.file = Some(path.into());
        }
        self
    }

    /// Fetches with a client of the application's, such as one with a proxy or with root
    /// certificates of its own. The limits of this crate are set on it last: time, size, no
    /// redirects, no retries, no decompression, and no connection is kept. A cookie store stays as
    /// it is set. Keys of a loopback `http` URL are fetched without this client.
    #[cfg(feature = "reqwest")]
    pub fn http_client(mut self, client: reqwest::ClientBuilder) -> Self {
        self.http_client = Some(client);
        self
    }

    /// Fetches the keys in this way instead of over HTTPS; of several pools, those of all that
    /// have no [`jwks_file`](Self::jwks_file), each by its address. A fetcher that does not look at
    /// the address gives all of them the same keys, and each could sign for the others.
    pub fn jwks_fetcher(mut self, fetcher: impl FetchJwks) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// How much memory this verifier may use to remember tokens that were verified: 8 MiB unless
    /// set, which is about 4,000 tokens of machines; 0 switches it off. Each verifier that is made
    /// of it by [`Verifier::with_rules`] may use as much. What such a token says, its key, the time
    /// and [`Rules::with_check`] are still judged at every request; its signature is not checked again.
    ///
    /// ```
    /// # use tower_cognito::{Rules, Verifier};
    /// # fn example(rules: Rules) {
    /// let builder = Verifier::builder(rules).token_cache_bytes(0);
    /// # }
    /// ```
    pub fn token_cache_bytes(mut self, bytes: usize) -> Self {
        self.token_cache_bytes = bytes;
        self
    }

    /// How often the keys are fetched: every 5 minutes unless set, 10 seconds at least and a day
    /// at most. As long as the issuer can be reached, it is also how long a key that was removed
    /// may still be trusted.
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// How long keys may be used while the issuer can not be reached: 24 hours unless set. After
    /// that every token is answered with [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable).
    pub fn max_key_age(mut self, age: Duration) -> Self {
        self.max_key_age = age;
        self
    }

    /// How long [`connect`](Self::connect) tries: 10 seconds unless set.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Reads the time of day here instead of from the system: for tests that travel in time. Keys
    /// grow old by it too, but for those of [`with_jwks`](Self::with_jwks).
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts, and waits for the first keys of every pool: a wrong pool fails here, not at the
    /// first request. What may pass is tried again within [`connect_timeout`](Self::connect_timeout).
    /// A pool with [`seed`](Self::seed) that is not too old has its first keys already.
    ///
    /// # Errors
    ///
    /// When the settings are wrong, or a pool has no keys in time; names everything at once.
    pub async fn connect(self) -> Result<Verifier, StartError> {
        let within = self.connect_timeout;
        let verifier = self.start()?;
        verifier.wait_for_keys(within, WaitUntil::PermanentError).await?;
        Ok(verifier)
    }

    /// Starts, and does not wait: until the first keys arrive, tokens are answered with
    /// [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable), which the layers make a 503.
    /// [`Verifier::ready`] waits for them.
    ///
    /// No tokio runtime is needed. The keys of all verifiers of a process are refreshed on one
    /// thread of this crate, named `tower-cognito`, which ends with the last verifier.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are wrong, or if the thread that refreshes the keys cannot
    /// be started.
    pub fn start(mut self) -> Result<Verifier, StartError> {
        let mut problems = self.problems();
        let fetcher = self.fetcher().map_err(|problem| problems.push(problem));
        let (Ok(fetcher), true) = (fetcher, problems.is_empty()) else {
            return Err(StartError::new(problems));
        };
        let common = self.common(fetcher);
        let pools = self.pools.into_iter().zip(0_u32..).map(|(settings, index)| {
            let PoolSettings { rules, seed, file } = settings;
            let mut common = common.clone();
            let address = match file {
                Some(path) => {
                    let address = path.display().to_string().into();
                    common.fetcher = Arc::new(FileFetch::new(path));
                    address
                }
                None => Arc::clone(rules.pool().keys_address()),
            };
            let delay = START_SPREAD.saturating_mul(index % START_SLOTS);
            let keys = Refresher::start(address, common, seed, delay)?;
            Ok(Pool { rules, keys: Arc::new(keys) })
        });
        let pools = pools.collect::<Result<_, _>>().map_err(|NoBackgroundThread(error)| {
            StartError::new(vec![format!("no thread to refresh the keys on: {error}")])
        })?;
        Ok(Verifier::new(pools, self.clock, self.token_cache_bytes))
    }

    /// Uses these keys for ever, and no network.
    ///
    /// # Errors
    ///
    /// When the settings are wrong, or there are several pools: keys are one pool's alone.
    pub fn with_jwks(mut self, jwks: Jwks) -> Result<Verifier, StartError> {
        let mut problems = self.problems();
        if self.pools.iter().any(|pool| pool.seed.is_some() || pool.file.is_some())
            || self.has_way_to_fetch()
        {
            problems
                .push("fixed keys are never fetched, and a way to fetch them is set".to_owned());
        }
        let rules = self.pools.pop().map(|pool| pool.rules);
        if !self.pools.is_empty() {
            problems.push("fixed keys are one pool's, and several pools are named".to_owned());
        }
        let (Some(rules), true) = (rules, problems.is_empty()) else {
            return Err(StartError::new(problems));
        };
        let common = self.common(Arc::new(NeverFetched));
        let keys = Arc::new(Refresher::fixed(jwks, common));
        Ok(Verifier::new(vec![Pool { rules, keys }], self.clock, self.token_cache_bytes))
    }

    fn common(&self, fetcher: Arc<dyn DynFetchJwks>) -> RefreshConfig {
        RefreshConfig {
            fetcher,
            clock: Arc::clone(&self.clock),
            interval: self.refresh_interval,
            max_key_age: self.max_key_age,
            random: Random::from_process,
            limits: Arc::new(Limits::new()),
        }
    }

    fn has_way_to_fetch(&self) -> bool {
        #[cfg(feature = "reqwest")]
        if self.http_client.is_some() {
            return true;
        }
        self.fetcher.is_some()
    }

    /// Everything that can not have been meant.
    fn problems(&self) -> Vec<String> {
        let (shortest, longest) = INTERVALS;
        let mut problems = Vec::new();
        let (mut issuers, mut sources) = (HashSet::new(), HashSet::new());
        for PoolSettings { rules, file, .. } in &self.pools {
            let pool = rules.pool().issuer();
            problems.extend(rules.problems().map(|problem| format!("{pool}: {problem}")));
            let named_before = problems.len();
            for issuer in rules.pool().issuer_names() {
                if !issuers.insert(issuer) {
                    problems.push(format!("{issuer}: this issuer is named twice"));
                }
            }
            // One pool's keys would sign for the other.
            let keys = (file, file.is_none().then(|| rules.pool().keys_address()));
            if !sources.insert(keys) && problems.len() == named_before {
                problems.push(format!("{pool}: another pool has its keys from the same place"));
            }
        }
        let interval = self.refresh_interval;
        if interval < shortest {
            problems.push(format!("refresh interval is {interval:?}, and at least 10 s are asked"));
        }
        if interval > longest {
            let problem = format!("refresh interval is {interval:?}, and at most a day is allowed");
            problems.push(problem);
        }
        let stale = self.max_key_age;
        if stale < interval {
            let problem =
                format!("keys go stale after {stale:?}, before a refresh at {interval:?}");
            problems.push(problem);
        }
        problems
    }

    #[cfg(feature = "reqwest")]
    fn fetcher(&mut self) -> Result<Arc<dyn DynFetchJwks>, String> {
        if let Some(fetcher) = &self.fetcher {
            let is_unused = self.http_client.is_some();
            let problem = "`http_client` is not used, since `jwks_fetcher` is set";
            return if is_unused { Err(problem.to_owned()) } else { Ok(Arc::clone(fetcher)) };
        }
        let client = self.http_client.take().unwrap_or_default();
        let fetched = self.pools.iter().filter(|pool| pool.file.is_none());
        let urls = fetched.map(|pool| &**pool.rules.pool().keys_address());
        match HttpFetch::for_urls(urls, client) {
            Ok(fetcher) => Ok(Arc::new(fetcher)),
            Err(error) => Err(format!("no HTTP client: {}", with_causes(&error))),
        }
    }

    #[cfg(not(feature = "reqwest"))]
    fn fetcher(&mut self) -> Result<Arc<dyn DynFetchJwks>, String> {
        if self.pools.iter().all(|pool| pool.file.is_some()) {
            return Ok(Arc::new(NeverFetched));
        }
        let missing =
            "nothing fetches the keys: turn on the feature `reqwest`, or set `jwks_fetcher`";
        self.fetcher.clone().ok_or_else(|| missing.to_owned())
    }
}

impl fmt::Debug for VerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierBuilder")
            .field("pools", &self.pools)
            .field("refresh_interval", &self.refresh_interval)
            .field("max_key_age", &self.max_key_age)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// Unless they are set.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
pub(crate) const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const TOKEN_CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The shortest and the longest time between two refreshes.
pub(crate) const INTERVALS: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(24 * 60 * 60));

/// The first fetches of many pools begin this far apart, and all within 5 seconds.
const START_SPREAD: Duration = Duration::from_millis(4);
const START_SLOTS: u32 = 1_250;

/// The fetcher of keys that are fixed.
struct NeverFetched;

impl FetchJwks for NeverFetched {
    async fn fetch_jwks(&self, _url: &str) -> Result<JwksDocument, RefreshError> {
        Err(RefreshError::transport("these keys are fixed"))
    }
}
