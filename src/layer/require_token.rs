//! The layer that requires a valid access token.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::bearer::{Credentials, Scheme};
use super::drain::{self, Drains};
use super::response::{Required, ResponseBody, ResponseFuture, Watch};
use super::token_source::TokenSource;
use crate::error::VerifyError;
use crate::rejection::{Rejection, RejectionBody, RejectionConfig};
use crate::resource_metadata::ResourceMetadata;
use crate::scope::Requirement;
use crate::scope_table::{RouteRequirement, ScopeTable};
use crate::telemetry;
use crate::verifier::{Attempt, UnknownKey, Verifier};
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
    /// The scopes that the verifier's rules require.
    rules_requirement: Option<&'static Requirement>,
    rejection_config: Arc<RejectionConfig>,
    /// Whether no setting of `rejection_config` was changed. Then a request with a token gets no
    /// [`LayerMarker`], which saves an allocation.
    has_default_config: bool,
    /// The table as it was set.
    given_table: Option<ScopeTable>,
    /// The path of the metadata document.
    document_path: Option<Box<str>>,
    /// The table that decides about requests: `given_table` with a public row for `document_path`.
    table: Option<ScopeTable>,
    source: TokenSource,
    scheme: Scheme,
    anonymous: Anonymous,
    allows_preflight: bool,
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
                rules_requirement: verifier.common_requirement(),
                verifier,
                rejection_config: Arc::default(),
                has_default_config: true,
                given_table: None,
                document_path: None,
                table: None,
                source: TokenSource::authorization(),
                scheme: Scheme::Bearer,
                anonymous: Anonymous::Reject,
                allows_preflight: false,
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

    /// Requires scopes and groups by method and path. Requests that match no row are rejected. A second call
    /// replaces the table of the first.
    ///
    /// See [`ScopeTable`] for an example.
    ///
    /// # Panics
    ///
    /// Panics if [`resource_metadata`](Self::resource_metadata) is also set, and a row requires a
    /// token for that document, or the table cannot match its path. Without a row for the document,
    /// it is public.
    #[track_caller]
    pub fn scope_table(mut self, table: ScopeTable) -> Self {
        Arc::make_mut(&mut self.config).given_table = Some(table);
        self.update_table();
        self
    }

    /// Sets the metadata document that every challenge names, so that a client can find out where
    /// to get a token. By default, no document is named.
    ///
    /// See [`ResourceMetadata`] for an example. With a [scope table](Self::scope_table), a `GET` of
    /// the [path](ResourceMetadata::path) of the document needs no token: a client that could not read
    /// the document could not get a token (RFC 9728 section 3.1). No other path is public because of
    /// it, and without a scope table, the document must be outside this layer.
    ///
    /// # Panics
    ///
    /// Panics if a scope table is also set, and a row requires a token for the document, or the table
    /// cannot match its path.
    #[track_caller]
    pub fn resource_metadata(mut self, metadata: &ResourceMetadata) -> Self {
        self.rejection_config_mut().set_resource_metadata(metadata.url());
        Arc::make_mut(&mut self.config).document_path = Some(metadata.path().into());
        self.update_table();
        self
    }

    /// Makes the metadata document public in the scope table.
    ///
    /// # Panics
    ///
    /// Panics if the two settings contradict each other.
    #[track_caller]
    #[expect(clippy::panic, reason = "it is the caller's source that is wrong")]
    fn update_table(&mut self) {
        let config = Arc::make_mut(&mut self.config);
        config.table = match (config.given_table.clone(), &config.document_path) {
            (Some(table), Some(path)) => match table.with_public_document(path) {
                Ok(table) => Some(table),
                Err(problem) => panic!("{problem}"),
            },
            (table, _) => table,
        };
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
    ///
    /// # Panics
    ///
    /// Panics if [`token_source`](Self::token_source) is not the `Authorization` header.
    #[track_caller]
    pub fn accept_bare_token(mut self) -> Self {
        Arc::make_mut(&mut self.config).scheme = Scheme::BearerOrBare;
        self.check_source();
        self
    }

    /// Sets which part of a request holds the token. The default is the `Authorization` header.
    ///
    /// Only this part is read: if it is another one, the `Authorization` header is ignored. A
    /// challenge still has the scheme `Bearer`, and the body says where the token is expected. The
    /// value that holds an accepted token is marked as sensitive, so that its `Debug` output does not
    /// contain the token.
    ///
    /// See [`TokenSource`] for an example.
    ///
    /// # Panics
    ///
    /// Panics if [`accept_bare_token`](Self::accept_bare_token) is set, and the source is not the
    /// `Authorization` header.
    #[track_caller]
    pub fn token_source(mut self, source: TokenSource) -> Self {
        self.rejection_config_mut().set_descriptions(source.descriptions());
        Arc::make_mut(&mut self.config).source = source;
        self.check_source();
        self
    }

    #[track_caller]
    fn check_source(&self) {
        let config = &self.config;
        assert!(
            config.scheme == Scheme::Bearer || config.source.is_authorization(),
            "a token without a scheme is accepted only in the `Authorization` header"
        );
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

    /// Allows CORS preflight requests without a token on every path, also if a
    /// [scope table](Self::scope_table) does not name it. By default, they are rejected like every
    /// other request, because a browser sends no token with them.
    ///
    /// Use it only if the CORS layer has to be inside this layer, for example in a router that is not
    /// yours. A CORS layer outside needs no setting, see [Where the layers go](crate::docs::scopes#where-the-layers-go).
    ///
    /// * *Preflight request*: `OPTIONS` with the headers `Origin` and `Access-Control-Request-Method`
    ///   ([Fetch standard]). Its `Authorization` header is ignored.
    /// * *With a [`RequireScope`](crate::RequireScope) inside*: that layer lets the request pass, too.
    /// * **Every client can send such a request.** It reaches the service inside without an
    ///   [`AccessToken`], and so it reaches a handler that is routed with axum's `any` and no CORS
    ///   layer before it.
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).allow_cors_preflight()
    /// # }
    /// ```
    ///
    /// [Fetch standard]: https://fetch.spec.whatwg.org/#cors-preflight-fetch
    pub fn allow_cors_preflight(mut self) -> Self {
        Arc::make_mut(&mut self.config).allows_preflight = true;
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
    /// [Responses](crate::docs::responses) for the details.
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

    /// Verifies the token in the headers of a request, for a service that is not a Tower service.
    ///
    /// It makes those decisions of the layer that do not depend on the path, with the same realm,
    /// metadata URL and body. [`scope_table`](Self::scope_table) and
    /// [`allow_anonymous`](Self::allow_anonymous) have no effect: a request without a token is
    /// rejected with [`RejectionKind::MissingToken`](crate::RejectionKind::MissingToken).
    /// [`Rejection::to_response`] gives the status, the headers and the body of a rejection. A rejection
    /// is logged like those of the layer. If the key of the token is unknown, this waits like the layer.
    ///
    /// ```
    /// use http::{HeaderMap, Response};
    /// use bytes::Bytes;
    /// use tower_cognito::RequireToken;
    ///
    /// async fn handle(tokens: &RequireToken, headers: &HeaderMap) -> Response<Bytes> {
    ///     match tokens.verify_headers(headers).await {
    ///         Ok(token) => Response::new(Bytes::from(token.client_id().to_owned())),
    ///         Err(rejection) => rejection.to_response(),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the layer would reject a request with these headers on every path.
    pub async fn verify_headers(&self, headers: &HeaderMap) -> Result<AccessToken, Rejection> {
        self.config.verify(self.config.credentials_in(headers)).await
    }

    /// Verifies the token like [`verify_headers`](Self::verify_headers), without waiting. If the key of
    /// the token is unknown, the token is rejected, and a fetch of the keys is requested.
    ///
    /// ```
    /// # use http::HeaderMap;
    /// # use tower_cognito::RequireToken;
    /// fn is_valid(tokens: &RequireToken, headers: &HeaderMap) -> bool {
    ///     tokens.try_verify_headers(headers).is_ok()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if [`verify_headers`](Self::verify_headers) would return one, or if the key is
    /// unknown.
    pub fn try_verify_headers(&self, headers: &HeaderMap) -> Result<AccessToken, Rejection> {
        self.config.try_verify(self.config.credentials_in(headers))
    }

    /// Verifies the token like [`verify_headers`](Self::verify_headers) in the values of the header,
    /// for a framework that has its own type of headers.
    ///
    /// **Pass every value of the header**, in the order of the request. Two values are rejected as
    /// malformed: if you pass only one of them, a proxy may have checked the other one. The header is
    /// `Authorization`, or that of the [`TokenSource`]. For a WebSocket, check first that the request
    /// is a handshake.
    ///
    /// ```
    /// use tower_cognito::{AccessToken, Rejection, RequireToken};
    ///
    /// /// A framework whose headers are pairs of names in lower case and values.
    /// async fn check(
    ///     tokens: &RequireToken,
    ///     headers: &[(String, Vec<u8>)],
    /// ) -> Result<AccessToken, Rejection> {
    ///     let values = headers.iter().filter(|(name, _)| name == "authorization");
    ///     tokens.verify_header_values(values.map(|(_, value)| &**value)).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if [`verify_headers`](Self::verify_headers) would return one.
    pub async fn verify_header_values<'h>(
        &self,
        values: impl IntoIterator<Item = &'h [u8]>,
    ) -> Result<AccessToken, Rejection> {
        let credentials = self.config.credentials_of(values);
        self.config.verify(credentials).await
    }

    /// Verifies the token like [`verify_header_values`](Self::verify_header_values), without waiting.
    ///
    /// ```
    /// # use tower_cognito::RequireToken;
    /// fn is_valid(tokens: &RequireToken, authorization: &str) -> bool {
    ///     tokens.try_verify_header_values([authorization.as_bytes()]).is_ok()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if [`try_verify_headers`](Self::try_verify_headers) would return one.
    pub fn try_verify_header_values<'h>(
        &self,
        values: impl IntoIterator<Item = &'h [u8]>,
    ) -> Result<AccessToken, Rejection> {
        self.config.try_verify(self.config.credentials_of(values))
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
        // Only this layer may insert a marker or a token: an outer layer could have inserted a token
        // that this verifier does not accept. A token is replaced when the request's own token is
        // inserted, and removed if the request passes without one.
        if !request.extensions().is_empty() {
            request.extensions_mut().remove::<LayerMarker>();
        }

        match self.config.decide(&mut request) {
            Ok(required) => ResponseFuture::inner(self.inner.call(request), required),
            Err(unusual) => self.call_unusual(unusual, request),
        }
    }
}

impl<S> RequireTokenService<S> {
    /// Calls the inner service, now or later, or rejects the request.
    // Not inlined: with a second call of the inner service in it, `call` was compiled to code that
    // moves the future of each request twice.
    #[inline(never)]
    fn call_unusual<ReqBody, ResBody>(
        &mut self,
        unusual: Unusual,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        ReqBody: Body + Send + 'static,
    {
        match unusual {
            Unusual::Watched(watch) => ResponseFuture::watched(self.inner.call(request), watch),
            Unusual::NeedsNoToken(marker, required) => {
                self.config.source.conceal(request.headers_mut());
                request.extensions_mut().remove::<AccessToken>();
                request.extensions_mut().insert(marker);
                ResponseFuture::inner(self.inner.call(request), required)
            }
            Unusual::UnknownKey(token, unknown) => self.call_later(token, unknown, request),
            Unusual::Rejected(rejection) => drain::reject(request, rejection, &self.config.drains),
        }
    }

    /// Waits for newer keys, and then calls the inner service or rejects the request. The token is
    /// verified again only if the keys have changed.
    #[cold]
    fn call_later<ReqBody, ResBody>(
        &mut self,
        token: String,
        unknown: UnknownKey,
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
        let admitted = async move {
            let outcome = config.verifier.verify_with_newer_keys(&token, unknown).await;
            let requirement = config.requirement_for(&request);
            match outcome {
                Ok(token) if requirement.is_met_by(&token) => {
                    config.insert(&mut request, token);
                    // Few requests wait, so all of them are watched.
                    let watch = config.watch(requirement);
                    Ok(ResponseFuture::watched(inner.call(request), watch))
                }
                outcome => {
                    let rejection = config.reject(requirement, Presented::Token(outcome));
                    match drain::drain(request, rejection, &config.drains) {
                        Ok(draining) => Err(draining.await),
                        Err(response) => Err(response),
                    }
                }
            }
        };
        ResponseFuture::waiting(admitted)
    }
}

/// Returns `true` for a CORS preflight request
/// ([Fetch standard](https://fetch.spec.whatwg.org/#cors-preflight-fetch)).
fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Any request but the usual one, which passes at once with a valid token.
enum Unusual {
    /// It passes with a valid token, and no request was accepted before.
    Watched(Box<Watch>),
    /// It passes without a token. The marker is inserted instead.
    NeedsNoToken(LayerMarker, Required),
    /// Newer keys could change the result for this token.
    UnknownKey(String, UnknownKey),
    Rejected(Rejection),
}

/// The result of checking credentials without a wait.
enum Checked<'h> {
    Done(Presented),
    /// Newer keys could change the result for this token.
    UnknownKey(&'h str, UnknownKey),
}

/// What a request presents, after the token was verified.
enum Presented {
    NoToken,
    /// The header is malformed: status 400.
    Malformed,
    Token(Result<AccessToken, VerifyError>),
}

impl LayerConfig {
    /// Decides about a request without waiting. If it passes with a valid token, inserts the token.
    #[inline]
    fn decide<B>(&self, request: &mut Request<B>) -> Result<Required, Unusual> {
        if self.allows_preflight && is_preflight(request) {
            let marker = LayerMarker { is_preflight: true, ..self.marker() };
            return Err(Unusual::NeedsNoToken(marker, None));
        }
        let requirement = self.requirement_for(request);
        let credentials = self.credentials(requirement, request);
        // Most tokens are cached, so they are decided here, and all other requests in another function.
        match self.cached(&credentials) {
            Some(Ok(token)) if requirement.is_met_by(&token) => {
                self.admit(requirement, request, token)
            }
            cached => match self.decide_uncached(requirement, credentials, cached) {
                Ok(token) => self.admit(requirement, request, token),
                Err(unusual) => Err(unusual),
            },
        }
    }

    /// Decides about a request whose token is not cached, or has no token, or is rejected.
    // Not inlined, so that the results of all these do not slow down `decide`.
    #[inline(never)]
    fn decide_uncached(
        &self,
        requirement: &RouteRequirement,
        credentials: Credentials<'_>,
        cached: Option<Result<AccessToken, VerifyError>>,
    ) -> Result<AccessToken, Unusual> {
        match self.check_unless_cached(credentials, cached) {
            Checked::Done(Presented::Token(Ok(token))) if requirement.is_met_by(&token) => {
                Ok(token)
            }
            Checked::UnknownKey(token, unknown) => {
                Err(Unusual::UnknownKey(token.to_owned(), unknown))
            }
            Checked::Done(Presented::NoToken) if self.allows_missing_token(requirement) => {
                Err(Unusual::NeedsNoToken(self.marker(), self.rules_requirement))
            }
            Checked::Done(rejected) => Err(Unusual::Rejected(self.reject(requirement, rejected))),
        }
    }

    /// Inserts the token of a request that passes. Until the first request is accepted, its response
    /// is watched: a layer or an extractor inside may still reject it.
    #[inline]
    fn admit<B>(
        &self,
        requirement: &RouteRequirement,
        request: &mut Request<B>,
        token: AccessToken,
    ) -> Result<Required, Unusual> {
        self.insert(request, token);
        if self.verifier.all_rejected().is_over() {
            Ok(requirement.scopes())
        } else {
            Err(Unusual::Watched(self.watch(requirement)))
        }
    }

    #[cold]
    fn watch(&self, requirement: &RouteRequirement) -> Box<Watch> {
        let all_rejected = Arc::clone(self.verifier.all_rejected());
        Box::new(Watch { required: requirement.scopes(), all_rejected })
    }

    #[inline]
    fn cached(&self, credentials: &Credentials<'_>) -> Option<Result<AccessToken, VerifyError>> {
        match credentials {
            Credentials::Bearer(token) => self.verifier.cached(token.0),
            Credentials::Malformed | Credentials::None => None,
        }
    }

    /// Verifies the credentials without waiting.
    fn check<'h>(&self, credentials: Credentials<'h>) -> Checked<'h> {
        let cached = self.cached(&credentials);
        self.check_unless_cached(credentials, cached)
    }

    fn check_unless_cached<'h>(
        &self,
        credentials: Credentials<'h>,
        cached: Option<Result<AccessToken, VerifyError>>,
    ) -> Checked<'h> {
        let token = match (credentials, cached) {
            (_, Some(cached)) => return Checked::Done(Presented::Token(cached)),
            (Credentials::Bearer(token), None) => token,
            (Credentials::Malformed, None) => return Checked::Done(Presented::Malformed),
            (Credentials::None, None) => return Checked::Done(Presented::NoToken),
        };
        // The cache needs no such check, because every cached token is ASCII without a tab.
        let Some(text) = token.text() else {
            return Checked::Done(Presented::Malformed);
        };
        match self.verifier.verify_without_wait(text) {
            Attempt::Done(outcome) => Checked::Done(Presented::Token(outcome)),
            Attempt::UnknownKey(unknown) => Checked::UnknownKey(text, unknown),
        }
    }

    async fn verify(&self, credentials: Credentials<'_>) -> Result<AccessToken, Rejection> {
        let presented = match self.check(credentials) {
            Checked::Done(presented) => presented,
            Checked::UnknownKey(token, unknown) => {
                Presented::Token(self.verifier.verify_with_newer_keys(token, unknown).await)
            }
        };
        self.decide_without_path(presented)
    }

    fn try_verify(&self, credentials: Credentials<'_>) -> Result<AccessToken, Rejection> {
        self.decide_without_path(match self.check(credentials) {
            Checked::Done(presented) => presented,
            Checked::UnknownKey(_, unknown) => {
                Presented::Token(self.verifier.reject_unknown_key(unknown))
            }
        })
    }

    /// Decides about a request whose path is not known, and logs the decision.
    fn decide_without_path(&self, presented: Presented) -> Result<AccessToken, Rejection> {
        match presented {
            Presented::Token(Ok(token)) => {
                telemetry::admitted(&token);
                self.verifier.all_rejected().accepted();
                Ok(token)
            }
            rejected => {
                let rejection = self.reject(&RouteRequirement::Authenticated, rejected);
                telemetry::rejected(&rejection);
                Err(rejection)
            }
        }
    }

    fn requirement_for<B>(&self, request: &Request<B>) -> &RouteRequirement {
        match &self.table {
            Some(table) => table.requirement_for(request.method().as_str(), request.uri().path()),
            None => &RouteRequirement::Authenticated,
        }
    }

    #[inline]
    fn credentials<'r, B>(
        &self,
        requirement: &RouteRequirement,
        request: &'r mut Request<B>,
    ) -> Credentials<'r> {
        match (requirement, self.anonymous) {
            // Public rows ignore the `Authorization` header.
            (RouteRequirement::Public, Anonymous::Reject) => Credentials::None,
            _ => self.source.of_request(request, self.scheme),
        }
    }

    fn credentials_in<'h>(&self, headers: &'h HeaderMap) -> Credentials<'h> {
        self.source.of_headers(headers, self.scheme)
    }

    fn credentials_of<'h>(&self, values: impl IntoIterator<Item = &'h [u8]>) -> Credentials<'h> {
        self.source.of_values(values, self.scheme)
    }

    // `credentials`, this function, and then `allows` decide about a request as the table shows.
    // Without a scope table, every route is `Authenticated`. "No token" includes another scheme.
    //
    // | table | requirement               | anonymous | no token | malformed | token            |
    // | ----- | ------------------------- | --------- | -------- | --------- | ---------------- |
    // | no    | `Authenticated`           | `Reject`  | 401      | 400       | verified         |
    // | no    | `Authenticated`           | `Allow`   | passes   | 400       | verified         |
    // | yes   | `Public`                  | `Reject`  | passes   | passes    | ignored, passes  |
    // | yes   | `Public`                  | `Allow`   | passes   | 400       | verified         |
    // | yes   | `Authenticated`, `Scopes` | either    | 401      | 400       | verified         |
    // | yes   | `Groups`                  | either    | 401      | 400       | verified         |
    // | yes   | `NotListed`               | either    | 401      | 400       | verified         |
    //
    // "Verified": an invalid token is rejected with 401, and without current keys with 503. A valid
    // token passes if it has the scopes of `Scopes`, or the groups and scopes of `Groups`. Otherwise it
    // is rejected with 403, and `NotListed` rejects every valid token with 403.
    fn allows_missing_token(&self, requirement: &RouteRequirement) -> bool {
        let is_anonymous = self.anonymous == Anonymous::Allow && self.table.is_none();
        is_anonymous || matches!(requirement, RouteRequirement::Public)
    }

    /// Creates the rejection of a request that may not pass, with the scopes that the request requires.
    /// Also counts it for the warning that every request so far was rejected.
    ///
    /// The reason for a valid token is found again here, because it did not meet the requirement.
    #[cold]
    fn reject(&self, requirement: &RouteRequirement, presented: Presented) -> Rejection {
        let config = Arc::clone(&self.rejection_config);
        let rejection = match presented {
            Presented::NoToken => Rejection::missing_token(config),
            Presented::Malformed => Rejection::invalid_request(config),
            Presented::Token(Err(error)) => Rejection::token(error, config),
            Presented::Token(Ok(token)) => match requirement {
                // Groups come first: a token that lacks both cannot be helped by another scope.
                RouteRequirement::Groups { groups, .. }
                    if !groups.iter().all(|groups| groups.is_met_by(token.groups())) =>
                {
                    Rejection::missing_group(config)
                }
                RouteRequirement::Scopes(_) | RouteRequirement::Groups { .. } => {
                    Rejection::insufficient_scope(config)
                }
                _ => Rejection::unlisted(config),
            },
        };
        let required = self.rules_requirement.into_iter().chain(requirement.scopes());
        let rejection = rejection.requiring(required);
        self.verifier.all_rejected().rejected(&rejection);
        rejection
    }

    /// Records the caller in the span, and inserts the token for the service inside.
    #[inline]
    fn insert<B>(&self, request: &mut Request<B>, token: AccessToken) {
        telemetry::admitted(&token);
        self.source.remove_token(request.headers_mut());
        request.extensions_mut().insert(token);
        if !self.has_default_config {
            request.extensions_mut().insert(self.marker());
        }
    }

    fn marker(&self) -> LayerMarker {
        LayerMarker { config: Arc::clone(&self.rejection_config), is_preflight: false }
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
pub(crate) struct LayerMarker {
    pub(crate) config: Arc<RejectionConfig>,
    /// Whether the request is a CORS preflight request that needs no token.
    pub(crate) is_preflight: bool,
}
