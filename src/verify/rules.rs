//! The rules that the tokens of one pool must satisfy.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{AccessToken, Invalid};
use crate::claims::Claims;
use crate::error::{VerifyError, VerifyErrorKind};
use crate::scope::{Requirement, Scopes};
use crate::user_pool::UserPool;

/// The maximum leeway.
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// The rules that the tokens of one pool must satisfy.
///
/// The pool and the clients are required. Every other rule is optional.
///
/// ```
/// use tower_cognito::{ClientIds, Rules, UserPool};
///
/// let pool = UserPool::new("ap-northeast-1_AbCdEfGhI")?;
/// let rules = Rules::new(pool, ClientIds::only(["5a1b2c3d4e5f6g7h8i9j0k1l2m"]));
/// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rules {
    pool: UserPool,
    clients: ClientIds,
    audience: Option<Audience>,
    groups: BTreeSet<String>,
    leeway: Duration,
    requirement: Option<&'static Requirement>,
    check: Option<Arc<Check>>,
}

type Check = dyn Fn(&AccessToken) -> Result<(), CheckError> + Send + Sync;

impl Rules {
    /// Creates rules that accept the access tokens of this pool that were issued to these clients.
    pub fn new(pool: UserPool, clients: ClientIds) -> Self {
        Self {
            pool,
            clients,
            audience: None,
            requirement: None,
            groups: BTreeSet::new(),
            leeway: Duration::ZERO,
            check: None,
        }
    }

    /// Requires an `aud` claim that contains this value. A second call replaces the first.
    ///
    /// **If this is not set, `aud` is ignored**, and a token that was issued for another resource
    /// (RFC 8707), or exchanged for another service (RFC 8693), is accepted. Set it if the pool
    /// serves several APIs. Cognito's machine-to-machine tokens have no `aud`, so they are rejected
    /// if it is set; see [`with_audience_if_present`](Self::with_audience_if_present).
    ///
    /// The value is compared byte for byte (RFC 7519 section 2). An `http` or `https` URL without a
    /// path, query or fragment stands for two values, with and without the slash, because clients
    /// send both (RFC 3986 section 6.2.3).
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.with_audience("https://api.example.com");
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn with_audience(self, audience: impl Into<String>) -> Self {
        self.with_audiences([audience])
    }

    /// Requires an `aud` claim that contains at least one of these values, each as in
    /// [`with_audience`](Self::with_audience).
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.with_audiences(["https://api.example.com", "urn:example:api"]);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn with_audiences(
        mut self,
        audiences: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.audience = Some(Audience::new(audiences, true));
        self
    }

    /// Requires that `aud`, if the token has one, contains at least one of these values. A token
    /// without `aud` is accepted.
    ///
    /// This serves users and machines with one verifier: Cognito writes an `aud` into the tokens of
    /// users whose client named the resource, and never into machine-to-machine tokens. It replaces
    /// [`with_audience`](Self::with_audience).
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.with_audience_if_present(["https://api.example.com"]);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn with_audience_if_present(
        mut self,
        audiences: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.audience = Some(Audience::new(audiences, false));
        self
    }

    /// Requires all of these scopes in every token. A second call replaces the first.
    ///
    /// A token that lacks one is rejected with
    /// [`InsufficientScope`](VerifyErrorKind::InsufficientScope), by the layers with 403. Scopes of
    /// single routes are required with [`RequireScope`](crate::RequireScope) or a
    /// [`ScopeTable`](crate::ScopeTable).
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.with_required_scopes(["activity/*"]);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the list is empty, or if a text is not a scope.
    #[track_caller]
    pub fn with_required_scopes<'a>(self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        self.with_requirement(Requirement::parse_or_panic(Requirement::all_of(scopes)))
    }

    pub(crate) fn with_requirement(mut self, requirement: Requirement) -> Self {
        self.requirement = Some(requirement.interned());
        self
    }

    pub(crate) fn requirement(&self) -> Option<&'static Requirement> {
        self.requirement
    }

    /// Creates the error, with the scopes that these rules require if one is missing.
    pub(crate) fn error(&self, invalid: impl Into<Invalid>) -> VerifyError {
        match (invalid.into(), &self.requirement) {
            (Invalid { kind: VerifyErrorKind::InsufficientScope, .. }, Some(requirement)) => {
                VerifyError::insufficient_scope(requirement)
            }
            (Invalid { wrong_client: Some(client_id), .. }, _) => {
                VerifyError::of_wrong_client(client_id)
            }
            (Invalid { kind, .. }, _) => VerifyError::new(kind),
        }
    }

    /// Requires membership in at least one of these groups (`cognito:groups`).
    ///
    /// By default, no group is required. A second call replaces the groups of the first.
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.with_groups(["editors", "admins"]);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the list of groups is empty.
    #[track_caller]
    pub fn with_groups(mut self, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.groups = groups.into_iter().map(Into::into).collect();
        assert!(!self.groups.is_empty(), "the list of groups is empty");
        self
    }

    /// Sets how far the clocks of the issuer and of this machine may differ when `exp` and `nbf`
    /// are checked. Default 0 seconds; maximum 300 seconds.
    ///
    /// Both claims are floored to the second: a token with an `nbf` of 1700000000.9 is accepted from
    /// 1700000000 on. Cognito writes whole seconds.
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Adds a check by the application, which runs after all other checks, on every request.
    ///
    /// If you call it several times, every check must succeed, and the first one that fails gives
    /// the error. The check is synchronous: a check that waits for something belongs in a middleware
    /// inside [`RequireToken`](crate::RequireToken).
    ///
    /// ```
    /// # use std::collections::HashSet;
    /// # use std::sync::{Arc, RwLock};
    /// # use tower_cognito::{ClientIds, CheckError, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let revoked = Arc::new(RwLock::new(HashSet::from(["some-jti".to_owned()])));
    /// let rules = rules.with_check(move |token| match (token.jwt_id(), revoked.read()) {
    ///     (Some(id), Ok(revoked)) if !revoked.contains(id) => Ok(()),
    ///     _ => Err(CheckError::Revoked),
    /// });
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn with_check(
        mut self,
        check: impl Fn(&AccessToken) -> Result<(), CheckError> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(match self.check.take() {
            None => Arc::new(check),
            Some(first) => Arc::new(move |token| first(token).and_then(|()| check(token))),
        });
        self
    }

    /// Returns the pool whose tokens these rules accept.
    pub fn pool(&self) -> &UserPool {
        &self.pool
    }

    /// Returns every setting that is not allowed.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let clients = self.clients.problem().map(str::to_owned);
        let leeway = (self.leeway > MAX_LEEWAY)
            .then(|| format!("leeway is {:?}, but the maximum is 300s", self.leeway));
        let audience = self.audience.as_ref().and_then(Audience::problem).map(str::to_owned);
        clients.into_iter().chain(leeway).chain(audience)
    }

    pub(super) fn trusted_issuer(&self, issuer: &str) -> Option<&Arc<str>> {
        // Compare byte for byte (CVE-2024-53861): no prefix, no normalization.
        self.pool.issuer_names().iter().find(|trusted| ***trusted == *issuer)
    }

    pub(super) fn check_claims(
        &self,
        claims: &Claims<'_>,
        now: SystemTime,
    ) -> Result<(), VerifyErrorKind> {
        if !self.clients.contains(&claims.client_id) {
            return Err(VerifyErrorKind::WrongClient);
        }
        self.check_times(claims.expires_at, claims.not_before, now)?;
        if let Some(audience) = &self.audience
            && !audience.accepts(claims.audience.as_deref())
        {
            return Err(VerifyErrorKind::WrongAudience);
        }
        // RFC 7800 section 3: the client must also prove that it has a key, and a bearer token
        // contains no such proof.
        if claims.is_sender_constrained {
            return Err(VerifyErrorKind::SenderConstrained);
        }
        let groups = claims.groups.as_deref().unwrap_or_default();
        if !self.groups.is_empty() && !groups.iter().any(|group| self.groups.contains(group)) {
            return Err(VerifyErrorKind::Forbidden);
        }
        self.check_scopes(|| Scopes::from_claim(claims.scope.as_deref().unwrap_or_default()))
    }

    fn check_scopes<'t>(&self, granted: impl Fn() -> Scopes<'t>) -> Result<(), VerifyErrorKind> {
        match &self.requirement {
            Some(required) if !required.is_met_by(granted()) => {
                Err(VerifyErrorKind::InsufficientScope)
            }
            _ => Ok(()),
        }
    }

    /// Checks a cached token, which these rules have accepted before. Repeats the checks whose result
    /// can change: the times, and the application's check. Repeats the scopes as well, as a second
    /// line of defense. `client_id`, `aud`, `cnf` and groups are not checked again, because neither
    /// the token nor the rules can change. The order is that of
    /// [`check_claims`](Self::check_claims).
    #[inline]
    pub(crate) fn recheck(
        &self,
        token: &AccessToken,
        now: SystemTime,
    ) -> Result<(), VerifyErrorKind> {
        let (expires_at, not_before) = token.times();
        self.check_times(expires_at, not_before, now)?;
        self.check_scopes(|| token.scopes())?;
        self.check_application(token)
    }

    #[inline]
    fn check_times(
        &self,
        expires_at: i64,
        not_before: Option<i64>,
        now: SystemTime,
    ) -> Result<(), VerifyErrorKind> {
        if is_current_without_leeway(expires_at, not_before, now) {
            return Ok(());
        }
        let now = nanoseconds(now);
        let leeway = i128::try_from(self.leeway.min(MAX_LEEWAY).as_nanos()).unwrap_or_default();
        // RFC 7519 section 4.1.4: a token has expired "on or after" the time in `exp`.
        if now >= nanoseconds_of(expires_at).saturating_add(leeway) {
            return Err(VerifyErrorKind::Expired);
        }
        // RFC 7519 section 4.1.5.
        let is_early = |nbf| nanoseconds_of(nbf) > now.saturating_add(leeway);
        if not_before.is_some_and(is_early) {
            return Err(VerifyErrorKind::NotYetValid);
        }
        Ok(())
    }

    pub(super) fn check_application(&self, token: &AccessToken) -> Result<(), VerifyErrorKind> {
        let result = self.check.as_ref().map_or(Ok(()), |check| check(token));
        result.map_err(|error| match error {
            CheckError::Forbidden => VerifyErrorKind::Forbidden,
            CheckError::Revoked => VerifyErrorKind::Revoked,
        })
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("pool", &self.pool)
            .field("clients", &self.clients)
            .field("audience", &self.audience)
            .field("groups", &self.groups)
            .field("leeway", &self.leeway)
            .field("requirement", &self.requirement)
            .finish_non_exhaustive()
    }
}

/// Describes why the application's check ([`Rules::with_check`]) rejects a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError {
    /// The caller must not do this, with any token: 403.
    Forbidden,
    /// The token was revoked, and the client should get a new one: 401 `invalid_token`.
    Revoked,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbidden => "the request is forbidden",
            Self::Revoked => "the token was revoked",
        })
    }
}

impl Error for CheckError {}

/// The app clients whose tokens are accepted.
///
/// A pool often has clients that must not use this service, so the list has no default:
///
/// ```
/// use tower_cognito::{ClientIds, Rules, UserPool};
///
/// # let pool = UserPool::new("us-east-1_Example")?;
/// let rules = Rules::new(pool, ClientIds::only(["5a1b2c3d4e5f6g7h8i9j0k1l2m"]));
/// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
/// ```
///
/// ```compile_fail,E0061
/// use tower_cognito::{ClientIds, Rules, UserPool};
///
/// # let pool = UserPool::new("us-east-1_Example")?;
/// let rules = Rules::new(pool);
/// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIds(AllowedClients);

#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowedClients {
    Any,
    Only(BTreeSet<String>),
}

impl ClientIds {
    /// Allows only these clients.
    pub fn only(ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(AllowedClients::Only(ids.into_iter().map(Into::into).collect()))
    }

    /// Allows every client of the pool, including clients that are added later.
    pub fn any() -> Self {
        Self(AllowedClients::Any)
    }

    fn contains(&self, id: &str) -> bool {
        match &self.0 {
            AllowedClients::Any => true,
            AllowedClients::Only(ids) => ids.contains(id),
        }
    }

    fn problem(&self) -> Option<&'static str> {
        match &self.0 {
            AllowedClients::Only(ids) if ids.is_empty() => Some("the list of client IDs is empty"),
            AllowedClients::Only(ids) if ids.iter().any(|id| id.trim() != id || id.is_empty()) => {
                Some("a client ID is empty or has whitespace around it")
            }
            AllowedClients::Any | AllowedClients::Only(_) => None,
        }
    }
}

/// The accepted values of `aud` (RFC 7519 section 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Audience {
    accepted: BTreeSet<String>,
    is_required: bool,
}

impl Audience {
    fn new(audiences: impl IntoIterator<Item = impl Into<String>>, is_required: bool) -> Self {
        let mut accepted = BTreeSet::new();
        for audience in audiences {
            let audience = audience.into();
            // RFC 3986 section 6.2.3: an empty path is the same as `/`.
            if let Some(other) = other_spelling_of_origin(&audience) {
                accepted.insert(other);
            }
            accepted.insert(audience);
        }
        Self { accepted, is_required }
    }

    fn accepts(&self, claim: Option<&[String]>) -> bool {
        match claim {
            Some(audiences) => audiences.iter().any(|audience| self.accepted.contains(audience)),
            None => !self.is_required,
        }
    }

    fn problem(&self) -> Option<&'static str> {
        if self.accepted.is_empty() {
            return Some("the list of audiences is empty");
        }
        self.accepted.contains("").then_some("an audience is empty")
    }
}

/// Returns an `http` or `https` URL that has no path, query or fragment with the slash that it does
/// not have, or without the slash that it has.
fn other_spelling_of_origin(audience: &str) -> Option<String> {
    let authority =
        audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"))?;
    if authority.is_empty() || authority.contains(['?', '#']) {
        return None;
    }
    match authority.split_once('/') {
        None => Some(format!("{audience}/")),
        Some((host, "")) if !host.is_empty() => audience.strip_suffix('/').map(str::to_owned),
        Some(_) => None,
    }
}

fn nanoseconds_of(seconds: i64) -> i128 {
    i128::from(seconds).saturating_mul(1_000_000_000)
}

/// Returns `true` if both times allow the token at this time. It compares without the conversions of
/// the complete check, because every request with a cached token needs it.
#[inline]
fn is_current_without_leeway(expires_at: i64, not_before: Option<i64>, now: SystemTime) -> bool {
    let time = |seconds: i64| {
        let since_epoch = Duration::from_secs(u64::try_from(seconds).ok()?);
        UNIX_EPOCH.checked_add(since_epoch)
    };
    time(expires_at).is_some_and(|expires_at| now < expires_at)
        && not_before.is_none_or(|nbf| time(nbf).is_some_and(|nbf| nbf <= now))
}

/// Returns the nanoseconds since the epoch. They are negative before it, because a clock can be set
/// to any time.
fn nanoseconds(time: SystemTime) -> i128 {
    let signed = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => signed(before.duration()).saturating_neg(),
    }
}
