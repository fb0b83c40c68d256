//! A verified access token.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use crate::claims::{ActorClaim, Claims};
use crate::error::InvalidClaims;
use crate::scope::{Requirement, Scopes};

/// A verified access token.
///
/// Only [`verify`](crate::verify()) and [`Verifier`](crate::Verifier) create one. They return it after
/// every check, so a function that takes an `AccessToken` needs no further check. The check of
/// [`Rules::with_check`](crate::Rules::with_check) receives it earlier, so do not keep a clone there. A
/// clone increments a reference count. `Debug` shows `sub`, `client_id` and `exp`, but no part of the
/// encoded token.
///
/// ```
/// use std::time::SystemTime;
/// use tower_cognito::{AccessToken, Scopes};
///
/// fn describe(token: &AccessToken) -> String {
///     let left = token.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
///     let caller = token.username().unwrap_or(token.client_id());
///     let groups = token.groups().collect::<Vec<_>>().join(", ");
///     let scopes: Scopes<'_> = token.scopes();
///     format!("{caller} in [{groups}] has {scopes:?} for another {} s", left.as_secs())
/// }
/// ```
///
/// Its fields are private, so it cannot be built or taken apart outside this crate:
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
    actor: Option<VerifiedActor>,
    /// In seconds since the epoch, as the other dates are.
    expires_at: i64,
    not_before: Option<i64>,
    issued_at: Option<i64>,
    /// The scopes that the rules required, which the challenges of layers inside also name.
    required: Option<&'static Requirement>,
}

/// The `act` claim of a token.
struct VerifiedActor {
    subject: Option<ClaimText>,
}

impl AccessToken {
    /// Returns `sub`: the user, or the client if the token is a machine-to-machine token.
    pub fn subject(&self) -> &str {
        self.inner.subject.as_str(&self.inner.payload)
    }

    /// Returns `client_id`: the app client that the token was issued to.
    pub fn client_id(&self) -> &str {
        self.inner.client_id.as_str(&self.inner.payload)
    }

    /// Returns `scope`: the scopes that were granted to the token.
    pub fn scopes(&self) -> Scopes<'_> {
        Scopes::from_claim(self.inner.scopes.as_str(&self.inner.payload))
    }

    /// Returns `username`, which a machine-to-machine token does not have.
    pub fn username(&self) -> Option<&str> {
        self.inner.username.as_ref().map(|text| text.as_str(&self.inner.payload))
    }

    /// Returns `cognito:groups`: the groups of the user. A machine-to-machine token has none.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.inner.groups.iter().map(String::as_str)
    }

    /// Returns `iss`, which is byte for byte one of the pool's issuers
    /// ([`UserPool::issuers`](crate::UserPool::issuers)).
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// Returns `exp`: the token is rejected from this time on.
    pub fn expires_at(&self) -> SystemTime {
        system_time(self.inner.expires_at)
    }

    /// Returns `iat`: when the token was issued, in whole seconds. Cognito's tokens always have it.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.inner.issued_at.map(system_time)
    }

    /// Returns `jti`: the ID of the token, for example for a list of revoked tokens.
    pub fn jwt_id(&self) -> Option<&str> {
        self.inner.jwt_id.as_ref().map(|text| text.as_str(&self.inner.payload))
    }

    /// Returns `act`: who acts for the [`subject`](Self::subject) of an exchanged token.
    ///
    /// A client can exchange a user's token for one of another service (token exchange,
    /// [RFC 8693 section 4.1]). If it also presents its own token, the exchanged token names it
    /// here. Without `act`, the exchanged token looks as if the user acted directly: only `client_id`
    /// names the client. A token that is not exchanged has no `act`.
    ///
    /// ```
    /// use tower_cognito::{AccessToken, Actor};
    ///
    /// /// A text for an audit log.
    /// fn caller(token: &AccessToken) -> String {
    ///     let name = |actor: Actor<'_>| actor.subject().unwrap_or("unknown").to_owned();
    ///     match token.actor() {
    ///         Some(actor) => format!("{} for {}", name(actor), token.subject()),
    ///         None => token.subject().to_owned(),
    ///     }
    /// }
    /// # use tower_cognito::{ClientIds, Rules, TestIssuer, verify};
    /// # let issuer = TestIssuer::new();
    /// # let rules = Rules::new(issuer.user_pool(), ClientIds::any());
    /// # let text = issuer.user_token("c", "alice").claim("sub", "u").actor("agent").sign();
    /// # let token = verify(&text, &issuer.jwks(), &rules, std::time::SystemTime::now())?;
    /// # assert_eq!(caller(&token), "agent for u");
    /// # Ok::<(), tower_cognito::VerifyError>(())
    /// ```
    ///
    /// [RFC 8693 section 4.1]: https://www.rfc-editor.org/rfc/rfc8693#section-4.1
    pub fn actor(&self) -> Option<Actor<'_>> {
        let actor = self.inner.actor.as_ref()?;
        let subject = actor.subject.as_ref().map(|text| text.as_str(&self.inner.payload));
        Some(Actor { subject })
    }

    /// Deserializes all claims as a type of the application.
    ///
    /// The claims are deserialized at each call. No claim occurs twice. Inside a claim that is an
    /// object, `T` decides about duplicate names.
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
    /// Returns an error if the claims do not have the shape of `T`.
    pub fn deserialize_claims<T: DeserializeOwned>(&self) -> Result<T, InvalidClaims> {
        serde_json::from_str(&self.inner.payload)
            .map_err(|error| InvalidClaims::at(error.line(), error.column()))
    }

    /// Returns `exp` and `nbf`, in seconds since the epoch.
    pub(super) fn times(&self) -> (i64, Option<i64>) {
        (self.inner.expires_at, self.inner.not_before)
    }

    /// Returns the scopes that the rules required of the token.
    pub(crate) fn required(&self) -> Option<&'static Requirement> {
        self.inner.required
    }

    /// Returns about how many bytes the token takes in memory.
    pub(crate) fn len_in_memory(&self) -> usize {
        let Verified {
            payload, subject, client_id, scopes, username, groups, jwt_id, actor, ..
        } = &*self.inner;
        let actor = actor.as_ref().and_then(|actor| actor.subject.as_ref());
        let texts = [
            Some(subject),
            Some(client_id),
            Some(scopes),
            username.as_ref(),
            jwt_id.as_ref(),
            actor,
        ];
        let text_lens = texts.into_iter().flatten().map(ClaimText::heap_len);
        let group_lens = groups.iter().map(|group| {
            // The overhead of an allocation may be larger than a short text.
            let text = if group.is_empty() { 0 } else { group.len().saturating_add(32) };
            text.saturating_add(size_of::<String>())
        });
        text_lens
            .chain(group_lens)
            .fold(payload.len().saturating_add(size_of::<Verified>()), usize::saturating_add)
    }

    /// Creates a token. Only `verify_with` calls it, after every check except the application's, which
    /// needs an `AccessToken`. The signature is valid, because only
    /// [`RawClaims::parse`](crate::claims::RawClaims::parse) creates [`Claims`], from a
    /// [`SignatureVerified`](crate::jwks::SignatureVerified).
    pub(super) fn new(
        claims: Claims<'_>,
        issuer: &Arc<str>,
        payload: &str,
        required: Option<&'static Requirement>,
    ) -> Self {
        let text = |claim| ClaimText::new(claim, payload);
        let actor = |actor: ActorClaim<'_>| VerifiedActor {
            subject: actor.subject.map(|subject| ClaimText::new(subject, payload)),
        };
        Self {
            inner: Arc::new(Verified {
                payload: payload.into(),
                issuer: Arc::clone(issuer),
                subject: text(claims.subject),
                client_id: text(claims.client_id),
                scopes: text(claims.scope.unwrap_or_default()),
                username: claims.username.map(text),
                groups: claims.groups.unwrap_or_default().into(),
                jwt_id: claims.jwt_id.map(text),
                actor: claims.actor.map(actor),
                expires_at: claims.expires_at,
                not_before: claims.not_before,
                issued_at: claims.issued_at,
                required,
            }),
        }
    }
}

/// The party that acts for the subject of an exchanged token: the `act` claim.
///
/// [`AccessToken::actor`] has an example. [`AccessToken::deserialize_claims`] reads the other members
/// of `act`: its issuer, and the earlier actors of a chain.
#[derive(Clone, Copy)]
pub struct Actor<'t> {
    subject: Option<&'t str>,
}

impl<'t> Actor<'t> {
    /// Returns the `sub` of the actor, or `None` if `act` identifies the actor in another way. It is
    /// never empty.
    pub fn subject(&self) -> Option<&'t str> {
        self.subject
    }
}

impl fmt::Debug for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the claims that SECURITY.md lists are shown. `act` is not one of them.
        f.debug_struct("Actor").finish_non_exhaustive()
    }
}

/// The text of a claim: its position in the payload, or a copy if the text had escapes. So a token
/// usually takes two allocations, however many claims it has.
enum ClaimText {
    Owned(Box<str>),
    InPayload(Range<usize>),
}

impl ClaimText {
    fn new(text: Cow<'_, str>, payload: &str) -> Self {
        // The position is only a guess until the text there is compared.
        let start = text.as_ptr().addr().wrapping_sub(payload.as_ptr().addr());
        let range = start..start.wrapping_add(text.len());
        if payload.get(range.clone()) == Some(&text) {
            Self::InPayload(range)
        } else {
            Self::Owned(text.into())
        }
    }

    fn as_str<'p>(&'p self, payload: &'p str) -> &'p str {
        match self {
            Self::Owned(text) => text,
            Self::InPayload(range) => payload.get(range.clone()).unwrap_or_default(),
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

/// Returns the epoch if `SystemTime` cannot represent the time (years before 1601 on Windows).
fn system_time(seconds: i64) -> SystemTime {
    let magnitude = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(magnitude)
    } else {
        UNIX_EPOCH.checked_add(magnitude)
    };
    time.unwrap_or(UNIX_EPOCH)
}
