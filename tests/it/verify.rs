//! Every rule of the plain function `verify`: what it accepts, what it refuses, and why. The layer
//! and the interceptor are asked about the same tokens. A number in a name is that of the hostile
//! input.

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

fn good() -> TokenBuilder {
    machine("activity/*").issued_at(now())
}

/// A JSON text as it stands, for values that `serde` would write in another way.
fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// The elements of a JSON array, each as it is written.
fn each(array: &str) -> Vec<&str> {
    serde_json::from_str::<Vec<&RawValue>>(array).unwrap().into_iter().map(RawValue::get).collect()
}

/// The keys of the shared issuer, and the key that the tests hold themselves.
fn keys() -> &'static Jwks {
    static KEYS: LazyLock<Jwks> = LazyLock::new(|| Jwks::from_json(document()).unwrap());
    &KEYS
}

fn document() -> String {
    let own = OwnKey::get().jwk(OwnKey::ID);
    issuer().jwks_json().replace("]}", &format!(",{own}]}}"))
}

/// With the same keys and rules, at the same time.
fn doors() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| {
        let keys = Jwks::from_json(document()).unwrap();
        Doors::of(Verifier::builder(rules()).clock(now).build_with_jwks(keys).unwrap())
    });
    &DOORS
}

fn judge_under(rules: &Rules, token: &str, now: SystemTime) -> Result<(), VerifyErrorKind> {
    verify(token, keys(), rules, now).map(|_| ()).map_err(|error| error.kind())
}

fn judge(token: &str) -> Result<(), VerifyErrorKind> {
    judge_under(&rules(), token, now())
}

#[track_caller]
fn accept(name: &str, token: &str) -> AccessToken {
    match verify(token, keys(), &rules(), now()) {
        Ok(verified) => {
            doors().accept(name, token);
            verified
        }
        Err(error) => panic!("{name}: refused with {:?}", error.kind()),
    }
}

/// The twin has everything but the fault, so that the fault alone is what is refused.
#[track_caller]
fn refuse(name: &str, twin: &str, faulty: &str, kind: VerifyErrorKind) {
    accept(name, twin);
    assert_eq!(judge(faulty), Err(kind), "{name}");
    doors().refuse(name, faulty, kind);
}

#[track_caller]
fn refuse_header(member: &str, json: &str, kind: VerifyErrorKind) {
    let faulty = good().header(member, raw(json)).sign();
    refuse(&format!("{member}: {json}"), &good().sign(), &faulty, kind);
}

#[track_caller]
fn accept_header(member: &str, json: &str) {
    accept(&format!("{member}: {json}"), &good().header(member, raw(json)).sign());
}

#[track_caller]
fn refuse_claim(claim: &str, json: &str, kind: VerifyErrorKind) {
    let faulty = good().claim(claim, raw(json)).sign();
    refuse(&format!("{claim}: {json}"), &good().sign(), &faulty, kind);
}

#[track_caller]
fn accept_claim(claim: &str, json: &str) -> AccessToken {
    accept(&format!("{claim}: {json}"), &good().claim(claim, raw(json)).sign())
}

/// A header and a payload, each written as text; the twin is written in the same way.
#[track_caller]
fn refuse_texts(name: &str, header: &str, payload: &str, kind: VerifyErrorKind) {
    let good = good();
    let twin = good.sign_texts(&good.header_json(), &good.payload_json());
    refuse(name, &twin, &good.sign_texts(header, payload), kind);
}

/// The object with one more member, written as text, before the others.
fn with_member(object: &str, member: &str) -> String {
    object.replacen('{', &format!("{{{member},"), 1)
}

/// A key whose private part is here: the issuer signs texts alone, and in RS256 alone.
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

    /// Whatever these two parts are.
    fn complete(&self, header: &str, payload: &str) -> String {
        let signing_input = format!("{header}.{payload}");
        let signature = self.sign(&RSA_PKCS1_SHA256, &signing_input);
        format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, header: &[u8], payload: &[u8]) -> String {
        self.complete(&URL_SAFE_NO_PAD.encode(header), &URL_SAFE_NO_PAD.encode(payload))
    }
}

/// Header and payload of a good token that names the tests' own key.
fn own_texts() -> (String, String) {
    let token = good().header("kid", OwnKey::ID);
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

/// A good token of exactly this length. Base64 has no text of every length, so both parts are
/// padded.
fn token_of_length(length: usize) -> String {
    let encoded = |bytes: usize| (bytes * 4).div_ceil(3);
    let with_padding = |header, payload| {
        good().header("pad", "x".repeat(header)).claim("pad", "x".repeat(payload))
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
fn h011_a_token_has_16_kib_at_most() {
    let longest = token_of_length(MAX_TOKEN_LEN);
    assert_eq!(longest.len(), MAX_TOKEN_LEN);
    let too_long = token_of_length(MAX_TOKEN_LEN + 1);
    assert_eq!(too_long.len(), MAX_TOKEN_LEN + 1);
    refuse("one byte more", &longest, &too_long, VerifyErrorKind::TooLarge);

    assert_eq!(judge(&".".repeat(400_000)), Err(VerifyErrorKind::TooLarge), "dots");
    assert_eq!(judge(&"A".repeat(1 << 20)), Err(VerifyErrorKind::TooLarge), "one part");
}

#[test]
fn h016_a_token_has_three_parts_and_none_is_empty() {
    let good = good().sign();
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
        refuse(name, &good, &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h016_a_part_more_is_not_taken_for_payload_or_header() {
    // With the key itself as the attacker: the signature is over all but the last part.
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let twin = key.complete(&encode(&header), &encode(&payload));
    for (name, header, payload) in [
        ("after the payload", encode(&header), format!("{}.{}", encode(&payload), encode("{}"))),
        ("before the payload", encode(&header), format!(".{}", encode(&payload))),
        ("before the header", format!(".{}", encode(&header)), encode(&payload)),
    ] {
        refuse(name, &twin, &key.complete(&header, &payload), VerifyErrorKind::Malformed);
    }
}

#[test]
fn h018_a_token_has_no_other_characters_than_base64url_and_dots() {
    let good = good().sign();
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
            refuse(&name, &good, &faulty, VerifyErrorKind::Malformed);
        }
    }
}

#[test]
fn h018_the_standard_alphabet_and_padding_are_refused() {
    let (header, payload) = own_texts();
    // With a byte in it that the two alphabets spell in two ways.
    let payload = with_member(&payload, r#""pad":"~~~???>>>""#);
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    let standard = STANDARD.encode(&payload);
    assert!(standard.contains(['+', '/']), "{standard}");
    let header = URL_SAFE_NO_PAD.encode(header);
    refuse("standard", &twin, &key.complete(&header, &standard), VerifyErrorKind::Malformed);

    for padding in ["=", "=="] {
        let payload = format!("{}{padding}", URL_SAFE_NO_PAD.encode(&payload));
        let padded = key.complete(&header, &payload);
        refuse("padding", &twin, &padded, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h017_the_json_serializations_are_refused() {
    let good = good().sign();
    let [header, payload, signature] = parts(&good);
    let signed = format!(r#""protected":"{header}","signature":"{signature}""#);
    let flattened = format!(r#"{{"payload":"{payload}",{signed}}}"#);
    let general = format!(r#"{{"payload":"{payload}","signatures":[{{{signed}}}]}}"#);
    // CVE-2022-39227: compact to one reader, JSON to another.
    let polyglot = format!(r#"{{"{header}.{payload}.{signature}":1}}"#);
    for (name, faulty) in [("flattened", flattened), ("general", general), ("polyglot", polyglot)] {
        refuse(name, &good, &faulty, VerifyErrorKind::Malformed);
    }
}

/// Each other spelling of the last symbol of a base64 text: the same bytes to a lenient reader.
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
fn h019_base64_has_one_spelling() {
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
        // The signature is over the other spelling, so nothing else is wrong with the token.
        for other in other_spellings(&header) {
            refuse("header", &twin, &key.complete(&other, &payload), VerifyErrorKind::Malformed);
            cases += 1;
        }
        for other in other_spellings(&payload) {
            refuse("payload", &twin, &key.complete(&header, &other), VerifyErrorKind::Malformed);
            cases += 1;
        }
        for other in other_spellings(parts(&twin)[2]) {
            let faulty = format!("{header}.{payload}.{other}");
            refuse("signature", &twin, &faulty, VerifyErrorKind::Malformed);
            cases += 1;
        }
    }
    // 256 bytes of signature end in 4 free bits; three lengths of each other part in 0, 2 and 4.
    assert_eq!(cases, 3 * 15 + 2 * (15 + 3));
}

#[test]
fn h019_base64_of_an_impossible_length_is_refused() {
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
        refuse(name, &twin, &faulty, VerifyErrorKind::Malformed);
    }
}

// Header

#[test]
fn h021_alg_none_is_refused() {
    for json in each(r#"["none", "None", "nOnE", "NONE", ""]"#) {
        refuse_header("alg", json, VerifyErrorKind::UnsupportedAlgorithm);
    }
    let unsigned = good().header("alg", "none").sign();
    let [header, payload, _] = parts(&unsigned);
    let stripped = format!("{header}.{payload}.");
    refuse("no signature", &good().sign(), &stripped, VerifyErrorKind::Malformed);
    let short = format!("{header}.{payload}.AA");
    refuse("one byte", &good().sign(), &short, VerifyErrorKind::UnsupportedAlgorithm);
}

#[test]
fn h021_alg_is_exactly_rs256() {
    for json in each(
        r#"[
            "RS384", "RS512", "PS256", "ES256", "EdDSA", "HS256", "rs256", "RS256 ", " RS256",
            "RS2560", "RS256\u0000", null, 0, 256, true, ["RS256"], {"alg":"RS256"}
        ]"#,
    ) {
        refuse_header("alg", json, VerifyErrorKind::UnsupportedAlgorithm);
    }
    let absent = good().without_header("alg").sign();
    refuse("absent", &good().sign(), &absent, VerifyErrorKind::UnsupportedAlgorithm);
    accept_header("alg", r#""\u0052S256""#);
}

#[test]
fn h023_a_token_that_really_has_another_algorithm_is_refused() {
    let key = OwnKey::get();
    let encodings: [(&str, &'static dyn RsaEncoding); 3] =
        [("RS384", &RSA_PKCS1_SHA384), ("RS512", &RSA_PKCS1_SHA512), ("PS256", &RSA_PSS_SHA256)];
    let (header, payload) = own_texts();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for (alg, encoding) in encodings {
        for (written, kind) in
            [(alg, VerifyErrorKind::UnsupportedAlgorithm), ("RS256", VerifyErrorKind::BadSignature)]
        {
            let header = good().header("kid", OwnKey::ID).header("alg", written).header_json();
            let unsigned = key.token(header.as_bytes(), payload.as_bytes());
            let signing_input = unsigned.rsplit_once('.').unwrap().0;
            let faulty = with_signature(&unsigned, &key.sign(encoding, signing_input));
            refuse(&format!("{alg} that says {written}"), &twin, &faulty, kind);
        }
    }
}

#[test]
fn h023_a_key_of_another_algorithm_in_the_set_changes_nothing() {
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
            let token = good().header("kid", kid).header("alg", written);
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
fn h022_hs256_keyed_with_the_public_key_is_refused() {
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
            let header = good().header("kid", OwnKey::ID).header("alg", alg).header_json();
            let unsigned = key.token(header.as_bytes(), payload.as_bytes());
            let signing_input = unsigned.rsplit_once('.').unwrap().0;
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let tag = hmac::sign(&secret, signing_input.as_bytes());
            let faulty = with_signature(&unsigned, tag.as_ref());
            refuse(&format!("{name}, says {alg}"), &twin, &faulty, kind);
        }
    }
}

#[test]
fn h026_kid_is_a_string_that_is_not_empty_nor_long() {
    for json in each(r#"["", null, 1, true, {}, "\ud800"]"#) {
        refuse_header("kid", json, VerifyErrorKind::InvalidHeader);
    }
    let key_id: String = serde_json::from_str::<BTreeMap<String, String>>(&good().header_json())
        .unwrap()
        .remove("kid")
        .unwrap();
    let array = serde_json::json!([key_id]).to_string();
    refuse_header("kid", &array, VerifyErrorKind::InvalidHeader);
    let absent = good().without_header("kid").sign();
    refuse("absent", &good().sign(), &absent, VerifyErrorKind::InvalidHeader);

    // Counted in bytes, and the longest one is found like any other.
    let key = OwnKey::get();
    let (_, payload) = own_texts();
    for longest in ["k".repeat(256), "\u{e9}".repeat(128)] {
        let token_of = |key_id: &str| {
            let header = good().header("kid", key_id).header_json();
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
fn h026_kid_is_compared_and_nothing_else() {
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    for json in each(
        r#"[
            "Own", "own ", " own", "ow", "owned", "own\u0000", "\u0000", "\u043ewn",
            "../../dev/null", "' OR 1=1 --", "*", "http://127.0.0.1/"
        ]"#,
    ) {
        let header = good().header("kid", raw(json)).header_json();
        let faulty = key.token(header.as_bytes(), payload.as_bytes());
        refuse(json, &twin, &faulty, VerifyErrorKind::UnknownKey);
    }
    let header = good().header("kid", raw(r#""\u006fwn""#)).header_json();
    accept("escaped", &key.token(header.as_bytes(), payload.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn h026_an_unknown_kid_gets_into_no_address_and_no_log() {
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
    let hostile = good().header("kid", "../../SECRET\n' OR 1=1 \u{1b}[31m").sign();
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
fn h029_crit_in_any_form_is_refused() {
    for json in each(
        r#"[
            ["exp"], ["b64"], ["kid"], ["unknown"], [], "exp", "", null, false, 0, {}
        ]"#,
    ) {
        refuse_header("crit", json, VerifyErrorKind::InvalidHeader);
    }
    let good = good();
    let escaped = with_member(&good.header_json(), r#""\u0063rit":["exp"]"#);
    let payload = good.payload_json();
    refuse_texts("escaped", &escaped, &payload, VerifyErrorKind::InvalidHeader);
}

#[test]
fn h030_b64_in_any_form_is_refused() {
    for json in ["false", "true", "null", "0", r#""false""#] {
        refuse_header("b64", json, VerifyErrorKind::InvalidHeader);
    }
    // RFC 7797 section 3: the payload as it is, which the signature would be over.
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    let header = URL_SAFE_NO_PAD.encode(with_member(&header, r#""b64":false"#));
    let faulty = key.complete(&header, &payload.replace('.', ""));
    refuse("not encoded", &twin, &faulty, VerifyErrorKind::Malformed);
}

#[test]
fn h031_what_belongs_to_encryption_is_refused() {
    for (member, json) in
        [("zip", r#""DEF""#), ("zip", "null"), ("enc", r#""A256GCM""#), ("enc", "null")]
    {
        refuse_header(member, json, VerifyErrorKind::InvalidHeader);
    }
    // The work factor is never read: it costs nothing, whatever it says.
    for alg in ["PBES2-HS256+A128KW", "RSA-OAEP", "dir"] {
        let faulty = good().header("alg", alg).header("p2c", i32::MAX).header("p2s", "AAAA");
        refuse(alg, &good().sign(), &faulty.sign(), VerifyErrorKind::UnsupportedAlgorithm);
    }
    accept_header("p2c", "2147483647");
}

#[test]
fn h031_a_nested_token_is_refused() {
    let good = good();
    let header = with_member(&good.header_json(), r#""cty":"JWT""#);
    refuse_texts("nested", &header, &good.sign(), VerifyErrorKind::Malformed);
    let text = serde_json::to_string(&good.sign()).unwrap();
    refuse_texts("nested text", &header, &text, VerifyErrorKind::Malformed);
}

#[test]
fn h033_typ_is_that_of_an_access_token_or_absent() {
    accept("absent", &good().without_header("typ").sign());
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
        refuse_header("typ", json, VerifyErrorKind::InvalidHeader);
    }
}

/// Refuses a token that is signed with a key that these members show, and no known one.
#[track_caller]
fn refuse_own_key(members: &[(&str, String)]) {
    let attacker = OwnKey::get();
    for (member, json) in members {
        accept_header(member, json);
        accept_header(member, "5");
    }
    let attack = |key_id: &str| {
        let token =
            members.iter().fold(good(), |token, (name, json)| token.header(name, raw(json)));
        let token = token.header("kid", key_id);
        attacker.token(token.header_json().as_bytes(), token.payload_json().as_bytes())
    };
    let twin = attack(OwnKey::ID);
    refuse("its own kid", &twin, &attack("attacker"), VerifyErrorKind::UnknownKey);
    let header: BTreeMap<String, String> = serde_json::from_str(&good().header_json()).unwrap();
    refuse("the issuer's kid", &twin, &attack(&header["kid"]), VerifyErrorKind::BadSignature);
}

#[tokio::test]
async fn h027_an_address_in_the_header_is_never_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let members = ["jku", "x5u"].map(|name| (name, serde_json::to_string(&url).unwrap()));
    refuse_own_key(&members);

    // Nor where an unknown key is asked for over HTTP.
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
fn h028_a_key_that_the_token_brings_along_is_never_read() {
    let jwk = OwnKey::get().jwk("attacker");
    refuse_own_key(&[
        ("jwk", jwk),
        ("x5c", r#"["MIIB"]"#.to_owned()),
        ("x5t", r#""AAAA""#.to_owned()),
        ("x5t#S256", r#""AAAA""#.to_owned()),
    ]);
}

#[test]
fn h034_the_header_is_one_json_object() {
    let good = good();
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
        refuse_texts(name, &faulty, &payload, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h032_a_header_with_a_name_twice_is_refused() {
    let good = good();
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
        refuse_texts(member, &with_member(&header, member), &payload, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h034_a_header_is_searched_for_traps_where_it_is_not_read() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    accept_header("other", &nested(32));
    accept_header("other", r#""\ud83d\ude00""#);
    for json in [&nested(33), r#""\ud800""#, r#"{"\udfff":1}"#] {
        refuse_header("other", json, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h034_header_and_payload_are_utf_8() {
    let key = OwnKey::get();
    let (header, payload) = own_texts();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    // The placeholder is replaced after the text was written, byte by byte.
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
        refuse(name, &twin, &faulty, VerifyErrorKind::Malformed);
    }
}

// Issuer and keys

#[test]
fn h039_an_issuer_is_compared_byte_for_byte() {
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
        refuse_claim("iss", &json, VerifyErrorKind::UnknownIssuer);
    }
    let absent = good().without_claim("iss").sign();
    refuse("absent", &good().sign(), &absent, VerifyErrorKind::UnknownIssuer);
}

#[test]
fn slashes_are_read_in_both_spellings() {
    let plain = good().claim("username", "a/b");
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
    let mixed = good().payload_json().replacen('/', r"\/", 1).replacen("https", r"\u0068ttps", 1);
    accept("mixed", &good().sign_texts(&good().header_json(), &mixed));
}

#[test]
fn h039_a_key_of_another_issuer_does_not_count() {
    let stranger = TestIssuer::new();
    // The very claims of a good token, `iss` included.
    let claims = good().payload_json();
    let forge = |token: &TokenBuilder| token.sign_texts(&token.header_json(), &claims);
    let twin = good().sign_texts(&good().header_json(), &claims);

    let forged = forge(&stranger.machine_token(CLIENT));
    let verdict = verify(&forged, &stranger.jwks(), &rules(), now());
    assert!(verdict.is_ok(), "the stranger's own keys would do: {verdict:?}");
    refuse("with its key ID", &twin, &forged, VerifyErrorKind::UnknownKey);

    let header: BTreeMap<String, String> = serde_json::from_str(&good().header_json()).unwrap();
    let forged = forge(&stranger.machine_token(CLIENT).header("kid", &header["kid"]));
    refuse("with a known key ID", &twin, &forged, VerifyErrorKind::BadSignature);
}

#[test]
fn a_signature_is_checked_with_the_key_of_its_kid_alone() {
    let (header, payload) = own_texts();
    let key = OwnKey::get();
    let twin = key.token(header.as_bytes(), payload.as_bytes());
    // Both keys are in the set; the token names the other one.
    let crossed = key.token(good().header_json().as_bytes(), payload.as_bytes());
    refuse("the issuer's kid", &twin, &crossed, VerifyErrorKind::BadSignature);
    let crossed = good().header("kid", OwnKey::ID).sign();
    refuse("the own kid", &good().sign(), &crossed, VerifyErrorKind::BadSignature);
}

#[tokio::test]
async fn h039_a_key_of_one_pool_never_vouches_for_another() {
    const FIRST: &str = "https://issuer.example/first";
    const SECOND: &str = "https://issuer.example/second";

    // One key ID in both sets, so that a mix-up of the sets would be a bad signature at best.
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
        let token = good().claim("iss", issuer).claim("client_id", client).header("kid", key_id);
        key.token(token.header_json().as_bytes(), token.payload_json().as_bytes())
    };
    let judge = |token: String| verifier.try_verify(&token).map_err(|error| error.kind());
    let [first, second] = &keys;
    for key_id in ["same", &key_id(first)] {
        assert!(judge(token(FIRST, "first", first, key_id)).is_ok(), "{key_id}");
    }
    for key_id in ["same", &key_id(second)] {
        assert!(judge(token(SECOND, "second", second, key_id)).is_ok(), "{key_id}");
    }
    for (name, token, kind) in [
        ("key", token(FIRST, "first", second, &key_id(second)), VerifyErrorKind::UnknownKey),
        ("key, same kid", token(FIRST, "first", second, "same"), VerifyErrorKind::BadSignature),
        ("client", token(FIRST, "second", first, "same"), VerifyErrorKind::WrongClient),
        ("key", token(SECOND, "second", first, &key_id(first)), VerifyErrorKind::UnknownKey),
        ("client", token(SECOND, "first", second, "same"), VerifyErrorKind::WrongClient),
    ] {
        assert_eq!(judge(token).unwrap_err(), kind, "{name} of the other pool");
    }
}

fn key_id(key: &OwnKey) -> String {
    URL_SAFE_NO_PAD.encode(&key.modulus[..16])
}

// Signature

#[test]
fn h020_a_signature_is_as_long_as_the_modulus() {
    let good = good().sign();
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
        refuse(name, &good, &faulty, VerifyErrorKind::BadSignature);
    }
    let nothing = with_signature(&good, &[]);
    refuse("nothing", &good, &nothing, VerifyErrorKind::Malformed);
    let huge = with_signature(&good, &[1; 64 * 1024]);
    refuse("64 KiB", &good, &huge, VerifyErrorKind::TooLarge);
}

#[test]
fn h020_a_signature_that_begins_with_zero_is_not_shortened() {
    // The same number, as one in 256 signatures has it.
    let mut tokens = (0..).map(|number| good().claim("jti", number.to_string()).sign());
    let token = tokens.find(|token| decoded_signature(token)[0] == 0).unwrap();
    let stripped = with_signature(&token, &decoded_signature(&token)[1..]);
    refuse("stripped", &token, &stripped, VerifyErrorKind::BadSignature);
}

#[test]
fn h020_a_longer_key_has_longer_signatures() {
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
fn h053_a_made_up_signature_is_refused() {
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
        refuse(name, &twin, &faulty, VerifyErrorKind::BadSignature);
    }
}

#[test]
fn h053_a_part_of_another_good_token_is_refused() {
    let one = good().sign();
    let other = good().scope("activity/read").sign();
    accept("the other", &other);
    let ([header, payload, _], [_, other_payload, other_signature]) = (parts(&one), parts(&other));
    let [_, _, signature] = parts(&one);
    let swapped_signature = format!("{header}.{payload}.{other_signature}");
    refuse("signature", &one, &swapped_signature, VerifyErrorKind::BadSignature);
    let swapped_payload = format!("{header}.{other_payload}.{signature}");
    refuse("payload", &one, &swapped_payload, VerifyErrorKind::BadSignature);
    let typed = good().header("typ", "JWT").sign();
    let swapped_header = format!("{}.{payload}.{signature}", parts(&typed)[0]);
    refuse("header", &one, &swapped_header, VerifyErrorKind::BadSignature);
}

#[test]
fn h052_every_single_bit_flip_is_refused() {
    let token = good().sign();
    accept("no flip", &token);
    for index in 0..token.len() {
        // Of the eighth bit no text can be made.
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let flipped = String::from_utf8(bytes).unwrap();
            assert!(judge(&flipped).is_err(), "bit {bit} of byte {index}");
        }
    }
    let signature = decoded_signature(&token);
    for index in 0..signature.len() {
        let mut flipped = signature.clone();
        flipped[index] ^= 1;
        let flipped = with_signature(&token, &flipped);
        assert_eq!(judge(&flipped), Err(VerifyErrorKind::BadSignature), "byte {index}");
    }
}

#[test]
fn nothing_is_said_about_claims_before_the_signature_is_good() {
    let twin = good().sign();
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
        let honest = good().claim(claim, raw(json)).sign();
        assert_ne!(judge(&honest), Err(VerifyErrorKind::BadSignature), "{claim}: {json}");
        let mut signature = decoded_signature(&honest);
        signature[100] ^= 1;
        let faulty = with_signature(&honest, &signature);
        refuse(&format!("{claim}: {json}"), &twin, &faulty, VerifyErrorKind::BadSignature);
    }
}

// Payload

#[test]
fn h035_the_payload_is_one_json_object() {
    let good = good();
    let (header, payload) = (good.header_json(), good.payload_json());
    let spaced = format!("\n {} \t", payload.replace(',', " ,\r\n"));
    accept("white space", &good.sign_texts(&header, &spaced));

    let claims: BTreeMap<String, serde_json::Value> = serde_json::from_str(&payload).unwrap();
    // In the order in which the fields of a struct would be read from it.
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
        refuse_texts(name, &header, &faulty, VerifyErrorKind::Malformed);
    }
    refuse_texts("no member", &header, "{}", VerifyErrorKind::UnknownIssuer);
}

#[test]
fn h045_a_payload_with_a_name_twice_is_refused() {
    let everything = good()
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
            refuse(&format!("{name}, {spelling}"), &twin, &faulty, VerifyErrorKind::Malformed);
        }
        let name_escaped = payload.replacen(&format!("\"{name}\""), &format!("\"{escaped}\""), 1);
        assert_ne!(name_escaped, payload, "{name}");
        accept(&format!("{name}, once"), &everything.sign_texts(&header, &name_escaped));
    }
    let faulty = with_member(&payload, r#""cnf":{},"cnf":{}"#);
    let faulty = everything.sign_texts(&header, &faulty);
    refuse("cnf", &twin, &faulty, VerifyErrorKind::Malformed);
}

#[test]
fn a_name_may_come_again_at_another_depth() {
    accept_claim("custom", r#"{"exp":0,"custom":{"custom":1},"iss":"x"}"#);
}

#[test]
fn lone_surrogates_are_refused_where_nobody_reads() {
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
        refuse_claim("custom", json, VerifyErrorKind::Malformed);
    }
    let good = good();
    let (header, payload) = (good.header_json(), good.payload_json());
    let name = with_member(&payload, r#""\ud800":1"#);
    refuse_texts("a name", &header, &name, VerifyErrorKind::Malformed);
}

#[test]
fn a_lone_surrogate_in_a_claim_is_no_text() {
    assert_eq!(accept_claim("username", r#""\ud83d\ude00""#).username(), Some("\u{1f600}"));
    for claim in ["sub", "client_id", "scope", "username", "jti", "aud"] {
        refuse_claim(claim, r#""\ud800""#, VerifyErrorKind::InvalidClaim);
    }
    refuse_claim("cognito:groups", r#"["\udc00"]"#, VerifyErrorKind::InvalidClaim);
    refuse_claim("aud", r#"["\udc00"]"#, VerifyErrorKind::InvalidClaim);
    refuse_claim("token_use", r#""\ud800""#, VerifyErrorKind::WrongTokenUse);
}

#[test]
fn h046_what_nobody_reads_nests_32_deep_at_most() {
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for json in [arrays(32), objects(32), format!("[{}]", vec!["[]"; 100].join(","))] {
        accept_claim("custom", &json);
    }
    accept_claim("custom", &format!("\"{}\"", "[".repeat(100)));
    let mixed = format!("{}{}{}", "[".repeat(20), objects(13), "]".repeat(20));
    for json in [arrays(33), objects(33), mixed, arrays(128), arrays(5000)] {
        let faulty = with_member(&good().payload_json(), &format!("\"custom\":{json}"));
        refuse_texts(&json, &good().header_json(), &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h046_numbers_that_nobody_reads_may_be_any() {
    for json in each(r#"[1e999999, -1E-999999, 0.1e+1, 18446744073709551616]"#) {
        accept_claim("custom", json);
    }
    accept_claim("auth_time", &"9".repeat(10_000));
    let members = (0..900).map(|n| format!("\"{n}\":{n}")).collect::<Vec<_>>().join(",");
    let many = with_member(&good().payload_json(), &members);
    accept("900 claims", &good().sign_texts(&good().header_json(), &many));
}

// Claims

#[test]
fn h040_token_use_is_access() {
    for json in each(
        r#"[
            "id", "refresh", "ID", "Access", "ACCESS", "access ", "acces", "", null, true, 1,
            ["access"], {"access":true}
        ]"#,
    ) {
        refuse_claim("token_use", json, VerifyErrorKind::WrongTokenUse);
    }
    let absent = good().without_claim("token_use").sign();
    refuse("absent", &good().sign(), &absent, VerifyErrorKind::WrongTokenUse);
    accept_claim("token_use", r#""\u0061ccess""#);
    let (header, payload) = (good().header_json(), good().payload_json());
    for other in [r#""token_use":"id""#, r#""token_use":"access""#] {
        refuse_texts(other, &header, &with_member(&payload, other), VerifyErrorKind::Malformed);
    }
}

#[test]
fn h042_an_id_token_is_refused() {
    let id_token = issuer().id_token(CLIENT, "ada").issued_at(now());
    refuse("as it is", &good().sign(), &id_token.sign(), VerifyErrorKind::WrongTokenUse);
    // Nothing but `token_use` would be wrong with this one.
    let dressed = id_token.claim("client_id", CLIENT).claim("scope", "activity/*");
    let twin = dressed.clone().claim("token_use", "access").sign();
    refuse("dressed up", &twin, &dressed.sign(), VerifyErrorKind::WrongTokenUse);
    for rules in [rules().with_audience(CLIENT), Rules::new(issuer().user_pool(), ClientIds::any())]
    {
        assert_eq!(judge_under(&rules, &twin, now()), Ok(()));
        let verdict = judge_under(&rules, &dressed.sign(), now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongTokenUse), "{rules:?}");
    }
}

#[test]
fn h041_a_client_is_one_of_the_list() {
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
        refuse_claim("client_id", &json, VerifyErrorKind::WrongClient);
    }
    let array = serde_json::json!([CLIENT]).to_string();
    refuse_claim("client_id", &array, VerifyErrorKind::InvalidClaim);
    let absent = good().without_claim("client_id").sign();
    refuse("absent", &good().sign(), &absent, VerifyErrorKind::InvalidClaim);
    let several = Rules::new(issuer().user_pool(), ClientIds::only(["a", CLIENT, "b"]));
    for client in ["a", CLIENT, "b"] {
        let token = good().claim("client_id", client).sign();
        assert_eq!(judge_under(&several, &token, now()), Ok(()), "{client}");
    }
    let other = good().claim("client_id", "c").sign();
    assert_eq!(judge_under(&several, &other, now()), Err(VerifyErrorKind::WrongClient));
    // Neither `aud` nor `azp` stands in for it.
    let other = good().claim("client_id", "c").claim("aud", CLIENT).claim("azp", CLIENT).sign();
    refuse("aud", &good().sign(), &other, VerifyErrorKind::WrongClient);
}

#[test]
fn an_empty_list_of_clients_refuses_every_token() {
    let nobody = Rules::new(issuer().user_pool(), ClientIds::only([""; 0]));
    for client in [CLIENT, ""] {
        let token = good().claim("client_id", client).sign();
        let anybody = Rules::new(issuer().user_pool(), ClientIds::any());
        assert_eq!(judge_under(&anybody, &token, now()), Ok(()), "{client:?}");
        let verdict = judge_under(&nobody, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongClient), "{client:?}");
    }
}

#[test]
fn any_client_still_has_a_name_and_a_subject() {
    let anybody = Rules::new(issuer().user_pool(), ClientIds::any());
    let token = good().claim("client_id", "never heard of").sign();
    assert_eq!(judge_under(&anybody, &token, now()), Ok(()));
    for claim in ["client_id", "sub"] {
        assert_eq!(judge_under(&anybody, &good().sign(), now()), Ok(()));
        for json in each(r#"[null, 1, true, [], ["a"], {}]"#) {
            let token = good().claim(claim, raw(json)).sign();
            let verdict = judge_under(&anybody, &token, now());
            assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{claim}: {json}");
        }
        let absent = good().without_claim(claim).sign();
        let verdict = judge_under(&anybody, &absent, now());
        assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{claim} absent");
    }
}

#[test]
fn h036_a_claim_that_must_be_there_is_not_absent() {
    for claim in ["client_id", "sub", "exp"] {
        let absent = good().without_claim(claim).sign();
        refuse(claim, &good().sign(), &absent, VerifyErrorKind::InvalidClaim);
    }
    for claim in ["scope", "jti", "auth_time", "version"] {
        accept(claim, &good().without_claim(claim).sign());
    }
}

#[test]
fn h036_a_wrong_type_is_never_taken_for_absent() {
    #[track_caller]
    fn check(claim: &str, right: &[&str], wrong: &[&str]) {
        for json in right {
            accept_claim(claim, json);
        }
        for json in wrong {
            refuse_claim(claim, json, VerifyErrorKind::InvalidClaim);
        }
    }

    let no_text = &["null", "0", "1.5", "true", "false", "[]", r#"["a"]"#, "{}", r#"{"a":"b"}"#];
    check("sub", &[r#""a""#], no_text);
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
fn h044_as_many_groups_as_fit_are_no_trouble() {
    let groups = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>();
    let token = accept("1 000", &good().claim("cognito:groups", &groups).sign());
    assert_eq!(token.groups().count(), groups.len());
    let with = |count: usize| good().claim("cognito:groups", vec![""; count]).sign();
    assert_eq!(accept("3 500", &with(3_500)).groups().count(), 3_500);
    refuse("10 000", &with(3_500), &with(10_000), VerifyErrorKind::TooLarge);
    refuse_claim("cognito:groups", r#""staff""#, VerifyErrorKind::InvalidClaim);
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
    assert_eq!(judge_under(&rules, &token.sign(), now), expected, "leeway {leeway}, {now:?}");
}

#[test]
fn h038_exp_is_half_open() {
    let expired = Some(VerifyErrorKind::Expired);
    let instant = Duration::from_nanos(1);
    let token = good().claim("exp", NOW);
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
fn h037_nbf_is_reached_at_its_second() {
    let early = Some(VerifyErrorKind::NotYetValid);
    let instant = Duration::from_nanos(1);
    let token = good().claim("nbf", NOW);
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
fn h038_there_is_no_leeway_unless_it_is_set() {
    let expired = good().claim("exp", NOW - 1).sign();
    refuse("exp", &good().sign(), &expired, VerifyErrorKind::Expired);
    let early = good().claim("nbf", NOW + 1).sign();
    refuse("nbf", &good().claim("nbf", NOW).sign(), &early, VerifyErrorKind::NotYetValid);
}

#[test]
fn h038_leeway_is_300_seconds_at_most() {
    let expired = Some(VerifyErrorKind::Expired);
    let early = Some(VerifyErrorKind::NotYetValid);
    for leeway in [300, 301, HOUR, u64::MAX] {
        check_time(&good().claim("exp", NOW - 299), leeway, now(), None);
        check_time(&good().claim("exp", NOW - 300), leeway, now(), expired);
        check_time(&good().claim("nbf", NOW + 300), leeway, now(), None);
        check_time(&good().claim("nbf", NOW + 301), leeway, now(), early);
    }
    let rules = rules().with_leeway(Duration::MAX);
    let token = good().claim("exp", NOW - 300).sign();
    assert_eq!(judge_under(&rules, &token, now()), Err(VerifyErrorKind::Expired));
}

#[test]
fn iat_may_be_absent() {
    let token = accept("iat absent", &good().without_claim("iat").sign());
    assert_eq!(token.issued_at(), None);
}

#[test]
fn h037_iat_is_not_compared_with_the_clock() {
    for json in each(r#"[1790000001, 9999999999, 0, -1, 1790000000.75]"#) {
        accept_claim("iat", json);
    }
    for json in each(r#"[253402300800, 1e300, 18446744073709551615]"#) {
        refuse_claim("iat", json, VerifyErrorKind::InvalidClaim);
    }
}

#[test]
fn h036_a_date_is_the_same_in_every_spelling() {
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
        let token = good().claim("nbf", raw(json)).claim("exp", NOW + 2 * HOUR);
        check_time(&token, 0, at(NOW + HOUR), None);
        let early = Some(VerifyErrorKind::NotYetValid);
        check_time(&token, 0, at(NOW + HOUR - 1), early);
    }
}

#[test]
fn h036_a_date_is_floored_and_never_rounded() {
    // As doubles, the last two are the next second.
    for fraction in ["5", "999", "99999999999", "9999999999999999999999"] {
        refuse_claim("exp", &format!("{NOW}.{fraction}"), VerifyErrorKind::Expired);
        accept_claim("exp", &format!("{}.{fraction}", NOW + 1));
        accept_claim("nbf", &format!("{NOW}.{fraction}"));
        let next = format!("{}.{fraction}", NOW + 1);
        refuse_claim("nbf", &next, VerifyErrorKind::NotYetValid);
    }
    refuse_claim("exp", "1.7900000009999e9", VerifyErrorKind::Expired);

    // Towards the past, before 1970 too.
    let before_1970 = |millis: u64| UNIX_EPOCH - Duration::from_millis(millis);
    let expired = Some(VerifyErrorKind::Expired);
    let token = good().claim("exp", raw("-0.5"));
    check_time(&token, 0, before_1970(1001), None);
    check_time(&token, 0, before_1970(1000), expired);
    check_time(&token, 0, before_1970(600), expired);
    let token = good().claim("nbf", raw("-1.5"));
    check_time(&token, 0, before_1970(2000), None);
    check_time(&token, 0, before_1970(2001), Some(VerifyErrorKind::NotYetValid));
}

#[test]
fn h036_a_date_lies_within_the_years_of_four_digits() {
    for json in each(r#"[253402300799, 253402300799.9, 2.53402300799e11, 9007199254740993e-6]"#) {
        accept_claim("exp", json);
    }
    for json in each(r#"[0, -0, -0.0e9, -1, -377705116800, 1e-999, 0e999999999999999999999]"#) {
        refuse_claim("exp", json, VerifyErrorKind::Expired);
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
            refuse_claim(claim, json, VerifyErrorKind::InvalidClaim);
        }
    }
    refuse_claim("exp", &"9".repeat(10_000), VerifyErrorKind::InvalidClaim);
    accept_claim("exp", &format!("{}e-9990", "9".repeat(10_000)));
}

#[test]
fn h036_what_is_no_json_number_is_malformed() {
    let (header, payload) = (good().header_json(), good().payload_json());
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
        refuse_texts(text, &header, &faulty, VerifyErrorKind::Malformed);
    }
}

#[test]
fn h069_a_clock_may_show_any_time() {
    let far_future =
        (0..63).rev().find_map(|n| UNIX_EPOCH.checked_add(Duration::from_secs(1 << n)));
    let far_past = (0..63).rev().find_map(|n| UNIX_EPOCH.checked_sub(Duration::from_secs(1 << n)));
    let (far_future, far_past) = (far_future.unwrap(), far_past.unwrap());
    let expired = Some(VerifyErrorKind::Expired);
    let latest = good().claim("exp", 253_402_300_799_i64);
    for leeway in [0, 300, u64::MAX] {
        check_time(&latest, leeway, now(), None);
        check_time(&latest, leeway, far_future, expired);
        check_time(&good(), leeway, far_past, None);
        let early = good().claim("nbf", NOW);
        check_time(&early, leeway, far_past, Some(VerifyErrorKind::NotYetValid));
        let earliest = good().claim("exp", -377_705_116_800_i64).claim("nbf", -377_705_116_800_i64);
        check_time(&earliest, leeway, far_future, expired);
    }
    // Set back before 1970, a clock must not bring an expired token to life beyond its leeway.
    let expired_in_1969 = good().claim("exp", -10);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(11), None);
    check_time(&expired_in_1969, 0, UNIX_EPOCH - Duration::from_secs(10), expired);
    check_time(&expired_in_1969, 0, UNIX_EPOCH, expired);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(6), None);
    check_time(&expired_in_1969, 5, UNIX_EPOCH - Duration::from_secs(5), expired);
}

// Audience, binding, groups, and the application's check

#[test]
fn an_audience_is_asked_for_where_it_is_set() {
    let asking = rules().with_audience("api");
    for json in each(r#"["api", ["api"], ["other","api"], "\u0061pi"]"#) {
        let token = good().claim("aud", raw(json)).sign();
        assert_eq!(judge_under(&asking, &token, now()), Ok(()), "{json}");
    }
    for json in each(
        r#"[
            "other", "API", "api ", "apis", "ap", "", [], ["other"], ["api "], "api other"
        ]"#,
    ) {
        let token = good().claim("aud", raw(json)).sign();
        let verdict = judge_under(&asking, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::WrongAudience), "{json}");
    }
    let absent = good().without_claim("aud").sign();
    assert_eq!(judge_under(&asking, &absent, now()), Err(VerifyErrorKind::WrongAudience));
    for json in each(r#"[null, 1, {"aud":"api"}, ["api",1]]"#) {
        let token = good().claim("aud", raw(json)).sign();
        let verdict = judge_under(&asking, &token, now());
        assert_eq!(verdict, Err(VerifyErrorKind::InvalidClaim), "{json}");
    }
}

#[test]
fn an_audience_is_not_looked_at_where_none_is_set() {
    accept("absent", &good().without_claim("aud").sign());
    for json in each(r#"["other", ["a","b"], [], ""]"#) {
        accept_claim("aud", json);
    }
}

#[test]
fn h047_a_sender_constrained_token_is_refused() {
    for json in each(
        r#"[
            {"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, {"x5t#S256":"AAAA"}, {}, null,
            false, 0, "", [], "\ud800"
        ]"#,
    ) {
        refuse_claim("cnf", json, VerifyErrorKind::SenderConstrained);
    }
    let faulty = with_member(&good().payload_json(), r#""\u0063nf":{"jkt":"a"}"#);
    let header = good().header_json();
    refuse_texts("escaped", &header, &faulty, VerifyErrorKind::SenderConstrained);
    accept_claim("custom", r#"{"cnf":{}}"#);
}

#[test]
fn one_of_the_groups_is_enough() {
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
        let token = good().claim("cognito:groups", raw(json)).sign();
        accept(json, &token);
        let expected = if accepted { Ok(()) } else { Err(VerifyErrorKind::Forbidden) };
        assert_eq!(judge_under(&asking, &token, now()), expected, "{json}");
    }
    let absent = good().sign();
    assert_eq!(judge_under(&asking, &absent, now()), Err(VerifyErrorKind::Forbidden));
    let wrong_type = good().claim("cognito:groups", "admin").sign();
    assert_eq!(judge_under(&asking, &wrong_type, now()), Err(VerifyErrorKind::InvalidClaim));
}

#[test]
#[should_panic(expected = "the list of groups is empty")]
fn an_empty_list_of_groups_panics() {
    let _ = rules().with_groups([""; 0]);
}

#[test]
fn the_applications_check_has_the_last_word() {
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
        let token = good().sign();
        accept(name, &token);
        assert_eq!(judge_under(&rules, &token, now()), expected, "{name}");
    }
}

#[test]
fn the_applications_check_sees_good_tokens_alone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let rules = rules().with_audience("api").with_groups(["staff"]).with_check(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Err(CheckError::Revoked)
    });
    let good = good().claim("aud", "api").claim("cognito:groups", ["staff"]);
    for count in 1..=3 {
        let verdict = judge_under(&rules, &good.sign(), now());
        assert_eq!(verdict, Err(VerifyErrorKind::Revoked));
        assert_eq!(calls.load(Ordering::Relaxed), count, "it is asked every time");
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
        assert_eq!(judge_under(&rules, &token, now()), Err(kind));
        assert_eq!(calls.load(Ordering::Relaxed), 3, "{kind:?}");
    }
}

// Readings

#[test]
fn a_machine_token_is_read() {
    let text = good().scope("activity/* item/read").claim("jti", "some-jti").sign();
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
fn a_user_token_is_read() {
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
fn what_is_absent_reads_as_nothing() {
    let token = accept("bare", &good().without_claim("scope").without_claim("jti").sign());
    assert_eq!(token.scopes().iter().count(), 0);
    assert_eq!(token.jwt_id(), None);
    assert_eq!(token.username(), None);
    assert_eq!(token.groups().count(), 0);
}

#[test]
fn escapes_are_read_in_every_text() {
    let token = good()
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
fn all_claims_can_be_read_as_another_type() {
    let token = accept("custom", &good().claim("tenant", "blue").escaped_slashes().sign());
    let claims: BTreeMap<String, serde_json::Value> = token.deserialize_claims().unwrap();
    assert_eq!(claims["tenant"], "blue");
    assert_eq!(claims["scope"], "activity/*");
    assert_eq!(claims["version"], 2);
    assert_eq!(claims["exp"], NOW + HOUR);
    let error = token.deserialize_claims::<BTreeMap<String, u8>>().unwrap_err();
    assert!(error.to_string().starts_with("the claims do not have the expected shape, line 1 "));
    // Claims are about people: no value of theirs gets into a log by way of an error.
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    for shown in [Some(error.to_string()), Some(format!("{error:?}")), cause].iter().flatten() {
        assert!(!shown.contains(CLIENT) && !shown.contains("blue"), "{shown}");
    }
}

#[test]
fn h091_debug_shows_no_part_of_the_token() {
    let text = good().claim("email", "ada@example.com").claim("jti", "some-jti").sign();
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
fn jsonwebtoken_agrees_about_a_good_token() {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

    if !has_second_opinion() {
        return;
    }
    let keys: JwkSet = serde_json::from_str(&issuer().jwks_json()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[issuer().issuer()]);
    // It compares with the clock of the system, and this token belongs to another time.
    validation.validate_exp = false;
    for (name, token) in [("plain", good()), ("escaped", good().escaped_slashes())] {
        let text = token.sign();
        let header = jsonwebtoken::decode_header(&text).unwrap();
        let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let theirs = decode::<BTreeMap<String, serde_json::Value>>(&text, &key, &validation);
        let ours = accept(name, &text).deserialize_claims().unwrap();
        assert_eq!(theirs.unwrap().claims, ours, "{name}");
    }
}
