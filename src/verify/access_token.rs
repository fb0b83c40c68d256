//! What an access token says, once it is verified.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use crate::claims::Claims;
use crate::error::InvalidClaims;
use crate::scope::Scopes;

/// An access token that was verified: only [`verify`](crate::verify()) makes one, so holding one is the proof.
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
    subject: ClaimText,
    client_id: ClaimText,
    scopes: ClaimText,
    username: Option<ClaimText>,
    groups: Box<[String]>,
    jwt_id: Option<ClaimText>,
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

    /// `iss`: the issuer, byte for byte one of those that are trusted. A pool may have several
    /// ([`UserPool::issuers`](crate::UserPool::issuers)).
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

    /// All claims, as a type of the application's. They are read anew at each call. No claim comes
    /// twice; within one that is an object, what a name that comes twice means is left to `T`.
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

    /// `exp` and `nbf`, in seconds since the epoch.
    pub(super) fn times(&self) -> (i64, Option<i64>) {
        (self.inner.expires_at, self.inner.not_before)
    }

    /// About how many bytes it keeps.
    pub(crate) fn len_in_memory(&self) -> usize {
        let Verified { payload, subject, client_id, scopes, username, groups, jwt_id, .. } =
            &*self.inner;
        let pieces =
            [Some(subject), Some(client_id), Some(scopes), username.as_ref(), jwt_id.as_ref()];
        let apart = pieces.into_iter().flatten().map(ClaimText::heap_len);
        let of_groups = groups.iter().map(|group| {
            // What an allocator adds to a short text may be more than the text.
            let text = if group.is_empty() { 0 } else { group.len().saturating_add(32) };
            text.saturating_add(size_of::<String>())
        });
        apart
            .chain(of_groups)
            .fold(payload.len().saturating_add(size_of::<Verified>()), usize::saturating_add)
    }

    /// For [`verify`](super::verify) alone, after every check but the application's.
    pub(super) fn new(claims: Claims<'_>, issuer: &Arc<str>, payload: &str) -> Self {
        let piece = |text| ClaimText::of(text, payload);
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
enum ClaimText {
    Owned(Box<str>),
    InPayload(Range<usize>),
}

impl ClaimText {
    fn of(text: Cow<'_, str>, payload: &str) -> Self {
        // Only a guess until it is compared.
        let start = text.as_ptr().addr().wrapping_sub(payload.as_ptr().addr());
        let place = start..start.wrapping_add(text.len());
        if payload.get(place.clone()) == Some(&text) {
            Self::InPayload(place)
        } else {
            Self::Owned(text.into())
        }
    }

    fn within<'p>(&'p self, payload: &'p str) -> &'p str {
        match self {
            Self::Owned(text) => text,
            Self::InPayload(place) => payload.get(place.clone()).unwrap_or_default(),
        }
    }

    fn heap_len(&self) -> usize {
        match self {
            Self::Owned(text) => text.len(),
            Self::InPayload(_) => 0,
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
