//! The errors, one type per audience.
//!
//! | type | who reads it |
//! | --- | --- |
//! | [`InvalidUserPoolId`], [`InvalidUrl`], [`InvalidScope`](crate::InvalidScope) | the programmer, while writing the settings |
//! | [`ConfigError`] | the operator: the settings are wrong, and a restart does not help |
//! | [`StartError`] | the operator, when the service starts: its kind says whether to try again |
//! | [`VerifyError`] | code that decides what to do about a token |
//! | [`InvalidJwks`], [`RefreshError`] | the operator, in the logs |
//! | [`InvalidClaims`] | the application, when it reads its own claims |
//!
//! No text contains a byte of a token, of a key or of anything else that a client sent.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::scope::{Requirement, Scope};

type BoxError = Box<dyn Error + Send + Sync>;

/// An error about a text that cannot be used. It says why, and does not repeat the text.
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
    "invalid user pool ID: {}; expected an ID such as `ap-northeast-1_AbCdEfGhI`"
}

invalid! {
    /// A text that cannot be an issuer, the URL of a JWK Set or the URL of a resource.
    InvalidUrl,
    "invalid URL: {}; expected a URL such as `https://issuer.example/pool`"
}

/// A document that is not a JWK Set with at least one usable key.
///
/// If no key is usable, the text says why for the first 8 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidJwks {
    problem: Cow<'static, str>,
}

impl InvalidJwks {
    pub(crate) fn new(problem: impl Into<Cow<'static, str>>) -> Self {
        Self { problem: problem.into() }
    }
}

impl fmt::Display for InvalidJwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid JWK Set: {}", self.problem)
    }
}

impl Error for InvalidJwks {}

/// Describes claims that do not have the shape that the application requested.
///
/// Contains the position in the payload, but not the value, because claims can be personal data.
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
    required: Option<&'static Requirement>,
    /// From a token whose signature is valid. Only the log shows it.
    wrong_client: Option<Arc<String>>,
}

impl VerifyError {
    /// Creates an error without a time to retry. For missing keys, use
    /// [`keys_unavailable`](Self::keys_unavailable).
    pub(crate) fn new(kind: VerifyErrorKind) -> Self {
        Self { kind, retry_after: None, required: None, wrong_client: None }
    }

    pub(crate) fn insufficient_scope(required: &'static Requirement) -> Self {
        Self { required: Some(required), ..Self::new(VerifyErrorKind::InsufficientScope) }
    }

    pub(crate) fn keys_unavailable(retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(VerifyErrorKind::KeysUnavailable) }
    }

    pub(crate) fn of_wrong_client(client_id: Arc<String>) -> Self {
        Self { wrong_client: Some(client_id), ..Self::new(VerifyErrorKind::WrongClient) }
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

    /// Returns the scopes that the rules require, if the token lacks one of them.
    pub fn required_scopes(&self) -> &[Scope] {
        self.required.map_or(&[], |required| required.scopes())
    }

    /// Returns the `client_id` that is not allowed, of a token whose signature is valid.
    pub(crate) fn wrong_client(&self) -> Option<&str> {
        self.wrong_client.as_ref().map(|client_id| client_id.as_str())
    }

    pub(crate) fn requirement(&self) -> Option<&'static Requirement> {
        self.required
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
    /// The token is valid, but lacks a scope that the rules require.
    InsufficientScope,
    /// A required claim is missing, `sub` is empty, or a claim has the wrong type.
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
    /// `aud` does not contain a required audience.
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
            Self::InsufficientScope => "insufficient_scope",
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
            Self::InsufficientScope => "`scope` lacks a required scope",
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
            Self::WrongAudience => "`aud` does not contain a required audience",
            Self::WrongClient => "`client_id` is not an allowed client",
            Self::WrongTokenUse => "not an access token: `token_use` is not `access`",
        }
    }
}

/// Describes why a JWK Set could not be refreshed.
///
/// An implementation of [`FetchJwks`](crate::FetchJwks) creates one:
///
/// ```
/// use std::time::Duration;
/// use tower_cognito::{RefreshError, RefreshErrorKind};
///
/// let throttled = RefreshError::status(429).with_retry_after(Duration::from_secs(60));
/// assert_eq!(throttled.kind(), RefreshErrorKind::Status);
/// let broken = RefreshError::transport("the connection was reset");
/// assert_eq!(broken.kind().as_str(), "transport");
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
    /// Creates an error for a response whose status is not 200.
    pub fn status(code: u16) -> Self {
        Self::new(RefreshCause::Status(code))
    }

    /// Creates an error for a request that got no complete response.
    pub fn transport(cause: impl Into<BoxError>) -> Self {
        Self::new(RefreshCause::Transport(cause.into().into()))
    }

    /// Sets how long the endpoint asks clients to wait before the next request (`Retry-After`).
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

    /// Returns `true` if another attempt within seconds cannot help: the endpoint understood the
    /// request and has no such JWK Set.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.cause, RefreshCause::Status(400..=499))
            && !matches!(self.cause, RefreshCause::Status(408 | 425 | 429))
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> RefreshErrorKind {
        match self.cause {
            RefreshCause::Document(_) => RefreshErrorKind::Document,
            RefreshCause::Panicked => RefreshErrorKind::Panicked,
            RefreshCause::Status(_) => RefreshErrorKind::Status,
            RefreshCause::TimedOut => RefreshErrorKind::TimedOut,
            RefreshCause::Transport(_) => RefreshErrorKind::Transport,
        }
    }

    fn new(cause: RefreshCause) -> Self {
        Self { cause, retry_after: None }
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            RefreshCause::Document(_) => f.write_str("the response is not a usable JWK Set"),
            RefreshCause::Panicked => f.write_str("the fetch panicked"),
            RefreshCause::Status(code) => write!(f, "the response has status {code}, expected 200"),
            RefreshCause::TimedOut => f.write_str("no complete response within the time limit"),
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

/// The kind of a [`RefreshError`], for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefreshErrorKind {
    /// The response is not a JWK Set with at least one usable key.
    Document,
    /// The fetch panicked.
    Panicked,
    /// The status of the response is not 200.
    Status,
    /// There was no complete response within the time limit.
    TimedOut,
    /// The request failed: name resolution, connection, TLS, or the response was cut off.
    Transport,
}

impl RefreshErrorKind {
    /// Returns a short stable name for logs and metrics, such as `timed_out`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Panicked => "panicked",
            Self::Status => "status",
            Self::TimedOut => "timed_out",
            Self::Transport => "transport",
        }
    }
}

/// Lists everything that is wrong with the settings of a verifier or of a scope table.
///
/// A restart with the same settings fails in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    pub(crate) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// Returns each problem, as one phrase.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid configuration: {}", self.problems.join("; "))
    }
}

impl Error for ConfigError {}

/// Describes why a verifier could not start. It lists every problem.
///
/// ```
/// use tower_cognito::{StartError, StartErrorKind};
///
/// fn is_worth_a_restart(error: &StartError) -> bool {
///     error.kind() != StartErrorKind::Config
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    kind: StartErrorKind,
    problems: Vec<String>,
}

impl StartError {
    pub(crate) fn no_keys(problems: Vec<String>) -> Self {
        Self { kind: StartErrorKind::NoKeys, problems }
    }

    pub(crate) fn no_thread(problem: String) -> Self {
        Self { kind: StartErrorKind::NoThread, problems: vec![problem] }
    }

    /// Returns the kind of the error, which says whether a restart can help.
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }

    /// Returns each problem in the settings, or each pool without keys and the reason.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl From<ConfigError> for StartError {
    fn from(ConfigError { problems }: ConfigError) -> Self {
        Self { kind: StartErrorKind::Config, problems }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start: {}", self.problems.join("; "))
    }
}

impl Error for StartError {}

/// The kind of a [`StartError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The settings are wrong: a restart fails in the same way.
    Config,
    /// The settings are valid, and no keys were fetched in time: try again.
    NoKeys,
    /// The operating system could not start the thread that refreshes the keys: try again.
    NoThread,
}

/// Returns the error and its causes in one line, for a log or for the operator.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
