//! Wycheproof's JOSE vectors, from the folder that `WYCHEPROOF_DIR` names: no registry has them.
//!
//! Their payloads are no claims, so nothing of them is an access token. How they fare at the
//! signature alone is tested beside the keys, in `src/jwks/wycheproof.rs`.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use tower_cognito::{Jwks, VerifyErrorKind, verify};

use super::jwks::{document, good_key};
use super::support::{issuer, machine, rules};

struct Vector {
    number: u64,
    is_jwe: bool,
    token: String,
    keys: Vec<Value>,
}

/// Every vector of a file, with the public keys that belong to it.
fn vectors(file: &str) -> Option<Vec<Vector>> {
    let Some(folder) = std::env::var_os("WYCHEPROOF_DIR") else {
        println!("SKIPPED: WYCHEPROOF_DIR is not set");
        return None;
    };
    let text = std::fs::read_to_string(Path::new(&folder).join(file)).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let mut vectors = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        // A symmetric key has no public half.
        let keys = group.get("public").unwrap_or(&group["private"]);
        let keys = keys["keys"].as_array().cloned().unwrap_or_else(|| vec![keys.clone()]);
        for test in group["tests"].as_array().unwrap() {
            let token = test.get("jws").unwrap_or(&test["jwe"]);
            vectors.push(Vector {
                number: test["tcId"].as_u64().unwrap(),
                is_jwe: test.get("jwe").is_some(),
                // What is not compact is JSON.
                token: token.as_str().map_or_else(|| token.to_string(), str::to_owned),
                keys: keys.clone(),
            });
        }
    }
    assert_eq!(file["numberOfTests"].as_u64(), u64::try_from(vectors.len()).ok());
    Some(vectors)
}

fn set(keys: &[Value]) -> Option<Jwks> {
    Jwks::from_json(document(keys)).ok()
}

fn verdict(token: &str, keys: &Jwks) -> Result<(), VerifyErrorKind> {
    let verdict = verify(token, keys, &rules(), UNIX_EPOCH);
    verdict.map(|_| ()).map_err(|error| error.kind())
}

/// With the keys that belong to it, no vector is an access token. Says how many there are, and how
/// many of them are a JWE.
fn refused(file: &str) -> Option<(usize, usize)> {
    let vectors = vectors(file)?;
    for Vector { number, is_jwe, token, keys } in &vectors {
        let keys = set(keys).unwrap_or_else(|| issuer().jwks());
        let verdict = verdict(token, &keys).unwrap_err();
        // A claim would mean that the payload was read as one.
        let early = matches!(
            verdict,
            VerifyErrorKind::InvalidHeader
                | VerifyErrorKind::Malformed
                | VerifyErrorKind::UnsupportedAlgorithm
        );
        assert!(early, "{file}, {number}: {verdict:?}");
        // Its parts are too many, or it is JSON: no key is looked at, nothing is decrypted.
        assert!(!is_jwe || verdict == VerifyErrorKind::Malformed, "{file}, {number}: {verdict:?}");
    }
    println!("wycheproof: {file}: {} vectors", vectors.len());
    Some((vectors.len(), vectors.iter().filter(|vector| vector.is_jwe).count()))
}

#[test]
fn h049_no_jws_is_an_access_token() {
    let Some(counts) = refused("json_web_signature_test.json") else { return };
    assert_eq!(counts, (401, 0));
}

#[test]
fn h049_no_vector_of_the_older_set_is_an_access_token() {
    let Some(counts) = refused("json_web_crypto_test.json") else { return };
    assert_eq!(counts, (83, 34));
}

#[test]
fn h049_no_jwe_is_an_access_token() {
    let Some(counts) = refused("json_web_encryption_test.json") else { return };
    assert_eq!(counts, (139, 139));
}

#[test]
fn h051_a_bad_key_is_left_out_and_the_good_one_beside_it_works() {
    const FILE: &str = "json_web_key_test.json";

    let Some(vectors) = vectors(FILE) else { return };
    assert_eq!(refused(FILE), Some((26, 0)));
    let good = machine("a/b").issued_at(UNIX_EPOCH).sign();
    let mut usable = Vec::new();
    for Vector { number, token, keys, .. } in vectors {
        if let Some(set) = set(&keys) {
            usable.extend(set.key_ids().map(|id| (number, id.to_owned())));
        }
        let mixed = set(&[&[good_key()], &*keys].concat()).unwrap();
        assert_eq!(verdict(&good, &mixed), Ok(()), "{number}");
        assert!(verdict(&token, &mixed).is_err(), "{number}");
    }
    // The first is good. The second can be computed by anyone (ROCA), but is well-formed: its owner
    // has to replace it.
    let expected = [(5, "kid-rsa-sign"), (7, "kid-rsa-roca-sign")];
    assert_eq!(usable, expected.map(|(number, id)| (number, id.to_owned())));
}
