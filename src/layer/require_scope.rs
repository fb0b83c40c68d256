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
use crate::rejection::Rejection;
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
///
/// If several layers require scopes, the challenge of an inner one also names the scopes of those
/// around it, because a client needs all of them in one token.
///
/// Required scopes stay in memory until the process ends, equal ones once. Do not create them from
/// text that clients send.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireScope {
    config: Arc<ScopeConfig>,
}

/// One allocation for everything, because axum clones the service for every request.
#[derive(Debug)]
struct ScopeConfig {
    requirement: &'static Requirement,
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
    /// A challenge names only the first of them: clients request every scope that a challenge names,
    /// and an issuer rejects a request for a scope that the client may not have. Put the least
    /// powerful scope first.
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

    /// Checks whether the token of a request has the required scopes, and returns the token.
    ///
    /// It is for code that decides which scopes are required after the layers ran: a handler whose
    /// requests differ in their body, or a gRPC method behind an interceptor. It reads what
    /// [`RequireToken`](crate::RequireToken) or an interceptor left in the extensions of the request,
    /// so a rejection has the realm, the metadata URL and the body of that layer. It is logged like a
    /// rejection of the layer.
    ///
    /// ```
    /// use axum::http::Extensions;
    /// use tower_cognito::{Rejection, RequireScope};
    ///
    /// async fn call_tool(extensions: Extensions, name: String) -> Result<String, Rejection> {
    ///     if name == "admin" {
    ///         let token = RequireScope::new("mcp/admin").authorize(&extensions)?;
    ///         return Ok(format!("administrator {}", token.subject()));
    ///     }
    ///     Ok(name)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the token does not have the required scopes, if the request has no token,
    /// or if no `RequireToken` or interceptor processed the request.
    pub fn authorize<'r>(&self, extensions: &'r Extensions) -> Result<&'r AccessToken, Rejection> {
        check(self.requirement(), extensions).map_err(|rejection| {
            telemetry::rejected(&rejection);
            *rejection
        })
    }

    pub(crate) fn requirement(&self) -> &'static Requirement {
        self.config.requirement
    }

    /// Panics at the line that calls the public constructor if a scope is malformed.
    #[track_caller]
    fn parse_or_panic(parsed: Result<Requirement, InvalidScope>) -> Self {
        Self::of(Requirement::parse_or_panic(parsed))
    }

    pub(crate) fn of(requirement: Requirement) -> Self {
        let requirement = requirement.interned();
        Self { config: Arc::new(ScopeConfig { requirement, drains: Drains::default() }) }
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

/// Checks the token that `RequireToken` left in the extensions. See [`LayerMarker`] for the meaning
/// of the two extensions.
#[inline(always)]
fn check<'r>(
    requirement: &'static Requirement,
    extensions: &'r Extensions,
) -> Result<&'r AccessToken, Box<Rejection>> {
    match extensions.get::<AccessToken>() {
        Some(token) if requirement.is_met_by(token.scopes()) => Ok(token),
        token => Err(reject(requirement, token, extensions.get())),
    }
}

/// Creates the rejection. It is boxed, so that the result of [`check`] is small.
#[cold]
fn reject(
    requirement: &'static Requirement,
    token: Option<&AccessToken>,
    marker: Option<&LayerMarker>,
) -> Box<Rejection> {
    let config = marker.map(|marker| Arc::clone(&marker.config));
    let rejection = match (token, config) {
        (Some(_), config) => Rejection::insufficient_scope(config.unwrap_or_default()),
        (None, Some(config)) => Rejection::missing_token(config),
        (None, None) => {
            telemetry::no_require_token("RequireScope");
            return Box::new(Rejection::internal());
        }
    };
    let of_rules = token.and_then(AccessToken::required);
    Box::new(rejection.requiring([requirement]).requiring(of_rules))
}

/// Returns `true` if `RequireToken` let the request pass as a CORS preflight request.
pub(super) fn is_preflight(extensions: &Extensions) -> bool {
    extensions.get::<LayerMarker>().is_some_and(|marker| marker.is_preflight)
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
        let requirement = self.config.requirement;
        match check(requirement, request.extensions()) {
            Ok(_) => ResponseFuture::inner(self.inner.call(request), Some(requirement)),
            Err(rejection) => self.call_without_scope(*rejection, request),
        }
    }
}

impl<S> RequireScopeService<S> {
    /// Rejects a request without the required scope, unless it is a CORS preflight request.
    #[inline(never)]
    fn call_without_scope<ReqBody, ResBody>(
        &mut self,
        rejection: Rejection,
        request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
        ReqBody: Body + Send + 'static,
    {
        if is_preflight(request.extensions()) {
            ResponseFuture::inner(self.inner.call(request), None)
        } else {
            drain::reject(request, rejection, &self.config.drains)
        }
    }
}
