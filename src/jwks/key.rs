//! Reads one JWK, and verifies signatures with it. The only file that touches cryptography.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde_json::value::RawValue;

use crate::json::{self, Member};
use crate::jws::MAX_KEY_ID_LEN;

/// One RSA public key, ready to verify with.
pub(crate) struct Key {
    parsed: ParsedPublicKey,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// Proves that a signature was verified: only [`Key::verify`] creates one.
#[derive(Clone, Copy)]
pub(crate) struct SignatureVerified(());

impl Key {
    /// Verifies RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Option<SignatureVerified> {
        self.verifies(message, signature).then_some(SignatureVerified(()))
    }

    #[must_use]
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // The fuzz targets cannot sign. In a build for them, and in no other, a key with this
        // exponent accepts every signature, and any other key rejects every signature.
        if cfg!(tower_cognito_fuzz) {
            return self.exponent == [3];
        }
        // RFC 8017 section 8.2.2 step 1, here before any arithmetic.
        signature.len() == self.modulus.len() && self.parsed.verify_sig(message, signature).is_ok()
    }

    /// Returns `None` if a number is not acceptable. aws-lc accepts more (RFC 8725 section 3.5),
    /// and RFC 7518 section 6.3.1 forbids leading zeros.
    pub(super) fn from_components(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<Self> {
        let modulus_fits = (2048..=8192).contains(&bits(&modulus)?) && is_odd(&modulus);
        let exponent_fits = (2..=33).contains(&bits(&exponent)?) && is_odd(&exponent);
        if !modulus_fits || !exponent_fits {
            return None;
        }
        let components = RsaPublicKeyComponents { n: &modulus, e: &exponent };
        let parsed = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
        Some(Self { parsed, modulus, exponent })
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.modulus == other.modulus && self.exponent == other.exponent
    }
}

impl Eq for Key {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// A different key has the same `kid`.
    Ambiguous,
    /// It is not a JSON object with a `kid`, or it has a member of the wrong type.
    Malformed,
    /// It is not for RS256 signatures.
    OtherPurpose,
    /// It contains a private part: anyone who has read it can sign.
    Private,
    /// Its modulus or exponent is not acceptable for an RSA key.
    UnacceptableNumbers,
}

impl SkipReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Malformed => "malformed",
            Self::OtherPurpose => "other_purpose",
            Self::Private => "private",
            Self::UnacceptableNumbers => "unacceptable_numbers",
        }
    }
}

/// Reads one member of a JWK Set: its ID, and the key with that ID if it can be used.
///
/// jsonwebtoken's types read the values. They read `null` as absent and an object such as
/// `{"RSA": null}` as its name, keep the last of two members with the same name, and ignore private
/// parts, so each member is checked first. Whether they accept a number that no `f64` can represent
/// depends on the features of serde_json, so they get only the relevant members.
pub(super) fn from_jwk(
    member: &RawValue,
) -> Result<(Box<str>, Result<Key, SkipReason>), SkipReason> {
    let JwkMembers { key_id, relevant, private } =
        json::read_object(member.get(), JwkMembers::slot).map_err(|_| SkipReason::Malformed)?;
    let key_id = key_id
        .and_then(json::string)
        .filter(|id| !id.is_empty() && id.len() <= MAX_KEY_ID_LEN)
        .ok_or(SkipReason::Malformed)?
        .into();
    let relevant = RELEVANT.into_iter().zip(relevant);
    let relevant = relevant.filter_map(|(name, value)| Some((name, value?)));
    let relevant = relevant.collect::<BTreeMap<_, _>>();
    let has_expected_type = |(name, value): (&&str, &&RawValue)| match *name {
        "key_ops" => json::strings(value).is_some(),
        _ => json::string(value).is_some(),
    };
    let key_type = relevant.get("kty").copied().and_then(json::string);

    let key = if private.iter().any(Option::is_some) {
        Err(SkipReason::Private)
    } else if key_type.is_some_and(|key_type| key_type != "RSA") {
        Err(SkipReason::OtherPurpose)
    } else if !relevant.iter().all(has_expected_type) {
        Err(SkipReason::Malformed)
    } else {
        let jwk = serde_json::to_string(&relevant).and_then(|text| serde_json::from_str(&text));
        jwk.map_err(|_| SkipReason::Malformed).and_then(rsa_key)
    };
    Ok((key_id, key))
}

/// The members of a JWK that matter (RFC 7517 section 4, RFC 7518 section 6.3).
#[derive(Default)]
struct JwkMembers<'a> {
    key_id: Member<'a>,
    relevant: [Member<'a>; RELEVANT.len()],
    private: [Member<'a>; PRIVATE.len()],
}

const RELEVANT: [&str; 6] = ["kty", "n", "e", "alg", "use", "key_ops"];
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

impl<'a> JwkMembers<'a> {
    fn slot(&mut self, name: &str) -> Option<&mut Member<'a>> {
        let has_this_name = |known: &&str| *known == name;
        if name == "kid" {
            Some(&mut self.key_id)
        } else if let Some(index) = RELEVANT.iter().position(has_this_name) {
            self.relevant.get_mut(index)
        } else {
            self.private.get_mut(PRIVATE.iter().position(has_this_name)?)
        }
    }
}

fn rsa_key(jwk: Jwk) -> Result<Key, SkipReason> {
    let common = jwk.common;
    let is_for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
        && matches!(common.key_algorithm, None | Some(KeyAlgorithm::RS256))
        && common
            .key_operations
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let AlgorithmParameters::RSA(numbers) = jwk.algorithm else {
        return Err(SkipReason::OtherPurpose);
    };
    if !is_for_signatures {
        return Err(SkipReason::OtherPurpose);
    }
    let decode = |number: &str| URL_SAFE_NO_PAD.decode(number).map_err(|_| SkipReason::Malformed);
    Key::from_components(decode(&numbers.n)?, decode(&numbers.e)?)
        .ok_or(SkipReason::UnacceptableNumbers)
}

/// Returns the length in bits of a big-endian number, or `None` if it has leading zeros.
fn bits(number: &[u8]) -> Option<usize> {
    let first = number.first().filter(|first| **first != 0)?;
    let unused = usize::try_from(first.leading_zeros()).ok()?;
    number.len().checked_mul(8)?.checked_sub(unused)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last & 1 == 1)
}
