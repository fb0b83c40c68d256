//! Fetching a JWK Set: the trait, and its implementation over HTTP.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::error::RefreshError;

/// Fetches the JWK Set of an issuer.
///
/// A closure is enough. It is run with a limit of 5 seconds, one at a time for each pool.
///
/// It runs on the thread of this crate that refreshes the keys of all verifiers, and not on a
/// runtime of the caller. The thread has a tokio runtime with timers and IO, so tokio's functions
/// work in it. It must not block: that would delay the refresh and the time limits of every
/// verifier in the process. Use `tokio::task::spawn_blocking` for work that blocks.
///
/// A panic in it counts as a failed fetch. With `panic = "abort"` it ends the process, as any
/// other panic does.
///
/// The exception is a tokio runtime with paused time, which only tests have: a verifier that is
/// started inside of one fetches there.
///
/// ```
/// use tower_cognito::{ClientIds, JwksDocument, RefreshError, Rules, TestIssuer, Verifier};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = TestIssuer::new();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
/// let document = issuer.jwks_json();
/// let verifier = Verifier::builder(rules)
///     .jwks_fetcher(move |_url: String| {
///         let document = document.clone();
///         async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
///     })
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// A type can also implement the trait, and say how long the document may be kept:
///
/// ```
/// use std::time::Duration;
/// use tower_cognito::{FetchJwks, JwksDocument, RefreshError};
///
/// struct FromStore;
///
/// impl FetchJwks for FromStore {
///     async fn fetch_jwks(&self, url: &str) -> Result<JwksDocument, RefreshError> {
///         let document = read_from_store(url).await.map_err(RefreshError::transport)?;
///         Ok(JwksDocument::new(document).with_max_age(Duration::from_secs(120)))
///     }
/// }
/// # async fn read_from_store(_: &str) -> std::io::Result<Vec<u8>> { Ok(vec![]) }
/// ```
pub trait FetchJwks: Send + Sync + 'static {
    /// Fetches the document at `url`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no complete document. The current keys stay in use.
    fn fetch_jwks(
        &self,
        url: &str,
    ) -> impl Future<Output = Result<JwksDocument, RefreshError>> + Send;
}

impl<F, Fut> FetchJwks for F
where
    F: Fn(String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<JwksDocument, RefreshError>> + Send,
{
    fn fetch_jwks(
        &self,
        url: &str,
    ) -> impl Future<Output = Result<JwksDocument, RefreshError>> + Send {
        self(url.to_owned())
    }
}

/// Contains a JWK Set as it was fetched, before it is parsed.
#[derive(Clone, Debug)]
pub struct JwksDocument {
    pub(crate) body: Bytes,
    pub(crate) max_age: Option<Duration>,
}

impl JwksDocument {
    /// Creates a document from a response body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), max_age: None }
    }

    /// Sets how long the issuer allows the document to be kept (`Cache-Control: max-age`).
    ///
    /// It can shorten the time to the next refresh, down to 60 seconds. It never lengthens it.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }
}

/// [`FetchJwks`] behind a pointer.
pub(crate) trait DynFetchJwks: Send + Sync {
    fn fetch<'a>(&'a self, url: &'a str) -> FetchFuture<'a>;
}

type FetchFuture<'a> =
    Pin<Box<dyn Future<Output = Result<JwksDocument, RefreshError>> + Send + 'a>>;

impl<F: FetchJwks> DynFetchJwks for F {
    fn fetch<'a>(&'a self, url: &'a str) -> FetchFuture<'a> {
        Box::pin(self.fetch_jwks(url))
    }
}

#[cfg(feature = "reqwest")]
pub(crate) use over_http::{HttpFetch, why_no_client};

#[cfg(feature = "reqwest")]
mod over_http {
    use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
    use reqwest::{Client, ClientBuilder, StatusCode, redirect};

    use super::{Duration, FetchJwks, JwksDocument, RefreshError};
    use crate::error::{InvalidJwks, with_causes};
    use crate::jwks::MAX_DOCUMENT_LEN;
    use crate::random;
    use crate::url::is_loopback_http;

    const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

    /// One GET over HTTP/1.1, within limits that the server cannot extend.
    #[derive(Debug)]
    pub(crate) struct HttpFetch {
        // Each is built only if a pool needs it: the first cannot be built on a machine without CA
        // certificates, and loopback needs none.
        anywhere: Option<Client>,
        loopback: Option<Client>,
    }

    impl HttpFetch {
        pub(crate) fn for_urls<'a>(
            urls: impl Iterator<Item = &'a str> + Clone,
            builder: ClientBuilder,
        ) -> Result<Self, reqwest::Error> {
            let mut clients = Self { anywhere: None, loopback: None };
            if urls.clone().any(|url| !is_loopback_http(url)) {
                random::prepare();
                clients.anywhere = Some(with_limits(builder).build()?);
            }
            if urls.clone().any(is_loopback_http) {
                // reqwest would send even this through the proxy of HTTP_PROXY.
                let builder = Client::builder().no_proxy().tls_certs_only([]);
                clients.loopback = Some(with_limits(builder).build()?);
            }
            Ok(clients)
        }
    }

    impl FetchJwks for HttpFetch {
        async fn fetch_jwks(&self, url: &str) -> Result<JwksDocument, RefreshError> {
            let client = if is_loopback_http(url) { &self.loopback } else { &self.anywhere };
            let Some(client) = client else {
                return Err(RefreshError::transport("no HTTP client was built for this URL"));
            };
            let request = client.get(url).header(ACCEPT, "application/json");
            let mut response = request.send().await.map_err(transport)?;

            if response.status() != StatusCode::OK {
                let error = RefreshError::status(response.status().as_u16());
                return Err(match retry_after(response.status(), response.headers()) {
                    Some(delay) => error.with_retry_after(delay),
                    None => error,
                });
            }
            // No encoding was requested, and none is decoded: a small response could be a large
            // document.
            if response.headers().contains_key(CONTENT_ENCODING) {
                return Err(RefreshError::document(InvalidJwks::new("it is compressed")));
            }
            let max_age = max_age(response.headers());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(transport)? {
                if body.len().saturating_add(chunk.len()) > MAX_DOCUMENT_LEN {
                    let problem = InvalidJwks::new("it is longer than 64 KiB");
                    return Err(RefreshError::document(problem));
                }
                body.extend_from_slice(&chunk);
            }
            let document = JwksDocument::new(body);
            Ok(match max_age {
                Some(max_age) => document.with_max_age(max_age),
                None => document,
            })
        }
    }

    /// Returns why no client could be built, in the terms of what the operator can set.
    pub(crate) fn why_no_client(error: &reqwest::Error) -> String {
        let text = with_causes(error);
        // The platform's certificates are loaded by a crate whose error is only a text.
        if !text.contains("CA certificates were loaded") {
            return text;
        }
        let sources = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(|name| {
            let path = std::env::var_os(name)?;
            Some(format!("`{}` (`{name}`)", path.display()))
        });
        let sources = sources.collect::<Vec<_>>().join(" and ");
        let sources = if sources.is_empty() { "the system" } else { &sources };
        format!("no CA certificates were loaded from {sources}")
    }

    /// Sets the limits of this crate. They are set last, so that they replace earlier ones. The `no_…`
    /// methods exist whatever features of reqwest an application turns on.
    fn with_limits(builder: ClientBuilder) -> ClientBuilder {
        builder
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            // Keep no connection: by the next refresh most servers have closed it, and after a
            // suspend the client would not know.
            .pool_max_idle_per_host(0)
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
    }

    /// Leaves the URL out: it is a field of the event already.
    fn transport(error: reqwest::Error) -> RefreshError {
        if error.is_timeout() {
            return RefreshError::timed_out();
        }
        RefreshError::transport(error.without_url())
    }

    fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let is_honored =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let value = headers.get(RETRY_AFTER).filter(|_| is_honored)?;
        Some(Duration::from_secs(value.to_str().ok()?.trim().parse().ok()?))
    }

    fn max_age(headers: &HeaderMap) -> Option<Duration> {
        let directives = headers.get(CACHE_CONTROL)?.to_str().ok()?;
        let seconds = directives.split(',').find_map(|directive| {
            let (name, value) = directive.trim().split_once('=')?;
            name.eq_ignore_ascii_case("max-age").then_some(value)
        })?;
        Some(Duration::from_secs(seconds.trim_matches('"').parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use http::HeaderValue;

        use super::*;

        #[track_caller]
        fn check_max_age(value: &'static str, expected: Option<u64>) {
            let headers = [(CACHE_CONTROL, HeaderValue::from_static(value))];
            let headers = HeaderMap::from_iter(headers);
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{value}");
        }

        #[test]
        fn max_age_is_read_if_it_is_a_number() {
            check_max_age("max-age=60", Some(60));
            check_max_age("public, max-age=60, must-revalidate", Some(60));
            check_max_age("Max-Age=\"60\"", Some(60));
            check_max_age("no-cache", None);
            check_max_age("s-maxage=60", None);
            check_max_age("max-age", None);
            check_max_age("max-age=-1", None);
            check_max_age("max-age=soon", None);
            check_max_age("max-age=99999999999999999999", None);
        }
    }
}
