//! An operator's tool that verifies a token with the keys in a file and shows why it is invalid. It
//! has no network and no runtime, and its exit code is for scripts.

use std::fmt::Write as _;
use std::time::SystemTime;

use tower_cognito::{
    ClientIds, Jwks, Rules, TestIssuer, UserPool, VerifyError, VerifyErrorKind, verify,
};

/// Returns the output and the exit code: 0 for a valid token, 1 for an invalid one, 2 for invalid
/// arguments.
fn run(issuer: &str, jwks: &str, client_id: &str, token: &str) -> (String, u8) {
    let parsed = UserPool::from_issuer(issuer).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|pool| match Jwks::from_json(jwks) {
        Ok(keys) => Ok((pool, keys)),
        Err(error) => Err(error.to_string()),
    });
    let (pool, keys) = match parsed {
        Ok(parsed) => parsed,
        Err(message) => return (message, 2),
    };
    let rules = Rules::new(pool, ClientIds::only([client_id]));
    match verify(token, &keys, &rules, SystemTime::now()) {
        Ok(token) => {
            let mut text = format!("valid: {} for {}", token.subject(), token.client_id());
            for scope in token.scopes().iter() {
                write!(text, " {scope}").unwrap();
            }
            (text, 0)
        }
        Err(error) => (explain(&error, &keys), 1),
    }
}

fn explain(error: &VerifyError, keys: &Jwks) -> String {
    match error.kind() {
        VerifyErrorKind::UnknownKey => {
            let ids = keys.key_ids().collect::<Vec<_>>().join(", ");
            format!("invalid: {error}; the file has {ids}")
        }
        kind => format!("invalid: {error} ({})", kind.as_str()),
    }
}

#[test]
fn prints_the_reason_for_an_invalid_token() {
    let issuer = TestIssuer::new();
    let jwks = issuer.jwks_json();
    let check = |token: &str| run(issuer.issuer(), &jwks, "robot", token);
    let valid = issuer.machine_token("robot").scope("item/read item/write").sign();
    let (text, code) = check(&valid);
    assert_eq!((code, text.ends_with(" for robot item/read item/write")), (0, true), "{text}");

    let other = issuer.machine_token("other").sign();
    assert_eq!(
        check(&other),
        ("invalid: `client_id` is not an allowed client (wrong_client)".to_owned(), 1)
    );
    issuer.rotate();
    let (text, code) = check(&issuer.machine_token("robot").sign());
    assert_eq!(code, 1);
    assert!(text.contains("; the file has "), "{text}");

    assert_eq!(run("cognito", &jwks, "robot", &valid).1, 2);
    assert_eq!(run(issuer.issuer(), "{}", "robot", &valid).1, 2);
}
