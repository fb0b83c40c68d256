//! Tokens that were signed without this crate's code (`tests/vectors`), so that the test issuer and
//! the verifier cannot share one misunderstanding.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tower_cognito::{ClientIds, Jwks, Rules, UserPool, VerifyErrorKind, verify};

const FILE: &str = include_str!("../vectors/tokens.json");

#[derive(Deserialize)]
struct Vectors {
    user_pool_id: String,
    client_id: String,
    now: u64,
    jwks: serde_json::Value,
    tokens: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    token: String,
    verdict: String,
    kind: Option<String>,
    subject: Option<String>,
    client_id: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    expires_at: Option<u64>,
    username: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
}

#[test]
fn tokens_signed_by_other_code_have_the_expected_results() {
    let vectors: Vectors = serde_json::from_str(FILE).unwrap();
    let keys = Jwks::from_json(vectors.jwks.to_string()).unwrap();
    let pool = UserPool::new(&vectors.user_pool_id).unwrap();
    let rules = Rules::new(pool, ClientIds::only([vectors.client_id]));
    let now = UNIX_EPOCH + Duration::from_secs(vectors.now);

    let mut accepted = 0;
    for vector in &vectors.tokens {
        let name = &vector.name;
        let result = verify(&vector.token, &keys, &rules, now);
        match (&*vector.verdict, result) {
            ("accept", Ok(token)) => {
                accepted += 1;
                assert_eq!(Some(token.subject()), vector.subject.as_deref(), "{name}");
                assert_eq!(Some(token.client_id()), vector.client_id.as_deref(), "{name}");
                assert_eq!(token.username(), vector.username.as_deref(), "{name}");
                assert_eq!(token.scopes().iter().collect::<Vec<_>>(), vector.scopes, "{name}");
                assert_eq!(token.groups().collect::<Vec<_>>(), vector.groups, "{name}");
                assert_eq!(Some(seconds(token.expires_at())), vector.expires_at, "{name}");
            }
            ("refuse", Err(error)) => {
                let expected = vector.kind.as_deref().map(kind);
                assert_eq!(Some(error.kind()), expected, "{name}");
            }
            (verdict, result) => panic!("{name}: expected {verdict}, got {result:?}"),
        }
    }
    assert!(accepted >= 20, "only {accepted} tokens were accepted");
    assert!(vectors.tokens.len() >= accepted + 40, "few tokens were rejected");
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn kind(name: &str) -> VerifyErrorKind {
    match name {
        "BadSignature" => VerifyErrorKind::BadSignature,
        "Expired" => VerifyErrorKind::Expired,
        "InvalidClaim" => VerifyErrorKind::InvalidClaim,
        "InvalidHeader" => VerifyErrorKind::InvalidHeader,
        "Malformed" => VerifyErrorKind::Malformed,
        "NotYetValid" => VerifyErrorKind::NotYetValid,
        "SenderConstrained" => VerifyErrorKind::SenderConstrained,
        "TooLarge" => VerifyErrorKind::TooLarge,
        "UnknownIssuer" => VerifyErrorKind::UnknownIssuer,
        "UnknownKey" => VerifyErrorKind::UnknownKey,
        "UnsupportedAlgorithm" => VerifyErrorKind::UnsupportedAlgorithm,
        "WrongClient" => VerifyErrorKind::WrongClient,
        "WrongTokenUse" => VerifyErrorKind::WrongTokenUse,
        other => panic!("{other} is no kind of error"),
    }
}
