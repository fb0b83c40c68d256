//! Which URLs are accepted, of issuers and of all else that is configured.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::error::InvalidUrl;

/// Where plain `http` may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    Anywhere,
    LoopbackOnly,
}

/// Accepts only what every URL parser reads alike, so that the host judged here is the host that
/// the HTTP client connects to.
pub(crate) fn check_url(url: &str, plain_http: PlainHttp) -> Result<(), InvalidUrl> {
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

/// What may be shown of an address: a query may hold a credential.
pub(crate) fn without_query(address: &str) -> &str {
    address.split('?').next().unwrap_or_default()
}

/// Whether this is `http` to the machine itself, which neither a proxy nor a certificate concerns.
#[cfg_attr(not(feature = "reqwest"), allow(dead_code))]
pub(crate) fn is_loopback_http(url: &str) -> bool {
    check_url(url, PlainHttp::LoopbackOnly).is_ok() && url.starts_with("http:")
}

/// Returns `true` if the URL has the scheme `http` and its host is not loopback.
pub(crate) fn is_plain_http(url: &str) -> bool {
    url.starts_with("http://") && check_url(url, PlainHttp::LoopbackOnly).is_err()
}

/// Returns the host of a URL, with its port if the URL has one.
pub(crate) fn host_and_port(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?']).next()
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
