//! The layer that lets only requests through whose token has a scope.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::LayerMarker;
use super::response::{RejectedResponse, ResponseBody, ResponseFuture};
use crate::error::InvalidScope;
use crate::rejection::Rejection;
use crate::scope::Requirement;
use crate::telemetry;
use crate::verify::AccessToken;

/// Lets a request through if its token has a scope. Goes inside a
/// [`RequireToken`](crate::RequireToken); without one around it, every request is answered
/// with 500.
///
/// A scope is asked for literally: `activity/*` is met by the scope of that very name, as in API
/// Gateway, and by nothing else. See the [module docs](crate::layer) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireScope {
    requirement: Arc<Requirement>,
}

impl RequireScope {
    /// Asks for this scope.
    ///
    /// # Panics
    ///
    /// When the text is not one scope; `"…".parse::<Scope>()` tells beforehand.
    #[track_caller]
    pub fn new(scope: &str) -> Self {
        Self::parse_or_panic(Requirement::all_of([scope]))
    }

    /// Asks for at least one of these scopes, as API Gateway does where a method names several.
    ///
    /// # Panics
    ///
    /// When there are none, or a text is not one scope.
    #[track_caller]
    pub fn any_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::parse_or_panic(Requirement::any_of(scopes))
    }

    /// Asks for all of these scopes.
    ///
    /// # Panics
    ///
    /// When there are none, or a text is not one scope.
    #[track_caller]
    pub fn all_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::parse_or_panic(Requirement::all_of(scopes))
    }

    /// Asks for any scope of this resource server: `any_of_resource_server("activity")` is met by `activity/read`
    /// and by `activity/*`, not by `activity/admin/read`, whose resource server is
    /// `activity/admin`.
    ///
    /// # Panics
    ///
    /// When the text can not be the identifier of a resource server.
    #[track_caller]
    pub fn any_of_resource_server(resource_server: &str) -> Self {
        Self::parse_or_panic(Requirement::any_of_resource_server(resource_server))
    }

    /// Whether a token has what is asked for: where no layer can see what decides, such as the
    /// method behind an interceptor. The refusal has the realm `api` and the usual body, and is not
    /// logged.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub fn check(&self, token: &AccessToken) -> Result<(), Rejection> {
        if self.requirement.is_met_by(token.scopes()) {
            return Ok(());
        }
        Err(Rejection::insufficient_scope(Arc::clone(&self.requirement), Arc::default()))
    }

    /// Panics at the line that calls the public constructor if a scope is malformed.
    #[track_caller]
    fn parse_or_panic(parsed: Result<Requirement, InvalidScope>) -> Self {
        Self::of(Requirement::parse_or_panic(parsed))
    }

    pub(crate) fn of(requirement: Requirement) -> Self {
        Self { requirement: Arc::new(requirement) }
    }
}

impl<S> Layer<S> for RequireScope {
    type Service = RequireScopeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireScopeService { inner, requirement: Arc::clone(&self.requirement) }
    }
}

/// The service of [`RequireScope`].
#[derive(Clone)]
#[must_use]
pub struct RequireScopeService<S> {
    inner: S,
    requirement: Arc<Requirement>,
}

impl<S> RequireScopeService<S> {
    fn check(&self, extensions: &Extensions) -> Result<(), Rejection> {
        let settings = || extensions.get::<LayerMarker>().map(|guarded| Arc::clone(&guarded.0));
        match extensions.get::<AccessToken>() {
            Some(token) if self.requirement.is_met_by(token.scopes()) => Ok(()),
            Some(_) => {
                let asked = Arc::clone(&self.requirement);
                Err(Rejection::insufficient_scope(asked, settings().unwrap_or_default()))
            }
            None => Err(match settings() {
                Some(settings) => Rejection::missing_token(settings),
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
            .field("requirement", &self.requirement)
            .finish()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScopeService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        match self.check(request.extensions()) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => ResponseFuture::rejected(RejectedResponse::new(&request, rejection)),
        }
    }
}
