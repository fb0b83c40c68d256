//! From a user pool ID or an issuer URL to the trusted issuers and the address of the JWK Set.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::Uri;

use crate::error::{InvalidUrl, InvalidUserPoolId};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPool {
    issuers: Vec<Arc<str>>,
    jwks_url: Arc<str>,
    plain_http: PlainHttp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlainHttp {
    Anywhere,
    LoopbackOnly,
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

    /// Fetches the keys from this address instead.
    ///
    /// # Errors
    ///
    /// When the text is not an absolute `https` URL (`http` for loopback alone) or holds user
    /// information or a fragment.
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
    /// As [`UserPool::from_issuer`].
    pub fn also_issuer(mut self, issuer: &str) -> Result<Self, InvalidUrl> {
        check_issuer(issuer, self.plain_http)?;
        self.issuers.push(issuer.into());
        Ok(self)
    }

    pub(crate) fn issuers(&self) -> &[Arc<str>] {
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

/// Whether this is `http` to the machine itself, which neither a proxy nor a certificate concerns.
#[cfg_attr(not(feature = "reqwest"), allow(dead_code))]
pub(crate) fn is_loopback_http(url: &str) -> bool {
    check_url(url, PlainHttp::LoopbackOnly).is_ok() && url.starts_with("http:")
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
        return Err("it is a URL, which `UserPool::from_issuer` takes");
    }
    if id.len() > 55 {
        return Err("it is longer than 55 characters");
    }
    let Some((region, name)) = id.split_once('_') else {
        return Err("it has no `_` between region and name");
    };
    if region.starts_with("cn-") || region.starts_with("eusc-") {
        return Err("the issuer of this partition is not known, use `UserPool::from_issuer`");
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

/// Accepts only what every URL parser reads alike, so that the host judged here is the host that
/// the HTTP client connects to.
fn check_url(url: &str, plain_http: PlainHttp) -> Result<(), InvalidUrl> {
    if url.is_empty() {
        return Err(InvalidUrl::new("it is empty"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && !br#""\<>^`{|}"#.contains(&byte)) {
        return Err(InvalidUrl::new("it has a character that a URL can not hold"));
    }
    if url.contains('#') {
        return Err(InvalidUrl::new("it has a fragment"));
    }
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(InvalidUrl::new("it does not begin with `https://`"));
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return Err(InvalidUrl::new("it can not be read"));
    };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
        return Err(InvalidUrl::new("it names no host"));
    };
    if authority.as_str().contains('@') {
        return Err(InvalidUrl::new("it holds user information before `@`"));
    }
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(InvalidUrl::new("its port is not a number from 1 to 65535"));
    }
    if !is_host(host) {
        return Err(InvalidUrl::new("its host is neither a name nor an address"));
    }
    if url.starts_with("http://") && plain_http == PlainHttp::LoopbackOnly && !is_loopback(host) {
        return Err(InvalidUrl::new("plain `http` is for loopback alone, use `https`"));
    }
    Ok(())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|n| n != 0)
}

fn is_host(host: &str) -> bool {
    if ipv6(host).is_some() || host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    // WHATWG URL parsers, such as the HTTP client's, read a host that ends in a number as an IPv4
    // address, in spellings that others take for a name.
    let last_label = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let is_number = last_label.bytes().all(|b| b.is_ascii_digit())
        || last_label.starts_with("0x")
        || last_label.starts_with("0X");
    !is_number && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || ipv6(host).is_some_and(|address| address.is_loopback())
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}
