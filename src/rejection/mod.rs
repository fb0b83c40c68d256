//! The rejection table: everything that a client is told about a rejection.
//!
//! | condition | status | challenge | gRPC |
//! | --- | --- | --- | --- |
//! | no token, or another scheme | 401 | `realm`, without an error | 16 |
//! | malformed `Authorization` | 400 | `invalid_request` | 16 |
//! | expired token | 401 | `invalid_token`, "The access token expired" | 16 |
//! | token invalid for any other reason | 401 | `invalid_token`, "The access token is invalid" | 16 |
//! | a scope is missing | 403 | `insufficient_scope`, with the required scopes | 7 |
//! | forbidden by groups, the application's check or the scope table | 403 | `realm`, without an error | 7 |
//! | no current keys | 503 | none, `Retry-After` | 14 |
//! | no `RequireToken` layer | 500 | none | 13 |
//!
//! Each challenge for 401, and for a missing scope, also has `scope` if the required scopes are known.
//! The rule that rejected a token is only logged: a client that cannot sign a token learns nothing
//! from the response.

mod body;
mod config;
mod required;

pub use body::RejectionBody;
pub(crate) use config::RejectionConfig;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use self::required::RequiredScopes;
use crate::error::{VerifyError, VerifyErrorKind};
use crate::scope::{Requirement, Scope};

/// Describes why a request was rejected.
///
/// The layers put it into the extensions of the response, so that a layer further out can log or
/// count it.
///
/// ```
/// use http::Response;
/// use tower_cognito::{Rejection, RejectionKind};
///
/// /// For `tower::ServiceBuilder::map_response`, or `axum::middleware::map_response`.
/// fn count<B>(response: Response<B>) -> Response<B> {
///     if let Some(rejection) = response.extensions().get::<Rejection>() {
///         let exact = rejection.verify_error().map(|error| error.kind().as_str());
///         match rejection.kind() {
///             RejectionKind::Unavailable => {
///                 eprintln!("no keys, clients retry in {:?}", rejection.retry_after());
///             }
///             kind => eprintln!("{} {kind:?} {exact:?}", rejection.status()),
///         }
///     }
///     response
/// }
/// # let response = count(Response::new(()));
/// ```
#[derive(Clone, Debug)]
pub struct Rejection {
    reason: Reason,
    required: RequiredScopes,
    config: Arc<RejectionConfig>,
}

#[derive(Clone, Debug)]
enum Reason {
    InsufficientScope,
    Internal,
    InvalidRequest,
    /// The token lacks a group that the route requires.
    MissingGroup,
    MissingToken,
    /// No row of the scope table matches the request.
    Unlisted,
    Token(VerifyError),
}

/// The kind of a [`Rejection`]: its row of the rejection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The access token has expired: 401.
    ExpiredToken,
    /// The token is valid, but its groups, the application's check or the scope table forbid the
    /// request: 403.
    Forbidden,
    /// The token lacks a scope that the route requires: 403.
    InsufficientScope,
    /// No `RequireToken` layer processed the request, which is an error of the service: 500.
    Internal,
    /// The `Authorization` header, or the header of another
    /// [`TokenSource`](crate::TokenSource), is malformed: 400.
    InvalidRequest,
    /// The access token is invalid for a reason other than expiry: 401.
    InvalidToken,
    /// The request has no bearer token: 401.
    MissingToken,
    /// No current keys are available to verify the token: 503.
    Unavailable,
}

impl Rejection {
    pub(crate) fn missing_token(config: Arc<RejectionConfig>) -> Self {
        Self::new(Reason::MissingToken, config)
    }

    pub(crate) fn invalid_request(config: Arc<RejectionConfig>) -> Self {
        Self::new(Reason::InvalidRequest, config)
    }

    /// Creates the rejection for a missing scope. [`requiring`](Self::requiring) adds the scopes.
    pub(crate) fn insufficient_scope(config: Arc<RejectionConfig>) -> Self {
        Self::new(Reason::InsufficientScope, config)
    }

    pub(crate) fn missing_group(config: Arc<RejectionConfig>) -> Self {
        Self::new(Reason::MissingGroup, config)
    }

    pub(crate) fn unlisted(config: Arc<RejectionConfig>) -> Self {
        Self::new(Reason::Unlisted, config)
    }

    pub(crate) fn internal() -> Self {
        Self::new(Reason::Internal, Arc::default())
    }

    pub(crate) fn token(error: VerifyError, config: Arc<RejectionConfig>) -> Self {
        let required = error.requirement();
        Self::new(Reason::Token(error), config).requiring(required)
    }

    fn new(reason: Reason, config: Arc<RejectionConfig>) -> Self {
        Self { reason, required: RequiredScopes::default(), config }
    }

    /// Adds a requirement of the request, whether or not the token meets it.
    pub(crate) fn requiring(
        mut self,
        requirements: impl IntoIterator<Item = &'static Requirement>,
    ) -> Self {
        for requirement in requirements {
            self.required.add(requirement);
        }
        self
    }

    /// Returns the kind of rejection.
    pub fn kind(&self) -> RejectionKind {
        match &self.reason {
            Reason::InsufficientScope => RejectionKind::InsufficientScope,
            Reason::Internal => RejectionKind::Internal,
            Reason::InvalidRequest => RejectionKind::InvalidRequest,
            Reason::MissingToken => RejectionKind::MissingToken,
            Reason::Token(error) => match error.kind() {
                VerifyErrorKind::Expired => RejectionKind::ExpiredToken,
                VerifyErrorKind::Forbidden => RejectionKind::Forbidden,
                VerifyErrorKind::InsufficientScope => RejectionKind::InsufficientScope,
                VerifyErrorKind::KeysUnavailable => RejectionKind::Unavailable,
                _ => RejectionKind::InvalidToken,
            },
            Reason::MissingGroup | Reason::Unlisted => RejectionKind::Forbidden,
        }
    }

    /// Returns the reason for the log, which is more specific than [`kind`](Self::kind). It is never
    /// sent to a client.
    pub(crate) fn reason(&self) -> &'static str {
        match &self.reason {
            Reason::InsufficientScope => "insufficient_scope",
            Reason::Internal => "no_require_token",
            Reason::InvalidRequest => "invalid_request",
            Reason::MissingGroup => "missing_group",
            Reason::MissingToken => "missing_token",
            Reason::Token(error) => error.kind().as_str(),
            Reason::Unlisted => "not_in_scope_table",
        }
    }

    /// Returns the HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// Returns the value of `WWW-Authenticate` ([RFC 6750 section 3]), or `None` for statuses 500
    /// and 503.
    ///
    /// [RFC 6750 section 3]: https://www.rfc-editor.org/rfc/rfc6750#section-3
    pub fn challenge(&self) -> Option<HeaderValue> {
        let row = self.row();
        let mut challenge = format!("Bearer realm=\"{}\"", self.config.realm);
        match row.challenge {
            Challenge::None => return None,
            Challenge::Realm => {}
            Challenge::CodeAndDescription => challenge.push_str(&format!(
                ", error=\"{}\", error_description=\"{}\"",
                row.code,
                self.error_description()
            )),
        }
        let scopes = if self.names_scopes() { self.required.named() } else { Vec::new() };
        if !scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", scopes.join(" ")));
        }
        if let Some(url) = &self.config.resource_metadata {
            challenge.push_str(&format!(", resource_metadata=\"{url}\""));
        }
        // Every part was validated when it was set, so the conversion cannot fail. If it did, the
        // default challenge would still be correct.
        Some(
            HeaderValue::try_from(challenge)
                .unwrap_or(HeaderValue::from_static(r#"Bearer realm="api""#)),
        )
    }

    /// Returns the delay before the client should retry, in whole seconds, as in `Retry-After`.
    ///
    /// Only [`RejectionKind::Unavailable`] has a delay.
    pub fn retry_after(&self) -> Option<Duration> {
        let Reason::Token(error) = &self.reason else {
            return None;
        };
        error.retry_after().map(|delay| {
            let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
            Duration::from_secs(seconds)
        })
    }

    /// Returns the verification error, if the verifier rejected the token.
    pub fn verify_error(&self) -> Option<&VerifyError> {
        match &self.reason {
            Reason::Token(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the error code, as in the body, and in the challenge if it has one.
    pub fn error_code(&self) -> &'static str {
        self.row().code
    }

    /// Returns the description of the error for the client.
    pub fn error_description(&self) -> &str {
        match (&self.config.descriptions, &self.reason) {
            (Some([missing, _]), Reason::MissingToken) => missing,
            (Some([_, malformed]), Reason::InvalidRequest) => malformed,
            _ => self.row().description,
        }
    }

    /// Returns the scopes that the request requires, if the token lacks one of them.
    ///
    /// They include every alternative of a requirement such as
    /// [`RequireScope::any_of`](crate::RequireScope::any_of), of which a challenge names only the
    /// first. The list is empty for every other rejection, and for a route that requires any scope of
    /// a resource server.
    pub fn required_scopes(&self) -> &[Scope] {
        match self.kind() {
            RejectionKind::InsufficientScope => self.required.all(),
            _ => &[],
        }
    }

    /// Returns `true` if a token with other scopes, or any token, would help the client.
    fn names_scopes(&self) -> bool {
        use RejectionKind::{ExpiredToken, InsufficientScope, InvalidToken, MissingToken};

        matches!(self.kind(), ExpiredToken | InsufficientScope | InvalidToken | MissingToken)
    }

    /// Returns the response of the layers in HTTP's form: the status, the headers and the body.
    ///
    /// The response to HEAD has the same headers, and no body.
    ///
    /// ```
    /// use tower_cognito::Rejection;
    ///
    /// /// The rejection for a framework that has its own types.
    /// fn parts(rejection: &Rejection) -> (u16, Vec<(String, Vec<u8>)>, Vec<u8>) {
    ///     let (parts, body) = rejection.to_response().into_parts();
    ///     let headers = parts.headers.iter();
    ///     let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    ///     (parts.status.as_u16(), headers.collect(), body.to_vec())
    /// }
    /// ```
    pub fn to_response(&self) -> Response<Bytes> {
        let RejectionBody { content_type, bytes } = self.body();
        let length = bytes.len();
        let mut response = Response::new(bytes);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(delay) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(delay.as_secs()));
        }
        response
    }

    fn body(&self) -> RejectionBody {
        match &self.config.body {
            Some(body) => body(self),
            None => RejectionBody::json(self),
        }
    }

    /// Returns how much of the request's body is read before the response is sent.
    pub(crate) fn drain_limit(&self) -> u64 {
        self.config.drain_limit
    }

    pub(crate) fn is_http_rejections_only(&self) -> bool {
        self.config.is_http_rejections_only
    }

    /// Returns the code and the message of the gRPC status, and its metadata.
    pub(crate) fn grpc(&self) -> (i32, &'static str, HeaderMap) {
        let (code, message) = self.row().grpc;
        let mut metadata = HeaderMap::new();
        metadata.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge() {
            metadata.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(delay) = self.retry_after() {
            // gRPC proposal A6: the delay before a retry, in milliseconds.
            let pushback = HeaderName::from_static("grpc-retry-pushback-ms");
            let milliseconds = delay.as_secs().saturating_mul(1_000);
            metadata.insert(pushback, HeaderValue::from(milliseconds));
        }
        (code, message, metadata)
    }

    /// Returns the name that the Connect protocol has for the gRPC status.
    pub(super) fn connect_code(&self) -> &'static str {
        match self.row().grpc {
            (7, _) => "permission_denied",
            (14, _) => "unavailable",
            (16, _) => "unauthenticated",
            _ => "internal",
        }
    }

    #[rustfmt::skip] // One row per kind is easier to compare.
    fn row(&self) -> Row {
        use Challenge::{CodeAndDescription, None, Realm};
        use RejectionKind as Kind;

        let (status, code, challenge, description, grpc) = match self.kind() {
            Kind::ExpiredToken => (401, "invalid_token", CodeAndDescription,
                "The access token expired", (16, "access token expired")),
            Kind::Forbidden => (403, "forbidden", Realm,
                "The request is not allowed with this token",
                (7, "the request is not allowed with this token")),
            Kind::InsufficientScope => (403, "insufficient_scope", CodeAndDescription,
                "A required scope is missing", (7, "a required scope is missing")),
            Kind::Internal => (500, "server_error", None,
                "The service is not set up correctly", (13, "the service is not set up correctly")),
            Kind::InvalidRequest => (400, "invalid_request", CodeAndDescription,
                "The Authorization header is malformed", (16, "malformed authorization metadata")),
            Kind::InvalidToken => (401, "invalid_token", CodeAndDescription,
                "The access token is invalid", (16, "invalid access token")),
            Kind::MissingToken => (401, "unauthorized", Realm,
                "A bearer access token is required", (16, "missing bearer token")),
            Kind::Unavailable => (503, "temporarily_unavailable", None,
                "Access tokens cannot be verified now", (14, "access tokens cannot be verified now")),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Row { status, code, challenge, description, grpc }
    }
}

/// Creates the rejection that `RequireToken` gives for this error, with the realm `api`, for
/// services that call the verifier themselves.
impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        Self::token(error, Arc::default())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind() {
            RejectionKind::ExpiredToken => "the access token has expired",
            RejectionKind::Forbidden => "the request is not allowed with this token",
            RejectionKind::InsufficientScope => "a required scope is missing",
            RejectionKind::Internal => "no `RequireToken` layer processed the request",
            RejectionKind::InvalidRequest if self.config.descriptions.is_some() => {
                "the header of the token is malformed"
            }
            RejectionKind::InvalidRequest => "the `Authorization` header is malformed",
            RejectionKind::InvalidToken => "the access token is invalid",
            RejectionKind::MissingToken => "the request has no bearer token",
            RejectionKind::Unavailable => "no current keys are available to verify the token",
        })
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.verify_error().map(|error| error as _)
    }
}

/// One row of the rejection table.
struct Row {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
    challenge: Challenge,
    grpc: (i32, &'static str),
}

enum Challenge {
    CodeAndDescription,
    None,
    Realm,
}
