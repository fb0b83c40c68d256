//! Changes a valid token: sets, repeats and removes members of header and payload, with values of
//! every type and spelling. tower-cognito and the reference must return the same verdict.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_cognito_fuzz::base64url;
use tower_cognito_fuzz::choices::Choices;
use tower_cognito_fuzz::token::Check;

static CHECK: LazyLock<Check> = LazyLock::new(Check::default);

const HEADER: [(&str, &str); 2] = [("kid", r#""k1""#), ("alg", r#""RS256""#)];
const PAYLOAD: [(&str, &str); 6] = [
    ("sub", r#""s""#),
    ("token_use", r#""access""#),
    ("iss", r#""https://issuer.example/pool""#),
    ("exp", "1700000001"),
    ("client_id", r#""client-1""#),
    ("scope", r#""a/read a/*""#),
];

const NAMES: [&str; 33] = [
    "kid",
    "alg",
    "typ",
    "crit",
    "b64",
    "zip",
    "enc",
    "jku",
    "x5u",
    "jwk",
    "x5c",
    "cty",
    "sub",
    "token_use",
    "iss",
    "exp",
    "client_id",
    "scope",
    "iat",
    "nbf",
    "aud",
    "cnf",
    "username",
    "cognito:groups",
    "jti",
    "act",
    "version",
    "auth_time",
    "x",
    "",
    "Exp",
    "exp ",
    "\u{f6}",
];

const VALUES: [&str; 50] = [
    r#"{"sub":"s"}"#,
    r#"{"sub":""}"#,
    r#""k1""#,
    r#""k2""#,
    r#""k3""#,
    r#""RS256""#,
    r#""RS384""#,
    r#""none""#,
    r#""JWT""#,
    r#""Application/AT+jwt""#,
    r#""dpop+jwt""#,
    r#""access""#,
    r#""id""#,
    r#""https://issuer.example/pool""#,
    r#""https:\/\/other.example\/pool""#,
    r#""https://issuer.example/pool/""#,
    r#""client-1""#,
    r#""client-2""#,
    r#""client-3""#,
    r#""api""#,
    r#"["api"]"#,
    r#"["x","api"]"#,
    r#"["api",1]"#,
    r#"["admins"]"#,
    r#"["users","editors"]"#,
    r#""admins""#,
    "[]",
    "[null]",
    "{}",
    r#"{"a":1,"a":2}"#,
    r#"{"\ud800":1}"#,
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1700000000",
    "1700000001",
    "1699999999",
    "1699999700",
    "1.7e9",
    "17000000000000e-4",
    "1700000000.5",
    "253402300799",
    "253402300800",
    "-377705116801",
    "1e999",
    r#""1700000001""#,
    r#""\ud83d\ude00\\\" \u0000""#,
    r#""\udc00""#,
];

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let mut parts = [HEADER.as_slice(), PAYLOAD.as_slice()].map(|members| {
        let owned = |(name, value): &(&str, &str)| (quoted(name), (*value).to_owned());
        members.iter().map(owned).collect::<Vec<_>>()
    });
    let mut frames = [("{", "}"), ("{", "}")];
    while !choices.is_over() {
        let part = choices.below(2);
        let members = &mut parts[part];
        match choices.below(8) {
            0 | 1 => members.push((name(&mut choices), value(&mut choices))),
            2..=4 => {
                let place = choices.below(members.len().max(1));
                let value = value(&mut choices);
                if let Some(member) = members.get_mut(place) {
                    member.1 = value;
                }
            }
            5 => {
                let place = choices.below(members.len().max(1));
                let value = value(&mut choices);
                let name = name(&mut choices);
                members.insert(place, (name, value));
            }
            6 => {
                let place = choices.below(members.len().max(1));
                if place < members.len() {
                    members.remove(place);
                }
            }
            _ => {
                let all = [
                    ("{", "}"),
                    (" {\t", "\r}\n "),
                    ("[{", "}]"),
                    ("\u{feff}{", "}"),
                    ("{", "}{}"),
                    ("{", ",}"),
                    ("", ""),
                ];
                frames[part] = choices.of(&all);
            }
        }
    }
    let parts = [0, 1].map(|part| {
        let members = parts[part].iter().map(|(name, value)| format!("{name}:{value}"));
        let (begin, end) = frames[part];
        let json = format!("{begin}{}{end}", members.collect::<Vec<_>>().join(","));
        base64url::encode(json.as_bytes())
    });
    CHECK.token(&format!("{}.{}.c2ln", parts[0], parts[1]));
});

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn name(choices: &mut Choices<'_>) -> String {
    let name = choices.of(&NAMES);
    let escaped = choices.below(8);
    let character = |(place, character): (usize, char)| match (place == escaped, character) {
        (true, 'a'..='m') => format!("\\u{:04x}", u32::from(character)),
        (true, 'n'..='z') => format!("\\u{:04X}", u32::from(character)),
        _ => character.to_string(),
    };
    quoted(&name.chars().enumerate().map(character).collect::<String>())
}

fn value(choices: &mut Choices<'_>) -> String {
    match choices.below(16) {
        0..=9 => choices.of(&VALUES).to_owned(),
        10 | 11 => {
            // A text that may or may not be a number.
            let length = choices.below(24);
            (0..length)
                .map(|_| choices.of(b"0123456789017000000000.eE+-"))
                .map(char::from)
                .collect()
        }
        12 | 13 => {
            let length = choices.below(16);
            let pieces = [
                "a", " ", "a/read", r"\/", r"\\", r"\ud83d", r"\ude00", r"\u002f", r"\u0041", "\t",
                "k1", "[", "{", "\u{20ac}", r#"\""#, r"\x",
            ];
            quoted(&(0..length).map(|_| choices.of(&pieces)).collect::<String>())
        }
        14 => {
            let depth = choices.of(&[1, 2, 31, 32, 33, 34, 127, 128, 129, 1_000]);
            let (open, close) = choices.of(&[("[", "]"), (r#"{"a":"#, "}"), (r#"[""],["#, "]")]);
            let inside = if open.ends_with(':') { "0" } else { "" };
            format!("{}{inside}{}", open.repeat(depth), close.repeat(depth))
        }
        _ if choices.below(8) > 0 => quoted("x"),
        _ => {
            // A length near the maximum, or shorter.
            let length = 256 * choices.of(&[47, 46, 45, 7, 5, 3, 1]) + usize::from(choices.byte());
            quoted(&"a".repeat(length))
        }
    }
}
