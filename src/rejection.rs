//! The refusal table: what a client is told, and no more.
//!
//! | condition | status | challenge | gRPC |
//! | --- | --- | --- | --- |
//! | no token, or another scheme | 401 | `realm` alone | 16 |
//! | malformed `Authorization` | 400 | `invalid_request` | 16 |
//! | expired | 401 | `invalid_token`, "The access token expired" | 16 |
//! | any other fault of the token | 401 | `invalid_token`, "The access token is invalid" | 16 |
//! | a scope is missing | 403 | `insufficient_scope`, with the scopes asked for | 7 |
//! | forbidden by groups, the application's check or the scope table | 403 | `insufficient_scope` | 7 |
//! | no current keys | 503 | none, `Retry-After` | 14 |
//! | the layers are put together wrongly | 500 | none | 13 |
//!
//! Which rule refused a token goes to the logs: whoever could not sign one learns nothing from
//! the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderMap};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::error::{VerifyError, VerifyErrorKind};
use crate::scope::{Requirement, Scope};

/// Why a request was refused: found in the extensions of the response, so that a layer further
/// out can log or count it.
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
///                 eprintln!("no keys, clients come back in {:?}", rejection.retry_after());
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
    settings: Arc<RejectionConfig>,
}

#[derive(Clone, Debug)]
enum Reason {
    InsufficientScope(Arc<Requirement>),
    Internal,
    InvalidRequest,
    MissingToken,
    /// The scope table does not name the request.
    Unlisted,
    Token(VerifyError),
}

/// The row of the refusal table that a [`Rejection`] stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The access token has expired: 401.
    ExpiredToken,
    /// The token is good, but its groups, the application's check or the scope table forbid the
    /// request: 403.
    Forbidden,
    /// The token lacks a scope that the route asks for: 403.
    InsufficientScope,
    /// The layers are put together wrongly, which is no fault of the client: 500.
    Internal,
    /// The `Authorization` header is malformed: 400.
    InvalidRequest,
    /// The access token is not a good one: 401.
    InvalidToken,
    /// There is no bearer token: 401.
    MissingToken,
    /// There are no current keys to judge with: 503.
    Unavailable,
}

impl Rejection {
    pub(crate) fn missing_token(settings: Arc<RejectionConfig>) -> Self {
        Self { reason: Reason::MissingToken, settings }
    }

    pub(crate) fn invalid_request(settings: Arc<RejectionConfig>) -> Self {
        Self { reason: Reason::InvalidRequest, settings }
    }

    pub(crate) fn insufficient_scope(
        asked: Arc<Requirement>,
        settings: Arc<RejectionConfig>,
    ) -> Self {
        Self { reason: Reason::InsufficientScope(asked), settings }
    }

    pub(crate) fn unlisted(settings: Arc<RejectionConfig>) -> Self {
        Self { reason: Reason::Unlisted, settings }
    }

    pub(crate) fn internal() -> Self {
        Self { reason: Reason::Internal, settings: Arc::default() }
    }

    pub(crate) fn token(error: VerifyError, settings: Arc<RejectionConfig>) -> Self {
        Self { reason: Reason::Token(error), settings }
    }

    /// The row of the table.
    pub fn kind(&self) -> RejectionKind {
        match &self.reason {
            Reason::InsufficientScope(_) => RejectionKind::InsufficientScope,
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
            Reason::Unlisted => RejectionKind::Forbidden,
        }
    }

    /// Finer than [`kind`](Self::kind), for logs: never sent to a client.
    pub(crate) fn reason(&self) -> &'static str {
        match &self.reason {
            Reason::InsufficientScope(_) => "insufficient_scope",
            Reason::Internal => "no_require_token",
            Reason::InvalidRequest => "invalid_request",
            Reason::MissingToken => "missing_token",
            Reason::Token(error) => error.kind().as_str(),
            Reason::Unlisted => "not_in_scope_table",
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The value of `WWW-Authenticate` ([RFC 6750 section 3]), where there is one.
    ///
    /// [RFC 6750 section 3]: https://www.rfc-editor.org/rfc/rfc6750#section-3
    pub fn challenge(&self) -> Option<HeaderValue> {
        let row = self.row();
        let mut challenge = format!("Bearer realm=\"{}\"", self.settings.realm);
        match row.challenge {
            Challenge::None => return None,
            Challenge::Realm => {}
            Challenge::Code => challenge.push_str(&format!(", error=\"{}\"", row.code)),
            Challenge::CodeAndDescription => challenge.push_str(&format!(
                ", error=\"{}\", error_description=\"{}\"",
                row.code, row.description
            )),
        }
        let scopes = self.scopes().iter().map(Scope::as_str).collect::<Vec<_>>();
        if !scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", scopes.join(" ")));
        }
        if let Some(url) = &self.settings.resource_metadata {
            challenge.push_str(&format!(", resource_metadata=\"{url}\""));
        }
        // All of it was checked when it was set, so this can not fail; and if it did, a challenge
        // without it would still be a right one.
        Some(
            HeaderValue::try_from(challenge)
                .unwrap_or(HeaderValue::from_static(r#"Bearer realm="api""#)),
        )
    }

    /// When the client should try again: the value of `Retry-After`, in whole seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        let Reason::Token(error) = &self.reason else {
            return None;
        };
        error.retry_after().map(|delay| {
            let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
            Duration::from_secs(seconds)
        })
    }

    /// What the verifier said, if it came to that.
    pub fn verify_error(&self) -> Option<&VerifyError> {
        match &self.reason {
            Reason::Token(error) => Some(error),
            _ => None,
        }
    }

    /// The OAuth error code: of the challenge where it has one, and of the body.
    pub fn error(&self) -> &'static str {
        self.row().code
    }

    /// The sentence beside the code.
    pub fn error_description(&self) -> &'static str {
        self.row().description
    }

    /// The scopes that a route asks for, where they can be named.
    pub fn scopes(&self) -> &[Scope] {
        match &self.reason {
            Reason::InsufficientScope(asked) => asked.scopes(),
            Reason::Token(error) => error.required_scopes(),
            _ => &[],
        }
    }

    pub(crate) fn body(&self) -> RejectionBody {
        match &self.settings.body {
            Some(body) => body(self),
            None => RejectionBody::json(self),
        }
    }

    pub(crate) fn is_http_rejections_only(&self) -> bool {
        self.settings.is_http_rejections_only
    }

    /// The code and the message of the gRPC status, and the metadata beside them.
    pub(crate) fn grpc(&self) -> (i32, &'static str, HeaderMap) {
        let (code, message) = self.row().grpc;
        let mut metadata = HeaderMap::new();
        metadata.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = self.retry_after() {
            // gRPC proposal A6: when a client may try again, in milliseconds.
            let pushback = HeaderName::from_static("grpc-retry-pushback-ms");
            let milliseconds = delay.as_secs().saturating_mul(1_000);
            metadata.insert(pushback, HeaderValue::from(milliseconds));
        }
        (code, message, metadata)
    }

    #[rustfmt::skip] // it is a table
    fn row(&self) -> Row {
        use Challenge::{Code, CodeAndDescription, None, Realm};
        use RejectionKind as Kind;

        let (status, code, challenge, description, grpc) = match self.kind() {
            Kind::ExpiredToken => (401, "invalid_token", CodeAndDescription,
                "The access token expired", (16, "access token expired")),
            Kind::Forbidden => (403, "insufficient_scope", Code,
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
                "Access tokens can not be verified now", (14, "access tokens can not be verified now")),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Row { status, code, challenge, description, grpc }
    }
}

/// For a door of the application's own: the refusal that `RequireToken` would give.
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
            RejectionKind::Internal => "no `RequireToken` layer ran before this",
            RejectionKind::InvalidRequest => "the `Authorization` header is malformed",
            RejectionKind::InvalidToken => "the access token is invalid",
            RejectionKind::MissingToken => "there is no bearer token",
            RejectionKind::Unavailable => "there are no current keys to verify with",
        })
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.verify_error().map(|error| error as _)
    }
}

/// One row of the table.
struct Row {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
    challenge: Challenge,
    grpc: (i32, &'static str),
}

enum Challenge {
    Code,
    CodeAndDescription,
    None,
    Realm,
}

/// The body of a refusal: the one thing about it that an application may choose.
#[derive(Clone, Debug)]
pub struct RejectionBody {
    pub(crate) content_type: HeaderValue,
    pub(crate) bytes: Bytes,
}

impl RejectionBody {
    /// These bytes, of this media type.
    pub fn new(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self { content_type, bytes: bytes.into() }
    }

    /// The body unless another is set: `{"error":"…","error_description":"…"}`.
    pub fn json(rejection: &Rejection) -> Self {
        let (error, description) = (rejection.error(), rejection.error_description());
        let json = format!(r#"{{"error":"{error}","error_description":"{description}"}}"#);
        Self::new(HeaderValue::from_static("application/json"), json)
    }

    /// A problem document ([RFC 9457]), with the OAuth code in the member `error`.
    ///
    /// ```
    /// use tower_cognito::{RejectionBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).rejection_body(RejectionBody::problem)
    /// # }
    /// ```
    ///
    /// [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457
    pub fn problem(rejection: &Rejection) -> Self {
        let status = rejection.status();
        let title = status.canonical_reason().unwrap_or_default();
        let (error, detail) = (rejection.error(), rejection.error_description());
        let json = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{detail}","error":"{error}"}}"#,
            status.as_u16()
        );
        Self::new(HeaderValue::from_static("application/problem+json"), json)
    }
}

/// How refusals look, set on `RequireToken` and the same for everything inside it.
#[derive(Clone)]
pub(crate) struct RejectionConfig {
    realm: Box<str>,
    resource_metadata: Option<Box<str>>,
    body: Option<Arc<BodyHook>>,
    /// No answer in gRPC's form, whatever the request's content type.
    pub(crate) is_http_rejections_only: bool,
}

type BodyHook = dyn Fn(&Rejection) -> RejectionBody + Send + Sync;

impl RejectionConfig {
    /// # Panics
    ///
    /// When the realm has a character that RFC 9110 section 5.6.4 would have escaped.
    #[track_caller]
    pub(crate) fn set_realm(&mut self, realm: &str) {
        let is_plain = |byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(
            !realm.is_empty() && realm.bytes().all(is_plain),
            "invalid realm: it is empty, or has a quote, a backslash, a control or a non-ASCII \
             character"
        );
        self.realm = realm.into();
    }

    /// A URL that was checked: it has no quote.
    pub(crate) fn set_resource_metadata(&mut self, url: &str) {
        self.resource_metadata = Some(url.into());
    }

    pub(crate) fn set_body(
        &mut self,
        body: impl Fn(&Rejection) -> RejectionBody + Send + Sync + 'static,
    ) {
        self.body = Some(Arc::new(body));
    }
}

impl Default for RejectionConfig {
    fn default() -> Self {
        Self {
            realm: "api".into(),
            resource_metadata: None,
            body: None,
            is_http_rejections_only: false,
        }
    }
}

impl fmt::Debug for RejectionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionConfig")
            .field("realm", &self.realm)
            .field("resource_metadata", &self.resource_metadata)
            .field("is_http_rejections_only", &self.is_http_rejections_only)
            .finish_non_exhaustive()
    }
}
