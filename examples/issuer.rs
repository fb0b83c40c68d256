//! The embedded stand-in for Cognito as a separate process, for a service in any language.
//!
//!     cargo run --example issuer
//!     cargo run --example issuer -- 'client ID SECRET SCOPE…' < /dev/null
//!
//! It prints its issuer and the URLs of its JWK Set and token endpoint. Then it executes the
//! commands in its arguments and on its standard input, and answers each with one line. It serves
//! until it is stopped, also after the end of its input.
//!
//! | command | effect |
//! | --- | --- |
//! | `client ID SECRET SCOPE…` | adds an app client that may request these scopes |
//! | `validity ID SECONDS` | sets how long the tokens of this client from the token endpoint are valid |
//! | `token CLIENT {"scope":"activity/*"}` | signs a token, with these claims in place of the usual ones |
//! | `rotate` | signs tokens with a new key from now on |
//! | `withdraw` | removes the replaced keys from the JWK Set |
//! | `fault down`, `garbage`, `oversize`, `slow MILLISECONDS`, `none` | sets how the JWK Set is answered |
//! | `fetches` | prints the number of requests for the JWK Set |
//!
//! `ISSUER` (`host:port`) sets the address to listen on.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::io::{self, BufRead};
use std::time::Duration;

use serde_json::Value;
use tower_cognito::TestServer;
use tower_cognito::test_issuer::Fault;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ISSUER").unwrap_or_else(|_| "127.0.0.1:9000".to_owned());
    let server = TestServer::bind(&address)
        .await
        .map_err(|error| format!("ISSUER: cannot listen on {address}: {error}"))?;
    println!("COGNITO_ISSUER={}", server.issuer().issuer());
    println!("COGNITO_JWKS_URL={}/.well-known/jwks.json", server.issuer().issuer());
    println!("TOKEN_ENDPOINT_URL={}", server.token_endpoint_url());

    let answer = |line: &str| match execute(&server, line.trim()) {
        Some(answer) => println!("{answer}"),
        None => println!("error: see the first lines of examples/issuer.rs"),
    };
    for command in env::args().skip(1) {
        answer(&command);
    }
    // The runtime's other threads serve requests while this one waits for input.
    for line in io::stdin().lock().split(b'\n') {
        // An error that repeats, as for a directory, must not be read without end.
        let Ok(line) = line else { break };
        answer(&String::from_utf8_lossy(&line));
    }
    std::future::pending().await
}

fn execute(server: &TestServer, line: &str) -> Option<String> {
    let done = || Some("ok".to_owned());
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "client" => {
            let mut words = rest.split_whitespace();
            server.add_client(words.next()?, words.next()?, words);
            done()
        }
        "validity" => {
            let (client, seconds) = rest.split_once(' ')?;
            server.set_access_token_validity(client, Duration::from_secs(seconds.parse().ok()?));
            done()
        }
        "token" => {
            let (client, claims) = rest.split_once(' ').unwrap_or((rest, "{}"));
            let claims: BTreeMap<String, Value> = serde_json::from_str(claims).ok()?;
            let token = server.issuer().machine_token(client);
            let token = claims.iter().fold(token, |token, (name, value)| token.claim(name, value));
            Some(token.sign())
        }
        "rotate" => {
            server.issuer().rotate();
            done()
        }
        "withdraw" => {
            server.issuer().retire_old_keys();
            done()
        }
        "fault" => {
            match rest.split_once(' ').unwrap_or((rest, "")) {
                ("down", "") => server.set_fault(Fault::Down),
                ("garbage", "") => server.set_fault(Fault::Garbage),
                ("oversize", "") => server.set_fault(Fault::Oversize),
                ("slow", time) => {
                    server.set_fault(Fault::Slow(Duration::from_millis(time.parse().ok()?)));
                }
                ("none", "") => server.clear_fault(),
                _ => return None,
            }
            done()
        }
        "fetches" => Some(server.jwks_requests().to_string()),
        _ => None,
    }
}
