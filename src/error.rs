//! What can go wrong, one type per audience.
//!
//! | type | who reads it |
//! | --- | --- |
//! | [`InvalidUserPoolId`], [`InvalidUrl`], [`InvalidScope`] | the programmer, while writing the settings |
//! | [`StartError`] | the operator, when the service starts; it lists everything that is wrong |
//! | [`VerifyError`] | code that decides what to do about a token |
//! | [`InvalidJwks`], [`RefreshError`] | whoever reads the logs |
//! | [`InvalidClaims`] | the application, when it reads claims of its own |
//!
//! No text holds a byte of a token, of a key or of anything else that a client sent.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

type BoxError = Box<dyn Error + Send + Sync>;

/// Something that was given as a text and can not be used. It says why, and repeats none of it.
macro_rules! invalid {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            problem: &'static str,
        }

        impl $name {
            pub(crate) fn new(problem: &'static str) -> Self {
                Self { problem }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $text, self.problem)
            }
        }

        impl Error for $name {}
    };
}

invalid! {
    /// A text that is not the ID of a Cognito user pool.
    InvalidUserPoolId,
    "invalid user pool id: {}; a good one looks like `ap-northeast-1_AbCdEfGhI`"
}

invalid! {
    /// A text that can not be an issuer, the address of a JWK Set or the URL of a resource.
    InvalidUrl,
    "invalid URL: {}; a good one looks like `https://issuer.example/pool`"
}

invalid! {
    /// A text that is not one scope token of [RFC 6749 section 3.3].
    ///
    /// [RFC 6749 section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
    InvalidScope,
    "invalid scope: {}; a good one looks like `activity/*`"
}

invalid! {
    /// A document that is not a JWK Set with at least one usable key.
    InvalidJwks,
    "invalid JWK Set: {}"
}

/// Claims that do not have the shape the application asked for.
///
/// Says where in the payload, and not what is there: claims are about people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClaims {
    line: usize,
    column: usize,
}

impl InvalidClaims {
    pub(crate) fn at(line: usize, column: usize) -> Self {
        Self { line, column }
    }
}

impl fmt::Display for InvalidClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column } = self;
        write!(f, "the claims do not have the expected shape, line {line} column {column}")
    }
}

impl Error for InvalidClaims {}

/// Describes why a token was rejected.
///
/// [`VerifyErrorKind`] lists the cases.
///
/// ```
/// use tower_cognito::{VerifyError, VerifyErrorKind};
///
/// fn advice(error: &VerifyError) -> String {
///     match (error.kind(), error.retry_after()) {
///         (VerifyErrorKind::Expired, _) => "get a new token".to_owned(),
///         (_, Some(pause)) => format!("come back in {} s with the same one", pause.as_secs()),
///         _ => error.to_string(),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    kind: VerifyErrorKind,
    retry_after: Option<Duration>,
}

impl VerifyError {
    /// Creates an error without a time to retry. For missing keys, use
    /// [`keys_unavailable`](Self::keys_unavailable).
    pub(crate) fn new(kind: VerifyErrorKind) -> Self {
        Self { kind, retry_after: None }
    }

    pub(crate) fn keys_unavailable(retry_after: Duration) -> Self {
        Self { kind: VerifyErrorKind::KeysUnavailable, retry_after: Some(retry_after) }
    }

    /// Returns the rule that the token breaks.
    pub fn kind(&self) -> VerifyErrorKind {
        self.kind
    }

    /// Returns how long to wait before the same token is presented again. It is `None` unless the
    /// keys are missing or too old.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())
    }
}

impl Error for VerifyError {}

/// The rule that a rejected token breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyErrorKind {
    /// The signature was not made by the key that `kid` names.
    BadSignature,
    /// `exp` has passed.
    Expired,
    /// The token is valid, but its groups or the application's check forbid the request.
    Forbidden,
    /// A required claim is missing, or a claim has the wrong type.
    InvalidClaim,
    /// The header has no usable `kid`, a wrong `typ`, or an extension (`crit`, `b64`, `zip`, `enc`).
    InvalidHeader,
    /// There are no current keys: none have been fetched yet, or they are too old.
    KeysUnavailable,
    /// The text is not a compact JWS whose header and payload are JSON objects.
    Malformed,
    /// `nbf` is in the future.
    NotYetValid,
    /// The application's check reports that the token was revoked.
    Revoked,
    /// The token is bound to a key (`cnf`), and a bearer token cannot prove possession of that key.
    SenderConstrained,
    /// The token is longer than 16 KiB.
    TooLarge,
    /// `iss` is not a trusted issuer.
    UnknownIssuer,
    /// The issuer's key set has no key with the token's `kid`.
    UnknownKey,
    /// `alg` is not `RS256`.
    UnsupportedAlgorithm,
    /// `aud` does not contain the required audience.
    WrongAudience,
    /// `client_id` is not an allowed client.
    WrongClient,
    /// `token_use` is not `access`.
    WrongTokenUse,
}

impl VerifyErrorKind {
    /// Returns a short, stable name for logs and metrics, such as `expired`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::InvalidClaim => "invalid_claim",
            Self::InvalidHeader => "invalid_header",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Malformed => "malformed",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::SenderConstrained => "sender_constrained",
            Self::TooLarge => "too_large",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::WrongAudience => "wrong_audience",
            Self::WrongClient => "wrong_client",
            Self::WrongTokenUse => "wrong_token_use",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::BadSignature => "signature does not match the key that `kid` names",
            Self::Expired => "`exp` has passed",
            Self::Forbidden => "forbidden by the required groups or the application's check",
            Self::InvalidClaim => "a required claim is missing, or a claim has the wrong type",
            Self::InvalidHeader => "header has no usable `kid`, a wrong `typ`, or an extension",
            Self::KeysUnavailable => "no current keys to verify with",
            Self::Malformed => "not a well-formed compact JWS",
            Self::NotYetValid => "`nbf` is in the future",
            Self::Revoked => "revoked according to the application's check",
            Self::SenderConstrained => "not a bearer token: `cnf` binds it to a key",
            Self::TooLarge => "token is longer than 16 KiB",
            Self::UnknownIssuer => "`iss` is not a trusted issuer",
            Self::UnknownKey => "`kid` does not name a key of the issuer",
            Self::UnsupportedAlgorithm => "`alg` is not `RS256`",
            Self::WrongAudience => "`aud` does not contain the required audience",
            Self::WrongClient => "`client_id` is not an allowed client",
            Self::WrongTokenUse => "not an access token: `token_use` is not `access`",
        }
    }
}

/// Why a key set could not be refreshed.
///
/// Whoever [fetches in a way of their own](crate::VerifierBuilder::jwks_fetcher) makes one:
///
/// ```
/// use std::time::Duration;
/// use tower_cognito::RefreshError;
///
/// let refused = RefreshError::status(429).with_retry_after(Duration::from_secs(60));
/// assert_eq!(refused.class(), "status");
/// let broken = RefreshError::transport("the connection was reset");
/// assert_eq!(broken.class(), "transport");
/// ```
#[derive(Clone, Debug)]
pub struct RefreshError {
    cause: RefreshCause,
    retry_after: Option<Duration>,
}

#[derive(Clone, Debug)]
enum RefreshCause {
    Document(InvalidJwks),
    Panicked,
    Status(u16),
    TimedOut,
    Transport(Arc<dyn Error + Send + Sync>),
}

impl RefreshError {
    /// The endpoint answered with something else than 200.
    pub fn status(code: u16) -> Self {
        Self::new(RefreshCause::Status(code))
    }

    /// The endpoint gave no complete answer.
    pub fn transport(cause: impl Into<BoxError>) -> Self {
        Self::new(RefreshCause::Transport(cause.into().into()))
    }

    /// The endpoint asked to be left alone for this long (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(crate) fn document(cause: InvalidJwks) -> Self {
        Self::new(RefreshCause::Document(cause))
    }

    pub(crate) fn panicked() -> Self {
        Self::new(RefreshCause::Panicked)
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(RefreshCause::TimedOut)
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether another attempt within seconds can not help: the endpoint understood the request
    /// and has no such key set.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.cause, RefreshCause::Status(400..=499))
            && !matches!(self.cause, RefreshCause::Status(408 | 425 | 429))
    }

    /// The class of the error, for logs and metrics.
    pub fn class(&self) -> &'static str {
        match self.cause {
            RefreshCause::Document(_) => "document",
            RefreshCause::Panicked => "panicked",
            RefreshCause::Status(_) => "status",
            RefreshCause::TimedOut => "timed_out",
            RefreshCause::Transport(_) => "transport",
        }
    }

    fn new(cause: RefreshCause) -> Self {
        Self { cause, retry_after: None }
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            RefreshCause::Document(_) => f.write_str("the answer is not a usable JWK Set"),
            RefreshCause::Panicked => f.write_str("the fetch panicked"),
            RefreshCause::Status(code) => write!(f, "the answer has status {code}"),
            RefreshCause::TimedOut => f.write_str("no complete answer in time"),
            RefreshCause::Transport(_) => f.write_str("the request failed"),
        }
    }
}

impl Error for RefreshError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            RefreshCause::Document(cause) => Some(cause),
            RefreshCause::Transport(cause) => Some(&**cause),
            RefreshCause::Panicked | RefreshCause::Status(_) | RefreshCause::TimedOut => None,
        }
    }
}

/// Why a verifier could not start: everything that is wrong, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    problems: Vec<String>,
}

impl StartError {
    pub(crate) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// Each mistake in the settings, or each pool whose keys could not be fetched.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can not start: {}", self.problems.join("; "))
    }
}

impl Error for StartError {}

/// The error and its causes in one line, for a person who reads a log or starts a service.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
