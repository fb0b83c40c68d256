use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The minimum cost of a verification: the check of the signature with a parsed key.
pub struct Floor {
    key: ParsedPublicKey,
    signing_input: String,
    signature: Vec<u8>,
}

impl Floor {
    /// Takes the key of this token from the JWK Set.
    pub fn new(token: &str, jwks: &str) -> Self {
        let (signing_input, signature) = token.rsplit_once('.').unwrap();
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        let jwks: Value = serde_json::from_str(jwks).unwrap();
        let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]);
        let part = |name: &str| URL_SAFE_NO_PAD.decode(key.unwrap()[name].as_str().unwrap());
        let components = PublicKeyComponents { n: part("n").unwrap(), e: part("e").unwrap() };
        Self {
            key: components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap(),
            signing_input: signing_input.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(signature).unwrap(),
        }
    }

    pub fn check(&self) -> bool {
        self.key.verify_sig(self.signing_input.as_bytes(), &self.signature).is_ok()
    }
}

/// Returns the token with one flipped bit in its signature.
pub fn flipped(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').expect("a token has a signature");
    let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("the issuer encoded it");
    signature[100] ^= 1;
    format!("{rest}.{}", URL_SAFE_NO_PAD.encode(signature))
}
