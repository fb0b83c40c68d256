//! The layer that requires a valid access token.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::bearer::{Credentials, Scheme, credentials};
use super::drain::{self, Drains};
use super::response::{ResponseBody, ResponseFuture};
use crate::error::VerifyError;
use crate::rejection::{Rejection, RejectionBody, RejectionConfig};
use crate::resource_metadata::ResourceMetadata;
use crate::scope_table::{RouteRequirement, ScopeTable};
use crate::telemetry;
use crate::verifier::Verifier;
use crate::verify::AccessToken;

/// Requires a valid access token, and puts that [`AccessToken`] into the request's extensions.
///
/// See the [module docs](crate::layer) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireToken {
    config: Arc<LayerConfig>,
}

#[derive(Clone, Debug)]
struct LayerConfig {
    verifier: Verifier,
    rejection_config: Arc<RejectionConfig>,
    /// Whether nothing in `rejection_config` was set. Then a request with a token gets no
    /// [`LayerMarker`], see there.
    has_default_config: bool,
    table: Option<ScopeTable>,
    scheme: Scheme,
    anonymous: Anonymous,
    drains: Drains,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anonymous {
    Allow,
    Reject,
}

impl RequireToken {
    /// Requires a token that this verifier accepts.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            config: Arc::new(LayerConfig {
                verifier,
                rejection_config: Arc::default(),
                has_default_config: true,
                table: None,
                scheme: Scheme::Bearer,
                anonymous: Anonymous::Reject,
                drains: Drains::default(),
            }),
        }
    }

    /// Sets the `realm` of every challenge, including those of
    /// [`RequireScope`](crate::RequireScope) layers inside. The default is `api`.
    ///
    /// # Panics
    ///
    /// Panics if the text is empty, or contains a quote, a backslash, a control character or a
    /// non-ASCII character.
    #[track_caller]
    pub fn realm(mut self, realm: &str) -> Self {
        self.rejection_config_mut().set_realm(realm);
        self
    }

    /// Sets the function that creates the body of every rejection, including those of
    /// [`RequireScope`](crate::RequireScope) layers inside. The default is
    /// [`RejectionBody::json`].
    ///
    /// * The status and the challenge do not change.
    /// * Responses to HEAD and gRPC responses have no body.
    /// * A rejection with status 500 always has the default body, because no `RequireToken`
    ///   processed its request.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use tower_cognito::{RejectionBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).rejection_body(|rejection| {
    ///     let (code, description) = (rejection.error_code(), rejection.error_description());
    ///     let text = format!("{code}: {description}\n");
    ///     RejectionBody::new(HeaderValue::from_static("text/plain"), text)
    /// })
    /// # }
    /// ```
    pub fn rejection_body(
        mut self,
        body: impl Fn(&Rejection) -> RejectionBody + Send + Sync + 'static,
    ) -> Self {
        self.rejection_config_mut().set_body(body);
        self
    }

    /// Requires scopes by method and path. Requests that match no row are rejected. A second call
    /// replaces the table of the first.
    ///
    /// See [`ScopeTable`] for an example.
    pub fn scope_table(mut self, table: ScopeTable) -> Self {
        Arc::make_mut(&mut self.config).table = Some(table);
        self
    }

    /// Sets the metadata document that every challenge names, so that a client can find out where
    /// to get a token. By default, no document is named.
    ///
    /// See [`ResourceMetadata`] for an example.
    pub fn resource_metadata(mut self, metadata: &ResourceMetadata) -> Self {
        self.rejection_config_mut().set_resource_metadata(metadata.url());
        self
    }

    /// Rejects gRPC requests with an HTTP status, too. By default, the rejection of a gRPC request
    /// has HTTP status 200 and a gRPC status.
    ///
    /// **Set this if a gateway asks this service whether a request may pass:** if the gateway
    /// forwards the request's content type, it would read HTTP status 200 as permission.
    ///
    /// * It also applies to [`RequireScope`](crate::RequireScope) layers inside, and to gRPC-Web.
    /// * A gRPC client then reports an HTTP error instead of `UNAUTHENTICATED` or
    ///   `PERMISSION_DENIED`.
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).http_rejections_only()
    /// # }
    /// ```
    pub fn http_rejections_only(mut self) -> Self {
        self.rejection_config_mut().set_http_rejections_only();
        self
    }

    /// Accepts `Authorization: <token>` without a scheme, too, as API Gateway does. By default,
    /// only the scheme `Bearer` is accepted.
    ///
    /// * *Value with a dot and without white space*: it is verified as a token.
    /// * *Any other ASCII value without the scheme `Bearer`*: it counts as no token.
    /// * *Value with the scheme `Bearer`*: nothing changes.
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).accept_bare_token()
    /// # }
    /// ```
    pub fn accept_bare_token(mut self) -> Self {
        Arc::make_mut(&mut self.config).scheme = Scheme::BearerOrBare;
        self
    }

    /// Allows requests without a token, too. By default, they are rejected with status 401.
    ///
    /// * *No token*: the request passes, without an [`AccessToken`] in its extensions.
    /// * *Another scheme than `Bearer`*: it counts as no token. So does a token without a scheme,
    ///   unless [`accept_bare_token`](Self::accept_bare_token) is set.
    /// * *Invalid token, or a malformed header*: the request is rejected as usual.
    /// * *With a [`RequireScope`](crate::RequireScope) inside*: that layer rejects a request
    ///   without a token, with status 401.
    /// * *With a [scope table](Self::scope_table)*: only public rows allow requests without a
    ///   token. A token that is sent to a public row is verified; by default it is ignored.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use tower_cognito::{AccessToken, RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> Router {
    /// async fn greet(token: Option<AccessToken>) -> String {
    ///     token.map_or("hello".to_owned(), |token| format!("hello, {}", token.subject()))
    /// }
    ///
    /// Router::new().route("/", get(greet)).layer(RequireToken::new(verifier).allow_anonymous())
    /// # }
    /// ```
    pub fn allow_anonymous(mut self) -> Self {
        Arc::make_mut(&mut self.config).anonymous = Anonymous::Allow;
        self
    }

    /// Sets how many bytes of a rejected request's body are read before the response is sent. The
    /// default is 1 MiB; 0 turns off all reading.
    ///
    /// A client that is still sending when the server closes the connection sees a broken pipe, or
    /// a gateway answers 502, instead of the rejection ([RFC 9112 section 9.6]). Therefore the
    /// layers, including [`RequireScope`](crate::RequireScope) layers inside, read and drop the
    /// body first, for at most 2 seconds.
    ///
    /// A request with a longer body is answered at once, and up to 32 MiB more of the body are read
    /// for at most 2 seconds. Each layer reads at most 256 bodies at a time. See
    /// [What clients see](crate::docs::responses) for the details.
    ///
    /// [RFC 9112 section 9.6]: https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).drain_limit(64 * 1024)
    /// # }
    /// ```
    pub fn drain_limit(mut self, bytes: u64) -> Self {
        self.rejection_config_mut().set_drain_limit(bytes);
        self
    }

    fn rejection_config_mut(&mut self) -> &mut RejectionConfig {
        let config = Arc::make_mut(&mut self.config);
        config.has_default_config = false;
        Arc::make_mut(&mut config.rejection_config)
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = RequireTokenService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireTokenService { inner, config: Arc::clone(&self.config) }
    }
}

/// Applies a [`RequireToken`](crate::RequireToken) to an inner service.
#[derive(Clone)]
#[must_use]
pub struct RequireTokenService<S> {
    inner: S,
    config: Arc<LayerConfig>,
}

impl<S: fmt::Debug> fmt::Debug for RequireTokenService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireTokenService")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .finish()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireTokenService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    ReqBody: Body + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // Only this layer may insert these two: an outer layer could have inserted a token that
        // this verifier does not accept.
        request.extensions_mut().remove::<AccessToken>();
        request.extensions_mut().remove::<LayerMarker>();

        let config = &self.config;
        let requirement = config.requirement_for(&request);
        let token = match config.credentials(requirement, &request) {
            Credentials::Bearer(token) => token,
            Credentials::None if config.allows_missing_token(requirement) => {
                request.extensions_mut().insert(config.marker());
                return ResponseFuture::inner(self.inner.call(request));
            }
            Credentials::None => return config.reject(request, Rejection::missing_token),
            Credentials::Malformed => return config.reject(request, Rejection::invalid_request),
        };
        let outcome = match config.verifier.cached(token.0) {
            Some(outcome) => outcome,
            None => {
                let Some(text) = token.text() else {
                    return config.reject(request, Rejection::invalid_request);
                };
                match config.verifier.verify_without_wait(text) {
                    Some(outcome) => outcome,
                    None => return self.call_later(text.to_owned(), request),
                }
            }
        };
        match config.authorize(requirement, outcome) {
            Ok(token) => {
                config.admit(&mut request, token);
                ResponseFuture::inner(self.inner.call(request))
            }
            Err(rejection) => drain::reject(request, rejection, &config.drains),
        }
    }
}

impl<S> RequireTokenService<S> {
    /// Waits for newer keys, and then verifies the token again.
    #[cold]
    fn call_later<ReqBody, ResBody>(
        &mut self,
        token: String,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        ReqBody: Body + Send + 'static,
    {
        // Only the service that was polled ready may be called, so it moves into the future and its
        // clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let config = Arc::clone(&self.config);
        ResponseFuture::waiting(async move {
            let outcome = config.verifier.verify(&token).await;
            match config.authorize(config.requirement_for(&request), outcome) {
                Ok(token) => {
                    config.admit(&mut request, token);
                    Ok(inner.call(request))
                }
                Err(rejection) => match drain::drain(request, rejection, &config.drains) {
                    Ok(draining) => Err(draining.await),
                    Err(response) => Err(response),
                },
            }
        })
    }
}

impl LayerConfig {
    fn requirement_for<B>(&self, request: &Request<B>) -> &RouteRequirement {
        match &self.table {
            Some(table) => table.requirement_for(request.method().as_str(), request.uri().path()),
            None => &RouteRequirement::Authenticated,
        }
    }

    fn credentials<'r, B>(
        &self,
        requirement: &RouteRequirement,
        request: &'r Request<B>,
    ) -> Credentials<'r> {
        match (requirement, self.anonymous) {
            // Public rows ignore the `Authorization` header.
            (RouteRequirement::Public, Anonymous::Reject) => Credentials::None,
            _ => credentials(request.headers(), self.scheme),
        }
    }

    // `credentials` and this function decide together. Without a scope table, every route is
    // `Authenticated`. "No token" includes another scheme.
    //
    // | table | requirement               | anonymous | no token | malformed | token            |
    // | ----- | ------------------------- | --------- | -------- | --------- | ---------------- |
    // | no    | `Authenticated`           | `Reject`  | 401      | 400       | verified         |
    // | no    | `Authenticated`           | `Allow`   | passes   | 400       | verified         |
    // | yes   | `Public`                  | `Reject`  | passes   | passes    | ignored, passes  |
    // | yes   | `Public`                  | `Allow`   | passes   | 400       | verified         |
    // | yes   | `Authenticated`, `Scopes` | either    | 401      | 400       | verified         |
    // | yes   | `NotListed`               | either    | 401      | 400       | verified         |
    //
    // A verified token passes if it is valid and has the scopes of `Scopes`. `NotListed` rejects a
    // valid token with 403.
    fn allows_missing_token(&self, requirement: &RouteRequirement) -> bool {
        let is_anonymous = self.anonymous == Anonymous::Allow && self.table.is_none();
        is_anonymous || matches!(requirement, RouteRequirement::Public)
    }

    fn reject<B: Body + Send + 'static, F>(
        &self,
        request: Request<B>,
        rejection: impl FnOnce(Arc<RejectionConfig>) -> Rejection,
    ) -> ResponseFuture<F> {
        let rejection = rejection(Arc::clone(&self.rejection_config));
        drain::reject(request, rejection, &self.drains)
    }

    /// Returns the token if it is valid and satisfies the requirement of the route.
    fn authorize(
        &self,
        requirement: &RouteRequirement,
        outcome: Result<AccessToken, VerifyError>,
    ) -> Result<AccessToken, Rejection> {
        let config = || Arc::clone(&self.rejection_config);
        match (outcome, requirement) {
            (Err(error), _) => Err(Rejection::token(error, config())),
            (Ok(_), RouteRequirement::NotListed) => Err(Rejection::unlisted(config())),
            (Ok(token), RouteRequirement::Scopes(scopes)) if !scopes.is_met_by(token.scopes()) => {
                Err(Rejection::insufficient_scope(Arc::clone(scopes), config()))
            }
            (Ok(token), _) => Ok(token),
        }
    }

    /// Records the caller in the span, and inserts the token for the service inside.
    fn admit<B>(&self, request: &mut Request<B>, token: AccessToken) {
        telemetry::admitted(&token);
        request.extensions_mut().insert(token);
        if !self.has_default_config {
            request.extensions_mut().insert(self.marker());
        }
    }

    fn marker(&self) -> LayerMarker {
        LayerMarker(Arc::clone(&self.rejection_config))
    }
}

/// Marks a request that [`RequireToken`] let through, and tells the layers and extractors inside
/// how rejections look. They read two extensions:
///
/// | `AccessToken` | `LayerMarker` | meaning |
/// | --- | --- | --- |
/// | yes | yes | a valid token, and a configuration that is not the default |
/// | yes | no | a valid token, and the default configuration |
/// | no | yes | `RequireToken` allowed the request without a token |
/// | no | no | no `RequireToken` processed the request |
///
/// The second row saves one allocation for each request with a cached token. Counted with an
/// allocator: 3 instead of 4, or 1 instead of 2 if something else is already in the extensions.
#[derive(Clone)]
pub(crate) struct LayerMarker(pub(crate) Arc<RejectionConfig>);
