//! Parses bytes as a JWK Set; the keys must be those of the reference. Control characters, which
//! JSON contains only as white space, stand for texts that are too long for mutations.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_cognito::Jwks;
use tower_cognito_fuzz::{jwk_set, setup};

static STANDS_FOR: LazyLock<[String; 8]> = LazyLock::new(|| {
    let [first, second] = [0, 1].map(|variant| setup::modulus(2048, variant));
    [
        setup::modulus(2047, 0),
        setup::member("a", &first, "AQAB"),
        first,
        second,
        setup::modulus(8192, 0),
        setup::modulus(8193, 0),
        " ".repeat(8 * 1024),
        ",{}".repeat(33),
    ]
});

fuzz_target!(|data: &[u8]| {
    let mut document = Vec::new();
    for byte in data {
        match STANDS_FOR.get(usize::from(*byte)) {
            Some(text) => document.extend_from_slice(text.as_bytes()),
            None => document.push(*byte),
        }
    }
    let expected = jwk_set::key_ids(&document);
    for _ in 0..2 {
        let key_ids = Jwks::from_json(&document).ok().map(|keys| {
            let mut ids = keys.key_ids().map(ToOwned::to_owned).collect::<Vec<_>>();
            ids.sort_unstable();
            ids
        });
        assert_eq!(key_ids, expected, "{}", String::from_utf8_lossy(&document));
    }
});
