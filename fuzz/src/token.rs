//! The reference verdict on a token, from a slow and simple verifier, and its comparison with
//! tower-cognito.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::IgnoredAny;
use tower_cognito::{AccessToken, Jwks, Verifier, VerifyErrorKind, verify};

use crate::json::{self, Json};
use crate::setup::{CLAIMS, Case, HEADERS, NO, YES, cases, jwks, token};
use crate::{base64url, numeric_date};

/// The rules for tokens.
#[derive(Clone)]
pub struct Policy {
    pub issuers: &'static [&'static str],
    pub key_ids: &'static [&'static str],
    /// `None` allows any client.
    pub clients: Option<&'static [&'static str]>,
    pub audience: Option<&'static str>,
    pub groups: &'static [&'static str],
    /// The leeway in nanoseconds, like the time.
    pub leeway: i128,
    pub now: i128,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Expired,
    Forbidden,
    Accepted(Box<Claims>),
    /// The token is invalid, for any reason except expiry.
    Rejected,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    pub client_id: String,
    pub scopes: Vec<String>,
    pub username: Option<String>,
    pub groups: Vec<String>,
    pub jwt_id: Option<String>,
    pub expires_at: i64,
    pub issued_at: Option<i64>,
    /// The names of all claims, including those without a meaning here.
    pub names: BTreeSet<String>,
}

impl Policy {
    /// Returns the verdict on a token whose signature is valid.
    pub fn verdict(&self, token: &str) -> Verdict {
        self.verdict_on(self.payload(token).as_ref())
    }

    fn verdict_on(&self, payload: Option<&Json>) -> Verdict {
        payload.and_then(|payload| self.check_claims(payload)).unwrap_or(Verdict::Rejected)
    }

    /// Returns the payload if the token is well formed and its header names a key of the issuer.
    fn payload(&self, token: &str) -> Option<Json> {
        if token.len() > 16 * 1024 {
            return None;
        }
        let parts = token.split('.').collect::<Vec<_>>();
        let [header, payload, signature] = parts[..] else {
            return None;
        };
        if base64url::decode(signature)?.is_empty() {
            return None;
        }
        let (header, payload) = (read_part(header, None)?, read_part(payload, Some("cnf"))?);

        let header = json::members(&header)?;
        let get = |name| header.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        if get("alg")?.as_str()? != "RS256" {
            return None;
        }
        if ["crit", "b64", "zip", "enc"].iter().any(|name| get(name).is_some()) {
            return None;
        }
        if let Some(media_type) = get("typ") {
            let media_type = media_type.as_str()?.to_ascii_lowercase();
            let known = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];
            known.contains(&&*media_type).then_some(())?;
        }
        self.key_ids.contains(&get("kid")?.as_str()?).then_some(payload)
    }

    fn check_claims(&self, payload: &Json) -> Option<Verdict> {
        let members = json::members(payload)?;
        let get = |name| members.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let text = |name| optional(get(name), |value| Some(value.as_str()?.to_owned()));
        let date = |name| {
            optional(get(name), |value| match value {
                Json::Number(number) => numeric_date::floor(number),
                _ => None,
            })
        };

        let issuer = text("iss")??;
        if !self.issuers.contains(&&*issuer) || text("token_use")?? != "access" {
            return None;
        }
        let audience = optional(get("aud"), |value| {
            value.as_str().map(|one| vec![one.to_owned()]).or_else(|| value.as_strings())
        })?;
        let groups = optional(get("cognito:groups"), Json::as_strings)?.unwrap_or_default();
        let not_before = date("nbf")?;
        let scope = text("scope")?.unwrap_or_default();
        let claims = Claims {
            issuer,
            subject: text("sub")??,
            client_id: text("client_id")??,
            scopes: scope.split(' ').filter(|one| !one.is_empty()).map(Into::into).collect(),
            username: text("username")?,
            groups,
            jwt_id: text("jti")?,
            expires_at: date("exp")??,
            issued_at: date("iat")?,
            names: members.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };

        if self.clients.is_some_and(|clients| !clients.contains(&&*claims.client_id)) {
            return None;
        }
        if self.now >= nanoseconds(claims.expires_at) + self.leeway {
            return Some(Verdict::Expired);
        }
        if not_before.is_some_and(|date| nanoseconds(date) > self.now + self.leeway) {
            return None;
        }
        if let Some(required) = self.audience {
            audience?.iter().any(|one| one == required).then_some(())?;
        }
        if get("cnf").is_some() {
            return None;
        }
        let is_member = claims.groups.iter().any(|group| self.groups.contains(&&**group));
        if !self.groups.is_empty() && !is_member {
            return Some(Verdict::Forbidden);
        }
        Some(Verdict::Accepted(Box::new(claims)))
    }
}

/// Parses a part of a token, unless its JSON is ambiguous. Only the presence of the member
/// `is_there` matters, so its value may be anything.
fn read_part(part: &str, is_there: Option<&str>) -> Option<Json> {
    let json = json::read(&String::from_utf8(base64url::decode(part)?).ok()?)?;
    let members = json::members(&json)?;
    let is_clear = |(name, value): &(&str, &Json)| {
        Some(*name) == is_there || value.depth() <= 32 && !value.has_lone_surrogate()
    };
    members.iter().all(is_clear).then_some(json)
}

/// Returns `None` if the member is present but has the wrong type.
fn optional<T>(value: Option<&Json>, read: impl FnOnce(&Json) -> Option<T>) -> Option<Option<T>> {
    match value {
        Some(value) => read(value).map(Some),
        None => Some(None),
    }
}

fn nanoseconds(seconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000
}

/// Compares the verdicts of tower-cognito and of the reference.
pub struct Check {
    cases: [Case; 3],
    /// For each case, verifiers that have cached different headers.
    verifiers: [[Verifier; 2]; 3],
    yes: Jwks,
    no: Jwks,
}

impl Default for Check {
    fn default() -> Self {
        let (cases, yes) = (cases(), jwks(YES));
        let Case { rules, now, .. } = &cases[0];
        let valid = verify(&token(HEADERS[0], CLAIMS), &yes, rules, *now);
        assert!(valid.is_ok(), "{valid:?}: is this built with --cfg tower_cognito_fuzz?");
        let verifiers =
            [0, 1, 2].map(|case| HEADERS.map(|header| with_cached(header, &cases[case])));
        Self { cases, verifiers, yes, no: jwks(NO) }
    }
}

impl Check {
    /// Compares the verdicts on a token.
    ///
    /// # Panics
    ///
    /// Panics if the verdicts differ.
    pub fn token(&self, token: &str) {
        let mut is_signed = false;
        // The format is checked in the same way in every case.
        let payload = self.cases[0].policy.payload(token);
        for (Case { rules, policy, now }, verifiers) in self.cases.iter().zip(&self.verifiers) {
            let expected = policy.verdict_on(payload.as_ref());
            let results = verifiers.iter().map(|verifier| verifier.try_verify(token));
            for result in results.chain([verify(token, &self.yes, rules, *now)]) {
                let verdict =
                    result.map_or_else(|error| verdict_of(error.kind()), |token| accepted(&token));
                assert_eq!(verdict, expected, "{token}");
            }
            is_signed |= expected != Verdict::Rejected;
        }
        let Case { rules, now, .. } = &self.cases[0];
        let kind = verify(token, &self.no, rules, *now).unwrap_err().kind();
        assert!(is_before_signature(kind), "{kind:?}: {token}");
        assert!(!is_signed || kind == VerifyErrorKind::BadSignature, "{kind:?}: {token}");
    }
}

/// Returns a verifier that caches no tokens, and has cached this header: its signature was verified,
/// whatever the rules say about the claims.
fn with_cached(header: &str, Case { rules, now, .. }: &Case) -> Verifier {
    let now = *now;
    let builder = Verifier::builder(rules.clone()).clock(move || now).token_cache_bytes(0);
    let verifier = builder.build_with_jwks(jwks(YES)).unwrap();
    let _ = verifier.try_verify(&token(header, CLAIMS));
    verifier
}

fn verdict_of(kind: VerifyErrorKind) -> Verdict {
    match kind {
        VerifyErrorKind::Expired => Verdict::Expired,
        VerifyErrorKind::Forbidden => Verdict::Forbidden,
        kind => {
            assert_ne!(kind, VerifyErrorKind::BadSignature);
            Verdict::Rejected
        }
    }
}

/// Returns `true` for the errors that a token without a valid signature may cause.
fn is_before_signature(kind: VerifyErrorKind) -> bool {
    use VerifyErrorKind::{
        BadSignature, InvalidHeader, Malformed, TooLarge, UnknownIssuer, UnknownKey,
        UnsupportedAlgorithm,
    };

    let before = [BadSignature, InvalidHeader, Malformed, TooLarge, UnknownIssuer, UnknownKey];
    before.contains(&kind) || kind == UnsupportedAlgorithm
}

/// Returns the verdict with all data of an accepted token.
pub fn accepted(token: &AccessToken) -> Verdict {
    let names: BTreeMap<String, IgnoredAny> = token.deserialize_claims().unwrap();
    Verdict::Accepted(Box::new(Claims {
        issuer: token.issuer().to_owned(),
        subject: token.subject().to_owned(),
        client_id: token.client_id().to_owned(),
        scopes: token.scopes().iter().map(Into::into).collect(),
        username: token.username().map(Into::into),
        groups: token.groups().map(Into::into).collect(),
        jwt_id: token.jwt_id().map(Into::into),
        expires_at: seconds(token.expires_at()),
        issued_at: token.issued_at().map(seconds),
        names: names.into_keys().collect(),
    }))
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap(),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap(),
    }
}

/// Mutates a token as text, or one of its parts in decoded form.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    mutate: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    // Tokens have no fourth part; this choice mutates the text itself.
    let part = (seed % 4) as usize;
    match mutate_part(&data[..size], part, max_size, &mutate) {
        Some(token) => {
            data[..token.len()].copy_from_slice(token.as_bytes());
            token.len()
        }
        None => mutate(data, size, max_size),
    }
}

fn mutate_part(
    data: &[u8],
    part: usize,
    max_size: usize,
    mutate: &impl Fn(&mut [u8], usize, usize) -> usize,
) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let mut parts = text.split('.').map(ToOwned::to_owned).collect::<Vec<_>>();
    let mut bytes = base64url::decode(parts.get(part)?)?;
    let size = bytes.len();
    bytes.resize(size.max(max_size / 4 * 3), 0);
    let size = mutate(&mut bytes, size, max_size / 4 * 3);
    parts[part] = base64url::encode(&bytes[..size]);
    Some(parts.join(".")).filter(|token| token.len() <= max_size)
}
