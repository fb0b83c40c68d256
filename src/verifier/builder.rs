//! The settings of a verifier, and its start.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::key_source::KeySource;
use super::{Pool, Verifier};
use crate::background::NoBackgroundThread;
use crate::error::{ConfigError, StartError};
use crate::fetch::{DynFetchJwks, FetchJwks};
#[cfg(feature = "reqwest")]
use crate::fetch::{HttpFetch, why_no_client};
use crate::jwks::Jwks;
use crate::refresh::{Clock, FileFetch, Limits, RefreshConfig, Refresher, WaitUntil};
use crate::schedule::Random;
use crate::telemetry;
use crate::user_pool::UserPool;
use crate::verify::Rules;

/// Builds a [`Verifier`].
///
/// Settings of one pool are on [`UserPool`], so the order of the calls does not matter.
///
/// ```
/// use std::time::Duration;
/// use tower_cognito::{ClientIds, Rules, UserPool, Verifier, VerifierBuilder};
///
/// fn two_tenants(blue: UserPool, green: UserPool) -> VerifierBuilder {
///     Verifier::builder(Rules::new(blue, ClientIds::only(["client-of-blue"])))
///         .add_pool(Rules::new(green, ClientIds::only(["client-of-green"])))
///         .http_client(reqwest::Client::builder().user_agent("my-service"))
///         .refresh_interval(Duration::from_secs(120))
///         .max_key_age(Duration::from_secs(6 * 60 * 60))
///         .connect_timeout(Duration::from_secs(20))
/// }
/// ```
#[must_use]
pub struct VerifierBuilder {
    rules: Vec<Rules>,
    fetcher: Option<Arc<dyn DynFetchJwks>>,
    #[cfg(feature = "reqwest")]
    http_client: Option<reqwest::ClientBuilder>,
    clock: Clock,
    refresh_interval: Duration,
    max_key_age: Duration,
    connect_timeout: Duration,
    token_cache_bytes: usize,
    /// The names of the settings of a pool, for the texts of errors.
    setting_names: SettingNames,
    /// Variables with the prefix of the settings that belong to other programs.
    foreign_variables: Vec<String>,
}

impl VerifierBuilder {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules: vec![rules],
            fetcher: None,
            #[cfg(feature = "reqwest")]
            http_client: None,
            clock: Arc::new(SystemTime::now),
            refresh_interval: REFRESH_INTERVAL,
            max_key_age: MAX_KEY_AGE,
            connect_timeout: CONNECT_TIMEOUT,
            token_cache_bytes: TOKEN_CACHE_BYTES,
            setting_names: SettingNames::METHODS,
            foreign_variables: Vec::new(),
        }
    }

    /// Sets what only [`Config`](crate::Config) knows, for errors and for the log.
    pub(crate) fn configured_by(mut self, names: SettingNames, foreign: Vec<String>) -> Self {
        self.setting_names = names;
        self.foreign_variables = foreign;
        self
    }

    /// Adds a pool whose tokens are accepted under their own rules.
    pub fn add_pool(mut self, rules: Rules) -> Self {
        self.rules.push(rules);
        self
    }

    /// Sets the HTTP client that fetches the keys, such as one with a proxy or with its own root
    /// certificates.
    ///
    /// The limits of this crate are set on it last: time, size, no redirects, no retries, no
    /// decompression, and no connection is kept. A cookie store stays as it is set. Keys at a
    /// loopback `http` URL are fetched without this client.
    #[cfg(feature = "reqwest")]
    pub fn http_client(mut self, client: reqwest::ClientBuilder) -> Self {
        self.http_client = Some(client);
        self
    }

    /// Sets what fetches the keys, instead of an HTTP client.
    ///
    /// It fetches the keys of every pool that has no [JWKS file](UserPool::with_jwks_file), each by
    /// its URL. A fetcher that ignores the URL returns the same keys for all of them, and each pool
    /// could then sign tokens of the others.
    pub fn jwks_fetcher(mut self, fetcher: impl FetchJwks) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Sets how much memory this verifier may use to cache verified tokens. The default is 8 MiB,
    /// about 4,000 machine-to-machine tokens; 0 turns the cache off.
    ///
    /// Each verifier that [`Verifier::share_keys`] creates from it may use as much. A cached token is
    /// used only until the keys of its pool change or become too old. At every request, `exp`, `nbf`,
    /// the required scopes and [`Rules::with_check`] are checked again. The signature and the other
    /// claims are not, because neither the token nor the rules can change.
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

    /// Sets how often the keys are fetched. The default is 5 minutes; 10 seconds to 24 hours.
    ///
    /// While the issuer can be reached, it is also how long a removed key may still be trusted.
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// Sets how long keys may be used after the last successful fetch. The default is 24 hours; the
    /// minimum is the refresh interval.
    ///
    /// After that, every token is rejected with
    /// [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable).
    pub fn max_key_age(mut self, age: Duration) -> Self {
        self.max_key_age = age;
        self
    }

    /// Sets how long [`connect`](Self::connect) tries to fetch the first keys. The default is 10
    /// seconds; the minimum is 100 milliseconds, so that its error can say why a fetch failed. A
    /// shorter time counts as the minimum.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Sets the clock that tells the time of day, for tests that travel in time. The default is the
    /// system's clock.
    ///
    /// Keys grow old by this clock too, except those of
    /// [`build_with_jwks`](Self::build_with_jwks).
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the verifier and waits until every pool has keys, so that a wrong pool fails here and
    /// not at the first request.
    ///
    /// Errors that may be temporary are retried within [`connect_timeout`](Self::connect_timeout). A
    /// pool with [initial keys](UserPool::with_initial_jwks) that are not too old does not wait.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid, or if a pool has no keys in time. It lists
    /// every problem.
    pub async fn connect(self) -> Result<Verifier, StartError> {
        let within = self.connect_timeout.max(MIN_CONNECT_TIMEOUT);
        let verifier = self.connect_lazy()?;
        verifier.wait_for_keys(within, WaitUntil::PermanentError).await?;
        Ok(verifier)
    }

    /// Builds the verifier without waiting for keys. It makes no request before it returns, and
    /// needs no runtime.
    ///
    /// Until the first keys arrive, tokens are rejected with
    /// [`KeysUnavailable`](crate::VerifyErrorKind::KeysUnavailable), which the layers answer with
    /// 503. [`Verifier::ready`] waits for the keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid, or if the thread that refreshes the keys cannot
    /// be started.
    pub fn connect_lazy(mut self) -> Result<Verifier, StartError> {
        let mut problems = self.problems();
        problems.extend(self.plain_http_problems());
        let fetcher = self.fetcher().map_err(|problem| problems.push(problem));
        let (Ok(fetcher), true) = (fetcher, problems.is_empty()) else {
            return Err(ConfigError::new(problems).into());
        };
        telemetry::describe_metrics();
        telemetry::foreign_variables(&self.foreign_variables);
        let pools = self.rules.iter().map(Rules::pool).filter(|_| self.fetcher.is_none());
        for host in pools.filter_map(UserPool::plain_http_host) {
            telemetry::insecure_fetch(host);
        }
        let has_fetcher = self.fetcher.is_some();
        let config = RefreshConfig {
            fetcher,
            clock: Arc::clone(&self.clock),
            interval: self.refresh_interval,
            max_key_age: self.max_key_age,
            random: Random::from_process,
            limits: Arc::new(Limits::new()),
        };
        let pools = self.rules.into_iter().zip(0_u32..).map(|(rules, index)| {
            let (pool, mut config) = (rules.pool(), config.clone());
            let address = match pool.jwks_file() {
                Some(path) => {
                    config.fetcher = Arc::new(FileFetch::new(path.to_owned()));
                    path.display().to_string().into()
                }
                None => {
                    if let Some(local) = pool.local_fetcher().filter(|_| !has_fetcher) {
                        config.fetcher = local;
                    }
                    Arc::clone(pool.jwks_url())
                }
            };
            let delay = START_SPREAD.saturating_mul(index % START_SLOTS);
            let refresher = Refresher::start(address, config, pool.initial_jwks(), delay)?;
            Ok(Pool { rules, keys: KeySource::Refreshing(Arc::new(refresher)) })
        });
        let pools = pools.collect::<Result<_, _>>().map_err(|NoBackgroundThread(error)| {
            StartError::no_thread(format!("no thread to refresh the keys on: {error}"))
        })?;
        Ok(Verifier::new(pools, self.clock, self.token_cache_bytes))
    }

    /// Builds the verifier with these keys, which never change. It uses no network.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid, if a setting says where keys come from, or if
    /// there are several pools: keys belong to one pool.
    pub fn build_with_jwks(mut self, jwks: Jwks) -> Result<Verifier, ConfigError> {
        let mut problems = self.problems();
        let is_fetched = |pool: &UserPool| {
            pool.jwks_file().is_some()
                || pool.initial_jwks().is_some()
                || pool.insecure_jwks_host().is_some()
        };
        if self.rules.iter().any(|rules| is_fetched(rules.pool())) || self.has_way_to_fetch() {
            problems
                .push("fixed keys are never fetched, but a way to fetch keys is set".to_owned());
        }
        let rules = self.rules.pop();
        if !self.rules.is_empty() {
            problems.push("fixed keys belong to one pool, but there are several pools".to_owned());
        }
        let (Some(rules), true) = (rules, problems.is_empty()) else {
            return Err(ConfigError::new(problems));
        };
        telemetry::describe_metrics();
        let keys = KeySource::fixed(jwks);
        Ok(Verifier::new(vec![Pool { rules, keys }], self.clock, self.token_cache_bytes))
    }

    fn has_way_to_fetch(&self) -> bool {
        #[cfg(feature = "reqwest")]
        if self.http_client.is_some() {
            return true;
        }
        self.fetcher.is_some()
    }

    /// Returns every problem in the settings, whatever the source of the keys is.
    fn problems(&self) -> Vec<String> {
        let (shortest, longest) = INTERVALS;
        let mut problems = Vec::new();
        let (mut issuers, mut sources) = (HashSet::new(), HashSet::new());
        for rules in &self.rules {
            let pool = rules.pool();
            let name = pool.issuer();
            problems.extend(rules.problems().map(|problem| format!("{name}: {problem}")));
            let named_before = problems.len();
            for issuer in pool.issuer_names() {
                if !issuers.insert(issuer) {
                    problems.push(format!("{issuer}: this issuer is set more than once"));
                }
            }
            // Otherwise, each pool could sign tokens of the other.
            let file = pool.jwks_file();
            let source = (file, file.is_none().then(|| pool.jwks_url()));
            if !sources.insert(source) && problems.len() == named_before {
                problems.push(format!("{name}: another pool has its keys from the same place"));
            }
        }
        let interval = self.refresh_interval;
        if interval < shortest {
            problems.push(format!("refresh interval is {interval:?}, but the minimum is 10s"));
        }
        if interval > longest {
            problems.push(format!("refresh interval is {interval:?}, but the maximum is 24 hours"));
        }
        let max_age = self.max_key_age;
        if max_age < interval {
            problems.push(format!(
                "maximum key age is {max_age:?}, but the minimum is the refresh interval, {interval:?}"
            ));
        }
        problems
    }

    /// Returns a problem for each pool whose keys this crate would fetch over plain http without
    /// permission, and for each permission that no pool needs. The scheme of an issuer does not matter,
    /// because an issuer is only compared.
    fn plain_http_problems(&self) -> impl Iterator<Item = String> {
        let names = self.setting_names;
        let is_fetched_here = self.fetcher.is_none();
        self.rules.iter().filter_map(move |rules| {
            let pool = rules.pool();
            let host = pool.plain_http_host().filter(|_| is_fetched_here);
            let problem = match (host, pool.insecure_jwks_host()) {
                (host, allowed) if host == allowed => return None,
                (Some(host), None) => format!(
                    "keys would be fetched over plain http from `{host}`, which is not loopback, and \
                     neither {}, {} nor {} is set",
                    names.jwks_url, names.jwks_file, names.insecure_jwks_host
                ),
                (Some(host), Some(allowed)) => format!(
                    "keys would be fetched over plain http from `{host}`, but {} is `{allowed}`",
                    names.insecure_jwks_host
                ),
                (None, allowed) => format!(
                    "{} is `{}`, but no keys are fetched over plain http from it",
                    names.insecure_jwks_host,
                    allowed.unwrap_or_default()
                ),
            };
            Some(format!("{}: {problem}", pool.issuer()))
        })
    }

    #[cfg(feature = "reqwest")]
    fn fetcher(&mut self) -> Result<Arc<dyn DynFetchJwks>, String> {
        if let Some(fetcher) = &self.fetcher {
            let is_unused = self.http_client.is_some();
            let problem = "`http_client` is set, but `jwks_fetcher` fetches the keys";
            return if is_unused { Err(problem.to_owned()) } else { Ok(Arc::clone(fetcher)) };
        }
        let client = self.http_client.take().unwrap_or_default();
        let fetched = self.rules.iter().filter(|rules| rules.pool().is_fetched_from_url());
        let urls = fetched.map(|rules| &**rules.pool().jwks_url());
        match HttpFetch::for_urls(urls, client) {
            Ok(fetcher) => Ok(Arc::new(fetcher)),
            Err(error) => Err(format!("no HTTP client: {}", why_no_client(&error))),
        }
    }

    #[cfg(not(feature = "reqwest"))]
    fn fetcher(&mut self) -> Result<Arc<dyn DynFetchJwks>, String> {
        match &self.fetcher {
            Some(fetcher) => Ok(Arc::clone(fetcher)),
            None if !self.rules.iter().any(|rules| rules.pool().is_fetched_from_url()) => {
                Ok(Arc::new(NoFetch))
            }
            None => {
                Err("neither `jwks_fetcher` nor the feature `reqwest` is set to fetch keys"
                    .to_owned())
            }
        }
    }
}

impl fmt::Debug for VerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierBuilder")
            .field("rules", &self.rules)
            .field("refresh_interval", &self.refresh_interval)
            .field("max_key_age", &self.max_key_age)
            .field("connect_timeout", &self.connect_timeout)
            .field("token_cache_bytes", &self.token_cache_bytes)
            .finish_non_exhaustive()
    }
}

/// The names of the settings of a pool, as the user set them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettingNames {
    pub(crate) jwks_url: &'static str,
    pub(crate) jwks_file: &'static str,
    pub(crate) insecure_jwks_host: &'static str,
}

impl SettingNames {
    const METHODS: Self = Self {
        jwks_url: "`UserPool::with_jwks_url`",
        jwks_file: "`UserPool::with_jwks_file`",
        insecure_jwks_host: "`UserPool::with_insecure_jwks_host`",
    };
    pub(crate) const VARIABLES: Self = Self {
        jwks_url: "`COGNITO_JWKS_URL`",
        jwks_file: "`COGNITO_JWKS_FILE`",
        insecure_jwks_host: "`COGNITO_INSECURE_JWKS_HOST`",
    };
    pub(crate) const KEYS: Self = Self {
        jwks_url: "`jwks_url`",
        jwks_file: "`jwks_file`",
        insecure_jwks_host: "`insecure_jwks_host`",
    };
}

// The defaults.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
pub(crate) const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
pub(crate) const TOKEN_CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The shortest and the longest time between two refreshes.
pub(crate) const INTERVALS: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(24 * 60 * 60));

/// The first fetches of many pools begin this far apart, and all of them within 5 seconds.
const START_SPREAD: Duration = Duration::from_millis(4);
const START_SLOTS: u32 = 1_250;

/// The fetcher of a verifier whose pools all have files, or are test issuers.
#[cfg(not(feature = "reqwest"))]
struct NoFetch;

#[cfg(not(feature = "reqwest"))]
impl FetchJwks for NoFetch {
    async fn fetch_jwks(
        &self,
        _url: &str,
    ) -> Result<crate::fetch::JwksDocument, crate::error::RefreshError> {
        Err(crate::error::RefreshError::transport("every pool has a file"))
    }
}
