//! The verifier as a tonic interceptor.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::layer::{Credentials, RequireScope, Scheme, credentials};
use crate::rejection::{Rejection, RejectionConfig};
use crate::scope::Requirement;
use crate::telemetry;
use crate::verifier::Verifier;
use crate::verify::AccessToken;

/// Requires a valid access token in the `authorization` metadata of each call, as a tonic
/// interceptor for one service or several.
///
/// It puts the [`AccessToken`] into the request's extensions, where the method reads it.
///
/// ```
/// use tonic::service::interceptor::InterceptedService;
/// use tower_cognito::{RequireScope, TokenInterceptor, Verifier};
///
/// // With a generated server: `GreeterServer::with_interceptor(greeter, interceptor)`.
/// fn guarded<S>(verifier: Verifier, service: S) -> InterceptedService<S, TokenInterceptor> {
///     let interceptor =
///         TokenInterceptor::new(verifier).require_scope(RequireScope::new("activity/*"));
///     InterceptedService::new(service, interceptor)
/// }
/// ```
///
/// # Limits of an interceptor
///
/// [`RequireToken`](crate::RequireToken), which also works as a layer of a tonic `Server`, has
/// neither of these limits:
///
/// * **An interceptor cannot wait.** If the key of a token is not known yet, the call is rejected,
///   and a fetch of the keys is requested. After a key rotation, valid tokens are rejected until
///   that fetch has ended. `RequireToken` waits for it.
/// * **An interceptor does not see which method is called.** A [`ScopeTable`](crate::ScopeTable) in
///   `RequireToken` can require a different scope for each method. Behind an interceptor, a method
///   can call [`RequireScope::authorize`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TokenInterceptor {
    verifier: Verifier,
    scopes: Vec<RequireScope>,
    rejection_config: Arc<RejectionConfig>,
}

impl TokenInterceptor {
    /// Requires a token that this verifier accepts.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier, scopes: Vec::new(), rejection_config: Arc::default() }
    }

    /// Requires a scope, too. If you call it several times, every scope is required, and a challenge
    /// names all of them.
    pub fn require_scope(mut self, scope: RequireScope) -> Self {
        self.scopes.push(scope);
        self
    }

    fn authorize(&self, metadata: &MetadataMap) -> Result<AccessToken, Rejection> {
        let config = || Arc::clone(&self.rejection_config);
        let token = match credentials(metadata.as_ref(), Scheme::Bearer) {
            Credentials::Bearer(token) => token.text(),
            Credentials::Malformed => None,
            Credentials::None => return Err(Rejection::missing_token(config())),
        };
        let token = token.ok_or_else(|| Rejection::invalid_request(config()))?;
        let verified = self.verifier.try_verify(token);
        let token = verified.map_err(|error| Rejection::token(error, config()))?;
        if self.scopes.iter().all(|scope| scope.requirement().is_met_by(token.scopes())) {
            Ok(token)
        } else {
            Err(Rejection::insufficient_scope(config()))
        }
    }

    /// Returns the requirements of the rules and of this interceptor.
    fn required(&self) -> impl Iterator<Item = &'static Requirement> {
        let rules = self.verifier.common_requirement();
        rules.into_iter().chain(self.scopes.iter().map(RequireScope::requirement))
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // Only this interceptor may insert a token: an outer layer could have inserted one that
        // this verifier does not accept.
        request.extensions_mut().remove::<AccessToken>();
        match self.authorize(request.metadata()) {
            Ok(token) => {
                telemetry::admitted(&token);
                self.verifier.all_rejected().accepted();
                request.extensions_mut().insert(token);
                Ok(request)
            }
            Err(rejection) => {
                telemetry::rejected(&rejection);
                self.verifier.all_rejected().rejected(&rejection);
                Err(rejection.requiring(self.required()).into())
            }
        }
    }
}

/// Creates the status that the layers send, with the [`Rejection`] as its source.
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let (code, message, metadata) = rejection.grpc();
        let metadata = MetadataMap::from_headers(metadata);
        let mut status = Self::with_metadata(Code::from(code), message, metadata);
        status.set_source(Arc::new(rejection));
        status
    }
}
