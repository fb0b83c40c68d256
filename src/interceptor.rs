//! The verifier as a tonic interceptor, for one service or several.
//!
//! ```
//! use tonic::service::interceptor::InterceptedService;
//! use tower_cognito::{RequireScope, TokenInterceptor, Verifier};
//!
//! // With a generated server: `GreeterServer::with_interceptor(greeter, interceptor)`.
//! fn guarded<S>(verifier: Verifier, service: S) -> InterceptedService<S, TokenInterceptor> {
//!     let interceptor =
//!         TokenInterceptor::new(verifier).require_scope(RequireScope::new("activity/*"));
//!     InterceptedService::new(service, interceptor)
//! }
//! ```
//!
//! The method finds its [`AccessToken`] in `request.extensions()`.
//!
//! An interceptor can not wait. A token whose key is not known yet is refused, and a refresh is
//! asked for; with [`RequireToken`](crate::RequireToken), which goes on a tonic `Server` just as
//! well, it waits for that refresh, so that a rotation of the keys refuses no good token. An
//! interceptor can not see which method is called either: a
//! [`ScopeTable`](crate::ScopeTable) in the layer asks for another scope for each.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::layer::{Credentials, RequireScope, Scheme, credentials};
use crate::rejection::{Rejection, RejectionConfig};
use crate::telemetry;
use crate::verifier::Verifier;
use crate::verify::AccessToken;

/// Lets a call through if it has a good access token in its `authorization` metadata, and puts
/// that [`AccessToken`] into the request's extensions. See the
/// [module docs](crate::interceptor) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct TokenInterceptor {
    verifier: Verifier,
    scopes: Vec<RequireScope>,
    settings: Arc<RejectionConfig>,
}

impl TokenInterceptor {
    /// Asks for a token that this verifier accepts.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier, scopes: Vec::new(), settings: Arc::default() }
    }

    /// Asks for a scope as well. Of several calls, each must be met.
    pub fn require_scope(mut self, scope: RequireScope) -> Self {
        self.scopes.push(scope);
        self
    }

    fn check(&self, metadata: &MetadataMap) -> Result<AccessToken, Rejection> {
        let settings = || Arc::clone(&self.settings);
        let token = match credentials(metadata.as_ref(), Scheme::Bearer) {
            Credentials::Bearer(token) => token.text(),
            Credentials::Malformed => None,
            Credentials::None => return Err(Rejection::missing_token(settings())),
        };
        let token = token.ok_or_else(|| Rejection::invalid_request(settings()))?;
        let verified = self.verifier.try_verify(token);
        let token = verified.map_err(|error| Rejection::token(error, settings()))?;
        self.scopes.iter().try_for_each(|scope| scope.check(&token))?;
        Ok(token)
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().remove::<AccessToken>();
        match self.check(request.metadata()) {
            Ok(token) => {
                telemetry::admitted(&token);
                request.extensions_mut().insert(token);
                Ok(request)
            }
            Err(rejection) => {
                telemetry::rejected(rejection.reason());
                Err(rejection.into())
            }
        }
    }
}

/// The same status as that of the layers, with the [`Rejection`] as its source.
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let (code, message, metadata) = rejection.grpc();
        let metadata = MetadataMap::from_headers(metadata);
        let mut status = Self::with_metadata(Code::from(code), message, metadata);
        status.set_source(Arc::new(rejection));
        status
    }
}
