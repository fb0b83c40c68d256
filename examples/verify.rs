//! Shows why a token is rejected. Reads tokens from standard input, one on each line, and verifies
//! each of them without a network.
//!
//!     cargo run --example verify -- --jwks keys.json --issuer URL --client-id ID < tokens
//!
//!     --jwks FILE         the pool's keys, from `{issuer}/.well-known/jwks.json`
//!     --issuer URL        the required `iss`, byte for byte; nothing is fetched from it
//!     --client-id ID      an allowed app client; can be repeated
//!     --any-client        allow every app client
//!     --scope SCOPE       a required scope; can be repeated, and then one of them is enough
//!     --audience AUD      a required value of `aud`; can be repeated, and then one of them is enough
//!     --group GROUP       a required group; can be repeated, and then one of them is enough
//!     --leeway SECONDS    the allowed difference between clocks; default 0, maximum 300
//!     --now SECONDS       the time since 1970-01-01; default the time of this machine
//!
//! It prints one line for each token: `accept` and the claims as a JSON object, or `refuse`, the
//! name of the reason, and its description. The exit code is 0 if all tokens were accepted, 1 if
//! any was not, and 2 if the arguments are invalid.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tower_cognito::{ClientIds, Jwks, Rules, Scope, UserPool, Verifier};

fn main() -> ExitCode {
    let checker = match Checker::from_args(std::env::args().skip(1)) {
        Ok(checker) => checker,
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            eprintln!("usage: see the first lines of examples/verify.rs");
            return ExitCode::from(2);
        }
    };
    match checker.check_all(io::stdin().lock(), io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of the output has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

struct Checker {
    verifier: Verifier,
    /// One of these scopes is required, unless the list is empty.
    scopes: Vec<Scope>,
}

impl Checker {
    /// Parses the arguments, or returns everything that is wrong with them.
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, Vec<String>> {
        let (mut jwks, mut issuer, mut clients, mut any_client) = (None, None, vec![], false);
        let (mut scopes, mut audiences, mut groups) = (vec![], vec![], vec![]);
        let (mut leeway, mut now) = (None, None);
        let mut problems = Vec::new();
        while let Some(option) = args.next() {
            if option == "--any-client" {
                any_client = true;
                continue;
            }
            if !WITH_VALUE.contains(&&*option) {
                problems.push(format!("{option}: unknown option"));
                continue;
            }
            let Some(value) = args.next() else {
                problems.push(format!("{option}: value is missing"));
                break;
            };
            let result = match &*option {
                "--jwks" => once(&mut jwks, read_jwks(&value)),
                "--issuer" => once(&mut issuer, UserPool::from_issuer(&value)),
                "--client-id" => {
                    clients.push(value);
                    Ok(())
                }
                "--audience" => not_empty(value).map(|audience| audiences.push(audience)),
                "--group" => not_empty(value).map(|group| groups.push(group)),
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
            problems
                .push("--client-id or --any-client: exactly one of them is required".to_owned());
        }
        for (option, is_set) in [("--jwks", jwks.is_some()), ("--issuer", issuer.is_some())] {
            if !is_set && !problems.iter().any(|problem| problem.starts_with(option)) {
                problems.push(format!("{option}: required option is missing"));
            }
        }
        let (Some(jwks), Some(pool), true) = (jwks, issuer, problems.is_empty()) else {
            return Err(problems);
        };
        let clients = if any_client { ClientIds::any() } else { ClientIds::only(clients) };
        let mut rules = Rules::new(pool, clients).with_leeway(leeway.unwrap_or_default());
        if !audiences.is_empty() {
            rules = rules.with_audiences(audiences);
        }
        if !groups.is_empty() {
            rules = rules.with_groups(groups);
        }
        let mut builder = Verifier::builder(rules);
        if let Some(now) = now {
            let now = UNIX_EPOCH
                .checked_add(now)
                .ok_or(["--now: time is too far in the future".into()])?;
            builder = builder.clock(move || now);
        }
        let verifier = builder.build_with_jwks(jwks).map_err(|error| vec![error.to_string()])?;
        Ok(Self { verifier, scopes })
    }

    /// Prints the verdict on each token. Returns `true` if all tokens were accepted.
    fn check_all(&self, mut tokens: impl BufRead, mut verdicts: impl Write) -> io::Result<bool> {
        let mut are_all_accepted = true;
        let mut line = Vec::new();
        while tokens.read_until(b'\n', &mut line)? > 0 {
            let token = line.strip_suffix(b"\n").unwrap_or(&line);
            let token = token.strip_suffix(b"\r").unwrap_or(token);
            // Bytes that are not UTF-8 become U+FFFD, which no valid token contains.
            let verdict = self.check(&String::from_utf8_lossy(token));
            match &verdict {
                Ok(claims) => writeln!(verdicts, "accept {claims}")?,
                Err((reason, sentence)) => writeln!(verdicts, "refuse {reason} {sentence}")?,
            }
            verdicts.flush()?;
            are_all_accepted &= verdict.is_ok();
            line.clear();
        }
        Ok(are_all_accepted)
    }

    fn check(&self, token: &str) -> Result<Value, (&'static str, String)> {
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

/// The options that a value follows.
const WITH_VALUE: [&str; 8] =
    ["--jwks", "--issuer", "--client-id", "--scope", "--audience", "--group", "--leeway", "--now"];

fn not_empty(value: String) -> Result<String, String> {
    if value.is_empty() { Err("value is empty".to_owned()) } else { Ok(value) }
}

fn once<T>(slot: &mut Option<T>, value: Result<T, impl ToString>) -> Result<(), String> {
    let value = value.map_err(|problem| problem.to_string())?;
    match slot.replace(value) {
        Some(_) => Err("option is repeated".to_owned()),
        None => Ok(()),
    }
}

fn read_jwks(file: &str) -> Result<Jwks, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    Jwks::from_json(text).map_err(|error| format!("{file}: {error}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "value is not a whole number of seconds".to_owned())?;
    Ok(Duration::from_secs(seconds))
}
