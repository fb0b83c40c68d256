//! The order of errors: if a token breaks two rules, the rule that comes first in [`FAULTS`] gives the
//! error.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use tower_cognito::{
    CheckError, Jwks, Rules, TestIssuer, Verifier, VerifyError, VerifyErrorKind as Kind,
    test_issuer, verify,
};

use super::support::{issuer, machine, now, rules};

const NOW: u64 = 1_790_000_000;

/// What is wrong with a token, and the error that it gives.
struct Fault {
    name: &'static str,
    kind: Kind,
    /// The step of `verify_with` that finds it.
    step: u8,
    apply: fn(&mut Draft),
}

const fn fault(step: u8, name: &'static str, kind: Kind, apply: fn(&mut Draft)) -> Fault {
    Fault { name, kind, step, apply }
}

/// The first fault wins.
const FAULTS: [Fault; 30] = [
    fault(1, "size", Kind::TooLarge, |token| token.claim("pad", "x".repeat(16_384))),
    fault(1, "no second dot", Kind::Malformed, |token| token.has_signature = false),
    fault(1, "base64url of the payload", Kind::Malformed, |token| token.payload_end = "="),
    fault(1, "UTF-8 of the payload", Kind::Malformed, |token| token.payload_end = "\u{ff}"),
    fault(1, "base64url of the signature", Kind::Malformed, |token| token.signature_end = "="),
    fault(2, "base64url of the header", Kind::Malformed, |token| token.header_end = "="),
    fault(2, "UTF-8 of the header", Kind::Malformed, |token| token.header_end = "\u{ff}"),
    fault(2, "JSON of the header", Kind::Malformed, |token| token.header_end = "}"),
    fault(2, "`alg`", Kind::UnsupportedAlgorithm, |token| token.header("alg", "RS512")),
    fault(2, "`crit`", Kind::InvalidHeader, |token| token.header("crit", ["exp"])),
    fault(2, "`b64`", Kind::InvalidHeader, |token| token.header("b64", true)),
    fault(2, "`typ`", Kind::InvalidHeader, |token| token.header("typ", "JOSE")),
    // Its key is unknown, too.
    fault(2, "`kid`", Kind::InvalidHeader, |token| token.header("kid", "k".repeat(257))),
    fault(3, "JSON of the payload", Kind::Malformed, |token| token.payload_end = "}"),
    fault(4, "`iss`", Kind::UnknownIssuer, |token| token.claim("iss", "https://other.example")),
    fault(4, "type of `iss`", Kind::UnknownIssuer, |token| token.claim("iss", 1)),
    fault(5, "unknown key", Kind::UnknownKey, |token| token.header("kid", "other")),
    fault(6, "signature", Kind::BadSignature, |token| token.is_forged = true),
    fault(7, "`token_use`", Kind::WrongTokenUse, |token| token.claim("token_use", "id")),
    fault(7, "type of `sub`", Kind::InvalidClaim, |token| token.claim("sub", 1)),
    fault(7, "type of `jti`", Kind::InvalidClaim, |token| token.claim("jti", 1)),
    fault(8, "`client_id`", Kind::WrongClient, |token| token.claim("client_id", "other")),
    fault(8, "`exp`", Kind::Expired, |token| token.claim("exp", NOW)),
    fault(8, "`nbf`", Kind::NotYetValid, |token| token.claim("nbf", NOW + 1)),
    fault(8, "`aud`", Kind::WrongAudience, |token| token.claim("aud", "other")),
    fault(8, "`cnf`", Kind::SenderConstrained, |token| token.claim("cnf", json!({}))),
    fault(8, "groups", Kind::Forbidden, |token| token.claim("cognito:groups", ["other"])),
    fault(8, "`scope`", Kind::InsufficientScope, |token| token.claim("scope", "other")),
    fault(9, "the application's check", Kind::Revoked, |token| token.claim("checked", "revoked")),
    fault(9, "the second check", Kind::Forbidden, |token| token.claim("checked_too", "forbidden")),
];

/// A valid token, until a fault is applied.
struct Draft {
    header: Map<String, Value>,
    payload: Map<String, Value>,
    /// Appended to the text of this part: `=` to its base64url, U+00FF as one byte, which is not
    /// UTF-8, and anything else to its JSON.
    header_end: &'static str,
    payload_end: &'static str,
    signature_end: &'static str,
    is_forged: bool,
    has_signature: bool,
}

impl Draft {
    fn valid() -> Self {
        let token = machine("activity/*")
            .issued_at(now())
            .claim("aud", "api")
            .claim("cognito:groups", ["staff"]);
        let object = |text: &str| serde_json::from_str(text).unwrap();
        Self {
            header: object(&token.header_json()),
            payload: object(&token.payload_json()),
            header_end: "",
            payload_end: "",
            signature_end: "",
            is_forged: false,
            has_signature: true,
        }
    }

    fn header(&mut self, name: &str, value: impl Into<Value>) {
        self.header.insert(name.to_owned(), value.into());
    }

    fn claim(&mut self, name: &str, value: impl Into<Value>) {
        self.payload.insert(name.to_owned(), value.into());
    }

    fn sign(&self) -> String {
        let json = |object: &Map<String, Value>, end| {
            let json = serde_json::to_string(object).unwrap();
            if end == "}" { json + end } else { json }
        };
        let header = json(&self.header, self.header_end);
        let payload = json(&self.payload, self.payload_end);
        static FORGER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);
        let signer = if self.is_forged { &*FORGER } else { issuer() };
        let token = signer.machine_token("").sign_texts(&header, &payload);

        // These ends cannot be signed, so they are appended to the signed token. The signature is
        // then wrong too, but only a later step finds that.
        let mut parts = token.split('.').map(str::to_owned).collect::<Vec<_>>();
        let ends = [self.header_end, self.payload_end, self.signature_end];
        for (part, end) in parts.iter_mut().zip(ends) {
            match end {
                "=" => part.push('='),
                "\u{ff}" => {
                    let mut bytes = URL_SAFE_NO_PAD.decode(&*part).unwrap();
                    bytes.push(0xff);
                    *part = URL_SAFE_NO_PAD.encode(bytes);
                }
                _ => {}
            }
        }
        if !self.has_signature {
            parts.pop();
        }
        parts.join(".")
    }
}

/// Returns rules that every claim of the table can break.
fn strict_rules() -> Rules {
    fn claim(token: &tower_cognito::AccessToken, name: &str) -> Option<String> {
        let claims: Map<String, Value> = token.deserialize_claims().unwrap();
        claims.get(name).map(Value::to_string)
    }

    rules()
        .with_audience("api")
        .with_groups(["staff"])
        .with_required_scopes(["activity/*"])
        .with_check(|token| match claim(token, "checked") {
            Some(_) => Err(CheckError::Revoked),
            None => Ok(()),
        })
        .with_check(|token| match claim(token, "checked_too") {
            Some(_) => Err(CheckError::Forbidden),
            None => Ok(()),
        })
}

/// Applies the later fault first, because an earlier one may replace the same member.
fn token_with(first: &Fault, second: &Fault) -> String {
    let mut token = Draft::valid();
    (second.apply)(&mut token);
    (first.apply)(&mut token);
    token.sign()
}

/// Returns the name and the expected error of every pair, and the token.
fn pairs() -> impl Iterator<Item = (String, &'static Fault, String)> {
    FAULTS.iter().enumerate().flat_map(|(index, first)| {
        FAULTS[index..].iter().map(move |second| {
            let name = format!("{} and {}", first.name, second.name);
            (name, first, token_with(first, second))
        })
    })
}

/// Returns the error of a token that breaks this rule.
pub(crate) fn error_of(kind: Kind) -> VerifyError {
    let result = match FAULTS.iter().find(|fault| fault.kind == kind) {
        Some(fault) => verify(&token_with(fault, fault), &issuer().jwks(), &strict_rules(), now()),
        None => with_keys(None).try_verify(&Draft::valid().sign()),
    };
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind);
    error
}

/// Returns a verifier with these keys, or one that is still without keys.
fn with_keys(keys: Option<Jwks>) -> Verifier {
    let builder = Verifier::builder(strict_rules()).clock(now);
    match keys {
        Some(keys) => builder.build_with_jwks(keys).unwrap(),
        None => builder.jwks_fetcher(test_issuer::Fault::Down).connect_lazy().unwrap(),
    }
}

#[test]
fn faults_are_in_the_order_of_the_steps() {
    assert!(FAULTS.is_sorted_by_key(|fault| fault.step));
    let valid = Draft::valid().sign();
    assert!(verify(&valid, &issuer().jwks(), &strict_rules(), now()).is_ok());
}

#[test]
fn of_two_broken_rules_the_earlier_one_gives_the_error() {
    let (keys, rules) = (issuer().jwks(), strict_rules());
    for (name, first, token) in pairs() {
        let error = verify(&token, &keys, &rules, now()).unwrap_err();
        assert_eq!(error.kind(), first.kind, "{name}");
    }
}

#[test]
fn of_two_broken_rules_the_earlier_one_gives_the_error_if_the_header_is_cached() {
    let verifier = with_keys(Some(issuer().jwks()));
    verifier.try_verify(&Draft::valid().sign()).unwrap();
    for (name, first, token) in pairs() {
        let error = verifier.try_verify(&token).unwrap_err();
        assert_eq!(error.kind(), first.kind, "{name}");
    }
}

#[test]
fn missing_keys_give_the_error_after_the_issuer_and_before_the_key_id() {
    let verifier = with_keys(None);
    for (name, first, token) in pairs() {
        let error = verifier.try_verify(&token).unwrap_err();
        let (expected, waits) =
            if first.step <= 4 { (first.kind, false) } else { (Kind::KeysUnavailable, true) };
        assert_eq!(error.kind(), expected, "{name}");
        assert_eq!(error.retry_after().is_some(), waits, "{name}");
    }
}
