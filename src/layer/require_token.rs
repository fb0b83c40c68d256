//! The layer that lets only requests with a good token through.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::bearer::{Credentials, credentials};
use super::response::{Refusal, ResponseBody, ResponseFuture};
use crate::error::VerifyError;
use crate::rejection::{RefusalBody, Rejection, Settings};
use crate::verifier::Verifier;
use crate::verify::AccessToken;

/// Lets a request through if it has a good access token, and puts that [`AccessToken`] into the
/// request's extensions.
///
/// See the [module docs](crate::layer) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireToken {
    policy: Arc<Policy>,
}

#[derive(Clone, Debug)]
struct Policy {
    verifier: Verifier,
    settings: Arc<Settings>,
    has_default_settings: bool,
    anonymous: Anonymous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anonymous {
    Passes,
    Refused,
}

impl RequireToken {
    /// Asks for a token that this verifier accepts.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            policy: Arc::new(Policy {
                verifier,
                settings: Arc::default(),
                has_default_settings: true,
                anonymous: Anonymous::Refused,
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
    /// use tower_cognito::{RefusalBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).refusal_body(|rejection| {
    ///     let text = format!("{}\n", rejection.error_description());
    ///     RefusalBody::new(HeaderValue::from_static("text/plain"), text)
    /// })
    /// # }
    /// ```
    pub fn refusal_body(
        mut self,
        body: impl Fn(&Rejection) -> RefusalBody + Send + Sync + 'static,
    ) -> Self {
        self.settings_mut().set_body(body);
        self
    }

    /// Lets a request without a token through as well, without an [`AccessToken`] in its
    /// extensions. A token that is there must still be good, and a
    /// [`RequireScope`](crate::RequireScope) inside still asks for one.
    pub fn allow_anonymous(mut self) -> Self {
        Arc::make_mut(&mut self.policy).anonymous = Anonymous::Passes;
        self
    }

    fn settings_mut(&mut self) -> &mut Settings {
        let policy = Arc::make_mut(&mut self.policy);
        policy.has_default_settings = false;
        Arc::make_mut(&mut policy.settings)
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = RequireTokenService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireTokenService { inner, policy: Arc::clone(&self.policy) }
    }
}

/// The service of [`RequireToken`].
#[derive(Clone)]
#[must_use]
pub struct RequireTokenService<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S: fmt::Debug> fmt::Debug for RequireTokenService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireTokenService")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
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
        request.extensions_mut().remove::<Guarded>();

        let policy = &self.policy;
        let token = match credentials(request.headers()) {
            Credentials::Bearer(token) => token,
            Credentials::None if policy.anonymous == Anonymous::Passes => {
                request.extensions_mut().insert(Guarded(Arc::clone(&policy.settings)));
                return ResponseFuture::inner(self.inner.call(request));
            }
            Credentials::None => {
                let rejection = Rejection::missing_token(Arc::clone(&policy.settings));
                return ResponseFuture::refused(Refusal::of(&request, rejection));
            }
            Credentials::Malformed => {
                let rejection = Rejection::invalid_request(Arc::clone(&policy.settings));
                return ResponseFuture::refused(Refusal::of(&request, rejection));
            }
        };
        match policy.verifier.verify_without_wait(token) {
            Some(Ok(token)) => ResponseFuture::inner(self.inner.call(policy.admit(request, token))),
            Some(Err(error)) => ResponseFuture::refused(policy.refuse(&request, error)),
            None => {
                // The service that was polled ready is the one to call; its clone is left here.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let (policy, token) = (Arc::clone(policy), token.to_owned());
                ResponseFuture::waiting(async move {
                    match policy.verifier.verify(&token).await {
                        Ok(token) => Ok(inner.call(policy.admit(request, token))),
                        Err(error) => Err(policy.refuse(&request, error)),
                    }
                })
            }
        }
    }
}

impl Policy {
    fn admit<B>(&self, mut request: Request<B>, token: AccessToken) -> Request<B> {
        request.extensions_mut().insert(token);
        // An allocation for each request, so only where it tells more than its absence.
        if !self.has_default_settings {
            request.extensions_mut().insert(Guarded(Arc::clone(&self.settings)));
        }
        request
    }

    fn refuse<B>(&self, request: &Request<B>, error: VerifyError) -> Refusal {
        tracing::debug!(reason = error.kind().as_str(), "access token refused");
        Refusal::of(request, Rejection::token(error, Arc::clone(&self.settings)))
    }
}

/// Left in the extensions of a request that [`RequireToken`] let through, for what is inside it:
/// how refusals look. A verified request under the default settings has none, as its
/// [`AccessToken`] says enough.
#[derive(Clone)]
pub(crate) struct Guarded(pub(crate) Arc<Settings>);
