//! Whether a token is good: a pure function of the token, the keys, the rules and the time.

mod access_token;
mod rules;

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use crate::claims::RawClaims;
use crate::error::{VerifyError, VerifyErrorKind};
use crate::jwks::{Jwks, KeySetId};
use crate::jws::{Jws, MAX_TOKEN_LEN};

pub use access_token::AccessToken;
pub(crate) use rules::MAX_LEEWAY;
pub use rules::{CheckError, ClientIds, Rules};

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
    let verified = verify_with_pools(token, now, |issuer| match rules.trusted_issuer(issuer) {
        Some(issuer) => Ok(TrustedPool { rules, issuer, keys }),
        None => Err(VerifyErrorKind::UnknownIssuer.into()),
    });
    verified.map(|(token, _)| token)
}

/// Where a token is judged: one pool's rules, and that pool's keys alone.
pub(crate) struct TrustedPool<'r, K> {
    pub(crate) rules: &'r Rules,
    pub(crate) issuer: &'r Arc<str>,
    pub(crate) keys: K,
}

/// [`verify`], where the issuer that the token names chooses the pool. Says with which keys.
pub(crate) fn verify_with_pools<'r, K: Deref<Target = Jwks>>(
    token: &str,
    now: SystemTime,
    resolve_pool: impl FnOnce(&str) -> Result<TrustedPool<'r, K>, VerifyError>,
) -> Result<(AccessToken, KeySetId), VerifyError> {
    // Two sizes, since even to clear the larger one would cost a cached_key token something.
    if token.len() <= SMALL_TOKEN_LEN {
        verify_with(token, &mut [0; SMALL_TOKEN_LEN], now, resolve_pool)
    } else {
        verify_with(token, &mut [0; MAX_TOKEN_LEN], now, resolve_pool)
    }
}

const SMALL_TOKEN_LEN: usize = 2 * 1024;

fn verify_with<'r, K: Deref<Target = Jwks>>(
    token: &str,
    buffer: &mut [u8],
    now: SystemTime,
    resolve_pool: impl FnOnce(&str) -> Result<TrustedPool<'r, K>, VerifyError>,
) -> Result<(AccessToken, KeySetId), VerifyError> {
    let Jws { signing_input, header, payload, signature } = Jws::from_token(token, buffer)?;
    let encoded_header = header.encoded;
    let raw = RawClaims::from_payload(payload);
    let pool = match &raw {
        Ok(raw) => raw.issuer().map_err(VerifyError::from).and_then(|issuer| resolve_pool(&issuer)),
        Err(malformed) => Err((*malformed).into()),
    };
    // All tokens of a key have the same header, so it is usually one that need not be read again.
    let cached_key =
        pool.as_ref().ok().and_then(|pool| pool.keys.key_for_cached_header(encoded_header));
    let key_id = if cached_key.is_some() { None } else { Some(header.key_id()?) };
    let raw = raw?;
    let TrustedPool { rules, issuer, keys } = pool.as_ref().map_err(VerifyError::clone)?;
    let key =
        cached_key.or_else(|| keys.get(key_id.as_deref()?)).ok_or(VerifyErrorKind::UnknownKey)?;
    if !key.verifies(signing_input.as_bytes(), signature) {
        return Err(VerifyErrorKind::BadSignature.into());
    }
    keys.cache_header(encoded_header, key);

    // From here on the pool itself says what stands in the token.
    let claims = raw.parse()?;
    rules.check_claims(&claims, now)?;
    let token = AccessToken::new(claims, issuer, payload);
    rules.check_application(&token)?;
    Ok((token, keys.id()))
}
