//! The layer that requires a scope.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::LayerMarker;
use super::drain::{self, Drains};
use super::response::{ResponseBody, ResponseFuture};
use crate::rejection::{Rejection, RejectionConfig};
use crate::scope::{InvalidScope, Requirement};
use crate::telemetry;
use crate::verify::AccessToken;

/// Requires a scope of each request's token.
///
/// It goes inside a [`RequireToken`](crate::RequireToken). If no `RequireToken` is around it, it
/// rejects every request with status 500.
///
/// Scopes are compared exactly, as in API Gateway: only the scope `activity/*` satisfies the
/// requirement `activity/*`, and `activity/read` does not. See the [module docs](crate::layer) for
/// an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireScope {
    config: Arc<ScopeConfig>,
}

/// One allocation for everything, because axum clones the service for every request.
#[derive(Debug)]
struct ScopeConfig {
    requirement: Requirement,
    drains: Drains,
}

impl RequireScope {
    /// Requires this scope.
    ///
    /// # Panics
    ///
    /// Panics if the text is not exactly one scope. To check a text that is not a literal, parse it
    /// as a [`Scope`](crate::Scope).
    #[track_caller]
    pub fn new(scope: &str) -> Self {
        Self::parse_or_panic(Requirement::all_of([scope]))
    }

    /// Requires at least one of these scopes, as API Gateway does if a method lists several.
    ///
    /// # Panics
    ///
    /// Panics if the list is empty, or if a text is not exactly one scope.
    #[track_caller]
    pub fn any_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::parse_or_panic(Requirement::any_of(scopes))
    }

    /// Requires all of these scopes.
    ///
    /// # Panics
    ///
    /// Panics if the list is empty, or if a text is not exactly one scope.
    #[track_caller]
    pub fn all_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::parse_or_panic(Requirement::all_of(scopes))
    }

    /// Requires any scope of this resource server.
    ///
    /// `activity/read` and `activity/*` satisfy `any_of_resource_server("activity")`.
    /// `activity/admin/read` does not: its resource server is `activity/admin`.
    ///
    /// # Panics
    ///
    /// Panics if the text cannot be the identifier of a resource server.
    #[track_caller]
    pub fn any_of_resource_server(resource_server: &str) -> Self {
        Self::parse_or_panic(Requirement::any_of_resource_server(resource_server))
    }

    /// Checks whether a token has the required scopes.
    ///
    /// It is for code that decides which scopes are required after the layers ran, such as a gRPC
    /// method behind an interceptor. The rejection has the realm `api` and the default body, and it
    /// is not logged.
    ///
    /// # Errors
    ///
    /// Returns an error if the token does not have the required scopes.
    pub fn authorize(&self, token: &AccessToken) -> Result<(), Rejection> {
        if self.config.requirement.is_met_by(token.scopes()) {
            return Ok(());
        }
        Err(self.config.insufficient_scope(None))
    }

    /// Panics at the line that calls the public constructor if a scope is malformed.
    #[track_caller]
    fn parse_or_panic(parsed: Result<Requirement, InvalidScope>) -> Self {
        Self::of(Requirement::parse_or_panic(parsed))
    }

    pub(crate) fn of(requirement: Requirement) -> Self {
        Self { config: Arc::new(ScopeConfig { requirement, drains: Drains::default() }) }
    }
}

impl ScopeConfig {
    fn insufficient_scope(&self, config: Option<Arc<RejectionConfig>>) -> Rejection {
        let required = Arc::new(self.requirement.clone());
        Rejection::insufficient_scope(required, config.unwrap_or_default())
    }
}

impl<S> Layer<S> for RequireScope {
    type Service = RequireScopeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireScopeService { inner, config: Arc::clone(&self.config) }
    }
}

/// Applies a [`RequireScope`](crate::RequireScope) to an inner service.
#[derive(Clone)]
#[must_use]
pub struct RequireScopeService<S> {
    inner: S,
    config: Arc<ScopeConfig>,
}

impl<S> RequireScopeService<S> {
    /// Checks the token that `RequireToken` left in the extensions. See [`LayerMarker`] for the
    /// meaning of the two extensions.
    fn authorize(&self, extensions: &Extensions) -> Result<(), Rejection> {
        let config = || extensions.get::<LayerMarker>().map(|marker| Arc::clone(&marker.0));
        match extensions.get::<AccessToken>() {
            Some(token) if self.config.requirement.is_met_by(token.scopes()) => Ok(()),
            Some(_) => Err(self.config.insufficient_scope(config())),
            None => Err(match config() {
                Some(config) => Rejection::missing_token(config),
                None => {
                    telemetry::no_require_token("RequireScope");
                    Rejection::internal()
                }
            }),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RequireScopeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireScopeService")
            .field("inner", &self.inner)
            .field("requirement", &self.config.requirement)
            .finish()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScopeService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        match self.authorize(request.extensions()) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => drain::reject(request, rejection, &self.config.drains),
        }
    }
}
