//! Reads the method and the URI of the client's request from the headers that the gateway sets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::header::HeaderMap;
use axum::http::{Method, StatusCode, Uri};

/// The headers in which one kind of gateway names the client's request.
///
/// Only the gateway may set them. A gateway of another kind sets other headers, and forwards these
/// as the client sent them, so that the client would choose which request is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convention {
    gateway: &'static str,
    method: &'static str,
    uri: &'static str,
}

const ORIGINAL_METHOD: &str = "x-original-method";
const ORIGINAL_URI: &str = "x-original-uri";
/// An absolute URL; the other two are a path with a query.
const ORIGINAL_URL: &str = "x-original-url";
const FORWARDED_METHOD: &str = "x-forwarded-method";
const FORWARDED_URI: &str = "x-forwarded-uri";

const CONVENTIONS: [Convention; 5] = [
    Convention { gateway: "caddy", method: FORWARDED_METHOD, uri: FORWARDED_URI },
    Convention { gateway: "haproxy", method: ORIGINAL_METHOD, uri: ORIGINAL_URI },
    Convention { gateway: "ingress-nginx", method: ORIGINAL_METHOD, uri: ORIGINAL_URL },
    Convention { gateway: "nginx", method: ORIGINAL_METHOD, uri: ORIGINAL_URI },
    Convention { gateway: "traefik", method: FORWARDED_METHOD, uri: FORWARDED_URI },
];

impl FromStr for Convention {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = CONVENTIONS.into_iter().find(|convention| convention.gateway == name);
        found.ok_or_else(|| {
            let names = CONVENTIONS.map(|convention| convention.gateway).join(", ");
            format!("must be one of {names}")
        })
    }
}

impl Convention {
    /// Returns the subrequest with the method and the URI of the client's request.
    ///
    /// # Errors
    ///
    /// Returns an error if the headers of this convention are not set exactly once, if a header of
    /// another convention names a different request, or if the client's method or URI is invalid.
    pub fn original(self, mut request: Request) -> Result<Request, Problem> {
        let headers = request.headers();
        let method = single_value(headers, self.method)?;
        let uri = path_and_query(self.uri, single_value(headers, self.uri)?)?;
        for Convention { method: other_method, uri: other_uri, .. } in CONVENTIONS {
            if headers.get_all(other_method).iter().any(|value| value.as_bytes() != method) {
                return Err(Problem::Contradicts(other_method));
            }
            for value in headers.get_all(other_uri) {
                if path_and_query(other_uri, value.as_bytes()).ok() != Some(uri) {
                    return Err(Problem::Contradicts(other_uri));
                }
            }
        }
        let method = Method::from_bytes(method).map_err(|_| Problem::InvalidMethod)?;
        let parsed = Uri::try_from(uri).map_err(|_| Problem::InvalidUri)?;
        // The service receives the whole URI, including a fragment, which the parser has removed.
        if parsed.path_and_query().is_none_or(|parsed| parsed.as_str().as_bytes() != uri) {
            return Err(Problem::InvalidUri);
        }
        *request.method_mut() = method;
        *request.uri_mut() = parsed;
        Ok(request)
    }

    /// Describes a problem, and how to configure the gateway.
    pub fn describe(self, problem: Problem) -> String {
        let Self { gateway, method, uri } = self;
        let advice = format!(
            "FORWARD_AUTH_GATEWAY is {gateway}, so the gateway must set {method} and {uri} once, and \
             remove these headers of other gateways"
        );
        match problem {
            Problem::Missing(name) => format!("{name} is missing: {advice}"),
            Problem::Repeated(name) => format!("{name} is repeated: {advice}"),
            Problem::Contradicts(name) => format!("{name} names another request: {advice}"),
            Problem::NotAUrl(name) => format!("{name} is not an absolute URL: {advice}"),
            Problem::InvalidMethod => format!("the method in {method} is invalid"),
            Problem::InvalidUri => format!("the URI in {uri} is invalid"),
        }
    }
}

/// The reason why the client's request is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    Missing(&'static str),
    Repeated(&'static str),
    Contradicts(&'static str),
    NotAUrl(&'static str),
    InvalidMethod,
    InvalidUri,
}

impl Problem {
    /// Returns 403 if the client's request is invalid, and 500 if the gateway is misconfigured.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidMethod | Self::InvalidUri => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn single_value<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h [u8], Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        (Some(_), Some(_)) => Err(Problem::Repeated(name)),
        (None, _) => Err(Problem::Missing(name)),
    }
}

/// Returns the value without the scheme and the host, if the header has an absolute URL.
fn path_and_query<'h>(name: &'static str, value: &'h [u8]) -> Result<&'h [u8], Problem> {
    if name != ORIGINAL_URL {
        return Ok(value);
    }
    let after_scheme = value.strip_prefix(b"http://").or_else(|| value.strip_prefix(b"https://"));
    let after_scheme = after_scheme.ok_or(Problem::NotAUrl(name))?;
    // The client chooses the host. It must not be read as a part of the path or the other way round.
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    let host = after_scheme.iter().take_while(|byte| is_host(byte)).count();
    match after_scheme.split_at_checked(host) {
        Some((_, path)) if path.starts_with(b"/") => Ok(path),
        _ => Err(Problem::InvalidUri),
    }
}

/// Decides which events to log: each cause at most once a minute, because clients can repeat them.
#[derive(Debug)]
pub struct LogLimit<Cause>(Mutex<BTreeMap<Cause, Instant>>);

impl<Cause: Ord> LogLimit<Cause> {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn allows(&self, cause: Cause, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged
            .get(&cause)
            .is_none_or(|last| now.saturating_duration_since(*last) >= Duration::from_secs(60));
        if is_due {
            logged.insert(cause, now);
        }
        is_due
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(gateway: &str, headers: &[(&str, &str)]) -> Result<String, Problem> {
        let mut request = Request::new(axum::body::Body::empty());
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let request = gateway.parse::<Convention>().unwrap().original(request)?;
        Ok(format!("{} {}", request.method(), request.uri()))
    }

    const POST: [(&str, &str); 2] = [("x-original-method", "POST"), ("x-forwarded-method", "POST")];
    const ACTIVITY: [(&str, &str); 3] = [
        ("x-original-uri", "/activity?a=1"),
        ("x-original-url", "https://api.example.com/activity?a=1"),
        ("x-forwarded-uri", "/activity?a=1"),
    ];

    #[test]
    fn each_gateway_has_one_convention() {
        for convention in CONVENTIONS {
            assert_eq!(Ok(convention), convention.gateway.parse());
            let uri = ACTIVITY.into_iter().find(|(name, _)| *name == convention.uri).unwrap();
            let method = (convention.method, "POST");
            let request = original(convention.gateway, &[method, uri]);
            assert_eq!(request.as_deref(), Ok("POST /activity?a=1"), "{convention}");
            let missing = Err(Problem::Missing(convention.uri));
            assert_eq!(original(convention.gateway, &[method]), missing);
            let missing = Err(Problem::Missing(convention.method));
            assert_eq!(original(convention.gateway, &[uri]), missing);
            let repeated = Err(Problem::Repeated(convention.uri));
            assert_eq!(original(convention.gateway, &[method, uri, uri]), repeated);
            let repeated = Err(Problem::Repeated(convention.method));
            assert_eq!(original(convention.gateway, &[method, method, uri]), repeated);
        }
        for name in ["", "Nginx", "nginx,caddy", "nginx ", "envoy"] {
            assert!(name.parse::<Convention>().is_err(), "{name}");
        }
    }

    #[test]
    fn headers_of_other_conventions_must_name_the_same_request() {
        let all = [POST.as_slice(), ACTIVITY.as_slice()].concat();
        for convention in CONVENTIONS {
            let request = original(convention.gateway, &all);
            assert_eq!(request.as_deref(), Ok("POST /activity?a=1"), "{convention}");
            for at in 0..all.len() {
                let (name, value) = all[at];
                if name == convention.method || name == convention.uri {
                    continue;
                }
                for other in
                    ["GET", "/public/x", "http://h/public/x", "", &format!("{value} ")[1..]]
                {
                    let mut changed = all.clone();
                    changed[at] = (name, other);
                    let problem = original(convention.gateway, &changed).unwrap_err();
                    assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
                    assert!(matches!(problem, Problem::Contradicts(named) if named == name));
                }
                let mut repeated = all.clone();
                repeated.push((name, "other"));
                assert!(original(convention.gateway, &repeated).is_err(), "{convention}: {name}");
            }
        }
    }

    #[test]
    fn url_of_ingress_nginx_is_split_after_the_host() {
        for (url, expected) in [
            ("http://h/", Ok("POST /")),
            ("https://h:8443//a?b=http://c/d", Ok("POST //a?b=http://c/d")),
            ("http://[::1]:80/a", Ok("POST /a")),
            ("http:///a", Ok("POST /a")),
            ("http://h", Err(Problem::InvalidUri)),
            ("http://h?/public/x", Err(Problem::InvalidUri)),
            ("http://h?q/public/x", Err(Problem::InvalidUri)),
            ("http://u@h/public/x", Err(Problem::InvalidUri)),
            ("http://h#/public/x", Err(Problem::InvalidUri)),
            ("http://h/a#/../b", Err(Problem::InvalidUri)),
            ("http://h\\/public/x", Err(Problem::InvalidUri)),
            ("ftp://h/a", Err(Problem::NotAUrl(ORIGINAL_URL))),
            ("/a", Err(Problem::NotAUrl(ORIGINAL_URL))),
        ] {
            let request = original(
                "ingress-nginx",
                &[("x-original-method", "POST"), ("x-original-url", url)],
            );
            assert_eq!(request.as_deref(), expected.as_ref().copied(), "{url}");
        }
    }

    #[test]
    fn uri_that_is_not_ascii_is_kept() {
        let request =
            original("nginx", &[("x-original-method", "GET"), ("x-original-uri", "/ä?q=é")]);
        assert_eq!(request.as_deref(), Ok("GET /ä?q=é"));
    }

    #[test]
    fn each_cause_is_logged_once_a_minute() {
        let limit = LogLimit::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (missing, repeated) = (Problem::Missing(ORIGINAL_URI), Problem::Repeated(ORIGINAL_URI));
        assert!(limit.allows(missing, at(0)));
        assert!(!limit.allows(missing, at(59)));
        assert!(limit.allows(repeated, at(59)));
        assert!(limit.allows(Problem::Missing(ORIGINAL_METHOD), at(59)));
        assert!(limit.allows(missing, at(60)));
        assert!(!limit.allows(missing, at(61)));
        assert!(!limit.allows(repeated, at(61)));
        // A clock never goes back, but two threads may reach the lock in another order.
        assert!(!limit.allows(missing, at(10)));
    }
}
