//! Why is my token refused? Reads tokens from standard input, one a line, and says of each
//! whether it is good. Needs no network.
//!
//!     cargo run --example verify -- --jwks keys.json --issuer URL --client-id ID < tokens
//!
//!     --jwks FILE         the pool's keys, from `{issuer}/.well-known/jwks.json`
//!     --issuer URL        what `iss` must be, byte for byte
//!     --client-id ID      an app client that tokens may be issued to; can be repeated
//!     --any-client        every app client
//!     --scope SCOPE       a scope that a token needs; of several, any
//!     --leeway SECONDS    how far clocks may be apart: 0 unless set, at most 300
//!     --now SECONDS       the time, since 1970-01-01, instead of this machine's
//!
//! For each line there is one line: `accept` and the claims as a JSON object; or `refuse`, the
//! name of the reason, and a sentence. It exits with 0 if all tokens were accepted, with 1 if any
//! was refused, and with 2 if it could not begin.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tower_cognito::{ClientIds, Jwks, Rules, Scope, UserPool, Verifier};

fn main() -> ExitCode {
    let judge = match Judge::from_args(std::env::args().skip(1)) {
        Ok(judge) => judge,
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            eprintln!("The first lines of examples/verify.rs say how to call it.");
            return ExitCode::from(2);
        }
    };
    match judge.judge_all(io::stdin().lock(), io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads the verdicts has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

struct Judge {
    verifier: Verifier,
    /// Any of them; none is no requirement.
    scopes: Vec<Scope>,
}

impl Judge {
    /// Everything that is wrong with the arguments is said at once.
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, Vec<String>> {
        let (mut jwks, mut issuer, mut clients, mut any_client) = (None, None, vec![], false);
        let (mut scopes, mut leeway, mut now) = (vec![], None, None);
        let mut problems = Vec::new();
        while let Some(option) = args.next() {
            if option == "--any-client" {
                any_client = true;
                continue;
            }
            let known = ["--jwks", "--issuer", "--client-id", "--scope", "--leeway", "--now"];
            if !known.contains(&&*option) {
                problems.push(format!("{option}: there is no such option"));
                continue;
            }
            let Some(value) = args.next() else {
                problems.push(format!("{option}: its value is missing"));
                break;
            };
            let result = match &*option {
                "--jwks" => once(&mut jwks, read_jwks(&value)),
                "--issuer" => once(&mut issuer, UserPool::from_issuer(&value)),
                "--client-id" => {
                    clients.push(value);
                    Ok(())
                }
                "--scope" => value
                    .parse::<Scope>()
                    .map(|scope| scopes.push(scope))
                    .map_err(|e| e.to_string()),
                "--leeway" => once(&mut leeway, seconds(&value)),
                _ => once(&mut now, seconds(&value)),
            };
            problems.extend(result.err().map(|problem| format!("{option}: {problem}")));
        }
        if any_client != clients.is_empty() {
            problems.push("--client-id or --any-client: one of them is needed".to_owned());
        }
        for (option, is_set) in [("--jwks", jwks.is_some()), ("--issuer", issuer.is_some())] {
            if !is_set && !problems.iter().any(|problem| problem.starts_with(option)) {
                problems.push(format!("{option}: it is needed"));
            }
        }
        let (Some(jwks), Some(pool), true) = (jwks, issuer, problems.is_empty()) else {
            return Err(problems);
        };
        let clients = if any_client { ClientIds::any() } else { ClientIds::only(clients) };
        let rules = Rules::new(pool, clients).with_leeway(leeway.unwrap_or_default());
        let mut builder = Verifier::builder(rules);
        if let Some(now) = now {
            let now =
                UNIX_EPOCH.checked_add(now).ok_or(["--now: it is too far in the future".into()])?;
            builder = builder.clock(move || now);
        }
        let verifier = builder.build_with_jwks(jwks).map_err(|error| vec![error.to_string()])?;
        Ok(Self { verifier, scopes })
    }

    /// Whether all were accepted.
    fn judge_all(&self, mut tokens: impl BufRead, mut verdicts: impl Write) -> io::Result<bool> {
        let mut is_all_good = true;
        let mut line = Vec::new();
        while tokens.read_until(b'\n', &mut line)? > 0 {
            let token = line.strip_suffix(b"\n").unwrap_or(&line);
            let token = token.strip_suffix(b"\r").unwrap_or(token);
            // What is not UTF-8 has a character then that no token has.
            let verdict = self.judge(&String::from_utf8_lossy(token));
            match &verdict {
                Ok(claims) => writeln!(verdicts, "accept {claims}")?,
                Err((reason, sentence)) => writeln!(verdicts, "refuse {reason} {sentence}")?,
            }
            verdicts.flush()?;
            is_all_good &= verdict.is_ok();
            line.clear();
        }
        Ok(is_all_good)
    }

    fn judge(&self, token: &str) -> Result<Value, (&'static str, String)> {
        let token = self
            .verifier
            .try_verify(token)
            .map_err(|error| (error.kind().as_str(), error.to_string()))?;
        let has_scope = |scope: &Scope| token.scopes().contains(scope.as_str());
        if !self.scopes.is_empty() && !self.scopes.iter().any(has_scope) {
            return Err(("insufficient_scope", "a required scope is missing".to_owned()));
        }
        token.deserialize_claims().map_err(|error| ("invalid_claim", error.to_string()))
    }
}

fn once<T>(slot: &mut Option<T>, value: Result<T, impl ToString>) -> Result<(), String> {
    let value = value.map_err(|problem| problem.to_string())?;
    match slot.replace(value) {
        Some(_) => Err("it is there twice".to_owned()),
        None => Ok(()),
    }
}

fn read_jwks(file: &str) -> Result<Jwks, String> {
    let text = std::fs::read(file).map_err(|error| format!("can not read {file}: {error}"))?;
    Jwks::from_json(text).map_err(|error| format!("{file}: {error}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "it is not a whole number of seconds".to_owned())?;
    Ok(Duration::from_secs(seconds))
}
