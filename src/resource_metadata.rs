//! The metadata of a protected resource ([RFC 9728]): how a client that knows only the API finds
//! out where to get a token. Model Context Protocol clients ask for it.
//!
//! ```
//! use axum::{Router, routing::post};
//! use tower_cognito::{RequireToken, ResourceMetadata, UserPool};
//!
//! # fn example(verifier: tower_cognito::Verifier) -> Result<Router, Box<dyn std::error::Error>> {
//! let pool = UserPool::new("us-east-1_Example")?;
//! let metadata = ResourceMetadata::new("https://api.example.com/mcp", [pool.issuer()])?
//!     .scopes(["mcp/call"])
//!     .name("Example");
//! assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/mcp");
//!
//! let app = Router::new()
//!     .route("/mcp", post(|| async {}))
//!     .layer(RequireToken::new(verifier).resource_metadata(&metadata))
//!     .route_service(metadata.path(), metadata.clone()); // after the layer: anybody may read it
//! # Ok(app)
//! # }
//! ```
//!
//! Every challenge then has `resource_metadata="…"` with the [URL](ResourceMetadata::url) of the
//! document. It is made of what is configured, never of the `Host` header, which a client can
//! choose.
//!
//! Such a service should also be built with [`Rules::audience`](crate::Rules::audience), so that
//! a token for another resource is refused. Cognito writes an `aud` into tokens of users whose
//! client named the resource (RFC 8707).
//!
//! [RFC 9728]: https://www.rfc-editor.org/rfc/rfc9728

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

/// A protected resource and where tokens for it come from: a Tower service that answers with the
/// document of RFC 9728. See the [module docs](crate::resource_metadata).
#[derive(Clone, Debug)]
#[must_use]
pub struct ResourceMetadata {
    document: Arc<Map<String, Value>>,
    url: Arc<str>,
    path: Arc<str>,
}

impl ResourceMetadata {
    /// The resource with this identifier, which is its URL, and the issuers of its tokens.
    ///
    /// # Errors
    ///
    /// When a text is not an absolute `https` URL (`http` for loopback alone), or holds user
    /// information, a query or a fragment.
    pub fn new<'a>(
        resource: &str,
        authorization_servers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidUrl> {
        check(resource)?;
        let mut servers = Vec::new();
        for server in authorization_servers {
            check(server)?;
            servers.push(server);
        }
        let mut document = Map::new();
        document.insert("resource".to_owned(), resource.into());
        // RFC 9728 section 3.2: what has no values is left out.
        if !servers.is_empty() {
            document.insert("authorization_servers".to_owned(), servers.into());
        }
        // A token in a query or a form is never looked for.
        document.insert("bearer_methods_supported".to_owned(), vec!["header"].into());
        // RFC 9728 section 3.1: the well-known string goes between host and path, and a slash
        // that ends the host goes away.
        let path = resource.parse::<Uri>().map_or(String::new(), |uri| uri.path().to_owned());
        let origin = resource.strip_suffix(&*path).unwrap_or(resource);
        let path = format!("{WELL_KNOWN}{}", if path == "/" { "" } else { &*path });
        let url = format!("{origin}{path}").into();
        Ok(Self { document: Arc::new(document), url, path: path.into() })
    }

    /// The scopes that a client may ask for (`scopes_supported`).
    ///
    /// # Panics
    ///
    /// When there are none, or a text is not one scope.
    #[track_caller]
    pub fn scopes<'a>(self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        let scopes = Requirement::parse_or_panic(Requirement::all_of(scopes));
        let scopes = scopes.scopes().iter().map(Scope::as_str).collect::<Vec<_>>();
        self.set("scopes_supported", scopes.into())
    }

    /// A name for people (`resource_name`).
    pub fn name(self, name: &str) -> Self {
        self.set("resource_name", name.into())
    }

    /// Where clients find the document.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The path of that URL: where to mount the service.
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
        // Strings and lists of strings always have a JSON form.
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

fn check(url: &str) -> Result<(), InvalidUrl> {
    if url.contains('?') {
        return Err(InvalidUrl::new("it contains a query"));
    }
    check_url(url, PlainHttp::LoopbackOnly)
}
