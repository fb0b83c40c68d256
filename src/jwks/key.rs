//! Reads one JWK, and verifies signatures with it. The only file that touches cryptography.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

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
    numbers: KeyNumbers,
}

/// The numbers of an RSA public key, big-endian and without leading zeros. Keys with the same
/// numbers verify the same signatures, whatever their `kid` is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyNumbers {
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
        // exponent accepts every signature, and any other key rejects every signature. A release
        // build has no debug assertions, so a stray flag changes nothing there.
        if cfg!(all(tower_cognito_fuzz, debug_assertions)) {
            return self.numbers.exponent == [3];
        }
        // RFC 8017 section 8.2.2 step 1, here before any arithmetic.
        signature.len() == self.numbers.modulus.len()
            && self.parsed.verify_sig(message, signature).is_ok()
    }

    /// Returns `None` if a number is not acceptable. This is stricter than aws-lc (RFC 8725 section
    /// 3.5), and RFC 7518 section 6.3.1 forbids leading zeros.
    pub(super) fn from_components(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<Self> {
        let numbers = KeyNumbers { modulus, exponent };
        if !numbers.are_acceptable() {
            return None;
        }
        let components = RsaPublicKeyComponents { n: &numbers.modulus, e: &numbers.exponent };
        let parsed = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
        Some(Self { parsed, numbers })
    }

    pub(super) fn numbers(&self) -> &KeyNumbers {
        &self.numbers
    }
}

impl KeyNumbers {
    /// Reads the numbers of a key whose private part was published. It need not be a usable key. Leading
    /// zeros and padding are skipped, because these numbers decide which key to distrust: anyone who
    /// has the private part can sign, however the numbers are written.
    fn from_published(modulus: &RawValue, exponent: &RawValue) -> Option<Self> {
        let decode = |number| {
            let text = json::string(number)?;
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
            Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
        };
        let numbers = Self { modulus: decode(modulus)?, exponent: decode(exponent)? };
        numbers.are_acceptable().then_some(numbers)
    }

    fn are_acceptable(&self) -> bool {
        let fits = |number: &[u8], sizes: RangeInclusive<usize>| {
            bits(number).is_some_and(|bits| sizes.contains(&bits)) && is_odd(number)
        };
        fits(&self.modulus, 2048..=8192) && fits(&self.exponent, 2..=33)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for Key {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// A different key has the same `kid`.
    Ambiguous,
    /// A trusted issuer has published its private part since this process started.
    Compromised,
    /// It is not a JSON object with a `kid`, or it has a member of the wrong type.
    Malformed,
    /// It is not for RS256 signatures.
    OtherPurpose,
    /// It contains a private part: anyone who has read it can sign.
    Private,
    /// It has members for a private part, but their values are not texts, or are empty.
    PrivateWithoutValue,
    /// Its modulus or exponent is not acceptable for an RSA key.
    UnacceptableNumbers,
}

impl SkipReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Compromised => "compromised",
            Self::Malformed => "malformed",
            Self::OtherPurpose => "other_purpose",
            Self::Private | Self::PrivateWithoutValue => "private",
            Self::UnacceptableNumbers => "unacceptable_numbers",
        }
    }
}

/// One member of a JWK Set.
pub(super) struct ReadJwk {
    /// `None` if the member is not an object, or has no valid `kid`.
    pub(super) key_id: Option<Box<str>>,
    pub(super) key: Result<Key, SkipReason>,
    /// The numbers of the key if the member contains its private part. `key` is then
    /// [`SkipReason::Private`].
    pub(super) compromised: Option<KeyNumbers>,
}

/// Reads one member of a JWK Set.
///
/// jsonwebtoken's types read the values. They read `null` as absent and an object such as
/// `{"RSA": null}` as its name, keep the last of two members with the same name, and ignore private
/// parts, so each member is checked first. Whether they accept a number that no `f64` can represent
/// depends on the features of serde_json, so they get only the relevant members.
pub(super) fn from_jwk(member: &RawValue) -> ReadJwk {
    let Ok(members) = json::read_object(member.get(), JwkMembers::slot) else {
        return ReadJwk { key_id: None, key: Err(SkipReason::Malformed), compromised: None };
    };
    let JwkMembers { key_id, relevant, private } = members;
    let key_id = key_id
        .and_then(json::string)
        .filter(|id| !id.is_empty() && id.len() <= MAX_KEY_ID_LEN)
        .map(Box::from);
    let relevant = RELEVANT.into_iter().zip(relevant);
    let relevant = relevant.filter_map(|(name, value)| Some((name, value?)));
    let relevant = relevant.collect::<BTreeMap<_, _>>();
    let has_expected_type = |(name, value): (&&str, &&RawValue)| match *name {
        "key_ops" => json::strings(value).is_some(),
        _ => json::string(value).is_some(),
    };
    let key_type = relevant.get("kty").copied().and_then(json::string);

    let has_value = |part: &&RawValue| json::string(part).is_some_and(|value| !value.is_empty());
    let is_compromised = private.iter().flatten().any(has_value);
    let numbers = relevant.get("n").zip(relevant.get("e")).filter(|_| is_compromised);
    let compromised = numbers.and_then(|(n, e)| KeyNumbers::from_published(n, e));
    let key = if is_compromised {
        Err(SkipReason::Private)
    } else if private.iter().any(Option::is_some) {
        Err(SkipReason::PrivateWithoutValue)
    } else if key_id.is_none() {
        Err(SkipReason::Malformed)
    } else if key_type.is_some_and(|key_type| key_type != "RSA") {
        Err(SkipReason::OtherPurpose)
    } else if !relevant.iter().all(has_expected_type) {
        Err(SkipReason::Malformed)
    } else {
        let jwk = serde_json::to_string(&relevant).and_then(|text| serde_json::from_str(&text));
        jwk.map_err(|_| SkipReason::Malformed).and_then(rsa_key)
    };
    ReadJwk { key_id, key, compromised }
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
