//! What one pool's tokens must be like.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::AccessToken;
use crate::claims::Claims;
use crate::error::VerifyErrorKind;
use crate::user_pool::UserPool;

/// The most that clocks may be apart.
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// What one pool's tokens must be like.
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
    audience: Option<Box<str>>,
    groups: BTreeSet<String>,
    leeway: Duration,
    check: Option<Arc<Check>>,
}

type Check = dyn Fn(&AccessToken) -> Result<(), CheckError> + Send + Sync;

impl Rules {
    /// Tokens of this pool, issued to these clients.
    pub fn new(pool: UserPool, clients: ClientIds) -> Self {
        Self {
            pool,
            clients,
            audience: None,
            groups: BTreeSet::new(),
            leeway: Duration::ZERO,
            check: None,
        }
    }

    /// Asks for an `aud` claim that contains this value.
    ///
    /// Without it `aud` is not looked at, and machine tokens of Cognito have none: a token that
    /// its client asked for on behalf of another resource (RFC 8707) is accepted.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into().into());
        self
    }

    /// Asks for membership in at least one of these groups (`cognito:groups`). A second call
    /// replaces the first.
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let rules = rules.groups(["editors", "admins"]);
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    ///
    /// # Panics
    ///
    /// When no group is named.
    #[track_caller]
    pub fn groups(mut self, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.groups = groups.into_iter().map(Into::into).collect();
        assert!(!self.groups.is_empty(), "no group is named, so nobody could be a member");
        self
    }

    /// How far the clocks of the issuer and of this machine may be apart: 0 unless set, at most
    /// 300 seconds.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// A check of the application's own, run last and on every request. A check that has to wait
    /// for something is a middleware inside [`RequireToken`](crate::RequireToken) instead. Of
    /// several, all must agree; the first that refuses decides.
    ///
    /// ```
    /// # use std::collections::HashSet;
    /// # use std::sync::{Arc, RwLock};
    /// # use tower_cognito::{ClientIds, CheckError, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let revoked = Arc::new(RwLock::new(HashSet::from(["some-jti".to_owned()])));
    /// let rules = rules.check(move |token| match (token.jwt_id(), revoked.read()) {
    ///     (Some(id), Ok(revoked)) if !revoked.contains(id) => Ok(()),
    ///     _ => Err(CheckError::Revoked),
    /// });
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn check(
        mut self,
        check: impl Fn(&AccessToken) -> Result<(), CheckError> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(match self.check.take() {
            None => Arc::new(check),
            Some(first) => Arc::new(move |token| first(token).and_then(|()| check(token))),
        });
        self
    }

    /// The pool that these rules name.
    pub fn pool(&self) -> &UserPool {
        &self.pool
    }

    /// Everything about these rules that can not have been meant.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let clients = self.clients.problem().map(str::to_owned);
        let leeway = (self.leeway > MAX_LEEWAY)
            .then(|| format!("leeway is {:?}, and at most 300 s are allowed", self.leeway));
        let audience = self.audience.as_deref().filter(|audience| audience.is_empty());
        clients.into_iter().chain(leeway).chain(audience.map(|_| "audience is empty".to_owned()))
    }

    pub(super) fn trusted_issuer(&self, issuer: &str) -> Option<&Arc<str>> {
        // Byte for byte (CVE-2024-53861): no prefix, no normalisation.
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
        // RFC 7519 section 4.1.3.
        if let Some(expected) = &self.audience {
            let audience = claims.audience.as_deref().unwrap_or_default();
            if !audience.iter().any(|audience| **audience == **expected) {
                return Err(VerifyErrorKind::WrongAudience);
            }
        }
        // RFC 7800 section 3: to be shown together with a proof, which a bearer does not give.
        if claims.is_sender_constrained {
            return Err(VerifyErrorKind::SenderConstrained);
        }
        let groups = claims.groups.as_deref().unwrap_or_default();
        if !self.groups.is_empty() && !groups.iter().any(|group| self.groups.contains(group)) {
            return Err(VerifyErrorKind::Forbidden);
        }
        Ok(())
    }

    /// What may have changed about a token that these rules accepted before. The rest are
    /// properties of the token itself, in the order of [`check_claims`](Self::check_claims).
    pub(crate) fn recheck(
        &self,
        token: &AccessToken,
        now: SystemTime,
    ) -> Result<(), VerifyErrorKind> {
        let (expires_at, not_before) = token.times();
        self.check_times(expires_at, not_before, now)?;
        self.check_application(token)
    }

    fn check_times(
        &self,
        expires_at: i64,
        not_before: Option<i64>,
        now: SystemTime,
    ) -> Result<(), VerifyErrorKind> {
        let now = nanoseconds(now);
        let leeway = i128::try_from(self.leeway.min(MAX_LEEWAY).as_nanos()).unwrap_or_default();
        // RFC 7519 section 4.1.4: "on or after" its time a token has expired.
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
        let verdict = self.check.as_ref().map_or(Ok(()), |check| check(token));
        verdict.map_err(|refused| match refused {
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
            .finish_non_exhaustive()
    }
}

/// Why the application's own check refuses a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError {
    /// Another token would be refused as well: 403.
    Forbidden,
    /// The client should get a new token: 401 `invalid_token`.
    Revoked,
}

/// Which app clients a token may have been issued to.
///
/// A pool often has clients that are none of this service's business, so the list has no default:
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
    /// These clients alone.
    pub fn only(ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(AllowedClients::Only(ids.into_iter().map(Into::into).collect()))
    }

    /// Every client of the pool, also those that are added later.
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
            AllowedClients::Only(ids) if ids.is_empty() => {
                Some("no client is named, so every token would be refused")
            }
            AllowedClients::Only(ids) if ids.iter().any(|id| id.trim() != id || id.is_empty()) => {
                Some("a client id is empty or has white space around it")
            }
            AllowedClients::Any | AllowedClients::Only(_) => None,
        }
    }
}

fn nanoseconds_of(seconds: i64) -> i128 {
    i128::from(seconds).saturating_mul(1_000_000_000)
}

/// Nanoseconds since the epoch, negative before it: a clock may be set to any time.
fn nanoseconds(time: SystemTime) -> i128 {
    let signed = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => signed(before.duration()).saturating_neg(),
    }
}
