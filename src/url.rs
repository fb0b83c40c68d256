//! Which URLs are accepted as issuers and in other settings.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::error::InvalidUrl;

/// The hosts for which plain `http` is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    Anywhere,
    LoopbackOnly,
}

/// Returns an error if the URL is invalid, or if URL parsers could read it in different ways.
///
/// The host that is checked here must be the host that the HTTP client connects to, although the
/// client parses the URL with another parser.
pub(crate) fn check_url(url: &str, plain_http: PlainHttp) -> Result<(), InvalidUrl> {
    if url.is_empty() {
        return Err(InvalidUrl::new("it is empty"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && !br#""\<>^`{|}"#.contains(&byte)) {
        return Err(InvalidUrl::new("it contains a character that is not allowed in a URL"));
    }
    if url.contains('#') {
        return Err(InvalidUrl::new("it contains a fragment"));
    }
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(InvalidUrl::new("it does not begin with `https://`"));
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return Err(InvalidUrl::new("it cannot be parsed"));
    };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
        return Err(InvalidUrl::new("it has no host"));
    };
    if authority.as_str().contains('@') {
        return Err(InvalidUrl::new("it contains user information before `@`"));
    }
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(InvalidUrl::new("its port is not a number from 1 to 65535"));
    }
    if !is_host(host) {
        return Err(InvalidUrl::new("its host is neither a DNS name nor an IP address"));
    }
    if url.starts_with("http://") && plain_http == PlainHttp::LoopbackOnly && !is_loopback(host) {
        return Err(InvalidUrl::new("plain `http` is allowed only for loopback hosts"));
    }
    Ok(())
}

/// Returns the URL without its query, for logs and `Debug` output: a query may contain a credential.
pub(crate) fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// Returns `true` if this is plain `http` to a loopback host, which needs neither a proxy nor
/// certificates.
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
    // WHATWG URL parsers, such as that of the HTTP client, read a host whose last label is a number as
    // an IPv4 address, also in spellings such as `0x7f.1` that other parsers take for a name.
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
