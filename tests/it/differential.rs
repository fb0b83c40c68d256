//! A second opinion on each vector: jsonwebtoken, configured as strictly as possible. If its result
//! differs, [`GAPS`] has the reason.
//!
//! The test does what an application would have to do: it looks the keys up by `kid`, reads the claims
//! as a typed struct, and compares `token_use`, `client_id` and groups. jsonwebtoken uses the system
//! clock, so vectors that only the time decides are omitted.

use std::collections::BTreeMap;

use jsonwebtoken::jwk::{JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::support::has_second_opinion;
use super::vectors::{PoolRules, Vector, vectors};

#[derive(Deserialize)]
#[expect(dead_code, reason = "reading a claim of another type is an error")]
struct Claims {
    token_use: String,
    client_id: String,
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    scope: Option<String>,
    username: Option<String>,
    #[serde(rename = "cognito:groups")]
    groups: Option<Vec<String>>,
    jti: Option<String>,
}

fn accepts(vector: &Vector) -> bool {
    let mut pools = vector.rules.iter().zip(&vector.documents);
    pools.any(|(rules, keys)| is_valid(&vector.token, keys, rules).is_some())
}

fn is_valid(token: &str, keys: &str, rules: &PoolRules) -> Option<()> {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&rules.issuers());
    validation.set_required_spec_claims(&["exp", "iss", "sub"]);
    match &rules.audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        None => validation.validate_aud = false,
    }
    // Only the type of `nbf`: the type of `exp` is checked because it is required.
    validation.validate_nbf = true;
    validation.leeway = u64::MAX / 2;
    validation.validate_exp = false;

    let keys: JwkSet = serde_json::from_str(keys).ok()?;
    let header = decode_header(token).ok()?;
    let key = keys.find(&header.kid?)?;
    let is_for_rs256 = matches!(key.common.key_algorithm, None | Some(KeyAlgorithm::RS256));
    let is_for_signatures =
        matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !is_for_rs256 || !is_for_signatures {
        return None;
    }
    let key = DecodingKey::from_jwk(key).ok()?;
    let claims = decode::<Claims>(token, &key, &validation).ok()?.claims;
    let is_client = |clients: &Vec<String>| clients.contains(&claims.client_id);
    let groups = claims.groups.as_deref().unwrap_or_default();
    let is_member = |wanted: &Vec<String>| groups.iter().any(|group| wanted.contains(group));
    let is_enough = claims.token_use == "access"
        && rules.clients.as_ref().is_none_or(is_client)
        && rules.groups.as_ref().is_none_or(is_member);
    is_enough.then_some(())
}

#[derive(Clone, Copy, Debug)]
enum Gap {
    Laxer,
    Stricter,
}

/// The differences by category, with their reasons. A difference that is gone must be removed here.
const GAPS: &[(&str, Gap, &str, &[&str])] = &[
    (
        "cognito shapes",
        Gap::Laxer,
        "as in the categories below",
        &[
            "16385 bytes",
            "duplicate claim that is not read, by escape",
            "lone surrogate in an unread claim",
            "unread claim nested 40 deep",
            "invalid UTF-8 in an unread claim",
            "zip present",
            "enc present",
            "typ dpop+jwt",
            "issuer in an array",
            "cnf",
            "cnf null",
            "aud a number",
        ],
    ),
    (
        "cognito shapes",
        Gap::Stricter,
        "`x5t` must be a string",
        &["header members that are never read"],
    ),
    (
        "binding",
        Gap::Laxer,
        "`cnf` is an application's business",
        &[
            r#"cnf {"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#,
            r#"cnf {"x5t#S256":"AAAA"}"#,
            r#"cnf {"jwk":{}}"#,
            "cnf {}",
            "cnf null",
            "cnf false",
            "cnf 0",
            r#"cnf """#,
            "cnf []",
            r#"cnf "\ud800""#,
            "cnf with an escape in its name",
        ],
    ),
    (
        "claim types",
        Gap::Laxer,
        "`null` counts as absent",
        &["scope null", "username null", "jti null", "iat null", "cognito:groups null"],
    ),
    (
        "claim types",
        Gap::Laxer,
        "`aud` is read only where an audience is set",
        &[
            "aud null",
            "aud 1",
            "aud true",
            r#"aud {"0":"a"}"#,
            "aud [1]",
            r#"aud ["a",null]"#,
            r#"aud ["a",["b"]]"#,
            "aud [{}]",
        ],
    ),
    ("claim types", Gap::Laxer, "`sub` may be empty", &[r#"sub """#]),
    (
        "claim types",
        Gap::Laxer,
        "`act` is not read",
        &[
            "act null",
            "act 1",
            "act true",
            r#"act "s""#,
            "act []",
            r#"act [{"sub":"s"}]"#,
            r#"act {"sub":1}"#,
            r#"act {"sub":null}"#,
            r#"act {"sub":""}"#,
            r#"act {"sub":["s"]}"#,
            r#"act {"sub":"s","sub":"s"}"#,
            r#"act {"sub":"s","\u0073ub":"t"}"#,
            r#"act {"x":1,"x":1}"#,
            r#"act {"x":"\ud800"}"#,
        ],
    ),
    ("audience", Gap::Stricter, "the slash of an empty path counts", &["\"https://api.example/\""]),
    ("claim types", Gap::Stricter, "a date before 1970 is no number to it", &["nbf -1"]),
    (
        "dates",
        Gap::Laxer,
        "a date may lie in any year",
        &[
            "exp 253402300800",
            "nbf 253402300800",
            "iat 253402300800",
            "iat 18446744073709551616",
            "iat -377705116801",
            "iat -377705116800.1",
            "iat -1e300",
        ],
    ),
    (
        "dates",
        Gap::Stricter,
        "a date before 1970 is no number to it",
        &["nbf -377705116800", "nbf -0.1"],
    ),
    (
        "depth",
        Gap::Laxer,
        "nesting of unread members is not limited",
        &[
            "arrays 33 deep",
            "arrays 128 deep",
            "arrays 1000 deep",
            "header: arrays 33 deep",
            "objects 33 deep",
            "objects 128 deep",
            "objects 1000 deep",
            "header: objects 33 deep",
            "arrays 5000 deep",
            "16 arrays around 17 objects",
            "act 33 deep",
        ],
    ),
    ("depth", Gap::Laxer, "`cnf` is an application's business", &["cnf 200 deep"]),
    (
        "duplicates",
        Gap::Laxer,
        "duplicate names of unread members are accepted",
        &[
            "cnf twice",
            "cnf twice, once with an escape",
            "x twice",
            "x twice, once with an escape",
            "an unread name twice with escapes in both",
            "the ninth unread name twice",
            "the first unread name after twenty",
            "an escaped name and then its plain form after twenty",
            "an empty name twice",
            "a name with a slash, escaped and plain",
            "a name beyond ASCII, escaped and plain",
            "header: an unread name twice",
            "header: an unread name with an escape twice",
        ],
    ),
    (
        "escapes",
        Gap::Laxer,
        "surrogates in unread members are not checked",
        &[
            "a lone surrogate, unread: a high one",
            "a lone surrogate, unread: the last high one",
            "a lone surrogate, unread: a low one",
            "a lone surrogate, unread: the last low one",
            "a lone surrogate, unread: two high ones",
            "a lone surrogate, unread: a pair the wrong way round",
            "a lone surrogate, unread: a high one and a letter",
            "a lone surrogate, unread: a high one and an escape",
            r#"a lone surrogate, unread: a high one and \u0041"#,
            "a lone surrogate, unread: after a backslash",
            "a lone surrogate, unread: after a pair",
            "a lone surrogate, unread: before a backslash",
            "a lone surrogate, unread: before a slash",
            "a lone surrogate in an array",
            "a lone surrogate in an object",
            "a lone surrogate in a name further down",
        ],
    ),
    (
        "escapes",
        Gap::Laxer,
        "`aud` is read only where an audience is set",
        &["a lone surrogate in aud"],
    ),
    (
        "header",
        Gap::Laxer,
        "`typ` is an application's business",
        &[
            r#"typ "dpop+jwt""#,
            r#"typ "evil""#,
            r#"typ """#,
            r#"typ "JWT ""#,
            r#"typ " JWT""#,
            r#"typ "JW""#,
            r#"typ "at+jwt; charset=utf-8""#,
            r#"typ "application/application/jwt""#,
            r#"typ "jwt/application""#,
            r#"typ "JWT\u0000""#,
            r#"typ "ＪWT""#,
            "typ null",
        ],
    ),
    (
        "header",
        Gap::Laxer,
        "`crit` that is `null` counts as absent, and `b64` may be `true`",
        &["crit null", "b64 true"],
    ),
    (
        "header",
        Gap::Laxer,
        "`zip` and `enc` are not checked",
        &[r#"zip "DEF""#, r#"zip "GZ""#, "zip null", r#"enc "A256GCM""#, r#"enc """#, "enc null"],
    ),
    ("issuer", Gap::Laxer, "one of several issuers in an array is enough", &["an array"]),
    ("key sets", Gap::Laxer, "`key_ops` is not checked", &["only to sign"]),
    ("key sets", Gap::Laxer, "private parts are not seen", &["with a private part"]),
    (
        "key sets",
        Gap::Laxer,
        "the first of two keys under one kid is taken",
        &["one kid for two keys", "one kid for RSA and oct", "one kid for RSA and EC"],
    ),
    ("key sets", Gap::Laxer, "a `kid` may be empty or long", &["kid empty"]),
    ("kid", Gap::Laxer, "a `kid` may be empty or long", &["of 257 bytes, in the set"]),
    ("order", Gap::Laxer, "`cnf` is an application's business", &["only SenderConstrained"]),
    (
        "payload",
        Gap::Laxer,
        "UTF-8 of unread members is not checked",
        &[
            "invalid UTF-8",
            "a surrogate in UTF-8",
            "a pair of surrogates in UTF-8",
            "UTF-8 too long",
            "UTF-8 beyond Unicode",
            "a UTF-8 letter cut off",
        ],
    ),
    ("scope", Gap::Laxer, "`null` counts as absent", &["new activity/*: null"]),
    ("size", Gap::Laxer, "a token may be of any length", &["16385 characters", "65536 characters"]),
];

#[test]
fn jsonwebtoken_differs_only_in_the_listed_cases() {
    if !has_second_opinion() {
        return;
    }
    let mut expected = BTreeMap::new();
    for (category, gap, why, names) in GAPS {
        for name in *names {
            let twice = expected.insert((*category, *name), (*gap, *why));
            assert!(twice.is_none(), "{category}: {name}");
        }
    }
    let mut wrong = Vec::new();
    for vector in vectors() {
        if matches!(vector.reason, Some("Expired" | "NotYetValid")) {
            continue;
        }
        let gap = expected.remove(&(vector.category, vector.name));
        let (theirs, ours) = (accepts(vector), vector.reason.is_none());
        let is_stated = match gap {
            None => theirs == ours,
            Some((Gap::Laxer, _)) => theirs && !ours,
            Some((Gap::Stricter, _)) => ours && !theirs,
        };
        if !is_stated {
            let (category, name) = (vector.category, vector.name);
            let reason = vector.reason.unwrap_or("Ok");
            let theirs = if theirs { "accepts" } else { "rejects" };
            wrong.push(format!("{category}: {name}: {reason}, and it {theirs}, said: {gap:?}"));
        }
    }
    wrong.extend(expected.keys().map(|name| format!("{name:?} is no vector that is compared")));
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
