//! Every rule of the plain function `verify`: which tokens it accepts, and why it rejects the others.
//! The layer and the interceptor get the same tokens. A number in a name is that of the hostile input.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::value::RawValue;
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, Jwks, JwksDocument, RefreshError, Rules, TestIssuer,
    TestServer, UserPool, Verifier, VerifyErrorKind, verify,
};

use super::support::{CLIENT, Doors, Log, has_second_opinion, issuer, machine, rules};

const NOW: u64 = 1_790_000_000;
const HOUR: u64 = 3600;
const MAX_TOKEN_LEN: usize = 16 * 1024;

fn now() -> SystemTime {
    at(NOW)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn valid() -> TokenBuilder {
    machine("activity/*").issued_at(now())
}

/// Returns a JSON text unchanged, for values that `serde` would write differently.
fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Returns the elements of a JSON array, each as raw text.
fn each(array: &str) -> Vec<&str> {
    serde_json::from_str::<Vec<&RawValue>>(array).unwrap().into_iter().map(RawValue::get).collect()
}

/// Returns the keys of the shared issuer, and the key whose private part the tests have.
fn keys() -> &'static Jwks {
    static KEYS: LazyLock<Jwks> = LazyLock::new(|| Jwks::from_json(document()).unwrap());
    &KEYS
}

fn document() -> String {
    let own = OwnKey::get().jwk(OwnKey::ID);
    issuer().jwks_json().replace("]}", &format!(",{own}]}}"))
}

/// Returns a layer and an interceptor with the same keys and rules, at the same time.
fn doors() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| {
        let keys = Jwks::from_json(document()).unwrap();
        Doors::of(Verifier::builder(rules()).clock(now).build_with_jwks(keys).unwrap())
    });
    &DOORS
}

fn result_under(rules: &Rules, token: &str, now: SystemTime) -> Result<(), VerifyErrorKind> {
    verify(token, keys(), rules, now).map(|_| ()).map_err(|error| error.kind())
}

fn result(token: &str) -> Result<(), VerifyErrorKind> {
    result_under(&rules(), token, now())
}

#[track_caller]
fn accept(name: &str, token: &str) -> AccessToken {
    match verify(token, keys(), &rules(), now()) {
        Ok(verified) => {
            doors().accept(name, token);
            verified
        }
        Err(error) => panic!("{name}: rejected with {:?}", error.kind()),
    }
}

/// Checks that the faulty token is rejected, and that its twin without the fault is accepted.
#[track_caller]
fn reject(name: &str, twin: &str, faulty: &str, kind: VerifyErrorKind) {
    accept(name, twin);
    assert_eq!(result(faulty), Err(kind), "{name}");
    doors().refuse(name, faulty, kind);
}

#[track_caller]
fn reject_header(member: &str, json: &str, kind: VerifyErrorKind) {
    let faulty = valid().header(member, raw(json)).sign();
    reject(&format!("{member}: {json}"), &valid().sign(), &faulty, kind);
}

#[track_caller]
fn accept_header(member: &str, json: &str) {
    accept(&format!("{member}: {json}"), &valid().header(member, raw(json)).sign());
}

#[track_caller]
fn reject_claim(claim: &str, json: &str, kind: VerifyErrorKind) {
    let faulty = valid().claim(claim, raw(json)).sign();
    reject(&format!("{claim}: {json}"), &valid().sign(), &faulty, kind);
}

#[track_caller]
fn accept_claim(claim: &str, json: &str) -> AccessToken {
    accept(&format!("{claim}: {json}"), &valid().claim(claim, raw(json)).sign())
}

/// Checks a header and a payload, each given as text; the twin is signed in the same way.
#[track_caller]
fn reject_texts(name: &str, header: &str, payload: &str, kind: VerifyErrorKind) {
    let good = valid();
    let twin = good.sign_texts(&good.header_json(), &good.payload_json());
    reject(name, &twin, &good.sign_texts(header, payload), kind);
}

/// Inserts a member, given as text, before the other members of the object.
fn with_member(object: &str, member: &str) -> String {
    object.replacen('{', &format!("{{{member},"), 1)
}

/// A key whose private part is here, because the issuer signs only texts, and only with RS256.
struct OwnKey {
    pair: RsaKeyPair,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl OwnKey {
    const ID: &str = "own";

    fn get() -> &'static Self {
        static KEY: LazyLock<OwnKey> = LazyLock::new(|| OwnKey::generate(KeySize::Rsa2048));
        &KEY
    }

    fn generate(size: KeySize) -> Self {
        let pair = RsaKeyPair::generate(size).unwrap();
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        Self { pair, modulus: public.n, exponent: public.e }
    }

    fn jwk(&self, key_id: &str) -> String {
        let (n, e) =
            (URL_SAFE_NO_PAD.encode(&self.modulus), URL_SAFE_NO_PAD.encode(&self.exponent));
        serde_json::json!({ "kty": "RSA", "kid": key_id, "n": n, "e": e }).to_string()
    }

    fn jwks(&self, key_id: &str) -> Jwks {
        Jwks::from_json(format!(r#"{{"keys":[{}]}}"#, self.jwk(key_id))).unwrap()
    }

    fn sign(&self, encoding: &'static dyn RsaEncoding, message: &str) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        signature
    }

    /// Signs these two parts, whatever they are.
    fn complete(&self, header: &str, payload: &str) -> String {
        let signing_input = format!("{header}.{payload}");
        let signature = self.sign(&RSA_PKCS1_SHA256, &signing_input);
        format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, header: &[u8], payload: &[u8]) -> String {
        self.complete(&URL_SAFE_NO_PAD.encode(header), &URL_SAFE_NO_PAD.encode(payload))
    }
}

/// Returns the header and the payload of a valid token that names the tests' own key.
fn own_texts() -> (String, String) {
    let token = valid().header("kid", OwnKey::ID);
    (token.header_json(), token.payload_json())
}

fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().unwrap()
}

fn decoded_signature(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(parts(token)[2]).unwrap()
}

fn with_signature(token: &str, signature: &[u8]) -> String {
    let [header, payload, _] = parts(token);
    format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature))
}

// Size and compact form

/// Returns a valid token of exactly this length. Both parts are padded, because base64 does not have
/// a text of every length.
fn token_of_length(length: usize) -> String {
    let encoded = |bytes: usize| (bytes * 4).div_ceil(3);
    let with_padding = |header, payload| {
        valid().header("pad", "x".repeat(header)).claim("pad", "x".repeat(payload))
    };
    for header in 0..4 {
        for payload in 11_000..12_288 {
            let token = with_padding(0, 0);
            let header_len = encoded(token.header_json().len() + header);
            let payload_len = encoded(token.payload_json().len() + payload);
            if header_len + payload_len + 2 + encoded(256) == length {
                return with_padding(header, payload).sign();
            }
        }
    }
    panic!("no token of {length} bytes");
}

#[test]
fn h011_token_over_16_kib_is_rejected() {
    let longest = token_of_length(MAX_TOKEN_LEN);
    assert_eq!(longest.len(), MAX_TOKEN_LEN);
    let too_long = token_of_length(MAX_TOKEN_LEN + 1);
    assert_eq!(too_long.len(), MAX_TOKEN_LEN + 1);
    reject("one byte more", &longest, &too_long, VerifyErrorKind::TooLarge);

    assert_eq!(result(&".".repeat(400_000)), Err(VerifyErrorKind::TooLarge), "dots");
    assert_eq!(result(&"A".repeat(1 << 20)), Err(VerifyErrorKind::TooLarge), "one part");
}

#[test]
fn h016_token_without_three_non_empty_parts_is_rejected() {
    let good = valid().sign();
    let [header, payload, signature] = parts(&good);
    let cases = [
        ("nothing", String::new()),
        ("one part", header.to_owned()),
        ("two parts", format!("{header}.{payload}")),
        ("a stripped signature", format!("{header}.{payload}.")),
        ("an empty header", format!(".{payload}.{signature}")),
        ("an empty payload", format!("{header}..{signature}")),
        ("four parts", format!("{good}.{signature}")),
        ("a dot more before", format!(".{good}")),
        ("a dot more after", format!("{good}.")),
        ("a dot more inside", format!("{header}..{payload}.{signature}")),
        ("a JWE", format!("{header}.{payload}.{signature}.{payload}.{signature}")),
        ("dots alone", "..".to_owned()),
        ("as many dots as fit", ".".repeat(MAX_TOKEN_LEN)),
    ];
    for (name, faulty) in cases {
        reject(name, &good, &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h016_signed_token_with_an_extra_part_is_rejected() {
    // The attacker has the key: the signature is over everything except the last part.
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let twin = key.complete(&encode(&header), &encode(&payload));
    for (name, header, payload) in [
        ("after the payload", encode(&header), format!("{}.{}", encode(&payload), encode("{}"))),
        ("before the payload", encode(&header), format!(".{}", encode(&payload))),
        ("before the header", format!(".{}", encode(&header)), encode(&payload)),
    ] {
        reject(name, &twin, &key.complete(&header, &payload), VerifyErrorKind::Malformed);
    }
}

#[test]
fn h018_token_with_other_characters_than_base64url_and_dots_is_rejected() {
    let good = valid().sign();
    let [header, payload, signature] = parts(&good);
    for stranger in ["=", "+", "/", " ", "\t", "\r\n", "\0", "%2E", ",", "~", "\u{e9}", "\u{ff0e}"]
    {
        for (place, faulty) in [
            ("before", format!("{stranger}{good}")),
            ("after the header", format!("{header}{stranger}.{payload}.{signature}")),
            ("in the payload", format!("{header}.{stranger}{payload}.{signature}")),
            ("after the payload", format!("{header}.{payload}{stranger}.{signature}")),
            ("after", format!("{good}{stranger}")),
        ] {
            let name = format!("{stranger:?} {place}");
            reject(&name, &good, &faulty, VerifyErrorKind::Malformed);
        }
    }
}

#[test]
fn h018_standard_alphabet_and_padding_are_rejected() {
    let (header, payload) = own_texts();
    // It contains a byte that the two alphabets encode differently.
    let payload = with_member(&payload, r#""pad":"~~~???>>>""#);
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    let standard = STANDARD.encode(&payload);
    assert!(standard.contains(['+', '/']), "{standard}");
    let header = URL_SAFE_NO_PAD.encode(header);
    reject("standard", &twin, &key.complete(&header, &standard), VerifyErrorKind::Malformed);

    for padding in ["=", "=="] {
        let payload = format!("{}{padding}", URL_SAFE_NO_PAD.encode(&payload));
        let padded = key.complete(&header, &payload);
        reject("padding", &twin, &padded, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h017_json_serializations_are_rejected() {
    let good = valid().sign();
    let [header, payload, signature] = parts(&good);
    let signed = format!(r#""protected":"{header}","signature":"{signature}""#);
    let flattened = format!(r#"{{"payload":"{payload}",{signed}}}"#);
    let general = format!(r#"{{"payload":"{payload}","signatures":[{{{signed}}}]}}"#);
    // CVE-2022-39227: one parser reads it as compact, another one as JSON.
    let polyglot = format!(r#"{{"{header}.{payload}.{signature}":1}}"#);
    for (name, faulty) in [("flattened", flattened), ("general", general), ("polyglot", polyglot)] {
        reject(name, &good, &faulty, VerifyErrorKind::Malformed);
    }
}

/// Returns every other last symbol of a base64 text that a lenient decoder decodes to the same bytes.
fn other_spellings(part: &str) -> Vec<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    let (start, last) = part.split_at(part.len() - 1);
    let value = ALPHABET.iter().position(|symbol| *symbol == last.as_bytes()[0]).unwrap();
    let count = match part.len() % 4 {
        2 => 16,
        3 => 4,
        _ => 1,
    };
    assert_eq!(value % count, 0, "a canonical text has zeros at its end");
    (1..count).map(|bits| format!("{start}{}", char::from(ALPHABET[value + bits]))).collect()
}

#[test]
fn h019_non_canonical_base64url_is_rejected() {
    let key = OwnKey::get();
    let (header, payload) = own_texts();
    let padded = |object: &str, len: usize| {
        let member = format!(r#""pad":"{}""#, "x".repeat(len));
        URL_SAFE_NO_PAD.encode(with_member(object, &member))
    };
    let mut cases = 0;
    for len in 0..3 {
        let (header, payload) = (padded(&header, len), padded(&payload, len));
        let twin = key.complete(&header, &payload);
        // The signature is over the other text, so nothing else is wrong with the token.
        for other in other_spellings(&header) {
            reject("header", &twin, &key.complete(&other, &payload), VerifyErrorKind::Malformed);
            cases += 1;
        }
        for other in other_spellings(&payload) {
            reject("payload", &twin, &key.complete(&header, &other), VerifyErrorKind::Malformed);
            cases += 1;
        }
        for other in other_spellings(parts(&twin)[2]) {
            let faulty = format!("{header}.{payload}.{other}");
            reject("signature", &twin, &faulty, VerifyErrorKind::Malformed);
            cases += 1;
        }
    }
    // 256 bytes of signature end in 4 free bits; three lengths of each other part in 0, 2 and 4.
    assert_eq!(cases, 3 * 15 + 2 * (15 + 3));
}

#[test]
fn h019_base64url_of_an_impossible_length_is_rejected() {
    let key = OwnKey::get();
    let (header, payload) = own_texts();
    let impossible = |part: &str| format!("{part}{}", "A".repeat((5 - part.len() % 4) % 4));
    let (header, payload) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let twin = key.complete(&header, &payload);
    let [_, _, signature] = parts(&twin);
    for (name, faulty) in [
        ("header", key.complete(&impossible(&header), &payload)),
        ("payload", key.complete(&header, &impossible(&payload))),
        ("signature", format!("{header}.{payload}.{}", impossible(signature))),
    ] {
        reject(name, &twin, &faulty, VerifyErrorKind::Malformed);
    }
}

// Header

#[test]
fn h021_alg_none_is_rejected() {
    for json in each(r#"["none", "None", "nOnE", "NONE", ""]"#) {
        reject_header("alg", json, VerifyErrorKind::UnsupportedAlgorithm);
    }
    let unsigned = valid().header("alg", "none").sign();
    let [header, payload, _] = parts(&unsigned);
    let stripped = format!("{header}.{payload}.");
    reject("no signature", &valid().sign(), &stripped, VerifyErrorKind::Malformed);
    let short = format!("{header}.{payload}.AA");
    reject("one byte", &valid().sign(), &short, VerifyErrorKind::UnsupportedAlgorithm);
}

#[test]
fn h021_alg_other_than_rs256_is_rejected() {
    for json in each(
        r#"[
            "RS384", "RS512", "PS256", "ES256", "EdDSA", "HS256", "rs256", "RS256 ", " RS256",
            "RS2560", "RS256\u0000", null, 0, 256, true, ["RS256"], {"alg":"RS256"}
        ]"#,
    ) {
        reject_header("alg", json, VerifyErrorKind::UnsupportedAlgorithm);
    }
    let absent = valid().without_header("alg").sign();
    reject("absent", &valid().sign(), &absent, VerifyErrorKind::UnsupportedAlgorithm);
    accept_header("alg", r#""\u0052S256""#);
}

#[test]
fn h023_token_signed_with_another_algorithm_is_rejected() {
    let key = OwnKey::get();
    let encodings: [(&str, &'static dyn RsaEncoding); 3] =
        [("RS384", &RSA_PKCS1_SHA384), ("RS512", &RSA_PKCS1_SHA512), ("PS256", &RSA_PSS_SHA256)];
    let (header, payload) = own_texts();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for (alg, encoding) in encodings {
        for (written, kind) in
            [(alg, VerifyErrorKind::UnsupportedAlgorithm), ("RS256", VerifyErrorKind::BadSignature)]
        {
            let header = valid().header("kid", OwnKey::ID).header("alg", written).header_json();
            let unsigned = key.token(header.as_bytes(), payload.as_bytes());
            let signing_input = unsigned.rsplit_once('.').unwrap().0;
            let faulty = with_signature(&unsigned, &key.sign(encoding, signing_input));
            reject(&format!("{alg} that says {written}"), &twin, &faulty, kind);
        }
    }
}

#[test]
fn h023_key_of_another_algorithm_in_the_set_is_not_used() {
    let key = OwnKey::get();
    let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let edwards = Ed25519KeyPair::generate().unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = curve.public_key().as_ref();
    let mut members = ["RS384", "RS512", "PS256"]
        .map(|alg| with_member(&key.jwk(alg), &format!(r#""alg":"{alg}""#)))
        .to_vec();
    let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
    members.push(format!(
        r#"{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"ES256","x":"{x}","y":"{y}"}}"#
    ));
    let x = encode(edwards.public_key().as_ref());
    members
        .push(format!(r#"{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"EdDSA","x":"{x}"}}"#));
    members.push(format!(r#"{{"kty":"oct","alg":"HS256","kid":"HS256","k":"{x}"}}"#));
    members.push(key.jwk(OwnKey::ID));
    let set = || Jwks::from_json(format!(r#"{{"keys":[{}]}}"#, members.join(","))).unwrap();
    assert_eq!(set().key_ids().collect::<Vec<_>>(), [OwnKey::ID]);
    let verifier = Verifier::builder(rules()).clock(now).build_with_jwks(set()).unwrap();
    let (keys, doors) = (set(), Doors::of(verifier));

    let random = SystemRandom::new();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, edwards.public_key().as_ref());
    for alg in ["RS384", "RS512", "PS256", "ES256", "EdDSA", "HS256"] {
        for (written, kid, kind) in [
            (alg, alg, VerifyErrorKind::UnsupportedAlgorithm),
            (alg, OwnKey::ID, VerifyErrorKind::UnsupportedAlgorithm),
            ("RS256", alg, VerifyErrorKind::UnknownKey),
            ("RS256", OwnKey::ID, VerifyErrorKind::BadSignature),
        ] {
            let token = valid().header("kid", kid).header("alg", written);
            let message = format!(
                "{}.{}",
                encode(token.header_json().as_bytes()),
                encode(token.payload_json().as_bytes())
            );
            let signature = match alg {
                "RS384" => key.sign(&RSA_PKCS1_SHA384, &message),
                "RS512" => key.sign(&RSA_PKCS1_SHA512, &message),
                "PS256" => key.sign(&RSA_PSS_SHA256, &message),
                "ES256" => curve.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
                "EdDSA" => edwards.sign(message.as_bytes()).as_ref().to_vec(),
                _ => hmac::sign(&secret, message.as_bytes()).as_ref().to_vec(),
            };
            let faulty = format!("{message}.{}", encode(&signature));
            let name = format!("{alg} that says {written} under {kid}");
            let error = verify(&faulty, &keys, &rules(), now()).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}");
            doors.refuse(&name, &faulty, kind);
        }
    }
    let (header, payload) = own_texts();
    doors.accept("RS256", &key.token(header.as_bytes(), payload.as_bytes()));
}

#[test]
fn h022_hs256_with_the_public_key_as_secret_is_rejected() {
    let key = OwnKey::get();
    let der = key.pair.public_key().as_der().unwrap().as_ref().to_vec();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(&der)
    );
    let secrets = [
        ("the modulus", key.modulus.clone()),
        ("DER", der),
        ("PEM", pem.into_bytes()),
        ("the JWK", key.jwk(OwnKey::ID).into_bytes()),
        ("nothing", Vec::new()),
    ];
    let (header, payload) = own_texts();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for (name, secret) in secrets {
        for (alg, kind) in [
            ("HS256", VerifyErrorKind::UnsupportedAlgorithm),
            ("RS256", VerifyErrorKind::BadSignature),
        ] {
            let header = valid().header("kid", OwnKey::ID).header("alg", alg).header_json();
            let unsigned = key.token(header.as_bytes(), payload.as_bytes());
            let signing_input = unsigned.rsplit_once('.').unwrap().0;
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let tag = hmac::sign(&secret, signing_input.as_bytes());
            let faulty = with_signature(&unsigned, tag.as_ref());
            reject(&format!("{name}, says {alg}"), &twin, &faulty, kind);
        }
    }
}

#[test]
fn h026_missing_empty_long_or_non_string_kid_is_rejected() {
    for json in each(r#"["", null, 1, true, {}, "\ud800"]"#) {
        reject_header("kid", json, VerifyErrorKind::InvalidHeader);
    }
    let key_id: String = serde_json::from_str::<BTreeMap<String, String>>(&valid().header_json())
        .unwrap()
        .remove("kid")
        .unwrap();
    let array = serde_json::json!([key_id]).to_string();
    reject_header("kid", &array, VerifyErrorKind::InvalidHeader);
    let absent = valid().without_header("kid").sign();
    reject("absent", &valid().sign(), &absent, VerifyErrorKind::InvalidHeader);

    // The length counts bytes, and the longest key ID is found like any other.
    let key = OwnKey::get();
    let (_, payload) = own_texts();
    for longest in ["k".repeat(256), "\u{e9}".repeat(128)] {
        let token_of = |key_id: &str| {
            let header = valid().header("kid", key_id).header_json();
            key.token(header.as_bytes(), payload.as_bytes())
        };
        let keys = key.jwks(&longest);
        let verdict = verify(&token_of(&longest), &keys, &rules(), now());
        assert!(verdict.is_ok(), "{longest}: {verdict:?}");
        let error = verify(&token_of(&format!("{longest}k")), &keys, &rules(), now()).unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::InvalidHeader, "{longest}");
        let error = verify(&token_of(&"x".repeat(10_000)), &keys, &rules(), now()).unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::InvalidHeader, "10 000 bytes");
        let error = verify(&token_of(&"x".repeat(1 << 20)), &keys, &rules(), now()).unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::TooLarge, "1 MiB");
    }
}

#[test]
fn h026_kid_is_only_compared() {
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for json in each(
        r#"[
            "Own", "own ", " own", "ow", "owned", "own\u0000", "\u0000", "\u043ewn",
            "../../dev/null", "' OR 1=1 --", "*", "http://127.0.0.1/"
        ]"#,
    ) {
        let header = valid().header("kid", raw(json)).header_json();
        let faulty = key.token(header.as_bytes(), payload.as_bytes());
        reject(json, &twin, &faulty, VerifyErrorKind::UnknownKey);
    }
    let header = valid().header("kid", raw(r#""\u006fwn""#)).header_json();
    accept("escaped", &key.token(header.as_bytes(), payload.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn h026_unknown_kid_is_not_in_a_fetched_url_or_a_log_line() {
    let addresses = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&addresses);
    let verifier = Verifier::builder(rules())
        .clock(now)
        .jwks_fetcher(move |url: String| {
            asked.lock().unwrap().push(url);
            async { Ok::<_, RefreshError>(JwksDocument::new(document())) }
        })
        .connect()
        .await
        .unwrap();
    let log = Log::of_this_thread();
    let hostile = valid().header("kid", "../../SECRET\n' OR 1=1 \u{1b}[31m").sign();
    let error = verifier.verify(&hostile).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    let log = log.take();
    assert!(log.contains("keys refreshed"), "{log}");
    for secret in ["SECRET", "OR 1=1", "\u{1b}"] {
        assert!(!log.contains(secret), "{log}");
        assert!(!format!("{error} {error:?} {verifier:?}").contains(secret));
    }
    let expected = format!("{}/.well-known/jwks.json", issuer().issuer());
    assert_eq!(*addresses.lock().unwrap(), [expected.clone(), expected], "once for the kid");
}

#[test]
fn h029_crit_of_any_value_is_rejected() {
    for json in each(
        r#"[
            ["exp"], ["b64"], ["kid"], ["unknown"], [], "exp", "", null, false, 0, {}
        ]"#,
    ) {
        reject_header("crit", json, VerifyErrorKind::InvalidHeader);
    }
    let good = valid();
    let escaped = with_member(&good.header_json(), r#""\u0063rit":["exp"]"#);
    let payload = good.payload_json();
    reject_texts("escaped", &escaped, &payload, VerifyErrorKind::InvalidHeader);
}

#[test]
fn h030_b64_of_any_value_is_rejected() {
    for json in ["false", "true", "null", "0", r#""false""#] {
        reject_header("b64", json, VerifyErrorKind::InvalidHeader);
    }
    // RFC 7797 section 3: the signature would be over the unencoded payload.
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    let header = URL_SAFE_NO_PAD.encode(with_member(&header, r#""b64":false"#));
    let faulty = key.complete(&header, &payload.replace('.', ""));
    reject("not encoded", &twin, &faulty, VerifyErrorKind::Malformed);
}

#[test]
fn h031_encryption_header_parameters_are_rejected() {
    for (member, json) in
        [("zip", r#""DEF""#), ("zip", "null"), ("enc", r#""A256GCM""#), ("enc", "null")]
    {
        reject_header(member, json, VerifyErrorKind::InvalidHeader);
    }
    // The work factor is never read, so its value costs nothing.
    for alg in ["PBES2-HS256+A128KW", "RSA-OAEP", "dir"] {
        let faulty = valid().header("alg", alg).header("p2c", i32::MAX).header("p2s", "AAAA");
        reject(alg, &valid().sign(), &faulty.sign(), VerifyErrorKind::UnsupportedAlgorithm);
    }
    accept_header("p2c", "2147483647");
}

#[test]
fn h031_nested_token_is_rejected() {
    let good = valid();
    let header = with_member(&good.header_json(), r#""cty":"JWT""#);
    reject_texts("nested", &header, &good.sign(), VerifyErrorKind::Malformed);
    let text = serde_json::to_string(&good.sign()).unwrap();
    reject_texts("nested text", &header, &text, VerifyErrorKind::Malformed);
}

#[test]
fn h033_typ_of_another_token_type_is_rejected() {
    accept("absent", &valid().without_header("typ").sign());
    for json in each(
        r#"[
            "JWT", "jwt", "Jwt", "at+jwt", "AT+JWT", "application/jwt", "application/at+jwt",
            "APPLICATION/AT+JWT", "Application\/Jwt"
        ]"#,
    ) {
        accept_header("typ", json);
    }
    for json in each(
        r#"[
            "dpop+jwt", "logout+jwt", "secevent+jwt", "id+jwt", "evil", "", "JWT ", " JWT",
            "JWTS", "at+jwt; charset=utf-8", "application/", "application/application/jwt",
            "text/jwt", "/jwt", "multipart-x/jwt", "applicatio\u00f1/jwt", null, 1, false,
            ["JWT"], {}
        ]"#,
    ) {
        reject_header("typ", json, VerifyErrorKind::InvalidHeader);
    }
}

/// Checks that a token is rejected if its key is only in these header members.
#[track_caller]
fn reject_own_key(members: &[(&str, String)]) {
    let attacker = OwnKey::get();
    for (member, json) in members {
        accept_header(member, json);
        accept_header(member, "5");
    }
    let attack = |key_id: &str| {
        let token =
            members.iter().fold(valid(), |token, (name, json)| token.header(name, raw(json)));
        let token = token.header("kid", key_id);
        attacker.token(token.header_json().as_bytes(), token.payload_json().as_bytes())
    };
    let twin = attack(OwnKey::ID);
    reject("its own kid", &twin, &attack("attacker"), VerifyErrorKind::UnknownKey);
    let header: BTreeMap<String, String> = serde_json::from_str(&valid().header_json()).unwrap();
    reject("the issuer's kid", &twin, &attack(&header["kid"]), VerifyErrorKind::BadSignature);
}

#[tokio::test]
async fn h027_url_in_the_header_is_never_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let members = ["jku", "x5u"].map(|name| (name, serde_json::to_string(&url).unwrap()));
    reject_own_key(&members);

    // The same with an unknown key that is fetched over HTTP.
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::any());
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    let token = server.issuer().machine_token(CLIENT);
    let token = token.header("jku", &url).header("x5u", &url);
    assert!(verifier.verify(&token.sign()).await.is_ok());
    let error = verifier.verify(&token.header("kid", "attacker").sign()).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    assert_eq!(server.jwks_requests(), 2);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn h028_key_in_the_header_is_never_used() {
    let jwk = OwnKey::get().jwk("attacker");
    reject_own_key(&[
        ("jwk", jwk),
        ("x5c", r#"["MIIB"]"#.to_owned()),
        ("x5t", r#""AAAA""#.to_owned()),
        ("x5t#S256", r#""AAAA""#.to_owned()),
    ]);
}

#[test]
fn h034_header_that_is_not_one_json_object_is_rejected() {
    let good = valid();
    let (header, payload) = (good.header_json(), good.payload_json());
    let spaced = format!(" {} \n", header.replace(',', "\t,\r"));
    accept("white space", &good.sign_texts(&spaced, &payload));

    let cases = [
        ("an array", format!("[{header}]")),
        ("an array of values", r#"["kid","RS256"]"#.to_owned()),
        ("a string", serde_json::to_string(&header).unwrap()),
        ("null", "null".to_owned()),
        ("a number", "1".to_owned()),
        ("trailing bytes", format!("{header}x")),
        ("two objects", format!("{header}{header}")),
        ("a NUL after", format!("{header}\0")),
        ("a byte order mark", format!("\u{feff}{header}")),
        ("cut off", header[..header.len() - 1].to_owned()),
        ("a comma too many", header.replace('}', ",}")),
        ("a comment", format!("{header}//")),
        ("deep arrays", format!("{}{}", "[".repeat(200), "]".repeat(200))),
        ("deep objects", format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200))),
        ("8 KiB of arrays", "[".repeat(8 * 1024)),
        ("8 KiB of white space", " ".repeat(8 * 1024)),
        ("8 KiB of a string", format!("\"{}\"", "x".repeat(8 * 1024))),
    ];
    for (name, faulty) in cases {
        reject_texts(name, &faulty, &payload, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h032_header_with_a_duplicate_name_is_rejected() {
    let good = valid();
    let (header, payload) = (good.header_json(), good.payload_json());
    for member in [
        r#""alg":"RS256""#,
        r#""alg":"none""#,
        r#""\u0061lg":"RS256""#,
        r#""kid":"x""#,
        r#""k\u0069d":"x""#,
        r#""typ":"JWT","typ":"JWT""#,
        r#""other":1,"other":1"#,
        r#""other":1,"\u006fther":1"#,
        r#""jku":"a","jku":"a""#,
    ] {
        reject_texts(member, &with_member(&header, member), &payload, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h034_unread_header_member_with_lone_surrogate_or_deep_nesting_is_rejected() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    accept_header("other", &nested(32));
    accept_header("other", r#""\ud83d\ude00""#);
    for json in [&nested(33), r#""\ud800""#, r#"{"\udfff":1}"#] {
        reject_header("other", json, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h034_header_or_payload_that_is_not_utf_8_is_rejected() {
    let key = OwnKey::get();
    let (header, payload) = own_texts();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    // The placeholder is replaced in the bytes of the text.
    let spoilt = |object: &str, member: &str| {
        let object = with_member(object, member).into_bytes();
        object.into_iter().map(|byte| if byte == b'~' { 0xff } else { byte }).collect::<Vec<_>>()
    };
    let twin = key.token(
        with_member(&header, r#""other":"~""#).as_bytes(),
        with_member(&payload, r#""other":"~""#).as_bytes(),
    );
    let (plain_header, plain_payload) = (header.as_bytes(), payload.as_bytes());
    for (name, faulty) in [
        ("header, unread", key.token(&spoilt(&header, r#""other":"~""#), plain_payload)),
        ("header, a name", key.token(&spoilt(&header, r#""~":1"#), plain_payload)),
        ("header, UTF-16", key.token(&utf16(&header), plain_payload)),
        ("payload, unread", key.token(plain_header, &spoilt(&payload, r#""other":"~""#))),
        ("payload, a name", key.token(plain_header, &spoilt(&payload, r#""~":1"#))),
        ("payload, read", key.token(plain_header, &spoilt(&payload, r#""username":"~""#))),
        ("payload, UTF-16", key.token(plain_header, &utf16(&payload))),
    ] {
        reject(name, &twin, &faulty, VerifyErrorKind::Malformed);
    }
}

// Issuer and keys

#[test]
fn h039_issuer_that_differs_in_one_byte_is_rejected() {
    let issuer = issuer().issuer();
    let text = |issuer: &str| serde_json::to_string(issuer).unwrap();
    let cases = [
        text(&format!("{issuer}/")),
        text(&format!("{issuer}x")),
        text(&format!("x{issuer}")),
        text(&format!(" {issuer}")),
        text(&format!("{issuer} ")),
        text(&format!("{issuer}\0")),
        text(&issuer[..issuer.len() - 1]),
        text(&issuer.replace("cognito-idp", "COGNITO-IDP")),
        text(&issuer.replace("https", "HTTPS")),
        text(&issuer.replace("https", "http")),
        text(&issuer.replace("TestIssuer", "testissuer")),
        text(&issuer.replace("TestIssuer", "Another")),
        text(&issuer.replace("us-east-1.", "us-east-1:443.")),
        text(&issuer.replace("/us-east-1_", "/%75s-east-1_")),
        text(&issuer.replace("amazonaws", "am\u{430}zonaws")),
        text(""),
        serde_json::json!([issuer]).to_string(),
        serde_json::json!({ "iss": issuer }).to_string(),
        r#""\ud800""#.to_owned(),
        "null".to_owned(),
        "1".to_owned(),
        "true".to_owned(),
    ];
    for json in cases {
        reject_claim("iss", &json, VerifyErrorKind::UnknownIssuer);
    }
    let absent = valid().without_claim("iss").sign();
    reject("absent", &valid().sign(), &absent, VerifyErrorKind::UnknownIssuer);
}

#[test]
fn escaped_and_plain_slashes_are_accepted() {
    let plain = valid().claim("username", "a/b");
    let escaped = plain.clone().escaped_slashes();
    assert!(escaped.payload_json().contains(r#"\/us-east-1_TestIssuer"#));
    assert!(escaped.payload_json().contains(r#"activity\/*"#));
    let plain_header = plain.header("typ", "application/jwt");
    let escaped_header = escaped.clone().header("typ", "application/jwt");
    for (name, header, payload) in [
        ("neither", &plain_header, &plain_header),
        ("both", &escaped_header, &escaped_header),
        ("header alone", &escaped_header, &plain_header),
        ("payload alone", &plain_header, &escaped_header),
    ] {
        let text = header.sign_texts(&header.header_json(), &payload.payload_json());
        let token = accept(name, &text);
        assert_eq!(token.issuer(), issuer().issuer(), "{name}");
        assert!(token.scopes().contains("activity/*"), "{name}");
        assert_eq!(token.username(), Some("a/b"), "{name}");
    }
    let mixed = valid().payload_json().replacen('/', r"\/", 1).replacen("https", r"\u0068ttps", 1);
    accept("mixed", &valid().sign_texts(&valid().header_json(), &mixed));
}

#[test]
fn h039_key_of_another_issuer_is_not_used() {
    let stranger = TestIssuer::new();
    // The claims are those of a valid token, including `iss`.
    let claims = valid().payload_json();
    let forge = |token: &TokenBuilder| token.sign_texts(&token.header_json(), &claims);
    let twin = valid().sign_texts(&valid().header_json(), &claims);

    let forged = forge(&stranger.machine_token(CLIENT));
    let verdict = verify(&forged, &stranger.jwks(), &rules(), now());
    assert!(verdict.is_ok(), "the stranger's own keys would do: {verdict:?}");
    reject("with its key ID", &twin, &forged, VerifyErrorKind::UnknownKey);

    let header: BTreeMap<String, String> = serde_json::from_str(&valid().header_json()).unwrap();
    let forged = forge(&stranger.machine_token(CLIENT).header("kid", &header["kid"]));
    reject("with a known key ID", &twin, &forged, VerifyErrorKind::BadSignature);
}

#[test]
fn signature_is_verified_only_with_the_key_that_kid_names() {
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    // Both keys are in the set, and the token names the other one.
    let crossed = key.token(valid().header_json().as_bytes(), payload.as_bytes());
    reject("the issuer's kid", &twin, &crossed, VerifyErrorKind::BadSignature);
    let crossed = valid().header("kid", OwnKey::ID).sign();
    reject("the own kid", &valid().sign(), &crossed, VerifyErrorKind::BadSignature);
}

#[tokio::test]
async fn h039_key_of_one_pool_never_verifies_a_token_of_another_pool() {
    const FIRST: &str = "https://issuer.example/first";
    const SECOND: &str = "https://issuer.example/second";

    // Both sets use one key ID, so that a confusion of the sets would not be an unknown key.
    let keys = [OwnKey::generate(KeySize::Rsa2048), OwnKey::generate(KeySize::Rsa2048)];
    let documents = [&keys[0], &keys[1]]
        .map(|key| format!(r#"{{"keys":[{},{}]}}"#, key.jwk("same"), key.jwk(&key_id(key))));
    let rules = |issuer, client| {
        Rules::new(UserPool::from_issuer(issuer).unwrap(), ClientIds::only([client]))
    };
    let verifier = Verifier::builder(rules(FIRST, "first"))
        .add_pool(rules(SECOND, "second"))
        .clock(now)
        .jwks_fetcher(move |url: String| {
            let document = documents[usize::from(url.starts_with(SECOND))].clone();
            async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
        })
        .connect()
        .await
        .unwrap();

    let token = |issuer: &str, client: &str, key: &OwnKey, key_id: &str| {
        let token = valid().claim("iss", issuer).claim("client_id", client).header("kid", key_id);
        key.token(token.header_json().as_bytes(), token.payload_json().as_bytes())
    };
    let result = |token: String| verifier.try_verify(&token).map_err(|error| error.kind());
    let [first, second] = &keys;
    for key_id in ["same", &key_id(first)] {
        assert!(result(token(FIRST, "first", first, key_id)).is_ok(), "{key_id}");
    }
    for key_id in ["same", &key_id(second)] {
        assert!(result(token(SECOND, "second", second, key_id)).is_ok(), "{key_id}");
    }
    for (name, token, kind) in [
        ("key", token(FIRST, "first", second, &key_id(second)), VerifyErrorKind::UnknownKey),
        ("key, same kid", token(FIRST, "first", second, "same"), VerifyErrorKind::BadSignature),
        ("client", token(FIRST, "second", first, "same"), VerifyErrorKind::WrongClient),
        ("key", token(SECOND, "second", first, &key_id(first)), VerifyErrorKind::UnknownKey),
        ("client", token(SECOND, "first", second, "same"), VerifyErrorKind::WrongClient),
    ] {
        assert_eq!(result(token).unwrap_err(), kind, "{name} of the other pool");
    }
}

fn key_id(key: &OwnKey) -> String {
    URL_SAFE_NO_PAD.encode(&key.modulus[..16])
}

// Signature

#[test]
fn h020_signature_shorter_or_longer_than_the_modulus_is_rejected() {
    let good = valid().sign();
    let signature = decoded_signature(&good);
    assert_eq!(signature.len(), 256);
    let longer = |prefix: &[u8], suffix: &[u8]| [prefix, &signature, suffix].concat();
    let cases = [
        ("a zero before", longer(&[0], &[])),
        ("a byte after", longer(&[], &[0])),
        ("twice", longer(&signature, &[])),
        ("the first byte missing", signature[1..].to_vec()),
        ("the last byte missing", signature[..255].to_vec()),
        ("one byte", vec![0]),
        ("11 000 bytes", vec![1; 11_000]),
    ];
    for (name, faulty) in cases {
        let faulty = with_signature(&good, &faulty);
        reject(name, &good, &faulty, VerifyErrorKind::BadSignature);
    }
    let nothing = with_signature(&good, &[]);
    reject("nothing", &good, &nothing, VerifyErrorKind::Malformed);
    let huge = with_signature(&good, &[1; 64 * 1024]);
    reject("64 KiB", &good, &huge, VerifyErrorKind::TooLarge);
}

#[test]
fn h020_signature_without_its_leading_zero_is_rejected() {
    // The same number without its leading zero, which one in 256 signatures has.
    let mut tokens = (0..).map(|number| valid().claim("jti", number.to_string()).sign());
    let token = tokens.find(|token| decoded_signature(token)[0] == 0).unwrap();
    let stripped = with_signature(&token, &decoded_signature(&token)[1..]);
    reject("stripped", &token, &stripped, VerifyErrorKind::BadSignature);
}

#[test]
fn h020_signature_length_follows_the_key_length() {
    let key = OwnKey::generate(KeySize::Rsa3072);
    let (header, payload) = own_texts();
    let keys = key.jwks(OwnKey::ID);
    let token = key.token(header.as_bytes(), payload.as_bytes());
    assert!(verify(&token, &keys, &rules(), now()).is_ok());
    let short = with_signature(&token, &decoded_signature(&token)[..256]);
    let error = verify(&short, &keys, &rules(), now()).unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::BadSignature);
}

#[test]
fn h053_invented_signature_is_rejected() {
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for (name, signature) in [
        ("zeros", vec![0; 256]),
        ("one", [vec![0; 255], vec![1]].concat()),
        ("ones", vec![0xff; 256]),
        ("the modulus", key.modulus.clone()),
    ] {
        let faulty = with_signature(&twin, &signature);
        reject(name, &twin, &faulty, VerifyErrorKind::BadSignature);
    }
}

#[test]
fn h053_part_of_another_valid_token_is_rejected() {
    let one = valid().sign();
    let other = valid().scope("activity/read").sign();
    accept("the other", &other);
    let ([header, payload, _], [_, other_payload, other_signature]) = (parts(&one), parts(&other));
    let [_, _, signature] = parts(&one);
    let swapped_signature = format!("{header}.{payload}.{other_signature}");
    reject("signature", &one, &swapped_signature, VerifyErrorKind::BadSignature);
    let swapped_payload = format!("{header}.{other_payload}.{signature}");
    reject("payload", &one, &swapped_payload, VerifyErrorKind::BadSignature);
    let typed = valid().header("typ", "JWT").sign();
    let swapped_header = format!("{}.{payload}.{signature}", parts(&typed)[0]);
    reject("header", &one, &swapped_header, VerifyErrorKind::BadSignature);
}

#[test]
fn h052_every_single_bit_flip_is_rejected() {
    let token = valid().sign();
    accept("no flip", &token);
    for index in 0..token.len() {
        // With the eighth bit set, the text would not be UTF-8.
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let flipped = String::from_utf8(bytes).unwrap();
            assert!(result(&flipped).is_err(), "bit {bit} of byte {index}");
        }
    }
    let signature = decoded_signature(&token);
    for index in 0..signature.len() {
        let mut flipped = signature.clone();
        flipped[index] ^= 1;
        let flipped = with_signature(&token, &flipped);
        assert_eq!(result(&flipped), Err(VerifyErrorKind::BadSignature), "byte {index}");
    }
}

#[test]
fn claims_are_not_reported_before_the_signature_is_verified() {
    let twin = valid().sign();
    for (claim, json) in [
        ("token_use", r#""id""#),
        ("client_id", r#""other""#),
        ("exp", "0"),
        ("exp", "null"),
        ("nbf", "9999999999"),
        ("cnf", "{}"),
        ("aud", "1"),
        ("sub", "null"),
    ] {
        let honest = valid().claim(claim, raw(json)).sign();
        assert_ne!(result(&honest), Err(VerifyErrorKind::BadSignature), "{claim}: {json}");
        let mut signature = decoded_signature(&honest);
        signature[100] ^= 1;
        let faulty = with_signature(&honest, &signature);
        reject(&format!("{claim}: {json}"), &twin, &faulty, VerifyErrorKind::BadSignature);
    }
}

// Payload

#[test]
fn h035_payload_that_is_not_one_json_object_is_rejected() {
    let good = valid();
    let (header, payload) = (good.header_json(), good.payload_json());
    let spaced = format!("\n {} \t", payload.replace(',', " ,\r\n"));
    accept("white space", &good.sign_texts(&header, &spaced));

    let claims: BTreeMap<String, serde_json::Value> = serde_json::from_str(&payload).unwrap();
    // In the order of the fields of a struct that could be read from it.
    let names = ["iss", "token_use", "client_id", "sub", "exp"];
    let fields = names.map(|name| claims[name].clone());
    let cases = [
        ("an array of fields", serde_json::to_string(&fields).unwrap()),
        ("an array with an object", format!("[{payload}]")),
        ("an empty array", "[]".to_owned()),
        ("a string", serde_json::to_string(&payload).unwrap()),
        ("a number", "1".to_owned()),
        ("null", "null".to_owned()),
        ("white space alone", " ".to_owned()),
        ("trailing bytes", format!("{payload}x")),
        ("two objects", format!("{payload}{payload}")),
        ("a NUL after", format!("{payload}\0")),
        ("a byte order mark", format!("\u{feff}{payload}")),
        ("cut off", payload[..payload.len() - 1].to_owned()),
        ("a comma too many", payload.replace('}', ",}")),
        ("a comment", format!("/**/{payload}")),
        ("single quotes", payload.replace('"', "'")),
        ("a control character", with_member(&payload, "\"other\":\"\u{1}\"")),
        ("a bad escape", with_member(&payload, r#""other":"\x""#)),
        ("a nested JWT", good.sign()),
    ];
    for (name, faulty) in cases {
        reject_texts(name, &header, &faulty, VerifyErrorKind::Malformed);
    }
    reject_texts("no member", &header, "{}", VerifyErrorKind::UnknownIssuer);
}

#[test]
fn h045_payload_with_a_duplicate_name_is_rejected() {
    let everything = valid()
        .claim("nbf", 0)
        .claim("aud", "api")
        .claim("username", "u")
        .claim("cognito:groups", ["g"])
        .claim("custom", 1);
    let (header, payload) = (everything.header_json(), everything.payload_json());
    let twin = everything.sign();
    let claims: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&payload).unwrap();
    assert_eq!(claims.len(), 15);
    for (name, value) in &claims {
        let escaped = format!(r"\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        for (spelling, member) in [
            ("same value", format!(r#""{name}":{value}"#)),
            ("null", format!(r#""{name}":null"#)),
            ("escaped", format!(r#""{escaped}":{value}"#)),
        ] {
            let faulty = everything.sign_texts(&header, &with_member(&payload, &member));
            reject(&format!("{name}, {spelling}"), &twin, &faulty, VerifyErrorKind::Malformed);
        }
        let name_escaped = payload.replacen(&format!("\"{name}\""), &format!("\"{escaped}\""), 1);
        assert_ne!(name_escaped, payload, "{name}");
        accept(&format!("{name}, once"), &everything.sign_texts(&header, &name_escaped));
    }
    let faulty = with_member(&payload, r#""cnf":{},"cnf":{}"#);
    let faulty = everything.sign_texts(&header, &faulty);
    reject("cnf", &twin, &faulty, VerifyErrorKind::Malformed);
}

#[test]
fn duplicate_name_at_another_depth_is_accepted() {
    accept_claim("custom", r#"{"exp":0,"custom":{"custom":1},"iss":"x"}"#);
}

#[test]
fn lone_surrogate_in_an_unread_claim_is_rejected() {
    for json in each(r#"["\ud83d\ude00", "\uD83D\uDE00", "\\ud800", "\u0041\/", "\ud7ff\ue000"]"#) {
        accept_claim("custom", json);
    }
    for json in each(
        r#"[
            "\ud800", "\udbff", "\uDC00", "\udfff", "\ud800\ud800", "\ud800\u0041", "\ud800x",
            "\\\ud800", "\ude00\ud83d", ["a","\ud800"], {"\ud800":1}, {"a":{"b":["\udc00"]}},
            "\ud83d\ude00\ude00"
        ]"#,
    ) {
        reject_claim("custom", json, VerifyErrorKind::Malformed);
    }
    let good = valid();
    let (header, payload) = (good.header_json(), good.payload_json());
    let name = with_member(&payload, r#""\ud800":1"#);
    reject_texts("a name", &header, &name, VerifyErrorKind::Malformed);
}

#[test]
fn lone_surrogate_in_a_read_claim_is_rejected() {
    assert_eq!(accept_claim("username", r#""\ud83d\ude00""#).username(), Some("\u{1f600}"));
    for claim in ["sub", "client_id", "scope", "username", "jti", "aud"] {
        reject_claim(claim, r#""\ud800""#, VerifyErrorKind::InvalidClaim);
    }
    reject_claim("cognito:groups", r#"["\udc00"]"#, VerifyErrorKind::InvalidClaim);
    reject_claim("aud", r#"["\udc00"]"#, VerifyErrorKind::InvalidClaim);
    reject_claim("token_use", r#""\ud800""#, VerifyErrorKind::WrongTokenUse);
}

#[test]
fn h046_unread_claim_nested_deeper_than_32_is_rejected() {
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for json in [arrays(32), objects(32), format!("[{}]", vec!["[]"; 100].join(","))] {
        accept_claim("custom", &json);
    }
    accept_claim("custom", &format!("\"{}\"", "[".repeat(100)));
    let mixed = format!("{}{}{}", "[".repeat(20), objects(13), "]".repeat(20));
    for json in [arrays(33), objects(33), mixed, arrays(128), arrays(5000)] {
        let faulty = with_member(&valid().payload_json(), &format!("\"custom\":{json}"));
        reject_texts(&json, &valid().header_json(), &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h046_unread_number_of_any_size_is_accepted() {
    for json in each(r#"[1e999999, -1E-999999, 0.1e+1, 18446744073709551616]"#) {
        accept_claim("custom", json);
    }
    accept_claim("auth_time", &"9".repeat(10_000));
    let members = (0..900).map(|n| format!("\"{n}\":{n}")).collect::<Vec<_>>().join(",");
    let many = with_member(&valid().payload_json(), &members);
    accept("900 claims", &valid().sign_texts(&valid().header_json(), &many));
}

// Claims

#[test]
fn h040_token_use_other_than_access_is_rejected() {
    for json in each(
        r#"[
            "id", "refresh", "ID", "Access", "ACCESS", "access ", "acces", "", null, true, 1,
            ["access"], {"access":true}
        ]"#,
    ) {
        reject_claim("token_use", json, VerifyErrorKind::WrongTokenUse);
    }
    let absent = valid().without_claim("token_use").sign();
    reject("absent", &valid().sign(), &absent, VerifyErrorKind::WrongTokenUse);
    accept_claim("token_use", r#""\u0061ccess""#);
    let (header, payload) = (valid().header_json(), valid().payload_json());
    for other in [r#""token_use":"id""#, r#""token_use":"access""#] {
        reject_texts(other, &header, &with_member(&payload, other), VerifyErrorKind::Malformed);
    }
}

#[test]
fn h042_id_token_is_rejected() {
    let id_token = issuer().id_token(CLIENT, "ada").issued_at(now());
    reject("as it is", &valid().sign(), &id_token.sign(), VerifyErrorKind::WrongTokenUse);
    // Only `token_use` is wrong with this token.
    let dressed = id_token.claim("client_id", CLIENT).claim("scope", "activity/*");
    let twin = dressed.clone().claim("token_use", "access").sign();
    reject("dressed up", &twin, &dressed.sign(), VerifyErrorKind::WrongTokenUse);
    for rules in [rules().with_audience(CLIENT), Rules::new(issuer().user_pool(), ClientIds::any())]
    {
        assert_eq!(result_under(&rules, &twin, now()), Ok(()));
        let verdict = result_under(&rules, &dressed.sign(), now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongTokenUse), "{rules:?}");
    }
}

#[test]
fn h041_client_that_is_not_in_the_list_is_rejected() {
    for client in [
        "other".to_owned(),
        String::new(),
        CLIENT.to_uppercase(),
        format!("{CLIENT} "),
        format!("{CLIENT}x"),
        CLIENT[1..].to_owned(),
        CLIENT[..CLIENT.len() - 1].to_owned(),
        "*".to_owned(),
    ] {
        let json = serde_json::to_string(&client).unwrap();
        reject_claim("client_id", &json, VerifyErrorKind::WrongClient);
    }
    let array = serde_json::json!([CLIENT]).to_string();
    reject_claim("client_id", &array, VerifyErrorKind::InvalidClaim);
    let absent = valid().without_claim("client_id").sign();
    reject("absent", &valid().sign(), &absent, VerifyErrorKind::InvalidClaim);
    let several = Rules::new(issuer().user_pool(), ClientIds::only(["a", CLIENT, "b"]));
    for client in ["a", CLIENT, "b"] {
        let token = valid().claim("client_id", client).sign();
        assert_eq!(result_under(&several, &token, now()), Ok(()), "{client}");
    }
    let other = valid().claim("client_id", "c").sign();
    assert_eq!(result_under(&several, &other, now()), Err(VerifyErrorKind::WrongClient));
    // Neither `aud` nor `azp` replaces it.
    let other = valid().claim("client_id", "c").claim("aud", CLIENT).claim("azp", CLIENT).sign();
    reject("aud", &valid().sign(), &other, VerifyErrorKind::WrongClient);
}

#[test]
fn empty_list_of_clients_rejects_every_token() {
    let no_clients = Rules::new(issuer().user_pool(), ClientIds::only([""; 0]));
    for client in [CLIENT, ""] {
        let token = valid().claim("client_id", client).sign();
        let anybody = Rules::new(issuer().user_pool(), ClientIds::any());
        assert_eq!(result_under(&anybody, &token, now()), Ok(()), "{client:?}");
        let verdict = result_under(&no_clients, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongClient), "{client:?}");
    }
}

#[test]
fn client_id_and_sub_are_required_if_any_client_is_allowed() {
    let anybody = Rules::new(issuer().user_pool(), ClientIds::any());
    let token = valid().claim("client_id", "never heard of").sign();
    assert_eq!(result_under(&anybody, &token, now()), Ok(()));
    for claim in ["client_id", "sub"] {
        assert_eq!(result_under(&anybody, &valid().sign(), now()), Ok(()));
        for json in each(r#"[null, 1, true, [], ["a"], {}]"#) {
            let token = valid().claim(claim, raw(json)).sign();
            let verdict = result_under(&anybody, &token, now());
            assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{claim}: {json}");
        }
        let absent = valid().without_claim(claim).sign();
        let verdict = result_under(&anybody, &absent, now());
        assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{claim} absent");
    }
}

#[test]
fn h036_missing_required_claim_is_rejected() {
    for claim in ["client_id", "sub", "exp"] {
        let absent = valid().without_claim(claim).sign();
        reject(claim, &valid().sign(), &absent, VerifyErrorKind::InvalidClaim);
    }
    for claim in ["scope", "jti", "auth_time", "version"] {
        accept(claim, &valid().without_claim(claim).sign());
    }
}

/// An empty subject would look like an absent one to a service that reads it from a header.
#[test]
fn empty_sub_is_an_invalid_claim() {
    reject_claim("sub", r#""""#, VerifyErrorKind::InvalidClaim);
}

#[test]
fn h036_claim_of_the_wrong_type_is_rejected() {
    #[track_caller]
    fn check(claim: &str, right: &[&str], wrong: &[&str]) {
        for json in right {
            accept_claim(claim, json);
        }
        for json in wrong {
            reject_claim(claim, json, VerifyErrorKind::InvalidClaim);
        }
    }

    let no_text = &["null", "0", "1.5", "true", "false", "[]", r#"["a"]"#, "{}", r#"{"a":"b"}"#];
    check("sub", &[r#""a""#, r#"" ""#], no_text);
    check("client_id", &[], no_text);
    check("scope", &[r#""a""#, r#""""#], no_text);
    check("username", &[r#""a""#, r#""""#], no_text);
    check("jti", &[r#""a""#, r#""""#], no_text);
    let good_client = serde_json::json!([CLIENT]).to_string();
    check("client_id", &[], &[&good_client]);

    let no_date = &["null", "true", r#""1790000000""#, r#""""#, "[]", "[1790000000]", "{}"];
    check("exp", &["1790003600"], no_date);
    check("nbf", &["1790000000", "0", "-1"], no_date);
    check("iat", &["1790000000", "0", "-1", "1790003600.5"], no_date);

    let lists = &[r#"["a","b"]"#, "[]", r#"[""]"#];
    let no_list = &["null", "1", "true", "{}", "[1]", r#"["a",null]"#, r#"["a",["b"]]"#, "[{}]"];
    check("cognito:groups", lists, no_list);
    check("cognito:groups", &[], &[r#""a""#, r#""""#, r#"{"0":"a"}"#]);
    check("aud", lists, no_list);
    check("aud", &[r#""a""#], &[r#"{"0":"a"}"#]);
}

#[test]
fn h044_thousands_of_groups_are_accepted() {
    let groups = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>();
    let token = accept("1 000", &valid().claim("cognito:groups", &groups).sign());
    assert_eq!(token.groups().count(), groups.len());
    let with = |count: usize| valid().claim("cognito:groups", vec![""; count]).sign();
    assert_eq!(accept("3 500", &with(3_500)).groups().count(), 3_500);
    reject("10 000", &with(3_500), &with(10_000), VerifyErrorKind::TooLarge);
    reject_claim("cognito:groups", r#""staff""#, VerifyErrorKind::InvalidClaim);
}

// Time

#[track_caller]
fn check_time(
    token: &TokenBuilder,
    leeway: u64,
    now: SystemTime,
    verdict: Option<VerifyErrorKind>,
) {
    let rules = rules().with_leeway(Duration::from_secs(leeway));
    let expected = verdict.map_or(Ok(()), Err);
    assert_eq!(result_under(&rules, &token.sign(), now), expected, "leeway {leeway}, {now:?}");
}

#[test]
fn h038_token_is_rejected_from_exp_on() {
    let expired = Some(VerifyErrorKind::Expired);
    let instant = Duration::from_nanos(1);
    let token = valid().claim("exp", NOW);
    for leeway in [0, 1, 60, 299, 300] {
        let end = at(NOW + leeway);
        check_time(&token, leeway, at(NOW - 1), None);
        check_time(&token, leeway, end - instant, None);
        check_time(&token, leeway, end, expired);
        check_time(&token, leeway, end + instant, expired);
        check_time(&token, leeway, end + Duration::from_secs(1), expired);
        check_time(&token, leeway, end + Duration::from_secs(HOUR), expired);
    }
}

#[test]
fn h037_token_is_accepted_from_nbf_on() {
    let early = Some(VerifyErrorKind::NotYetValid);
    let instant = Duration::from_nanos(1);
    let token = valid().claim("nbf", NOW);
    for leeway in [0, 1, 60, 299, 300] {
        let start = at(NOW - leeway);
        check_time(&token, leeway, at(NOW + 1), None);
        check_time(&token, leeway, start, None);
        check_time(&token, leeway, start - instant, early);
        check_time(&token, leeway, start - Duration::from_secs(1), early);
        check_time(&token, leeway, start - Duration::from_secs(HOUR), early);
    }
}

#[test]
fn h038_default_leeway_is_zero() {
    let expired = valid().claim("exp", NOW - 1).sign();
    reject("exp", &valid().sign(), &expired, VerifyErrorKind::Expired);
    let early = valid().claim("nbf", NOW + 1).sign();
    reject("nbf", &valid().claim("nbf", NOW).sign(), &early, VerifyErrorKind::NotYetValid);
}

#[test]
fn h038_leeway_is_capped_at_300_seconds() {
    let expired = Some(VerifyErrorKind::Expired);
    let early = Some(VerifyErrorKind::NotYetValid);
    for leeway in [300, 301, HOUR, u64::MAX] {
        check_time(&valid().claim("exp", NOW - 299), leeway, now(), None);
        check_time(&valid().claim("exp", NOW - 300), leeway, now(), expired);
        check_time(&valid().claim("nbf", NOW + 300), leeway, now(), None);
        check_time(&valid().claim("nbf", NOW + 301), leeway, now(), early);
    }
    let rules = rules().with_leeway(Duration::MAX);
    let token = valid().claim("exp", NOW - 300).sign();
    assert_eq!(result_under(&rules, &token, now()), Err(VerifyErrorKind::Expired));
}

#[test]
fn missing_iat_is_accepted() {
    let token = accept("iat absent", &valid().without_claim("iat").sign());
    assert_eq!(token.issued_at(), None);
}

#[test]
fn h037_iat_in_the_future_is_accepted() {
    for json in each(r#"[1790000001, 9999999999, 0, -1, 1790000000.75]"#) {
        accept_claim("iat", json);
    }
    for json in each(r#"[253402300800, 1e300, 18446744073709551615]"#) {
        reject_claim("iat", json, VerifyErrorKind::InvalidClaim);
    }
}

#[test]
fn h036_date_has_the_same_value_in_every_notation() {
    for json in each(
        r#"[
            1790003600, 1790003600.0, 1790003600.000000000000000000000, 1.7900036e9, 1.7900036E9,
            1.7900036e+9, 17900036e2, 17900036E+02, 179000360000e-2, 1790003600000000000000e-12,
            0.17900036e10, 0.0000017900036e15, 1790003600e0, 1790003600.5,
            1790003600.999999999999999999999999
        ]"#,
    ) {
        let token = accept_claim("exp", json);
        assert_eq!(token.expires_at(), at(NOW + HOUR), "{json}");
        let token = accept_claim("iat", json);
        assert_eq!(token.issued_at(), Some(at(NOW + HOUR)), "{json}");
        let token = valid().claim("nbf", raw(json)).claim("exp", NOW + 2 * HOUR);
        check_time(&token, 0, at(NOW + HOUR), None);
        let early = Some(VerifyErrorKind::NotYetValid);
        check_time(&token, 0, at(NOW + HOUR - 1), early);
    }
}

#[test]
fn h036_date_is_floored_and_never_rounded() {
    // As an `f64`, the last two would be the next second.
    for fraction in ["5", "999", "99999999999", "9999999999999999999999"] {
        reject_claim("exp", &format!("{NOW}.{fraction}"), VerifyErrorKind::Expired);
        accept_claim("exp", &format!("{}.{fraction}", NOW + 1));
        accept_claim("nbf", &format!("{NOW}.{fraction}"));
        let next = format!("{}.{fraction}", NOW + 1);
        reject_claim("nbf", &next, VerifyErrorKind::NotYetValid);
    }
    reject_claim("exp", "1.7900000009999e9", VerifyErrorKind::Expired);

    // Dates are floored before 1970, too.
    let before_1970 = |millis: u64| UNIX_EPOCH - Duration::from_millis(millis);
    let expired = Some(VerifyErrorKind::Expired);
    let token = valid().claim("exp", raw("-0.5"));
    check_time(&token, 0, before_1970(1001), None);
    check_time(&token, 0, before_1970(1000), expired);
    check_time(&token, 0, before_1970(600), expired);
    let token = valid().claim("nbf", raw("-1.5"));
    check_time(&token, 0, before_1970(2000), None);
    check_time(&token, 0, before_1970(2001), Some(VerifyErrorKind::NotYetValid));
}

#[test]
fn h036_date_beyond_four_digit_years_is_rejected() {
    for json in each(r#"[253402300799, 253402300799.9, 2.53402300799e11, 9007199254740993e-6]"#) {
        accept_claim("exp", json);
    }
    for json in each(r#"[0, -0, -0.0e9, -1, -377705116800, 1e-999, 0e999999999999999999999]"#) {
        reject_claim("exp", json, VerifyErrorKind::Expired);
        accept_claim("nbf", json);
    }
    for json in each(
        r#"[
            253402300800, 9007199254740993, 18446744073709551615, 18446744073709551616, 1e300,
            1e309, 1e999999999999999999999, -377705116801, -377705116800.1, -1e300,
            -9223372036854775809, 9e18
        ]"#,
    ) {
        for claim in ["exp", "nbf", "iat"] {
            reject_claim(claim, json, VerifyErrorKind::InvalidClaim);
        }
    }
    reject_claim("exp", &"9".repeat(10_000), VerifyErrorKind::InvalidClaim);
    accept_claim("exp", &format!("{}e-9990", "9".repeat(10_000)));
}

#[test]
fn h036_invalid_json_number_is_malformed() {
    let (header, payload) = (valid().header_json(), valid().payload_json());
    let exp = format!("\"exp\":{}", NOW + HOUR);
    for text in [
        "NaN",
        "Infinity",
        "-Infinity",
        "+1790003600",
        "01790003600",
        ".5",
        "1790003600.",
        "1e",
        "1e+",
        "0x6ab13b80",
        "1790003600L",
        "1_790_003_600",
        "-",
        "--1",
        "",
    ] {
        let faulty = payload.replace(&exp, &format!("\"exp\":{text}"));
        assert_ne!(faulty, payload);
        reject_texts(text, &header, &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h069_clock_at_any_time_does_not_panic() {
    let far_future =
        (0..63).rev().find_map(|n| UNIX_EPOCH.checked_add(Duration::from_secs(1 << n)));
    let far_past = (0..63).rev().find_map(|n| UNIX_EPOCH.checked_sub(Duration::from_secs(1 << n)));
    let (far_future, far_past) = (far_future.unwrap(), far_past.unwrap());
    let expired = Some(VerifyErrorKind::Expired);
    let latest = valid().claim("exp", 253_402_300_799_i64);
    for leeway in [0, 300, u64::MAX] {
        check_time(&latest, leeway, now(), None);
        check_time(&latest, leeway, far_future, expired);
        check_time(&valid(), leeway, far_past, None);
        let early = valid().claim("nbf", NOW);
        check_time(&early, leeway, far_past, Some(VerifyErrorKind::NotYetValid));
        let earliest =
            valid().claim("exp", -377_705_116_800_i64).claim("nbf", -377_705_116_800_i64);
        check_time(&earliest, leeway, far_future, expired);
    }
    // A clock that is set back before 1970 must not extend an expired token beyond the leeway.
    let expired_in_1969 = valid().claim("exp", -10);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(11), None);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(10), expired);
    check_time(&expired_in_1969, 0, UNIX_EPOCH, expired);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(6), None);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(5), expired);
}

// Audience, sender constraint, groups, and the application's check

#[test]
fn token_without_the_required_audience_is_rejected() {
    let asking = rules().with_audience("api");
    for json in each(r#"["api", ["api"], ["other","api"], "\u0061pi"]"#) {
        let token = valid().claim("aud", raw(json)).sign();
        assert_eq!(result_under(&asking, &token, now()), Ok(()), "{json}");
    }
    for json in each(
        r#"[
            "other", "API", "api ", "apis", "ap", "", [], ["other"], ["api "], "api other"
        ]"#,
    ) {
        let token = valid().claim("aud", raw(json)).sign();
        let verdict = result_under(&asking, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongAudience), "{json}");
    }
    let absent = valid().without_claim("aud").sign();
    assert_eq!(result_under(&asking, &absent, now()), Err(VerifyErrorKind::WrongAudience));
    for json in each(r#"[null, 1, {"aud":"api"}, ["api",1]]"#) {
        let token = valid().claim("aud", raw(json)).sign();
        let verdict = result_under(&asking, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{json}");
    }
}

#[test]
fn audience_is_ignored_by_default() {
    accept("absent", &valid().without_claim("aud").sign());
    for json in each(r#"["other", ["a","b"], [], ""]"#) {
        accept_claim("aud", json);
    }
}

#[test]
fn h047_sender_constrained_token_is_rejected() {
    for json in each(
        r#"[
            {"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, {"x5t#S256":"AAAA"}, {}, null,
            false, 0, "", [], "\ud800"
        ]"#,
    ) {
        reject_claim("cnf", json, VerifyErrorKind::SenderConstrained);
    }
    let faulty = with_member(&valid().payload_json(), r#""\u0063nf":{"jkt":"a"}"#);
    let header = valid().header_json();
    reject_texts("escaped", &header, &faulty, VerifyErrorKind::SenderConstrained);
    accept_claim("custom", r#"{"cnf":{}}"#);
}

#[test]
fn token_with_one_of_the_groups_is_accepted() {
    let asking = rules().with_groups(["admin", "staff"]);
    let cases = [
        (r#"["admin"]"#, true),
        (r#"["staff"]"#, true),
        (r#"["other","staff"]"#, true),
        (r#"["staff","admin"]"#, true),
        (r#"["\u0061dmin"]"#, true),
        ("[]", false),
        (r#"["other"]"#, false),
        (r#"["Admin"]"#, false),
        (r#"["admin "]"#, false),
        (r#"["administrators"]"#, false),
        (r#"["admin,staff"]"#, false),
        (r#"["admin staff"]"#, false),
    ];
    for (json, accepted) in cases {
        let token = valid().claim("cognito:groups", raw(json)).sign();
        accept(json, &token);
        let expected = if accepted { Ok(()) } else { Err(VerifyErrorKind::Forbidden) };
        assert_eq!(result_under(&asking, &token, now()), expected, "{json}");
    }
    let absent = valid().sign();
    assert_eq!(result_under(&asking, &absent, now()), Err(VerifyErrorKind::Forbidden));
    let wrong_type = valid().claim("cognito:groups", "admin").sign();
    assert_eq!(result_under(&asking, &wrong_type, now()), Err(VerifyErrorKind::InvalidClaim));
}

#[test]
#[should_panic(expected = "the list of groups is empty")]
fn empty_list_of_groups_panics() {
    let _ = rules().with_groups([""; 0]);
}

#[test]
fn result_of_the_applications_check_is_final() {
    let verdicts = [
        ("passes", Ok(()), Ok(())),
        ("revoked", Err(CheckError::Revoked), Err(VerifyErrorKind::Revoked)),
        ("forbidden", Err(CheckError::Forbidden), Err(VerifyErrorKind::Forbidden)),
    ];
    for (name, verdict, expected) in verdicts {
        let rules = rules().with_check(move |token| {
            assert_eq!(token.client_id(), CLIENT);
            assert!(token.scopes().contains("activity/*"));
            verdict
        });
        let token = valid().sign();
        accept(name, &token);
        assert_eq!(result_under(&rules, &token, now()), expected, "{name}");
    }
}

#[test]
fn applications_check_gets_only_valid_tokens() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let rules = rules().with_audience("api").with_groups(["staff"]).with_check(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Err(CheckError::Revoked)
    });
    let good = valid().claim("aud", "api").claim("cognito:groups", ["staff"]);
    for count in 1..=3 {
        let verdict = result_under(&rules, &good.sign(), now());
        assert_eq!(verdict, Err(VerifyErrorKind::Revoked));
        assert_eq!(calls.load(Ordering::Relaxed), count, "it runs every time");
    }

    use VerifyErrorKind as Kind;
    let mut forged = decoded_signature(&good.sign());
    forged[0] ^= 1;
    let cases = [
        (Kind::BadSignature, with_signature(&good.sign(), &forged)),
        (Kind::Expired, good.clone().claim("exp", NOW).sign()),
        (Kind::Forbidden, good.clone().claim("cognito:groups", ["other"]).sign()),
        (Kind::InvalidClaim, good.clone().claim("sub", 1).sign()),
        (Kind::InvalidHeader, good.clone().header("crit", ["exp"]).sign()),
        (Kind::Malformed, "a.b".to_owned()),
        (Kind::NotYetValid, good.clone().claim("nbf", NOW + 1).sign()),
        (Kind::SenderConstrained, good.clone().claim("cnf", 1).sign()),
        (Kind::TooLarge, "a".repeat(MAX_TOKEN_LEN + 1)),
        (Kind::UnknownIssuer, good.clone().claim("iss", "other").sign()),
        (Kind::UnknownKey, good.clone().header("kid", "other").sign()),
        (Kind::UnsupportedAlgorithm, good.clone().header("alg", "RS512").sign()),
        (Kind::WrongAudience, good.clone().claim("aud", "other").sign()),
        (Kind::WrongClient, good.clone().claim("client_id", "other").sign()),
        (Kind::WrongTokenUse, good.clone().claim("token_use", "id").sign()),
    ];
    for (kind, token) in cases {
        assert_eq!(result_under(&rules, &token, now()), Err(kind));
        assert_eq!(calls.load(Ordering::Relaxed), 3, "{kind:?}");
    }
}

// Getters

#[test]
fn machine_token_has_the_expected_claims() {
    let text = valid().scope("activity/* item/read").claim("jti", "some-jti").sign();
    let token = accept("machine", &text);
    assert_eq!(token.subject(), CLIENT);
    assert_eq!(token.client_id(), CLIENT);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["activity/*", "item/read"]);
    assert_eq!(token.username(), None);
    assert_eq!(token.groups().count(), 0);
    assert_eq!(token.issuer(), issuer().issuer());
    assert_eq!(token.expires_at(), at(NOW + HOUR));
    assert_eq!(token.issued_at(), Some(now()));
    assert_eq!(token.jwt_id(), Some("some-jti"));
}

#[test]
fn user_token_has_the_expected_claims() {
    let text = issuer()
        .user_token(CLIENT, "ada")
        .issued_at(now())
        .claim("sub", "some-user")
        .claim("cognito:groups", ["staff", "admin"])
        .scope("openid item/read")
        .expires_at(at(NOW + 60))
        .sign();
    let token = accept("user", &text);
    assert_eq!(token.subject(), "some-user");
    assert_eq!(token.client_id(), CLIENT);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["openid", "item/read"]);
    assert_eq!(token.username(), Some("ada"));
    assert_eq!(token.groups().collect::<Vec<_>>(), ["staff", "admin"]);
    assert_eq!(token.issuer(), issuer().issuer());
    assert_eq!(token.expires_at(), at(NOW + 60));
    assert_eq!(token.issued_at(), Some(now()));
    assert!(token.jwt_id().is_some());
}

#[test]
fn absent_claims_are_none_or_empty() {
    let token = accept("bare", &valid().without_claim("scope").without_claim("jti").sign());
    assert_eq!(token.scopes().iter().count(), 0);
    assert_eq!(token.jwt_id(), None);
    assert_eq!(token.username(), None);
    assert_eq!(token.groups().count(), 0);
}

#[test]
fn escapes_are_decoded_in_every_text() {
    let token = valid()
        .claim("sub", raw(r#""s\u00fcb""#))
        .claim("username", raw(r#""a\"b\\c\n""#))
        .claim("jti", raw(r#""\u006ati""#))
        .claim("cognito:groups", raw(r#"["\u0067","\ud83d\ude00"]"#))
        .claim("scope", raw(r#""a\/b\u0020c""#));
    let token = accept("escaped", &token.sign());
    assert_eq!(token.subject(), "s\u{fc}b");
    assert_eq!(token.username(), Some("a\"b\\c\n"));
    assert_eq!(token.jwt_id(), Some("jti"));
    assert_eq!(token.groups().collect::<Vec<_>>(), ["g", "\u{1f600}"]);
    assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["a/b", "c"]);
}

#[test]
fn claims_deserialize_as_another_type() {
    let token = accept("custom", &valid().claim("tenant", "blue").escaped_slashes().sign());
    let claims: BTreeMap<String, serde_json::Value> = token.deserialize_claims().unwrap();
    assert_eq!(claims["tenant"], "blue");
    assert_eq!(claims["scope"], "activity/*");
    assert_eq!(claims["version"], 2);
    assert_eq!(claims["exp"], NOW + HOUR);
    let error = token.deserialize_claims::<BTreeMap<String, u8>>().unwrap_err();
    assert!(error.to_string().starts_with("the claims do not have the expected shape, line 1 "));
    // Claims are about people, so no value of a claim may get into a log through an error.
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    for shown in [Some(error.to_string()), Some(format!("{error:?}")), cause].iter().flatten() {
        assert!(!shown.contains(CLIENT) && !shown.contains("blue"), "{shown}");
    }
}

#[test]
fn h091_debug_output_contains_no_part_of_the_token() {
    let text = valid().claim("email", "ada@example.com").claim("jti", "some-jti").sign();
    let token = accept("good", &text);
    let rules = rules().with_check(|_| Ok(()));
    for shown in [format!("{token:?}"), format!("{token:#?}"), format!("{rules:?}")] {
        for part in parts(&text) {
            assert!(!shown.contains(part), "{shown}");
        }
        for secret in ["ada@example.com", "some-jti", "activity/*"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains(CLIENT), "{shown}");
    }
}

#[test]
fn jsonwebtoken_agrees_about_a_valid_token() {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

    if !has_second_opinion() {
        return;
    }
    let keys: JwkSet = serde_json::from_str(&issuer().jwks_json()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[issuer().issuer()]);
    // It uses the system clock, and this token was issued at another time.
    validation.validate_exp = false;
    for (name, token) in [("plain", valid()), ("escaped", valid().escaped_slashes())] {
        let text = token.sign();
        let header = jsonwebtoken::decode_header(&text).unwrap();
        let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let theirs = decode::<BTreeMap<String, serde_json::Value>>(&text, &key, &validation);
        let ours = accept(name, &text).deserialize_claims().unwrap();
        assert_eq!(theirs.unwrap().claims, ours, "{name}");
    }
}
