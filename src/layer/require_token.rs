//! The layer that lets only requests with a good token through.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::bearer::{Credentials, Scheme, credentials};
use super::response::{RejectedResponse, ResponseBody, ResponseFuture};
use crate::error::VerifyError;
use crate::rejection::{Rejection, RejectionBody, RejectionConfig};
use crate::resource_metadata::ResourceMetadata;
use crate::scope_table::{RouteRequirement, ScopeTable};
use crate::telemetry;
use crate::verifier::Verifier;
use crate::verify::AccessToken;

/// Lets a request through if it has a good access token, and puts that [`AccessToken`] into the
/// request's extensions.
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
    settings: Arc<RejectionConfig>,
    has_default_settings: bool,
    table: Option<ScopeTable>,
    scheme: Scheme,
    anonymous: Anonymous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anonymous {
    Allow,
    Reject,
}

impl RequireToken {
    /// Asks for a token that this verifier accepts.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            config: Arc::new(LayerConfig {
                verifier,
                settings: Arc::default(),
                has_default_settings: true,
                table: None,
                scheme: Scheme::Bearer,
                anonymous: Anonymous::Reject,
            }),
        }
    }

    /// The `realm` of every challenge, also of those that [`RequireScope`](crate::RequireScope)
    /// gives: `api` unless set.
    ///
    /// # Panics
    ///
    /// When the text is empty, or has a quote, a backslash, a control or a non-ASCII character.
    #[track_caller]
    pub fn realm(mut self, realm: &str) -> Self {
        self.settings_mut().set_realm(realm);
        self
    }

    /// Builds the body of every refusal in this way. Status and challenge stay as they are.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use tower_cognito::{RejectionBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).rejection_body(|rejection| {
    ///     let text = format!("{}\n", rejection.error_description());
    ///     RejectionBody::new(HeaderValue::from_static("text/plain"), text)
    /// })
    /// # }
    /// ```
    pub fn rejection_body(
        mut self,
        body: impl Fn(&Rejection) -> RejectionBody + Send + Sync + 'static,
    ) -> Self {
        self.settings_mut().set_body(body);
        self
    }

    /// Asks for scopes by method and path: what the table does not name is refused. A second call
    /// replaces the first.
    ///
    /// See [`ScopeTable`] for an example.
    pub fn scope_table(mut self, table: ScopeTable) -> Self {
        Arc::make_mut(&mut self.config).table = Some(table);
        self
    }

    /// Names this document in every challenge, so that a client finds out where to get a token.
    ///
    /// See [`ResourceMetadata`] for an example.
    pub fn resource_metadata(mut self, metadata: &ResourceMetadata) -> Self {
        self.settings_mut().set_resource_metadata(metadata.url());
        self
    }

    /// Refuses in HTTP's form alone. Otherwise a gRPC call is answered with HTTP 200 and a status
    /// of gRPC's; a gateway that requirement_for this service whether a request may pass, and hands on the
    /// request's content type, would take that for a yes.
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).http_rejections_only()
    /// # }
    /// ```
    pub fn http_rejections_only(mut self) -> Self {
        self.settings_mut().is_http_rejections_only = true;
        self
    }

    /// Takes `Authorization: <token>` without a scheme as well, as API Gateway does: for clients
    /// that come from there.
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

    /// Lets a request without a token through as well, without an [`AccessToken`] in its
    /// extensions. A token that is there must still be good, and a
    /// [`RequireScope`](crate::RequireScope) inside still requirement_for for one. With a scope table it is
    /// the public rows alone that may go without. Another scheme than `Bearer` counts as no token,
    /// and so does a token without a scheme; with
    /// [`accept_bare_token`](Self::accept_bare_token), a text without a dot still does.
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

    fn settings_mut(&mut self) -> &mut RejectionConfig {
        let config = Arc::make_mut(&mut self.config);
        config.has_default_settings = false;
        Arc::make_mut(&mut config.settings)
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = RequireTokenService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireTokenService { inner, config: Arc::clone(&self.config) }
    }
}

/// The service of [`RequireToken`].
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
    ReqBody: Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // Whatever stood there was not put there by this layer.
        request.extensions_mut().remove::<AccessToken>();
        request.extensions_mut().remove::<LayerMarker>();

        let config = &self.config;
        let asked = config.asked(&request);
        let token = match config.credentials(asked, &request) {
            Credentials::Bearer(token) => token,
            Credentials::None if config.allows_missing_token(asked) => {
                request.extensions_mut().insert(LayerMarker(Arc::clone(&config.settings)));
                return ResponseFuture::inner(self.inner.call(request));
            }
            Credentials::None => return config.reject(&request, Rejection::missing_token),
            Credentials::Malformed => return config.reject(&request, Rejection::invalid_request),
        };
        let verdict = match config.verifier.cached(token.0) {
            Some(verdict) => verdict,
            None => {
                let Some(text) = token.text() else {
                    return config.reject(&request, Rejection::invalid_request);
                };
                match config.verifier.verify_without_wait(text) {
                    Some(verdict) => verdict,
                    None => return self.call_later(text.to_owned(), request),
                }
            }
        };
        match config.admit(asked, &mut request, verdict) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => ResponseFuture::rejected(RejectedResponse::new(&request, rejection)),
        }
    }
}

impl<S> RequireTokenService<S> {
    /// Waits for newer keys, and then judges the token anew.
    #[cold]
    fn call_later<ReqBody, ResBody>(
        &mut self,
        token: String,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
        ReqBody: Send + 'static,
    {
        // The service that was polled ready is the one to call; its clone is left here.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let config = Arc::clone(&self.config);
        ResponseFuture::waiting(async move {
            let verdict = config.verifier.verify(&token).await;
            match config.admit(config.asked(&request), &mut request, verdict) {
                Ok(()) => Ok(inner.call(request)),
                Err(rejection) => Err(RejectedResponse::new(&request, rejection)),
            }
        })
    }
}

impl LayerConfig {
    fn asked<B>(&self, request: &Request<B>) -> &RouteRequirement {
        match &self.table {
            Some(table) => table.requirement_for(request.method().as_str(), request.uri().path()),
            None => &RouteRequirement::Authenticated,
        }
    }

    fn credentials<'r, B>(
        &self,
        asked: &RouteRequirement,
        request: &'r Request<B>,
    ) -> Credentials<'r> {
        match (asked, self.anonymous) {
            // Where nothing is asked for, nothing is looked at.
            (RouteRequirement::Public, Anonymous::Reject) => Credentials::None,
            _ => credentials(request.headers(), self.scheme),
        }
    }

    fn allows_missing_token(&self, asked: &RouteRequirement) -> bool {
        let is_anonymous = self.anonymous == Anonymous::Allow && self.table.is_none();
        is_anonymous || matches!(asked, RouteRequirement::Public)
    }

    fn reject<B, F>(
        &self,
        request: &Request<B>,
        rejection: impl FnOnce(Arc<RejectionConfig>) -> Rejection,
    ) -> ResponseFuture<F> {
        let rejection = rejection(Arc::clone(&self.settings));
        ResponseFuture::rejected(RejectedResponse::new(request, rejection))
    }

    /// Gives the request its token, if that is good and enough.
    fn admit<B>(
        &self,
        asked: &RouteRequirement,
        request: &mut Request<B>,
        verdict: Result<AccessToken, VerifyError>,
    ) -> Result<(), Rejection> {
        let settings = || Arc::clone(&self.settings);
        match (verdict, asked) {
            (Err(error), _) => Err(Rejection::token(error, settings())),
            (Ok(_), RouteRequirement::NotListed) => Err(Rejection::unlisted(settings())),
            (Ok(token), RouteRequirement::Scopes(scopes)) if !scopes.is_met_by(token.scopes()) => {
                Err(Rejection::insufficient_scope(Arc::clone(scopes), settings()))
            }
            (Ok(token), _) => {
                telemetry::admitted(&token);
                request.extensions_mut().insert(token);
                // An allocation for each request, so only where it tells more than its absence.
                if !self.has_default_settings {
                    request.extensions_mut().insert(LayerMarker(settings()));
                }
                Ok(())
            }
        }
    }
}

/// Left in the extensions of a request that [`RequireToken`] let through, for what is inside it:
/// how refusals look. A verified request under the default settings has none, as its
/// [`AccessToken`] says enough.
#[derive(Clone)]
pub(crate) struct LayerMarker(pub(crate) Arc<RejectionConfig>);
