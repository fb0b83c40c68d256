//! A user pool: the issuers of its tokens, and where its keys come from.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{InvalidUrl, InvalidUserPoolId};
use crate::fetch::DynFetchJwks;
use crate::jwks::Jwks;
use crate::url::{PlainHttp, check_url, host_and_port, is_plain_http, without_query};

/// Describes a Cognito user pool: the issuers that its tokens may name, and where its keys come from.
///
/// ```
/// use tower_cognito::UserPool;
///
/// let pool = UserPool::new("ap-northeast-1_AbCdEfGhI")?;
///
/// // An emulator, or a proxy in front of Cognito.
/// let emulated = UserPool::from_issuer("http://127.0.0.1:4566/us-east-1_Local")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Settings for special cases:
///
/// ```
/// use tower_cognito::{InvalidUrl, UserPool};
///
/// /// A multi-Region pool, whose keys are fetched through a proxy.
/// fn replicated() -> Result<UserPool, InvalidUrl> {
///     UserPool::from_issuer("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example")?
///         .add_issuer("https://cognito-idp.us-west-2.amazonaws.com/us-east-1_Example")?
///         .with_jwks_url("https://proxy.example/us-east-1_Example/jwks.json")
/// }
///
/// /// An emulator in a container network, where its name is `cognito`.
/// fn in_compose() -> Result<UserPool, InvalidUrl> {
///     UserPool::from_issuer("http://cognito:9229/local_1a2b3c")?
///         .with_insecure_jwks_host("cognito:9229")
/// }
///
/// /// The keys are in a file that another process keeps current.
/// fn from_file(pool: UserPool) -> UserPool {
///     pool.with_jwks_file("/run/cognito/jwks.json")
/// }
/// # assert!(replicated().is_ok() && in_compose().is_ok());
/// ```
///
/// Two pools are equal if they have the same issuers and their keys come from the same place.
#[derive(Clone)]
#[must_use]
pub struct UserPool {
    issuers: Vec<Arc<str>>,
    jwks_url: Arc<str>,
    jwks_file: Option<PathBuf>,
    initial_jwks: Option<(Jwks, SystemTime)>,
    /// `host:port`, as in a URL.
    insecure_jwks_host: Option<Box<str>>,
    /// Fetches the keys without a network. Only the pools of a test issuer have it.
    fetcher: Option<Arc<LocalFetch>>,
}

/// The bounds keep `UserPool` unwind safe.
pub(crate) type LocalFetch = dyn DynFetchJwks + UnwindSafe + RefUnwindSafe;

impl UserPool {
    /// Creates the pool with this ID, `{region}_{name}`.
    ///
    /// Trusts both issuers that Cognito may write for the pool: the original
    /// `https://cognito-idp.{region}.amazonaws.com/{id}` and the updated
    /// `https://issuer-cognito-idp.{region}.amazonaws.com/{id}`. The keys are fetched from the
    /// original host, which answers for every pool.
    ///
    /// # Errors
    ///
    /// Returns an error if
    ///
    /// * the text is not the ID of a user pool, or
    /// * the region belongs to a partition whose hosts do not end in `amazonaws.com`: China, the
    ///   European Sovereign Cloud, and the isolated partitions. The issuers there are not confirmed;
    ///   use [`UserPool::from_issuer`].
    pub fn new(id: &str) -> Result<Self, InvalidUserPoolId> {
        let region = region_of(id).map_err(InvalidUserPoolId::new)?;
        let original = format!("https://cognito-idp.{region}.amazonaws.com/{id}");
        let updated = format!("https://issuer-cognito-idp.{region}.amazonaws.com/{id}");
        let mut pool = Self::with_issuer(&original);
        pool.issuers.push(updated.into());
        Ok(pool)
    }

    /// Creates the pool whose tokens name exactly this issuer: an emulator, a proxy, or a partition
    /// that [`UserPool::new`] does not support.
    ///
    /// The issuer is compared byte for byte. The keys are fetched from
    /// `{issuer}/.well-known/jwks.json` by default.
    ///
    /// Any host may have the scheme `http`, because an issuer is only compared. Keys are fetched
    /// over plain `http` only from a loopback host, or from the host that
    /// [`with_insecure_jwks_host`](Self::with_insecure_jwks_host) names: the verifier does not start
    /// otherwise.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not an absolute `https` or `http` URL, or contains user
    /// information, a query or a fragment.
    pub fn from_issuer(issuer: &str) -> Result<Self, InvalidUrl> {
        Self::from_issuer_and_fetcher(issuer, None)
    }

    /// Creates the pool of an issuer, whose keys this fetcher returns unless another source is set.
    pub(crate) fn from_issuer_and_fetcher(
        issuer: &str,
        fetcher: Option<Arc<LocalFetch>>,
    ) -> Result<Self, InvalidUrl> {
        check_issuer(issuer)?;
        Ok(Self { fetcher, ..Self::with_issuer(issuer) })
    }

    /// Adds an issuer whose tokens are signed with the same keys, such as that of a replica of a
    /// multi-Region pool.
    ///
    /// # Errors
    ///
    /// Returns an error if [`UserPool::from_issuer`] would return one.
    pub fn add_issuer(mut self, issuer: &str) -> Result<Self, InvalidUrl> {
        check_issuer(issuer)?;
        self.issuers.push(issuer.into());
        Ok(self)
    }

    /// Sets the URL from which the keys are fetched. The default is
    /// `{issuer}/.well-known/jwks.json` of the first issuer.
    ///
    /// Anyone who controls the keys at this URL can sign tokens for this pool. Two pools of one
    /// verifier cannot have the same URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not an absolute `https` or `http` URL, or contains user
    /// information or a fragment.
    pub fn with_jwks_url(mut self, url: &str) -> Result<Self, InvalidUrl> {
        check_url(url, PlainHttp::Anywhere)?;
        self.jwks_url = url.into();
        self.fetcher = None;
        Ok(self)
    }

    /// Sets a file from which the keys are read, instead of a URL: at every refresh and for an
    /// unknown key ID.
    ///
    /// To replace the file, rename a complete one over it, so that it is never read half written. A
    /// file that can be read counts as fetched now, however old it is, so
    /// [`max_key_age`](crate::VerifierBuilder::max_key_age) never applies. The process that writes
    /// the file has to remove it when its keys are too old to be trusted.
    pub fn with_jwks_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.jwks_file = Some(path.into());
        self
    }

    /// Sets keys that were saved earlier, so that a restart while the issuer is down serves at once.
    /// Their age counts from `fetched_at`.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use tower_cognito::{Jwks, UserPool};
    ///
    /// fn restored(pool: UserPool, saved: &str, fetched_at: SystemTime) -> UserPool {
    ///     match Jwks::from_json(saved) {
    ///         Ok(jwks) => pool.with_initial_jwks(jwks, fetched_at),
    ///         Err(_) => pool,
    ///     }
    /// }
    /// ```
    pub fn with_initial_jwks(mut self, jwks: Jwks, fetched_at: SystemTime) -> Self {
        self.initial_jwks = Some((jwks, fetched_at));
        self
    }

    /// Allows the keys to be fetched over plain `http` from this host and port, such as
    /// `cognito:9229`: an emulator in a container network.
    ///
    /// Anyone who controls that network can replace the keys. A loopback host needs no such setting.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a host, or a host and a port.
    pub fn with_insecure_jwks_host(mut self, host: &str) -> Result<Self, InvalidUrl> {
        check_url(&format!("http://{host}"), PlainHttp::Anywhere)?;
        if host.contains(['/', '?']) {
            return Err(InvalidUrl::new("it is not a host and a port"));
        }
        self.insecure_jwks_host = Some(host.into());
        Ok(self)
    }

    /// Returns the first issuer. Clients find the metadata of the authorization server there.
    ///
    /// A token may name another issuer of the pool, so do not compare the issuer of a token with
    /// this one.
    ///
    /// ```
    /// let pool = tower_cognito::UserPool::new("us-east-1_Example")?;
    /// assert_eq!(pool.issuer(), "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example");
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or("", |issuer| &**issuer)
    }

    /// Returns every issuer that a token of the pool may name.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use tower_cognito::{AccessToken, UserPool};
    ///
    /// let pool = UserPool::new("us-east-1_Example")?;
    /// let names: HashMap<_, _> =
    ///     pool.issuers().map(|issuer| (issuer.to_owned(), "example")).collect();
    /// let name_of = |token: &AccessToken| names.get(token.issuer()).copied();
    /// # assert_eq!(names.len(), 2);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| &**issuer)
    }

    pub(crate) fn issuer_names(&self) -> &[Arc<str>] {
        &self.issuers
    }

    pub(crate) fn jwks_url(&self) -> &Arc<str> {
        &self.jwks_url
    }

    pub(crate) fn jwks_file(&self) -> Option<&Path> {
        self.jwks_file.as_deref()
    }

    pub(crate) fn initial_jwks(&self) -> Option<&(Jwks, SystemTime)> {
        self.initial_jwks.as_ref()
    }

    pub(crate) fn local_fetcher(&self) -> Option<Arc<dyn DynFetchJwks>> {
        let fetcher = self.fetcher.clone().filter(|_| self.jwks_file.is_none());
        fetcher.map(|fetcher| fetcher as Arc<dyn DynFetchJwks>)
    }

    /// Returns `true` if the keys are fetched from the URL: they are neither in a file nor in this
    /// process.
    pub(crate) fn is_fetched_from_url(&self) -> bool {
        self.jwks_file.is_none() && self.fetcher.is_none()
    }

    /// Returns the host and port that keys would be fetched from over plain http, if it is not
    /// loopback.
    pub(crate) fn plain_http_host(&self) -> Option<&str> {
        let url =
            Some(&*self.jwks_url).filter(|url| self.is_fetched_from_url() && is_plain_http(url));
        host_and_port(url?)
    }

    pub(crate) fn insecure_jwks_host(&self) -> Option<&str> {
        self.insecure_jwks_host.as_deref()
    }

    fn with_issuer(issuer: &str) -> Self {
        Self {
            issuers: vec![issuer.into()],
            jwks_url: jwks_url_of(issuer),
            jwks_file: None,
            initial_jwks: None,
            insecure_jwks_host: None,
            fetcher: None,
        }
    }
}

impl PartialEq for UserPool {
    fn eq(&self, other: &Self) -> bool {
        self.issuers == other.issuers
            && self.jwks_url == other.jwks_url
            && self.jwks_file == other.jwks_file
    }
}

impl Eq for UserPool {}

impl fmt::Debug for UserPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPool")
            .field("issuers", &self.issuers)
            .field("jwks_url", &without_query(&self.jwks_url))
            .field("jwks_file", &self.jwks_file)
            .field("insecure_jwks_host", &self.insecure_jwks_host)
            .finish_non_exhaustive()
    }
}

fn jwks_url_of(issuer: &str) -> Arc<str> {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/jwks.json").into()
}

/// Accepts `[a-z]{2}(-[a-z]+)+-[0-9]_[0-9A-Za-z]+` of at most 55 bytes (AWS, `UserPoolType`; the form
/// of the region is that of AWS's list of regions).
fn region_of(id: &str) -> Result<&str, &'static str> {
    if id.is_empty() {
        return Err("it is empty");
    }
    if id.contains("://") {
        return Err("it is a URL");
    }
    if id.starts_with("arn:") {
        return Err("it is an ARN, whose last part is the ID");
    }
    if id.starts_with("cognito-idp.") {
        return Err("it is an endpoint, whose last part is the ID");
    }
    if id.starts_with("local_") {
        return Err("it is the ID of an emulator's pool");
    }
    if id.len() > 55 {
        return Err("it is longer than 55 characters");
    }
    let Some((region, name)) = id.split_once('_') else {
        return Err("it has no `_` between region and name");
    };
    if is_in_other_partition(region) {
        return Err("the issuers of this partition are not known");
    }
    if !is_region(region) {
        return Err("it does not start with a region");
    }
    if name.is_empty() {
        return Err("it has no name after `_`");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("the name after `_` has a character other than a letter or a digit");
    }
    Ok(region)
}

/// Returns `true` if the region in the ID belongs to a partition whose issuers are not known. Their
/// hosts end in `amazonaws.com.cn`, `amazonaws.eu`, `c2s.ic.gov`, `sc2s.sgov.gov`, `csp.hci.ic.gov`
/// and `cloud.adc-e.uk`.
pub(crate) fn is_in_other_partition(id: &str) -> bool {
    ["cn-", "eusc-", "us-iso", "eu-iso"].iter().any(|partition| id.starts_with(partition))
}

fn is_region(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let Some((words, number)) = text.rsplit_once('-') else {
        return false;
    };
    let Some((area, direction)) = words.split_once('-') else {
        return false;
    };
    matches!(number.as_bytes(), [b'0'..=b'9'])
        && area.len() == 2
        && is_word(area)
        && direction.split('-').all(is_word)
}

fn check_issuer(issuer: &str) -> Result<(), InvalidUrl> {
    if issuer.contains('?') {
        return Err(InvalidUrl::new("an issuer has no query"));
    }
    check_url(issuer, PlainHttp::Anywhere)
}
