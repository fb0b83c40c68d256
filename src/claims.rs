//! The payload of a Cognito access token, first as raw JSON, then as the rules need it.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::VerifyErrorKind;
use crate::json::{self, Member};
use crate::jwks::SignatureVerified;

/// The claims that are read, as raw JSON.
///
/// The payload is split into claims before its signature is verified. Until then, only the issuer
/// can be read.
#[derive(Default)]
pub(crate) struct RawClaims<'a> {
    issuer: Member<'a>,
    token_use: Member<'a>,
    client_id: Member<'a>,
    subject: Member<'a>,
    expires_at: Member<'a>,
    not_before: Member<'a>,
    issued_at: Member<'a>,
    audience: Member<'a>,
    confirmation: Member<'a>,
    scope: Member<'a>,
    username: Member<'a>,
    groups: Member<'a>,
    jwt_id: Member<'a>,
    actor: Member<'a>,
}

impl<'a> RawClaims<'a> {
    pub(crate) fn from_payload(payload: &'a str) -> Result<Self, VerifyErrorKind> {
        json::read_object(payload, |claims: &mut Self, name| {
            Some(match name {
                "iss" => &mut claims.issuer,
                "token_use" => &mut claims.token_use,
                "client_id" => &mut claims.client_id,
                "sub" => &mut claims.subject,
                "exp" => &mut claims.expires_at,
                "nbf" => &mut claims.not_before,
                "iat" => &mut claims.issued_at,
                "aud" => &mut claims.audience,
                "cnf" => &mut claims.confirmation,
                "scope" => &mut claims.scope,
                "username" => &mut claims.username,
                "cognito:groups" => &mut claims.groups,
                "jti" => &mut claims.jwt_id,
                "act" => &mut claims.actor,
                _ => return None,
            })
        })
        .map_err(|_| VerifyErrorKind::Malformed)
    }

    /// Returns the issuer, which is not trusted yet: it may only choose the keys to verify with.
    pub(crate) fn issuer(&self) -> Result<Cow<'a, str>, VerifyErrorKind> {
        self.issuer.and_then(json::string).ok_or(VerifyErrorKind::UnknownIssuer)
    }

    /// Reads every claim as its type, after the signature was verified.
    ///
    /// A claim of the wrong type is an error, even if the claim is optional or no rule reads it: to
    /// treat it as absent would ignore a restriction that the issuer meant.
    pub(crate) fn parse(&self, _: SignatureVerified) -> Result<Claims<'a>, VerifyErrorKind> {
        // Checked before the others, because an ID token has no `client_id` either and should be
        // reported as an ID token.
        if self.token_use.and_then(json::string).as_deref() != Some("access") {
            return Err(VerifyErrorKind::WrongTokenUse);
        }
        Ok(Claims {
            client_id: required(self.client_id, json::string)?,
            subject: required(self.subject, non_empty_string)?,
            expires_at: required(self.expires_at, json::numeric_date)?,
            issued_at: optional(self.issued_at, json::numeric_date)?,
            not_before: optional(self.not_before, json::numeric_date)?,
            audience: optional(self.audience, audience)?,
            is_sender_constrained: self.confirmation.is_some(),
            scope: optional(self.scope, json::string)?,
            username: optional(self.username, json::string)?,
            groups: optional(self.groups, json::strings)?,
            jwt_id: optional(self.jwt_id, json::string)?,
            actor: optional(self.actor, ActorClaim::from_json)?,
        })
    }
}

/// The claims of an access token whose signature was verified: only [`RawClaims::parse`] creates
/// them. Dates are seconds since the epoch.
pub(crate) struct Claims<'a> {
    pub(crate) client_id: Cow<'a, str>,
    pub(crate) subject: Cow<'a, str>,
    pub(crate) expires_at: i64,
    pub(crate) issued_at: Option<i64>,
    pub(crate) not_before: Option<i64>,
    pub(crate) audience: Option<Vec<String>>,
    pub(crate) is_sender_constrained: bool,
    pub(crate) scope: Option<Cow<'a, str>>,
    pub(crate) username: Option<Cow<'a, str>>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) jwt_id: Option<Cow<'a, str>>,
    pub(crate) actor: Option<ActorClaim<'a>>,
}

/// The `act` claim (RFC 8693 section 4.1): who acts for the subject of the token.
pub(crate) struct ActorClaim<'a> {
    pub(crate) subject: Option<Cow<'a, str>>,
}

impl<'a> ActorClaim<'a> {
    /// Every member is optional. A nested `act` names an earlier actor. It is not read, because it must
    /// not influence access (RFC 8693 section 4.1).
    fn from_json(raw: &'a RawValue) -> Option<Self> {
        if !json::is_well_formed(raw.get()) {
            return None;
        }
        let Members(subject) = json::read_object(raw.get(), Members::slot).ok()?;
        Some(Self { subject: optional(subject, non_empty_string).ok()? })
    }
}

/// The members of `act` that are read.
#[derive(Default)]
struct Members<'a>(Member<'a>);

impl<'a> Members<'a> {
    fn slot<'t>(&'t mut self, name: &str) -> Option<&'t mut Member<'a>> {
        (name == "sub").then_some(&mut self.0)
    }
}

/// A service that forwards `sub` in a header could not tell an empty one from an absent one.
fn non_empty_string(raw: &RawValue) -> Option<Cow<'_, str>> {
    json::string(raw).filter(|text| !text.is_empty())
}

/// RFC 7519 section 4.1.3: one string, or an array of them.
fn audience(raw: &RawValue) -> Option<Vec<String>> {
    json::string(raw).map(|one| vec![one.into_owned()]).or_else(|| json::strings(raw))
}

fn required<'a, T>(
    claim: Member<'a>,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Result<T, VerifyErrorKind> {
    claim.and_then(read).ok_or(VerifyErrorKind::InvalidClaim)
}

fn optional<'a, T>(
    claim: Member<'a>,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Result<Option<T>, VerifyErrorKind> {
    claim.map(|raw| read(raw).ok_or(VerifyErrorKind::InvalidClaim)).transpose()
}
