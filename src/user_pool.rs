//! From a user pool ID or an issuer URL to the trusted issuers and the address of the JWK Set.

use std::fmt;
use std::sync::Arc;

use crate::error::{InvalidUrl, InvalidUserPoolId};
use crate::url::{PlainHttp, check_url, without_query};

/// A Cognito user pool: which issuers its tokens may name, and where its keys are.
///
/// ```
/// use tower_cognito::UserPool;
///
/// let pool = UserPool::new("ap-northeast-1_AbCdEfGhI")?;
///
/// // An emulator, or a proxy in front of the real thing.
/// let emulated = UserPool::from_issuer("http://127.0.0.1:4566/us-east-1_Local")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What else can be needed:
///
/// ```
/// use tower_cognito::{InvalidUrl, UserPool};
///
/// /// A multi-Region pool, whose keys are fetched through a proxy.
/// fn replicated() -> Result<UserPool, InvalidUrl> {
///     UserPool::from_issuer("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example")?
///         .add_issuer("https://cognito-idp.us-west-2.amazonaws.com/us-east-1_Example")?
///         .jwks_url("https://proxy.example/us-east-1_Example/jwks.json")
/// }
///
/// /// An emulator in the network of containers.
/// fn in_compose() -> Result<UserPool, InvalidUrl> {
///     UserPool::from_issuer_allowing_plain_http_anywhere("http://cognito:9229/local_1a2b3c")
/// }
/// # assert!(replicated().is_ok() && in_compose().is_ok());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct UserPool {
    issuers: Vec<Arc<str>>,
    jwks_url: Arc<str>,
    plain_http: PlainHttp,
}

impl UserPool {
    /// The pool with this ID, `{region}_{name}`.
    ///
    /// Trusts both issuers that Cognito may write for the pool, the original
    /// `https://cognito-idp.{region}.amazonaws.com/{id}` and the updated
    /// `https://issuer-cognito-idp.{region}.amazonaws.com/{id}`, and fetches from the original
    /// host, which always answers.
    ///
    /// # Errors
    ///
    /// When the text is no such ID. Pools in China and in the European Sovereign Cloud, whose
    /// issuer hosts are not confirmed, are refused too: use [`UserPool::from_issuer`] for them.
    pub fn new(id: &str) -> Result<Self, InvalidUserPoolId> {
        let region = region_of(id).map_err(InvalidUserPoolId::new)?;
        let original = format!("https://cognito-idp.{region}.amazonaws.com/{id}");
        let updated = format!("https://issuer-cognito-idp.{region}.amazonaws.com/{id}");
        Ok(Self {
            jwks_url: jwks_url_of(&original),
            issuers: vec![original.into(), updated.into()],
            plain_http: PlainHttp::LoopbackOnly,
        })
    }

    /// The pool whose tokens name exactly this issuer: an emulator, a proxy, or a partition that
    /// [`UserPool::new`] does not know. Its keys are expected at `{issuer}/.well-known/jwks.json`.
    ///
    /// # Errors
    ///
    /// When the text is not an absolute `https` URL (`http` for loopback alone) or holds user
    /// information, a query or a fragment.
    pub fn from_issuer(issuer: &str) -> Result<Self, InvalidUrl> {
        Self::with_issuer(issuer, PlainHttp::LoopbackOnly)
    }

    /// [`UserPool::from_issuer`] for an emulator that is reached over plain `http` by a name, as
    /// in a container network. Whoever can touch that network can replace the keys.
    ///
    /// # Errors
    ///
    /// As [`UserPool::from_issuer`], but `http` is accepted for every host.
    pub fn from_issuer_allowing_plain_http_anywhere(issuer: &str) -> Result<Self, InvalidUrl> {
        Self::with_issuer(issuer, PlainHttp::Anywhere)
    }

    /// Fetches the keys from this address instead. Whoever's keys are there signs for this pool: two
    /// pools must not have the same one.
    ///
    /// # Errors
    ///
    /// When the text is not an absolute `https` URL (`http` for loopback alone, or where the
    /// pool's issuer may have it) or holds user information or a fragment.
    pub fn jwks_url(mut self, url: &str) -> Result<Self, InvalidUrl> {
        check_url(url, self.plain_http)?;
        self.jwks_url = url.into();
        Ok(self)
    }

    /// Trusts one more issuer, whose tokens are signed with the same keys: a replica of a
    /// multi-Region pool.
    ///
    /// # Errors
    ///
    /// As [`UserPool::from_issuer`], or as the other way in which this pool was made.
    pub fn add_issuer(mut self, issuer: &str) -> Result<Self, InvalidUrl> {
        check_issuer(issuer, self.plain_http)?;
        self.issuers.push(issuer.into());
        Ok(self)
    }

    /// The issuer of the pool's tokens; of several that are trusted, the first. It is where
    /// clients find the authorization server's own metadata. A token of the pool may name another
    /// of them, so it is not what to compare a token's issuer with.
    ///
    /// ```
    /// let pool = tower_cognito::UserPool::new("us-east-1_Example")?;
    /// assert_eq!(pool.issuer(), "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Example");
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or("", |issuer| &**issuer)
    }

    /// Every issuer that a token of the pool may name.
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

    pub(crate) fn keys_address(&self) -> &Arc<str> {
        &self.jwks_url
    }

    fn with_issuer(issuer: &str, plain_http: PlainHttp) -> Result<Self, InvalidUrl> {
        check_issuer(issuer, plain_http)?;
        Ok(Self { issuers: vec![issuer.into()], jwks_url: jwks_url_of(issuer), plain_http })
    }
}

impl fmt::Debug for UserPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPool")
            .field("issuers", &self.issuers)
            .field("jwks_url", &without_query(&self.jwks_url))
            .field("plain_http", &self.plain_http)
            .finish()
    }
}

fn jwks_url_of(issuer: &str) -> Arc<str> {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/jwks.json").into()
}

/// `[a-z]{2}(-[a-z]+)+-[0-9]_[0-9A-Za-z]+`, at most 55 bytes
/// (AWS, `UserPoolType`; the region's form is the regions' own).
fn region_of(id: &str) -> Result<&str, &'static str> {
    if id.is_empty() {
        return Err("it is empty");
    }
    if id.contains("://") {
        return Err("it is a URL; set it as the issuer (`UserPool::from_issuer`)");
    }
    if id.len() > 55 {
        return Err("it is longer than 55 characters");
    }
    let Some((region, name)) = id.split_once('_') else {
        return Err("it has no `_` between region and name");
    };
    if region.starts_with("cn-") || region.starts_with("eusc-") {
        return Err("the issuer of this partition is not known; set it (`UserPool::from_issuer`)");
    }
    if !is_region(region) {
        return Err("it does not begin with a region");
    }
    if name.is_empty() {
        return Err("it has no name after `_`");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("the name after `_` is not made of letters and digits");
    }
    Ok(region)
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

fn check_issuer(issuer: &str, plain_http: PlainHttp) -> Result<(), InvalidUrl> {
    if issuer.contains('?') {
        return Err(InvalidUrl::new("an issuer has no query"));
    }
    check_url(issuer, plain_http)
}
