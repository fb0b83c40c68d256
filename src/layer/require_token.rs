//! The layer that lets only requests with a good token through.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::bearer::{Credentials, Scheme, credentials};
use super::response::{Refusal, ResponseBody, ResponseFuture};
use crate::error::VerifyError;
use crate::rejection::{RefusalBody, Rejection, Settings};
use crate::resource_metadata::ResourceMetadata;
use crate::scope_table::{Asked, ScopeTable};
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
    policy: Arc<Policy>,
}

#[derive(Clone, Debug)]
struct Policy {
    verifier: Verifier,
    settings: Arc<Settings>,
    has_default_settings: bool,
    table: Option<ScopeTable>,
    scheme: Scheme,
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
                table: None,
                scheme: Scheme::Bearer,
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

    /// Asks for scopes by method and path: what the table does not name is refused. A second call
    /// replaces the first.
    ///
    /// See [`scope_table`](crate::scope_table) for an example.
    pub fn scope_table(mut self, table: ScopeTable) -> Self {
        Arc::make_mut(&mut self.policy).table = Some(table);
        self
    }

    /// Names this document in every challenge, so that a client finds out where to get a token.
    ///
    /// See [`resource_metadata`](crate::resource_metadata) for an example.
    pub fn resource_metadata(mut self, metadata: &ResourceMetadata) -> Self {
        self.settings_mut().set_resource_metadata(metadata.url());
        self
    }

    /// Refuses in HTTP's form alone. Otherwise a gRPC call is answered with HTTP 200 and a status
    /// of gRPC's; a gateway that asks this service whether a request may pass, and hands on the
    /// request's content type, would take that for a yes.
    ///
    /// ```
    /// # use tower_cognito::{RequireToken, Verifier};
    /// # fn example(verifier: Verifier) -> RequireToken {
    /// RequireToken::new(verifier).http_only()
    /// # }
    /// ```
    pub fn http_only(mut self) -> Self {
        self.settings_mut().is_http_only = true;
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
        Arc::make_mut(&mut self.policy).scheme = Scheme::BearerOrNone;
        self
    }

    /// Lets a request without a token through as well, without an [`AccessToken`] in its
    /// extensions. A token that is there must still be good, and a
    /// [`RequireScope`](crate::RequireScope) inside still asks for one. With a scope table it is
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
        let asked = policy.asked(&request);
        let token = match policy.credentials(asked, &request) {
            Credentials::Bearer(token) => token,
            Credentials::None if policy.may_go_without(asked) => {
                request.extensions_mut().insert(Guarded(Arc::clone(&policy.settings)));
                return ResponseFuture::inner(self.inner.call(request));
            }
            Credentials::None => return policy.refuse(&request, Rejection::missing_token),
            Credentials::Malformed => return policy.refuse(&request, Rejection::invalid_request),
        };
        let verdict = match policy.verifier.recall(token.0) {
            Some(verdict) => verdict,
            None => {
                let Some(text) = token.text() else {
                    return policy.refuse(&request, Rejection::invalid_request);
                };
                match policy.verifier.verify_without_wait(text) {
                    Some(verdict) => verdict,
                    None => return self.call_later(text.to_owned(), request),
                }
            }
        };
        match policy.admit(asked, &mut request, verdict) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => ResponseFuture::refused(Refusal::of(&request, rejection)),
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
        let policy = Arc::clone(&self.policy);
        ResponseFuture::waiting(async move {
            let verdict = policy.verifier.verify(&token).await;
            match policy.admit(policy.asked(&request), &mut request, verdict) {
                Ok(()) => Ok(inner.call(request)),
                Err(rejection) => Err(Refusal::of(&request, rejection)),
            }
        })
    }
}

impl Policy {
    fn asked<B>(&self, request: &Request<B>) -> &Asked {
        match &self.table {
            Some(table) => table.asks(request.method().as_str(), request.uri().path()),
            None => &Asked::Token,
        }
    }

    fn credentials<'r, B>(&self, asked: &Asked, request: &'r Request<B>) -> Credentials<'r> {
        match (asked, self.anonymous) {
            // Where nothing is asked for, nothing is looked at.
            (Asked::Nothing, Anonymous::Refused) => Credentials::None,
            _ => credentials(request.headers(), self.scheme),
        }
    }

    fn may_go_without(&self, asked: &Asked) -> bool {
        let is_anonymous = self.anonymous == Anonymous::Passes && self.table.is_none();
        is_anonymous || matches!(asked, Asked::Nothing)
    }

    fn refuse<B, F>(
        &self,
        request: &Request<B>,
        rejection: impl FnOnce(Arc<Settings>) -> Rejection,
    ) -> ResponseFuture<F> {
        let rejection = rejection(Arc::clone(&self.settings));
        ResponseFuture::refused(Refusal::of(request, rejection))
    }

    /// Gives the request its token, if that is good and enough.
    fn admit<B>(
        &self,
        asked: &Asked,
        request: &mut Request<B>,
        verdict: Result<AccessToken, VerifyError>,
    ) -> Result<(), Rejection> {
        let settings = || Arc::clone(&self.settings);
        match (verdict, asked) {
            (Err(error), _) => Err(Rejection::token(error, settings())),
            (Ok(_), Asked::Unlisted) => Err(Rejection::unlisted(settings())),
            (Ok(token), Asked::Scopes(scopes)) if !scopes.is_met_by(token.scopes()) => {
                Err(Rejection::insufficient_scope(Arc::clone(scopes), settings()))
            }
            (Ok(token), _) => {
                telemetry::admitted(&token);
                request.extensions_mut().insert(token);
                // An allocation for each request, so only where it tells more than its absence.
                if !self.has_default_settings {
                    request.extensions_mut().insert(Guarded(settings()));
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
pub(crate) struct Guarded(pub(crate) Arc<Settings>);
