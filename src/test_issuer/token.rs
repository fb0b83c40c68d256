//! Tokens with the claims of Cognito's tokens, and any changes that a test needs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::signer::{Signer, uuid};

const LIFETIME: Duration = Duration::from_secs(3600);

/// A token before it is signed.
///
/// Every claim and header member can be set, removed, or given a wrong type.
#[derive(Clone)]
#[must_use]
pub struct TokenBuilder {
    signer: Arc<Signer>,
    /// Names and JSON texts, in the order in which they are serialized.
    header: Vec<(String, String)>,
    claims: Vec<(String, String)>,
    slashes: Slashes,
}

#[derive(Clone, Copy)]
enum Slashes {
    Escaped,
    Plain,
}

impl TokenBuilder {
    pub(super) fn machine(issuer: &str, client_id: &str, signer: Arc<Signer>) -> Self {
        Self::new(signer)
            .claim("sub", client_id)
            .claim("token_use", "access")
            .claim("auth_time", 0)
            .claim("iss", issuer)
            .claim("exp", 0)
            .claim("iat", 0)
            .claim("version", 2)
            .claim("jti", uuid())
            .claim("client_id", client_id)
            .issued_at(SystemTime::now())
    }

    pub(super) fn user(issuer: &str, client_id: &str, username: &str, signer: Arc<Signer>) -> Self {
        Self::new(signer)
            .claim("sub", uuid())
            .claim("iss", issuer)
            .claim("version", 2)
            .claim("client_id", client_id)
            .claim("origin_jti", uuid())
            .claim("event_id", uuid())
            .claim("token_use", "access")
            .claim("scope", "openid")
            .claim("auth_time", 0)
            .claim("exp", 0)
            .claim("iat", 0)
            .claim("jti", uuid())
            .claim("username", username)
            .issued_at(SystemTime::now())
    }

    pub(super) fn id(issuer: &str, client_id: &str, username: &str, signer: Arc<Signer>) -> Self {
        Self::new(signer)
            .claim("sub", uuid())
            .claim("iss", issuer)
            .claim("cognito:username", username)
            .claim("origin_jti", uuid())
            .claim("aud", client_id)
            .claim("event_id", uuid())
            .claim("token_use", "id")
            .claim("auth_time", 0)
            .claim("exp", 0)
            .claim("iat", 0)
            .claim("jti", uuid())
            .issued_at(SystemTime::now())
    }

    fn new(signer: Arc<Signer>) -> Self {
        let token = Self { signer, header: vec![], claims: vec![], slashes: Slashes::Plain };
        let key_id = token.signer.key_id().to_owned();
        token.header("kid", key_id).header("alg", "RS256")
    }

    /// Sets `scope`, a list of scopes separated by spaces.
    pub fn scope(self, scopes: &str) -> Self {
        self.claim("scope", scopes)
    }

    /// Sets `act` to a party with this `sub`, as in the token that a client gets for a user's token and
    /// its own (token exchange, [RFC 8693 section 4.1]).
    ///
    /// An exchanged token is for one audience, which `.claim("aud", "…")` sets.
    ///
    /// [RFC 8693 section 4.1]: https://www.rfc-editor.org/rfc/rfc8693#section-4.1
    pub fn actor(self, subject: &str) -> Self {
        self.claim("act", BTreeMap::from([("sub", subject)]))
    }

    /// Sets `iat` and, if present, `auth_time` to this time, and `exp` to 1 hour later.
    pub fn issued_at(self, time: SystemTime) -> Self {
        let token = self
            .claim("iat", seconds(time))
            .claim("exp", seconds(time.checked_add(LIFETIME).unwrap_or(time)));
        let has_auth_time = token.claims.iter().any(|(name, _)| name == "auth_time");
        if has_auth_time { token.claim("auth_time", seconds(time)) } else { token }
    }

    /// Sets `iat` to now, and `exp` to the end of this time.
    pub(super) fn valid_for(self, validity: Duration) -> Self {
        let now = SystemTime::now();
        self.issued_at(now).expires_at(now.checked_add(validity).unwrap_or(now))
    }

    /// Sets `exp`.
    pub fn expires_at(self, time: SystemTime) -> Self {
        self.claim("exp", seconds(time))
    }

    /// Sets a claim to any JSON value.
    ///
    /// An existing claim keeps its place; a new one is added at Cognito's place for it.
    ///
    /// # Panics
    ///
    /// Panics if the value cannot be serialized as JSON.
    pub fn claim(mut self, name: &str, value: impl Serialize) -> Self {
        set(&mut self.claims, name, value);
        self
    }

    /// Removes a claim.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.retain(|(claim, _)| claim != name);
        self
    }

    /// Sets a member of the JOSE header to any JSON value.
    ///
    /// # Panics
    ///
    /// Panics if the value cannot be serialized as JSON.
    pub fn header(mut self, name: &str, value: impl Serialize) -> Self {
        set(&mut self.header, name, value);
        self
    }

    /// Removes a member of the JOSE header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.retain(|(member, _)| member != name);
        self
    }

    /// Writes every `/` in header and payload as `\/`.
    ///
    /// Cognito did so until 2026, and some Regions may still do so.
    pub fn escaped_slashes(mut self) -> Self {
        self.slashes = Slashes::Escaped;
        self
    }

    /// Returns the signed token.
    ///
    /// It is signed with the key that the issuer used when this builder was created.
    pub fn sign(&self) -> String {
        self.signer.sign(&self.object(&self.header), &self.object(&self.claims))
    }

    /// Returns a signed token with these texts as header and payload, which need not be JSON.
    pub fn sign_texts(&self, header: &str, payload: &str) -> String {
        self.signer.sign(header, payload)
    }

    /// Returns the JSON text of the header.
    pub fn header_json(&self) -> String {
        self.object(&self.header)
    }

    /// Returns the JSON text of the payload.
    pub fn payload_json(&self) -> String {
        self.object(&self.claims)
    }

    fn object(&self, members: &[(String, String)]) -> String {
        let members = members.iter().map(|(name, value)| format!("{}:{value}", json(name)));
        let object = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        match self.slashes {
            // In JSON, a slash occurs only in strings.
            Slashes::Escaped => object.replace('/', r"\/"),
            Slashes::Plain => object,
        }
    }
}

impl fmt::Debug for TokenBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBuilder").field("claims", &self.claims).finish_non_exhaustive()
    }
}

fn set(members: &mut Vec<(String, String)>, name: &str, value: impl Serialize) {
    let value = json(value);
    if let Some((_, old)) = members.iter_mut().find(|(member, _)| member == name) {
        *old = value;
        return;
    }
    // Cognito's tokens have `scope` after the first two claims.
    let place = if name == "scope" { members.len().min(2) } else { members.len() };
    members.insert(place, (name.to_owned(), value));
}

fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("the value can be serialized as JSON")
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, i64::saturating_neg)
        }
    }
}
