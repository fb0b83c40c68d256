//! The cost of hostile shapes at the maximum size, and how it grows up to that size, counted in
//! allocations and bytes. A number in a name is that of the hostile input.

use std::future::Future;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tower::{Layer, Service};
use tower_cognito::layer::{RequireScopeService, RequireTokenService};
use tower_cognito::{Jwks, RequireScope, RequireToken, Verifier, VerifyErrorKind, verify};

use super::support::{Plain, issuer, machine, now, request, rules};

const KIB: usize = 1024;
/// The maximum length of a token, and shorter lengths.
const TOKEN_LENGTHS: [usize; 3] = [4 * KIB, 8 * KIB, 16 * KIB];
const SET_LENGTHS: [usize; 3] = [15 * KIB, 30 * KIB, 60 * KIB];

/// Allocations. The limits are those of [`verify`] for a token of 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    allocations: u64,
    bytes: u64,
}

const NOTHING: Cost = Cost { allocations: 0, bytes: 0 };
/// serde_json's stack of brackets, or a text without its escapes, which grow by doubling.
const NESTED: Cost = Cost { allocations: 24, bytes: 48 * KIB as u64 };
/// Only the payload and a little more is kept.
const KEPT: Cost = Cost { allocations: 4, bytes: 16 * KIB as u64 };
/// Each name is stored until the whole object was read.
const NAMES: Cost = Cost { allocations: 1_600, bytes: 144 * KIB as u64 };
/// Each element is a separate text.
const LIST: Cost = Cost { allocations: 4_000, bytes: 320 * KIB as u64 };
/// Additional cost of a response.
const RESPONSE: Cost = Cost { allocations: 20, bytes: 2 * KIB as u64 };

/// Returns the minimum of several runs: if another test has enabled the log, its buffers grow sometimes.
fn cost_of(mut verify: impl FnMut()) -> Cost {
    let count = |_| {
        let counted = measure(&mut verify);
        Cost { allocations: counted.count_total, bytes: counted.bytes_total }
    };
    (0..4).map(count).min().unwrap()
}

/// Checks that four times the length costs about four times as much. It may be up to eight times as
/// much, because buffers grow by doubling; a quadratic cost would be sixteen times as much.
#[track_caller]
fn check(name: &str, costs: [Cost; 3], limit: Cost) {
    let [short, _, long] = costs;
    assert!(long.allocations <= limit.allocations, "{name}: {costs:?}");
    assert!(long.bytes <= limit.bytes, "{name}: {costs:?}");
    assert!(long.allocations <= 8 * short.allocations, "{name}: {costs:?}");
    assert!(long.bytes <= 8 * short.bytes, "{name}: {costs:?}");
}

/// The plain function and the layers.
#[track_caller]
fn check_tokens(
    name: &str,
    verdict: Result<(), VerifyErrorKind>,
    limit: Cost,
    token: impl Fn(usize) -> String,
) {
    let tokens = TOKEN_LENGTHS.map(token);
    let plain = tokens.each_ref().map(|token| {
        let (keys, rules) = (issuer().jwks(), rules());
        let mut seen = None;
        let cost = cost_of(|| {
            let result = verify(token, &keys, &rules, now());
            seen = Some(result.map(drop).map_err(|error| error.kind()));
        });
        assert_eq!(seen, Some(verdict), "{name}, {} bytes", token.len());
        cost
    });
    check(name, plain, limit);
    let status = if verdict.is_ok() { 200 } else { 401 };
    let layers = tokens.map(|token| cost_by_the_layers(name, &format!("Bearer {token}"), status));
    let limit = Cost {
        allocations: limit.allocations + RESPONSE.allocations,
        bytes: limit.bytes + RESPONSE.bytes,
    };
    check(&format!("{name}, by the layers"), layers, limit);
}

#[track_caller]
fn cost_by_the_layers(name: &str, authorization: &str, status: u16) -> Cost {
    let mut app = app();
    let mut requests = vec![request(Some(authorization)); 4];
    let mut seen = 0;
    let cost = cost_of(|| {
        let request = requests.pop().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(response) = pin!(app.call(request)).poll(&mut context) else {
            panic!("{name}: the layer waits");
        };
        seen = response.unwrap().status().as_u16();
    });
    assert_eq!(seen, status, "{name}");
    cost
}

/// Caches no token, so that each one is verified in full.
fn app() -> RequireTokenService<RequireScopeService<Plain>> {
    static LAYER: LazyLock<RequireToken> = LazyLock::new(|| {
        let builder = Verifier::builder(rules()).clock(now).token_cache_bytes(0);
        RequireToken::new(builder.build_with_jwks(issuer().jwks()).unwrap())
    });
    LAYER.layer(RequireScope::new("last").layer(Plain))
}

/// Members of an object: a beginning, as many units as there is room for, each told its number,
/// and an end, which is told how many they are.
#[derive(Clone, Copy)]
struct Filling {
    begin: &'static str,
    unit: fn(usize) -> String,
    end: fn(usize) -> String,
}

const ARRAYS: Filling =
    Filling { begin: r#""x":"#, unit: |_| "[".to_owned(), end: |count| "]".repeat(count) };
const OPEN_ARRAYS: Filling = Filling { end: |_| String::new(), ..ARRAYS };
const OBJECTS: Filling = Filling {
    begin: r#""x":"#,
    unit: |_| r#"{"a":"#.to_owned(),
    end: |count| format!("1{}", "}".repeat(count)),
};
const OPEN_OBJECTS: Filling = Filling { end: |_| String::new(), ..OBJECTS };
const MEMBERS: Filling = Filling {
    begin: "",
    unit: |number| format!(r#""_{}":0,"#, number_in_letters(number)),
    end: |_| r#""":0"#.to_owned(),
};
const ESCAPED_MEMBERS: Filling =
    Filling { unit: |number| format!(r#""_{}\n":0,"#, number_in_letters(number)), ..MEMBERS };
/// Whose names are one to a polynomial hash of base 31.
const COLLIDING_MEMBERS: Filling = Filling {
    unit: |number| {
        let pair = |bit: usize| if number >> bit & 1 == 1 { "Aa" } else { "BB" };
        format!(r#""{}":0,"#, (0..12).map(pair).collect::<String>())
    },
    ..MEMBERS
};
const DIGITS: Filling =
    Filling { begin: r#""x":"#, unit: |_| "9".to_owned(), end: |_| String::new() };
const ESCAPES: Filling =
    Filling { begin: r#""x":""#, unit: |_| r"\u0061".to_owned(), end: |_| "\"".to_owned() };
const SLASHES: Filling = Filling { unit: |_| r"\/".to_owned(), ..ESCAPES };
const SURROGATES: Filling = Filling { unit: |_| r"\ud83d\ude00".to_owned(), ..ESCAPES };
const ESCAPED_NAME: Filling = Filling { begin: "\"", end: |_| "\":0".to_owned(), ..ESCAPES };

fn number_in_letters(mut number: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

    let mut text = String::new();
    loop {
        text.push(char::from(LETTERS[number % LETTERS.len()]));
        number /= LETTERS.len();
        if number == 0 {
            return text;
        }
    }
}

impl Filling {
    fn text(self, length: usize) -> String {
        let mut text = self.begin.to_owned();
        for number in 0.. {
            let unit = (self.unit)(number);
            if text.len() + unit.len() + (self.end)(number + 1).len() > length {
                return text + &(self.end)(number);
            }
            text += &unit;
        }
        unreachable!("there is room for finitely many")
    }

    fn within(self, object: &str, length: usize) -> String {
        object.replacen('{', &format!("{{{},", self.text(length)), 1)
    }

    /// Returns a token of at most this length whose header has the filling, and which is valid otherwise.
    fn in_header(self, length: usize) -> String {
        let token = machine("last").issued_at(now());
        let room = room(length, &token.header_json(), &token.payload_json());
        token.sign_texts(&self.within(&token.header_json(), room), &token.payload_json())
    }

    /// Returns a token of at most this length whose payload has the filling, and which is valid otherwise.
    fn in_payload(self, length: usize) -> String {
        let mut token = machine("last").issued_at(now());
        if self.begin.starts_with(r#""scope""#) {
            token = token.without_claim("scope");
        }
        let room = room(length, &token.header_json(), &token.payload_json());
        token.sign_texts(&token.header_json(), &self.within(&token.payload_json(), room))
    }
}

/// Returns how many bytes of JSON may be added.
fn room(length: usize, header: &str, payload: &str) -> usize {
    let signature = 343;
    (length - signature) / 4 * 3 - header.len() - payload.len() - 6
}

/// Returns the same token with a forged signature.
fn forged(token: &str) -> String {
    let (signed, _) = token.rsplit_once('.').unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode([1; 256]))
}

const MALFORMED: Result<(), VerifyErrorKind> = Err(VerifyErrorKind::Malformed);
const FORGED: Result<(), VerifyErrorKind> = Err(VerifyErrorKind::BadSignature);

#[test]
fn fillings_have_the_requested_length() {
    for length in TOKEN_LENGTHS {
        for token in [MEMBERS, ARRAYS, ESCAPES].map(|filling| filling.in_payload(length)) {
            assert!((length - 64..=length).contains(&token.len()), "{} of {length}", token.len());
        }
        let token = DIGITS.in_header(length);
        assert!((length - 64..=length).contains(&token.len()), "{} of {length}", token.len());
    }
}

#[test]
fn h012_text_of_any_length_that_is_not_a_jws_allocates_nothing() {
    check_tokens("dots", MALFORMED, NOTHING, |length| ".".repeat(length));
    check_tokens("letters", MALFORMED, NOTHING, |length| "a".repeat(length));
    check_tokens("empty parts", MALFORMED, NOTHING, |length| {
        format!("{}..", "a".repeat(length - 2))
    });
    check_tokens("commas", MALFORMED, NOTHING, |length| ",Bearer a.b.c".repeat(length / 13));
    let good = machine("last").issued_at(now()).sign();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let left = |length: usize| length - signed.len() - 1;
    check_tokens("a long signature in bad base64", MALFORMED, NOTHING, |length| {
        format!("{signed}.{}", "a".repeat(left(length) / 4 * 4 + 1))
    });
    check_tokens("a long signature", FORGED, NOTHING, |length| {
        format!("{signed}.{}", "A".repeat(left(length) / 4 * 4))
    });
}

#[test]
fn h012_long_authorization_header_allocates_as_much_as_a_short_one() {
    for (name, unit, status) in [
        ("spaces", " ", 400),
        ("spaces and a token", " ", 401),
        ("tabs", "\t", 400),
        ("words", "a ", 401),
        ("non-ASCII", "\u{e9}", 400),
    ] {
        let value = |length: usize| {
            let filling = unit.repeat(length / unit.len());
            let end = if name.ends_with("token") { "x" } else { "" };
            format!("Bearer {filling}{end}")
        };
        let costs =
            [40, 4 * KIB, 16 * KIB].map(|length| cost_by_the_layers(name, &value(length), status));
        assert_eq!(costs, [costs[0]; 3], "{name}");
        assert!(costs[0] <= RESPONSE, "{name}: {costs:?}");
    }
}

#[test]
fn h046_cost_of_nesting_is_linear() {
    for (name, filling) in [
        ("arrays", ARRAYS),
        ("open arrays", OPEN_ARRAYS),
        ("objects", OBJECTS),
        ("open objects", OPEN_OBJECTS),
    ] {
        check_tokens(&format!("{name} in the header"), MALFORMED, NESTED, |length| {
            filling.in_header(length)
        });
        check_tokens(&format!("{name} in the payload"), MALFORMED, NESTED, |length| {
            filling.in_payload(length)
        });
        // In the place of a claim that is read.
        let begin = r#""username":"#;
        let filling = Filling { begin, ..filling };
        check_tokens(
            &format!("{name} for a claim"),
            if name.starts_with("open") { MALFORMED } else { Err(VerifyErrorKind::InvalidClaim) },
            NESTED,
            |length| filling.in_payload(length),
        );
    }
}

#[test]
fn h046_cost_of_members_is_linear() {
    for (name, filling) in [
        ("members", MEMBERS),
        ("escaped members", ESCAPED_MEMBERS),
        ("colliding members", COLLIDING_MEMBERS),
    ] {
        check_tokens(name, Ok(()), NAMES, |length| filling.in_payload(length));
        check_tokens(&format!("{name}, forged"), FORGED, NAMES, |length| {
            forged(&filling.in_payload(length))
        });
        check_tokens(&format!("{name} in the header, forged"), FORGED, NAMES, |length| {
            forged(&filling.in_header(length))
        });
    }
}

#[test]
fn h046_numbers_cost_only_their_text() {
    // The number of nines does not change the date.
    let end = |count: usize| format!("e-{}", count.saturating_sub(9));
    for (name, filling) in [
        ("digits", DIGITS),
        ("a fraction", Filling { begin: r#""x":0."#, ..DIGITS }),
        ("an exponent", Filling { begin: r#""x":1e"#, ..DIGITS }),
        ("a date", Filling { begin: r#""nbf":"#, end, ..DIGITS }),
        ("a date with a fraction", Filling { begin: r#""nbf":1."#, ..DIGITS }),
        ("a date of zeros", Filling { begin: r#""nbf":1e-"#, ..DIGITS }),
    ] {
        check_tokens(name, Ok(()), KEPT, |length| filling.in_payload(length));
        check_tokens(&format!("{name}, forged"), FORGED, NOTHING, |length| {
            forged(&filling.in_payload(length))
        });
        check_tokens(&format!("{name} in the header, forged"), FORGED, NOTHING, |length| {
            forged(&filling.in_header(length))
        });
    }
}

#[test]
fn h046_token_over_the_maximum_length_allocates_nothing() {
    let good = machine("last").issued_at(now());
    let (header, payload) = (good.header_json(), good.payload_json());
    for (name, value) in [
        ("100 000 arrays", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("a million digits", "9".repeat(1_000_000)),
        ("10 000 elements", format!("[{}0]", "0,".repeat(10_000))),
    ] {
        let with = |object: &str| object.replacen('{', &format!("{{\"x\":{value},"), 1);
        for token in
            [good.sign_texts(&with(&header), &payload), good.sign_texts(&header, &with(&payload))]
        {
            let (keys, rules) = (issuer().jwks(), rules());
            let cost = cost_of(|| {
                let error = verify(&token, &keys, &rules, now()).unwrap_err();
                assert_eq!(error.kind(), VerifyErrorKind::TooLarge, "{name}");
            });
            assert_eq!(cost, NOTHING, "{name}");
            let cost = cost_by_the_layers(name, &format!("Bearer {token}"), 401);
            assert!(cost <= RESPONSE, "{name}: {cost:?}");
        }
    }
}

#[test]
fn h046_cost_of_escapes_is_linear() {
    let text = |begin| Filling { begin, ..ESCAPES };
    for (name, filling) in [
        ("escapes", ESCAPES),
        ("slashes", SLASHES),
        ("surrogates", SURROGATES),
        ("an escaped name", ESCAPED_NAME),
        ("an escaped claim", text(r#""username":""#)),
        ("slashes in a claim", Filling { begin: r#""username":""#, ..SLASHES }),
    ] {
        check_tokens(name, Ok(()), NESTED, |length| filling.in_payload(length));
        check_tokens(&format!("{name} in the header, forged"), FORGED, NESTED, |length| {
            forged(&filling.in_header(length))
        });
    }
}

#[test]
fn h043_scopes_cost_only_their_text() {
    for (name, unit) in [
        ("spaces", (|_| " ".to_owned()) as fn(usize) -> String),
        ("one-letter scopes", |_| "a ".to_owned()),
        ("different scopes", |number| format!("{} ", number_in_letters(number))),
    ] {
        let filling = Filling { begin: r#""scope":""#, unit, end: |_| " last\"".to_owned() };
        check_tokens(name, Ok(()), KEPT, |length| filling.in_payload(length));
    }
}

#[test]
fn h044_cost_of_groups_is_linear() {
    for (name, begin) in [("groups", r#""cognito:groups":["#), ("audiences", r#""aud":["#)] {
        for (kind, unit) in [
            ("empty", (|_| r#""","#.to_owned()) as fn(usize) -> String),
            ("different", |number| format!(r#""{}","#, number_in_letters(number))),
            ("escaped", |_| r#""\n","#.to_owned()),
        ] {
            let filling = Filling { begin, unit, end: |_| r#"""]"#.to_owned() };
            check_tokens(&format!("{name}, {kind}"), Ok(()), LIST, |length| {
                filling.in_payload(length)
            });
            check_tokens(&format!("{name}, {kind}, forged"), FORGED, NOTHING, |length| {
                forged(&filling.in_payload(length))
            });
        }
    }
}

/// Where the usual set of two keys is filled: with elements of its array, members of a key, or
/// members of its own.
#[derive(Clone, Copy)]
enum Place {
    Array,
    Key,
    Set,
}

impl Place {
    fn document(self, filling: Filling, length: usize) -> String {
        let set = issuer().jwks_json();
        let text = filling.text(length - set.len() - 2);
        match self {
            Self::Array => set.replacen('[', &format!("[{text},"), 1),
            Self::Key => set.replacen("[{", &format!("[{{{text},"), 1),
            Self::Set => set.replacen('{', &format!("{{{text},"), 1),
        }
    }
}

/// The maximum cost of a set of 60 KiB, which is read once every few minutes.
const SET: Cost = Cost { allocations: 6_500, bytes: 1_100 * KIB as u64 };

/// The number of usable keys of the set, which is 0 if the whole set is rejected.
#[track_caller]
fn check_sets(name: &str, place: Place, filling: Filling, used: Option<usize>, limit: Cost) {
    let costs = SET_LENGTHS.map(|length| {
        let document = place.document(filling, length);
        assert!((length - 64..=length).contains(&document.len()), "{}", document.len());
        let mut seen = None;
        let cost =
            cost_of(|| seen = Jwks::from_json(&document).ok().map(|set| set.key_ids().count()));
        assert_eq!(seen, used, "{name}, {} bytes", document.len());
        cost
    });
    check(name, costs, limit);
}

#[test]
fn h062_cost_of_a_60_kib_set_is_linear() {
    let member = |unit, end| Filling { begin: "", unit, end };
    let zeros = member(|_| "0,".to_owned(), |_| "0".to_owned());
    check_sets("10 000 and more numbers", Place::Array, zeros, None, SET);
    let objects = member(|_| "{},".to_owned(), |_| "{}".to_owned());
    check_sets("10 000 and more objects", Place::Array, objects, None, SET);
    let arrays = member(|_| "[".to_owned(), |count| "]".repeat(count));
    check_sets("a deep array", Place::Array, arrays, Some(2), SET);
    let open = member(|_| "[".to_owned(), |_| String::new());
    check_sets("an open array", Place::Array, open, None, SET);
    let digits = member(|_| "9".to_owned(), |_| String::new());
    check_sets("a long number", Place::Array, digits, Some(2), SET);
    for (name, filling, in_key, in_set) in [
        ("arrays", ARRAYS, Some(1), None),
        ("open arrays", OPEN_ARRAYS, None, None),
        ("objects", OBJECTS, Some(1), None),
        ("members", MEMBERS, Some(2), Some(2)),
        ("escaped members", ESCAPED_MEMBERS, Some(2), Some(2)),
        ("digits", DIGITS, Some(2), Some(2)),
        ("escapes", ESCAPES, Some(2), Some(2)),
        ("an escaped name", ESCAPED_NAME, Some(2), Some(2)),
    ] {
        check_sets(&format!("{name} in a key"), Place::Key, filling, in_key, SET);
        check_sets(&format!("{name} in the set"), Place::Set, filling, in_set, SET);
    }
}

#[test]
fn h062_cost_of_comparing_keys_is_linear() {
    let key = |kid: usize, modulus: u8| {
        let mut number = [modulus; 256];
        number[255] |= 1;
        let n = URL_SAFE_NO_PAD.encode(number);
        format!(r#"{{"kty":"RSA","kid":"{kid}","e":"AQAB","n":"{n}"}}"#)
    };
    for (name, member, used) in [
        ("different", (|n: usize| (n, 0x81)) as fn(usize) -> (usize, u8), [25, 50, 100]),
        ("identical", |_| (0, 0x81), [1, 1, 1]),
        ("in conflict", |n| (n.min(1), if n == 0 { 0x81 } else { 0x83 + n as u8 % 2 }), [1, 1, 1]),
    ] {
        let mut costs = [NOTHING; 3];
        for ((count, used), cost) in [25, 50, 100].into_iter().zip(used).zip(&mut costs) {
            let keys = (0..count).map(|n| {
                let (kid, modulus) = member(n);
                key(kid, modulus)
            });
            let document = format!(r#"{{"keys":[{}]}}"#, keys.collect::<Vec<_>>().join(","));
            let mut seen = 0;
            *cost = cost_of(|| seen = Jwks::from_json(&document).unwrap().key_ids().count());
            assert_eq!(seen, used, "{name}");
        }
        check(name, costs, SET);
    }
}
