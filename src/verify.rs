//! Whether a token is good: a pure function of the token, the keys, the rules and the time.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use crate::claims::{Claims, RawClaims};
use crate::error::{InvalidClaims, VerifyError, VerifyErrorKind};
use crate::jwks::{Jwks, KeySetId};
use crate::jws::{Jws, MAX_TOKEN_LEN};
use crate::scope::Scopes;
use crate::user_pool::UserPool;

/// The most that clocks may be apart.
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Verifies an access token: reads no clock, no network, nothing but its arguments.
///
/// `keys` are the keys of the pool that `rules` names. A [`Verifier`](crate::Verifier) keeps them
/// current and calls this.
///
/// ```
/// use std::time::SystemTime;
/// use tower_cognito::{ClientIds, Rules, TestIssuer, VerifyErrorKind, verify};
///
/// let issuer = TestIssuer::new();
/// let keys = issuer.jwks();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
///
/// let good = issuer.machine_token("my-client").scope("activity/*").sign();
/// let token = verify(&good, &keys, &rules, SystemTime::now())?;
/// assert_eq!(token.client_id(), "my-client");
/// assert!(token.scopes().contains("activity/*"));
///
/// let other = issuer.machine_token("other-client").sign();
/// let refused = verify(&other, &keys, &rules, SystemTime::now()).unwrap_err();
/// assert_eq!(refused.kind(), VerifyErrorKind::WrongClient);
/// # Ok::<(), tower_cognito::VerifyError>(())
/// ```
///
/// # Errors
///
/// When the token is not a good one under these rules; [`VerifyErrorKind`] lists the cases.
/// Never [`KeysUnavailable`](VerifyErrorKind::KeysUnavailable), since the keys are given.
pub fn verify(
    token: &str,
    keys: &Jwks,
    rules: &Rules,
    now: SystemTime,
) -> Result<AccessToken, VerifyError> {
    let verified = verify_in(token, now, |issuer| match rules.trusted_issuer(issuer) {
        Some(issuer) => Ok(Jurisdiction { rules, issuer, keys }),
        None => Err(VerifyErrorKind::UnknownIssuer.into()),
    });
    verified.map(|(token, _)| token)
}

/// Where a token is judged: one pool's rules, and that pool's keys alone.
pub(crate) struct Jurisdiction<'r, K> {
    pub(crate) rules: &'r Rules,
    pub(crate) issuer: &'r Arc<str>,
    pub(crate) keys: K,
}

/// [`verify`], where the issuer that the token names chooses the pool. Says with which keys.
pub(crate) fn verify_in<'r, K: Deref<Target = Jwks>>(
    token: &str,
    now: SystemTime,
    choose: impl FnOnce(&str) -> Result<Jurisdiction<'r, K>, VerifyError>,
) -> Result<(AccessToken, KeySetId), VerifyError> {
    // Two sizes, since even to clear the larger one would cost a usual token something.
    if token.len() <= USUAL_TOKEN_LEN {
        verify_with(token, &mut [0; USUAL_TOKEN_LEN], now, choose)
    } else {
        verify_with(token, &mut [0; MAX_TOKEN_LEN], now, choose)
    }
}

const USUAL_TOKEN_LEN: usize = 2 * 1024;

fn verify_with<'r, K: Deref<Target = Jwks>>(
    token: &str,
    buffer: &mut [u8],
    now: SystemTime,
    choose: impl FnOnce(&str) -> Result<Jurisdiction<'r, K>, VerifyError>,
) -> Result<(AccessToken, KeySetId), VerifyError> {
    let Jws { signing_input, header, payload, signature } = Jws::from_token(token, buffer)?;
    let encoded_header = header.encoded;
    let raw = RawClaims::from_payload(payload);
    let chosen = match &raw {
        Ok(raw) => raw.issuer().map_err(VerifyError::from).and_then(|issuer| choose(&issuer)),
        Err(malformed) => Err((*malformed).into()),
    };
    // All tokens of a key have the same header, so it is usually one that need not be read again.
    let usual = chosen.as_ref().ok().and_then(|chosen| chosen.keys.usual_key(encoded_header));
    let key_id = if usual.is_some() { None } else { Some(header.key_id()?) };
    let raw = raw?;
    let Jurisdiction { rules, issuer, keys } = chosen.as_ref().map_err(VerifyError::clone)?;
    let key = usual.or_else(|| keys.get(key_id.as_deref()?)).ok_or(VerifyErrorKind::UnknownKey)?;
    if !key.verifies(signing_input.as_bytes(), signature) {
        return Err(VerifyErrorKind::BadSignature.into());
    }
    keys.set_usual(encoded_header, key);

    // From here on the pool itself says what stands in the token.
    let claims = raw.typed()?;
    rules.check_claims(&claims, now)?;
    let token = AccessToken::new(claims, issuer, payload);
    rules.check_application(&token)?;
    Ok((token, keys.id()))
}

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

type Check = dyn Fn(&AccessToken) -> Result<(), Refused> + Send + Sync;

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

    /// Asks for membership in at least one of these groups (`cognito:groups`).
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
    /// for something is a middleware inside [`RequireToken`](crate::RequireToken) instead.
    ///
    /// ```
    /// # use std::collections::HashSet;
    /// # use std::sync::{Arc, RwLock};
    /// # use tower_cognito::{ClientIds, Refused, Rules, UserPool};
    /// # let rules = Rules::new(UserPool::new("us-east-1_Example")?, ClientIds::any());
    /// let revoked = Arc::new(RwLock::new(HashSet::from(["some-jti".to_owned()])));
    /// let rules = rules.check(move |token| match (token.jwt_id(), revoked.read()) {
    ///     (Some(id), Ok(revoked)) if !revoked.contains(id) => Ok(()),
    ///     _ => Err(Refused::Revoked),
    /// });
    /// # Ok::<(), tower_cognito::InvalidUserPoolId>(())
    /// ```
    pub fn check(
        mut self,
        check: impl Fn(&AccessToken) -> Result<(), Refused> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    pub(crate) fn pool(&self) -> &UserPool {
        &self.pool
    }

    /// Everything about these rules that can not have been meant.
    pub(crate) fn mistakes(&self) -> impl Iterator<Item = String> {
        let clients = self.clients.mistake().map(str::to_owned);
        let leeway = (self.leeway > MAX_LEEWAY)
            .then(|| format!("leeway is {:?}, and at most 300 s are allowed", self.leeway));
        let audience = self.audience.as_deref().filter(|audience| audience.is_empty());
        clients.into_iter().chain(leeway).chain(audience.map(|_| "audience is empty".to_owned()))
    }

    fn trusted_issuer(&self, issuer: &str) -> Option<&Arc<str>> {
        // Byte for byte (CVE-2024-53861): no prefix, no normalisation.
        self.pool.issuers().iter().find(|trusted| ***trusted == *issuer)
    }

    fn check_claims(&self, claims: &Claims<'_>, now: SystemTime) -> Result<(), VerifyErrorKind> {
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
        self.check_times(token.inner.expires_at, token.inner.not_before, now)?;
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

    fn check_application(&self, token: &AccessToken) -> Result<(), VerifyErrorKind> {
        let verdict = self.check.as_ref().map_or(Ok(()), |check| check(token));
        verdict.map_err(|refused| match refused {
            Refused::Forbidden => VerifyErrorKind::Forbidden,
            Refused::Revoked => VerifyErrorKind::Revoked,
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
pub enum Refused {
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
pub struct ClientIds(Inner);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inner {
    Any,
    Only(BTreeSet<String>),
}

impl ClientIds {
    /// These clients alone.
    pub fn only(ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Inner::Only(ids.into_iter().map(Into::into).collect()))
    }

    /// Every client of the pool, also those that are added later.
    pub fn any() -> Self {
        Self(Inner::Any)
    }

    fn contains(&self, id: &str) -> bool {
        match &self.0 {
            Inner::Any => true,
            Inner::Only(ids) => ids.contains(id),
        }
    }

    fn mistake(&self) -> Option<&'static str> {
        match &self.0 {
            Inner::Only(ids) if ids.is_empty() => {
                Some("no client is named, so every token would be refused")
            }
            Inner::Only(ids) if ids.iter().any(|id| id.trim() != id || id.is_empty()) => {
                Some("a client id is empty or has white space around it")
            }
            Inner::Any | Inner::Only(_) => None,
        }
    }
}

/// An access token that was verified: only [`verify`] makes one, so holding one is the proof.
///
/// A clone costs one reference count. `Debug` shows who the token is for, never the token.
///
/// ```
/// use std::time::SystemTime;
/// use tower_cognito::{AccessToken, Scopes};
///
/// fn describe(token: &AccessToken) -> String {
///     let left = token.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
///     let who = token.username().unwrap_or(token.client_id());
///     let groups = token.groups().collect::<Vec<_>>().join(", ");
///     let scopes: Scopes<'_> = token.scopes();
///     format!("{who} of [{groups}] may {scopes:?} for another {} s", left.as_secs())
/// }
/// ```
///
/// Its inside can not be named, so it can be neither taken out nor put together:
///
/// ```
/// fn open(token: tower_cognito::AccessToken) {
///     let tower_cognito::AccessToken { .. } = token;
/// }
/// ```
///
/// ```compile_fail,E0451
/// fn open(token: tower_cognito::AccessToken) {
///     let tower_cognito::AccessToken { inner: _, .. } = token;
/// }
/// ```
#[derive(Clone)]
pub struct AccessToken {
    inner: Arc<Verified>,
}

struct Verified {
    payload: Box<str>,
    issuer: Arc<str>,
    subject: Piece,
    client_id: Piece,
    scopes: Piece,
    username: Option<Piece>,
    groups: Box<[String]>,
    jwt_id: Option<Piece>,
    /// Seconds since the epoch, as the others.
    expires_at: i64,
    not_before: Option<i64>,
    issued_at: Option<i64>,
}

impl AccessToken {
    /// `sub`: the user, or the client itself where a machine asked for the token.
    pub fn subject(&self) -> &str {
        self.inner.subject.within(&self.inner.payload)
    }

    /// `client_id`: the app client that the token was issued to.
    pub fn client_id(&self) -> &str {
        self.inner.client_id.within(&self.inner.payload)
    }

    /// `scope`: what the token may be used for.
    pub fn scopes(&self) -> Scopes<'_> {
        Scopes::from_claim(self.inner.scopes.within(&self.inner.payload))
    }

    /// `username`: absent where a machine asked for the token.
    pub fn username(&self) -> Option<&str> {
        self.inner.username.as_ref().map(|piece| piece.within(&self.inner.payload))
    }

    /// `cognito:groups`: empty where the user has none, or there is no user.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.inner.groups.iter().map(String::as_str)
    }

    /// `iss`: the issuer, byte for byte one of those that are trusted.
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// `exp`: from this moment on the token is refused.
    pub fn expires_at(&self) -> SystemTime {
        system_time(self.inner.expires_at)
    }

    /// `iat`: when the token was issued, in whole seconds. Cognito always says so.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.inner.issued_at.map(system_time)
    }

    /// `jti`: the token's own ID, for a list of revoked ones.
    pub fn jwt_id(&self) -> Option<&str> {
        self.inner.jwt_id.as_ref().map(|piece| piece.within(&self.inner.payload))
    }

    /// All claims, as a type of the application's.
    ///
    /// ```
    /// # use tower_cognito::{ClientIds, Rules, TestIssuer, verify};
    /// # let issuer = TestIssuer::new();
    /// # let rules = Rules::new(issuer.user_pool(), ClientIds::any());
    /// # let text = issuer.machine_token("c").claim("tenant", "blue").sign();
    /// # let token = verify(&text, &issuer.jwks(), &rules, std::time::SystemTime::now())?;
    /// use tower_cognito::{AccessToken, InvalidClaims};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Claims {
    ///     tenant: String,
    /// }
    ///
    /// fn tenant(token: &AccessToken) -> Result<String, InvalidClaims> {
    ///     let claims: Claims = token.deserialize_claims()?;
    ///     Ok(claims.tenant)
    /// }
    /// # assert_eq!(tenant(&token)?, "blue");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the claims do not have that shape.
    pub fn deserialize_claims<T: DeserializeOwned>(&self) -> Result<T, InvalidClaims> {
        serde_json::from_str(&self.inner.payload)
            .map_err(|error| InvalidClaims::at(error.line(), error.column()))
    }

    /// About how many bytes it keeps.
    pub(crate) fn len_in_memory(&self) -> usize {
        let Verified { payload, subject, client_id, scopes, username, groups, jwt_id, .. } =
            &*self.inner;
        let pieces =
            [Some(subject), Some(client_id), Some(scopes), username.as_ref(), jwt_id.as_ref()];
        let apart = pieces.into_iter().flatten().map(Piece::len_apart);
        let of_groups = groups.iter().map(|group| {
            // What an allocator adds to a short text may be more than the text.
            let text = if group.is_empty() { 0 } else { group.len().saturating_add(32) };
            text.saturating_add(size_of::<String>())
        });
        apart
            .chain(of_groups)
            .fold(payload.len().saturating_add(size_of::<Verified>()), usize::saturating_add)
    }

    fn new(claims: Claims<'_>, issuer: &Arc<str>, payload: &str) -> Self {
        let piece = |text| Piece::of(text, payload);
        Self {
            inner: Arc::new(Verified {
                payload: payload.into(),
                issuer: Arc::clone(issuer),
                subject: piece(claims.subject),
                client_id: piece(claims.client_id),
                scopes: piece(claims.scope.unwrap_or_default()),
                username: claims.username.map(piece),
                groups: claims.groups.unwrap_or_default().into(),
                jwt_id: claims.jwt_id.map(piece),
                expires_at: claims.expires_at,
                not_before: claims.not_before,
                issued_at: claims.issued_at,
            }),
        }
    }
}

/// A text of the payload: where it stands there, or, if it had escapes, what it says. So a token
/// is kept in two allocations, however many claims are asked for.
enum Piece {
    Apart(Box<str>),
    Within(Range<usize>),
}

impl Piece {
    fn of(text: Cow<'_, str>, payload: &str) -> Self {
        // Only a guess until it is compared.
        let start = text.as_ptr().addr().wrapping_sub(payload.as_ptr().addr());
        let place = start..start.wrapping_add(text.len());
        if payload.get(place.clone()) == Some(&text) {
            Self::Within(place)
        } else {
            Self::Apart(text.into())
        }
    }

    fn within<'p>(&'p self, payload: &'p str) -> &'p str {
        match self {
            Self::Apart(text) => text,
            Self::Within(place) => payload.get(place.clone()).unwrap_or_default(),
        }
    }

    fn len_apart(&self) -> usize {
        match self {
            Self::Apart(text) => text.len(),
            Self::Within(_) => 0,
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("subject", &self.subject())
            .field("client_id", &self.client_id())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
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

/// Where the system's clock can not show that time (years before 1601 on Windows): the epoch.
fn system_time(seconds: i64) -> SystemTime {
    let magnitude = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(magnitude)
    } else {
        UNIX_EPOCH.checked_add(magnitude)
    };
    time.unwrap_or(UNIX_EPOCH)
}
