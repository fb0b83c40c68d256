//! The RSA keys of the test issuer. Besides `jwks`, only this file uses cryptography, and it is not
//! compiled without the feature `test-issuer`.

use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

pub(super) struct Signer {
    key_id: String,
    pair: RsaKeyPair,
}

impl Signer {
    pub(super) fn generate() -> Self {
        let pair =
            RsaKeyPair::generate(KeySize::Rsa2048).expect("the machine can generate an RSA key");
        // Cognito's key IDs are 32 bytes in standard base64, including `/` and `+`.
        Self { key_id: STANDARD.encode(random::<32>()), pair }
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn jwk(&self) -> String {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.pair.public_key());
        format!(
            r#"{{"alg":"RS256","e":"{e}","kid":"{kid}","kty":"RSA","n":"{n}","use":"sig"}}"#,
            e = URL_SAFE_NO_PAD.encode(public.e),
            kid = self.key_id,
            n = URL_SAFE_NO_PAD.encode(public.n),
        )
    }

    /// Returns a compact JWS of these two texts, which need not be JSON.
    pub(super) fn sign(&self, header: &str, payload: &str) -> String {
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        let signing_input = format!("{}.{}", encode(header), encode(payload));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signing_input.as_bytes(), &mut signature)
            .expect("the buffer has the length of the modulus");
        format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Returns a random UUID (RFC 9562 section 5.4).
pub(super) fn uuid() -> String {
    let random = u128::from_be_bytes(random());
    let versioned = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{versioned:032x}");
    let group = |range| hex.get(range).unwrap_or_default();
    [group(0..8), group(8..12), group(12..16), group(16..20), group(20..32)].join("-")
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the machine has random numbers");
    bytes
}
