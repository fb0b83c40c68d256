//! Verifies a token: a pure function of the token, the keys, the rules and the time.

mod access_token;
mod rules;

use std::sync::Arc;
use std::time::SystemTime;

use crate::claims::{Claims, RawClaims};
use crate::error::{VerifyError, VerifyErrorKind};
use crate::jwks::{HeaderCache, Jwks};
use crate::jws::{Jws, MAX_TOKEN_LEN};

pub use access_token::{AccessToken, Actor};
pub(crate) use rules::MAX_LEEWAY;
pub use rules::{CheckError, ClientIds, Rules};

/// Verifies an access token with these keys, under these rules, at this time.
///
/// It reads no clock, uses no network and caches nothing. `keys` are the keys of the pool that
/// `rules` name. A [`Verifier`](crate::Verifier) keeps them current and caches verified tokens. It also
/// rejects keys whose private part a trusted issuer has published; this function uses every key of
/// `keys`.
///
/// ```
/// use std::time::SystemTime;
/// use tower_cognito::{ClientIds, Rules, TestIssuer, VerifyErrorKind, verify};
///
/// let issuer = TestIssuer::new();
/// let keys = issuer.jwks();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
///
/// let valid = issuer.machine_token("my-client").scope("activity/*").sign();
/// let token = verify(&valid, &keys, &rules, SystemTime::now())?;
/// assert_eq!(token.client_id(), "my-client");
/// assert!(token.scopes().contains("activity/*"));
///
/// let other = issuer.machine_token("other-client").sign();
/// let error = verify(&other, &keys, &rules, SystemTime::now()).unwrap_err();
/// assert_eq!(error.kind(), VerifyErrorKind::WrongClient);
/// # Ok::<(), tower_cognito::VerifyError>(())
/// ```
///
/// # Errors
///
/// Returns an error if the token is not valid under these rules; [`VerifyErrorKind`] lists the
/// cases. It is never [`KeysUnavailable`](VerifyErrorKind::KeysUnavailable), because the keys are an
/// argument.
pub fn verify(
    token: &str,
    keys: &Jwks,
    rules: &Rules,
    now: SystemTime,
) -> Result<AccessToken, VerifyError> {
    let verified = verify_with_pools(token, now, |issuer| {
        let issuer = rules.trusted_issuer(issuer).ok_or(VerifyErrorKind::UnknownIssuer)?;
        Ok(TrustedPool { rules, issuer, keys, header_cache: None })
    });
    verified.map_err(|invalid| rules.error(invalid))
}

/// The rules of one pool, and the only keys that may have signed its tokens.
pub(crate) struct TrustedPool<'p> {
    pub(crate) rules: &'p Rules,
    pub(crate) issuer: &'p Arc<str>,
    pub(crate) keys: &'p Jwks,
    pub(crate) header_cache: Option<&'p HeaderCache>,
}

/// Why a token is invalid.
#[derive(Debug)]
pub(crate) struct Invalid {
    pub(crate) kind: VerifyErrorKind,
    /// The `client_id` of a token whose signature is valid, if this client is not allowed.
    pub(crate) wrong_client: Option<Arc<String>>,
}

impl Invalid {
    fn claims(kind: VerifyErrorKind, claims: &Claims<'_>) -> Self {
        let is_wrong_client = kind == VerifyErrorKind::WrongClient;
        let wrong_client = is_wrong_client.then(|| Arc::new(claims.client_id.clone().into_owned()));
        Self { kind, wrong_client }
    }
}

impl From<VerifyErrorKind> for Invalid {
    fn from(kind: VerifyErrorKind) -> Self {
        Self { kind, wrong_client: None }
    }
}

/// Verifies a token as [`verify`] does; the issuer that the token names chooses the pool.
pub(crate) fn verify_with_pools<'p>(
    token: &str,
    now: SystemTime,
    resolve_pool: impl FnOnce(&str) -> Result<TrustedPool<'p>, VerifyErrorKind>,
) -> Result<AccessToken, Invalid> {
    // Cognito's usual tokens fit the smaller buffer, which takes less time to clear.
    if token.len() <= SMALL_TOKEN_LEN {
        verify_with(token, &mut [0; SMALL_TOKEN_LEN], now, resolve_pool)
    } else {
        verify_with(token, &mut [0; MAX_TOKEN_LEN], now, resolve_pool)
    }
}

const SMALL_TOKEN_LEN: usize = 2 * 1024;

/// Verifies a token. If it breaks several rules, the first step that fails gives the error:
///
/// 1. The size, the compact form, and the encoding of the payload and the signature.
/// 2. The header: its encoding, its JSON, `alg`, extensions, `typ`, `kid`.
/// 3. The JSON of the payload.
/// 4. The issuer, and whether its pool has current keys.
/// 5. The key that `kid` names.
/// 6. The signature.
/// 7. `token_use`, then the types of the other claims.
/// 8. `client_id`, `exp`, `nbf`, `aud`, `cnf`, groups, scopes.
/// 9. The application's check.
///
/// Step 7 checks the types of all claims that are read, even if no rule uses them. So an expired
/// token whose `aud` has the wrong type gives `InvalidClaim`, not `Expired`.
fn verify_with<'p>(
    token: &str,
    buffer: &mut [u8],
    now: SystemTime,
    resolve_pool: impl FnOnce(&str) -> Result<TrustedPool<'p>, VerifyErrorKind>,
) -> Result<AccessToken, Invalid> {
    // Step 1.
    let Jws { signing_input, header, payload, signature } = Jws::from_token(token, buffer)?;

    // Steps 3 and 4 run before step 2, because the pool may have cached the header. Their error
    // is kept in this `Result` until the header was checked, so that an error of the header comes
    // first. The issuer is not trusted yet: it only chooses the pool.
    let claims_and_pool = RawClaims::from_payload(payload).and_then(|raw_claims| {
        let pool = resolve_pool(&raw_claims.issuer()?)?;
        Ok((raw_claims, pool))
    });
    let header_cache = claims_and_pool.as_ref().ok().and_then(|(_, pool)| pool.header_cache);
    let encoded_header = header.encoded;
    let cached_key = header_cache.and_then(|cache| cache.get(encoded_header));
    // Step 2, which only a cached header skips: it has passed step 2 before. Without a pool there is
    // no cached header, so the header of a token from an untrusted issuer is always checked.
    let key_id = if cached_key.is_some() { None } else { Some(header.key_id()?) };
    // An error of step 3 or 4 is returned here, after the header was checked.
    let (raw_claims, TrustedPool { rules, issuer, keys, .. }) = claims_and_pool?;

    // Steps 5 and 6. `key_id` is `None` only if the key was cached.
    let key =
        cached_key.or_else(|| keys.get(key_id.as_deref()?)).ok_or(VerifyErrorKind::UnknownKey)?;
    let proof =
        key.verify(signing_input.as_bytes(), signature).ok_or(VerifyErrorKind::BadSignature)?;
    if let Some(cache) = header_cache {
        cache.insert(encoded_header, key, proof);
    }

    // Steps 7 to 9. The signature is valid: the claims can be trusted from here on.
    let claims = raw_claims.parse(proof)?;
    rules.check_claims(&claims, now).map_err(|kind| Invalid::claims(kind, &claims))?;
    let token = AccessToken::new(claims, issuer, payload, rules.requirement());
    rules.check_application(&token)?;
    Ok(token)
}
