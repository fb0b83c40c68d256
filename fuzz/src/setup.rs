//! The keys and rules of all targets. They use no random numbers and no clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tower_cognito::{ClientIds, Jwks, Rules, UserPool};

use crate::base64url;
use crate::token::Policy;

pub const ISSUERS: [&str; 2] = ["https://issuer.example/pool", "https://other.example/pool"];
pub const KEY_IDS: [&str; 2] = ["k1", "k2"];
/// In seconds since the epoch.
pub const NOW: i64 = 1_700_000_000;

/// The exponent of a key that accepts every signature in a build for fuzzing. All other keys reject
/// every signature.
pub const YES: &str = "Aw";
pub const NO: &str = "AQAB";

/// The headers and claims of valid tokens.
pub const HEADERS: [&str; 2] =
    [r#"{"kid":"k1","alg":"RS256"}"#, r#"{"alg":"RS256","typ":"JWT","kid":"k2"}"#];
pub const CLAIMS: &str = concat!(
    r#"{"sub":"s","token_use":"access","scope":"a/read a/*","#,
    r#""iss":"https://issuer.example/pool","exp":1700000001,"iat":1699996401,"#,
    r#""jti":"j","client_id":"client-1"}"#,
);

pub fn token(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| base64url::encode(part.as_bytes()));
    format!("{header}.{claims}.c2ln")
}

/// Returns an odd number of this many bits in the encoding of a JWK.
pub fn modulus(bits: usize, variant: u8) -> String {
    let mut bytes = vec![0x5a ^ variant; bits.div_ceil(8)];
    let unused = (8 - bits % 8) % 8;
    bytes[0] = 0xff >> unused;
    let last = bytes.len() - 1;
    bytes[last] |= 1;
    base64url::encode(&bytes)
}

pub fn member(key_id: &str, modulus: &str, exponent: &str) -> String {
    format!(r#"{{"kid":"{key_id}","kty":"RSA","alg":"RS256","n":"{modulus}","e":"{exponent}"}}"#)
}

/// Returns a set of the two keys. The exponent decides whether they accept every signature.
pub fn set(exponent: &str) -> String {
    let [first, second] = [(0, KEY_IDS[0]), (1, KEY_IDS[1])]
        .map(|(variant, key_id)| member(key_id, &modulus(2048, variant), exponent));
    format!(r#"{{"keys":[{first},{second}]}}"#)
}

pub fn jwks(exponent: &str) -> Jwks {
    Jwks::from_json(set(exponent)).unwrap()
}

pub fn pool() -> UserPool {
    UserPool::from_issuer(ISSUERS[0]).unwrap().add_issuer(ISSUERS[1]).unwrap()
}

/// The same rules for tower-cognito and for the reference, with the time of the check.
pub struct Case {
    pub rules: Rules,
    pub policy: Policy,
    pub now: SystemTime,
}

pub fn cases() -> [Case; 3] {
    let now = UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs());
    let policy = Policy {
        issuers: &ISSUERS,
        key_ids: &KEY_IDS,
        clients: None,
        audience: None,
        groups: &[],
        leeway: 0,
        now: i128::from(NOW) * 1_000_000_000,
    };
    let clients = ClientIds::only(["client-1", "client-2"]);
    [
        Case {
            rules: Rules::new(pool(), clients.clone()),
            policy: Policy { clients: Some(&["client-1", "client-2"]), ..policy.clone() },
            now,
        },
        Case {
            rules: Rules::new(pool(), ClientIds::any())
                .with_audience("api")
                .with_leeway(Duration::from_millis(1_500)),
            policy: Policy {
                audience: Some("api"),
                leeway: 1_500_000_000,
                now: policy.now + 1,
                ..policy.clone()
            },
            now: now + Duration::from_nanos(1),
        },
        Case {
            // The maximum leeway.
            rules: Rules::new(pool(), clients)
                .with_groups(["admins", "editors"])
                .with_leeway(Duration::from_secs(300)),
            policy: Policy {
                clients: Some(&["client-1", "client-2"]),
                groups: &["admins", "editors"],
                leeway: 300_000_000_000,
                ..policy
            },
            now,
        },
    ]
}
