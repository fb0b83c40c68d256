//! The layer that requires a group.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::LayerMarker;
use super::drain::{self, Drains};
use super::require_scope::is_preflight;
use super::response::{ResponseBody, ResponseFuture};
use crate::rejection::Rejection;
use crate::scope::GroupRequirement;
use crate::telemetry;
use crate::verify::AccessToken;

/// Requires a group (`cognito:groups`) of each request's token.
///
/// It goes inside a [`RequireToken`](crate::RequireToken). If no `RequireToken` is around it, it
/// rejects every request with status 500. A token without the group is rejected with 403 and
/// [`RejectionKind::Forbidden`](crate::RejectionKind::Forbidden).
///
/// Groups are compared byte for byte. Machine-to-machine tokens have none, so combine it with
/// [`RequireScope`](crate::RequireScope) only on routes for users.
///
/// ```
/// use axum::{Router, routing::{delete, get}};
/// use tower_cognito::{RequireGroup, RequireToken};
///
/// # fn example(verifier: tower_cognito::Verifier) -> Router {
/// Router::new()
///     .route("/orders", get(|| async {}).layer(RequireGroup::any_of(["sales", "support"])))
///     .route("/orders/{id}", delete(|| async {}).layer(RequireGroup::new("sales")))
///     .layer(RequireToken::new(verifier))
/// # }
/// ```
///
/// [`Rules::with_groups`](crate::Rules::with_groups) requires a group for the whole service, and
/// [`Access::group`](crate::Access::group) for a row of a scope table.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireGroup {
    requirement: Arc<GroupRequirement>,
    drains: Drains,
}

impl RequireGroup {
    /// Requires this group.
    ///
    /// # Panics
    ///
    /// Panics if the text is empty.
    #[track_caller]
    pub fn new(group: &str) -> Self {
        Self::any_of([group])
    }

    /// Requires at least one of these groups. To require several, apply several layers.
    ///
    /// # Panics
    ///
    /// Panics if the list is empty, or if a text is empty.
    #[track_caller]
    #[expect(clippy::panic, reason = "it is the caller's source that is wrong")]
    pub fn any_of<'a>(groups: impl IntoIterator<Item = &'a str>) -> Self {
        // A closure (`unwrap_or_else`) would hide the line of the caller.
        match GroupRequirement::any_of(groups) {
            Ok(requirement) => {
                Self { requirement: Arc::new(requirement), drains: Drains::default() }
            }
            Err(problem) => panic!("{problem}"),
        }
    }

    /// Checks whether the token of a request has a required group, and returns the token.
    ///
    /// It is for code that decides which group is required after the layers ran, such as a gRPC
    /// method behind an interceptor. [`RequireScope::authorize`](crate::RequireScope::authorize)
    /// says what it reads and how it rejects.
    ///
    /// ```
    /// use axum::http::Extensions;
    /// use tower_cognito::{Rejection, RequireGroup};
    ///
    /// fn delete_order(extensions: &Extensions) -> Result<(), Rejection> {
    ///     let token = RequireGroup::new("sales").authorize(extensions)?;
    ///     println!("order deleted by {}", token.subject());
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the token has none of the required groups, if the request has no token,
    /// or if no `RequireToken` or interceptor processed the request.
    pub fn authorize<'r>(&self, extensions: &'r Extensions) -> Result<&'r AccessToken, Rejection> {
        let checked = check(&self.requirement, extensions);
        checked.inspect_err(telemetry::rejected)
    }
}

impl<S> Layer<S> for RequireGroup {
    type Service = RequireGroupService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let requirement = Arc::clone(&self.requirement);
        RequireGroupService { inner, requirement, drains: self.drains.clone() }
    }
}

/// Applies a [`RequireGroup`](crate::RequireGroup) to an inner service.
#[derive(Clone)]
#[must_use]
pub struct RequireGroupService<S> {
    inner: S,
    requirement: Arc<GroupRequirement>,
    drains: Drains,
}

/// Checks the token that `RequireToken` left in the extensions. See [`LayerMarker`] for the meaning
/// of the two extensions.
fn check<'r>(
    requirement: &GroupRequirement,
    extensions: &'r Extensions,
) -> Result<&'r AccessToken, Rejection> {
    let config = || extensions.get::<LayerMarker>().map(|marker| Arc::clone(&marker.config));
    match extensions.get::<AccessToken>() {
        Some(token) if requirement.is_met_by(token.groups()) => Ok(token),
        Some(_) => Err(Rejection::missing_group(config().unwrap_or_default())),
        None => Err(match config() {
            Some(config) => Rejection::missing_token(config),
            None => {
                telemetry::no_require_token("RequireGroup");
                Rejection::internal()
            }
        }),
    }
}

impl<S: fmt::Debug> fmt::Debug for RequireGroupService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireGroupService")
            .field("inner", &self.inner)
            .field("requirement", &self.requirement)
            .finish()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireGroupService<S>
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
        match check(&self.requirement, request.extensions()) {
            Err(rejection) if !is_preflight(request.extensions()) => {
                drain::reject(request, rejection, &self.drains)
            }
            _ => ResponseFuture::inner(self.inner.call(request), None),
        }
    }
}
