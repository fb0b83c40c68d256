//! Wycheproof's JOSE vectors. Their payloads are not claims, so none of them is an access token. Their signatures are tested in
//! `src/jwks/wycheproof.rs`.

use std::time::UNIX_EPOCH;

use serde_json::Value;
use tower_cognito::{Jwks, VerifyErrorKind, verify};

#[path = "../../src/jwks/wycheproof_files.rs"]
mod files;

use self::files::{Vector, vectors};
use super::jwks::{document, good_key};
use super::support::{issuer, machine, rules};

fn set(keys: &[Value]) -> Option<Jwks> {
    Jwks::from_json(document(keys)).ok()
}

fn verdict(token: &str, keys: &Jwks) -> Result<(), VerifyErrorKind> {
    let verdict = verify(token, keys, &rules(), UNIX_EPOCH);
    verdict.map(|_| ()).map_err(|error| error.kind())
}

/// Checks that no vector is accepted with its own keys. Returns the number of vectors and the number
/// of JWEs among them.
fn count_rejected(file: &str) -> Option<(usize, usize)> {
    let vectors = vectors(file)?;
    for Vector { number, is_jwe, token, keys, .. } in &vectors {
        let keys = set(keys).unwrap_or_else(|| issuer().jwks());
        let verdict = verdict(token, &keys).unwrap_err();
        // An error about a claim would mean that the payload was read as claims.
        let early = matches!(
            verdict,
            VerifyErrorKind::InvalidHeader
                | VerifyErrorKind::Malformed
                | VerifyErrorKind::UnsupportedAlgorithm
        );
        assert!(early, "{file}, {number}: {verdict:?}");
        // It has too many parts, or it is JSON: no key is used, and nothing is decrypted.
        assert!(!is_jwe || verdict == VerifyErrorKind::Malformed, "{file}, {number}: {verdict:?}");
    }
    println!("wycheproof: {file}: {} vectors", vectors.len());
    Some((vectors.len(), vectors.iter().filter(|vector| vector.is_jwe).count()))
}

#[test]
fn h049_no_jws_vector_is_accepted() {
    let Some(counts) = count_rejected("json_web_signature_test.json") else { return };
    assert_eq!(counts, (401, 0));
}

#[test]
fn h049_no_vector_of_the_older_set_is_accepted() {
    let Some(counts) = count_rejected("json_web_crypto_test.json") else { return };
    assert_eq!(counts, (83, 34));
}

#[test]
fn h049_no_jwe_vector_is_accepted() {
    let Some(counts) = count_rejected("json_web_encryption_test.json") else { return };
    assert_eq!(counts, (139, 139));
}

#[test]
fn h051_bad_key_is_skipped_and_the_valid_key_next_to_it_is_used() {
    const FILE: &str = "json_web_key_test.json";

    let Some(vectors) = vectors(FILE) else { return };
    assert_eq!(count_rejected(FILE), Some((26, 0)));
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
    // The first is usable. Anyone can compute the private part of the second (ROCA), but it is
    // well-formed: its owner has to replace it.
    let expected = [(5, "kid-rsa-sign"), (7, "kid-rsa-roca-sign")];
    assert_eq!(usable, expected.map(|(number, id)| (number, id.to_owned())));
}
