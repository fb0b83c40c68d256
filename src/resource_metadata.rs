//! The metadata document of a protected resource (RFC 9728), as a service.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde_json::{Map, Value};
use tower_service::Service;

use crate::error::InvalidUrl;
use crate::scope::{Requirement, Scope};
use crate::url::{PlainHttp, check_url};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Describes a protected resource and the issuers of its tokens.
///
/// It is a Tower service that answers with the metadata document of a protected resource
/// ([RFC 9728]). From it, a client that knows only the API learns where to get a token. Model
/// Context Protocol clients fetch it.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_cognito::{RequireToken, ResourceMetadata, UserPool};
///
/// # fn example(verifier: tower_cognito::Verifier) -> Result<Router, Box<dyn std::error::Error>> {
/// let pool = UserPool::new("us-east-1_Example")?;
/// let metadata = ResourceMetadata::new("https://api.example.com/mcp", [pool.issuer()])?
///     .with_scopes(["mcp/call"])
///     .with_name("Example");
/// assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/mcp");
///
/// let app = Router::new()
///     .route("/mcp", post(|| async {}))
///     .layer(RequireToken::new(verifier).resource_metadata(&metadata))
///     .route_service(metadata.path(), metadata.clone()); // after the layer: it needs no token
/// # Ok(app)
/// # }
/// ```
///
/// Every challenge then contains `resource_metadata="…"` with the [URL](Self::url) of the document.
/// The URL and the document contain only configured values, and never the `Host` header, which a
/// client can choose.
///
/// Also set [`Rules::with_audience`](crate::Rules::with_audience) to the identifier of the resource, so that a
/// token for another resource is rejected. Cognito writes `aud` into the tokens of users whose client
/// named the resource (RFC 8707).
///
/// [RFC 9728]: https://www.rfc-editor.org/rfc/rfc9728
#[derive(Clone, Debug)]
#[must_use]
pub struct ResourceMetadata {
    document: Arc<Map<String, Value>>,
    url: Arc<str>,
    path: Arc<str>,
}

impl ResourceMetadata {
    /// Creates the metadata of the resource with this URL as its identifier, and with these issuers
    /// of its tokens.
    ///
    /// A client sends its secret to an authorization server that the document names, so `https` is
    /// required (RFC 9728 section 2, RFC 8414 section 2). Plain `http` is allowed only for loopback
    /// hosts; [`new_insecure`](Self::new_insecure) allows it for every host.
    ///
    /// # Errors
    ///
    /// Returns an error if
    ///
    /// * a text is not an absolute `https` URL, or an `http` URL with a loopback host,
    /// * a text contains user information, a query or a fragment, or
    /// * there is no authorization server: a client could not find out where to get a token.
    pub fn new<'a>(
        resource: &str,
        authorization_servers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidUrl> {
        Self::with_plain_http(PlainHttp::LoopbackOnly, resource, authorization_servers)
    }

    /// Creates the metadata as [`new`](Self::new) does, and also allows plain `http` for hosts that
    /// are not loopback: an emulator in a container network.
    ///
    /// **Anyone who controls that network gets the secrets of the clients, and their tokens.**
    ///
    /// ```
    /// use tower_cognito::{InvalidUrl, ResourceMetadata};
    ///
    /// /// In a compose file, where the services have the names `mcp` and `cognito`.
    /// fn in_compose() -> Result<ResourceMetadata, InvalidUrl> {
    ///     ResourceMetadata::new_insecure("http://mcp:8080/mcp", ["http://cognito:9229/local_1a2b3c"])
    /// }
    /// # assert!(in_compose().is_ok());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if [`new`](Self::new) would return one for the same texts with `https`.
    pub fn new_insecure<'a>(
        resource: &str,
        authorization_servers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidUrl> {
        Self::with_plain_http(PlainHttp::Anywhere, resource, authorization_servers)
    }

    fn with_plain_http<'a>(
        plain_http: PlainHttp,
        resource: &str,
        authorization_servers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidUrl> {
        check_identifier(resource, plain_http)?;
        let mut servers = Vec::new();
        for server in authorization_servers {
            check_identifier(server, plain_http)?;
            servers.push(server);
        }
        if servers.is_empty() {
            return Err(InvalidUrl::new("the list of authorization servers is empty"));
        }
        let mut document = Map::new();
        document.insert("resource".to_owned(), resource.into());
        document.insert("authorization_servers".to_owned(), servers.into());
        // The layers never read a token from a query or a form.
        document.insert("bearer_methods_supported".to_owned(), vec!["header"].into());
        // RFC 9728 section 3.1: insert the well-known string between host and path, and remove a
        // slash that follows the host if the path is otherwise empty.
        let path = resource.parse::<Uri>().map_or(String::new(), |uri| uri.path().to_owned());
        let origin = resource.strip_suffix(&*path).unwrap_or(resource);
        let path = format!("{WELL_KNOWN}{}", if path == "/" { "" } else { &*path });
        let url = format!("{origin}{path}").into();
        Ok(Self { document: Arc::new(document), url, path: path.into() })
    }

    /// Sets the scopes that a client may request (`scopes_supported`). By default, the document does
    /// not list them.
    ///
    /// # Panics
    ///
    /// Panics if the list is empty, or if a text is not exactly one scope.
    #[track_caller]
    pub fn with_scopes<'a>(self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        let scopes = Requirement::parse_or_panic(Requirement::all_of(scopes));
        let scopes = scopes.scopes().iter().map(Scope::as_str).collect::<Vec<_>>();
        self.set("scopes_supported", scopes.into())
    }

    /// Sets a human-readable name (`resource_name`). By default, the document has none.
    pub fn with_name(self, name: &str) -> Self {
        self.set("resource_name", name.into())
    }

    /// Returns the URL of the document.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the path of [`url`](Self::url). Mount the service there.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn set(mut self, member: &str, value: Value) -> Self {
        Arc::make_mut(&mut self.document).insert(member.to_owned(), value);
        self
    }
}

impl<B> Service<Request<B>> for ResourceMetadata {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = Response::new(String::new());
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return ready(Ok(response));
        }
        // Strings and lists of strings can always be written as JSON.
        let document = serde_json::to_string(&*self.document).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
        if request.method() == Method::GET {
            *response.body_mut() = document;
        }
        ready(Ok(response))
    }
}

fn check_identifier(url: &str, plain_http: PlainHttp) -> Result<(), InvalidUrl> {
    if url.contains('?') {
        return Err(InvalidUrl::new("it contains a query"));
    }
    check_url(url, plain_http)
}
