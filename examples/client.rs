//! A system that calls a protected API. It gets a token by the client credentials grant, keeps it
//! until shortly before it expires, and sends it with every call.
//!
//!     cargo run --example quickstart     # prints the four settings
//!     CLIENT_ID=… CLIENT_SECRET=… TOKEN_ENDPOINT_URL=… API_URL=… cargo run --example client

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::sync::Mutex;

/// Stop using a token this long before it expires: a request takes time, and clocks differ.
const MARGIN: Duration = Duration::from_secs(60);
/// Replace at most one rejected token in this time. If the API rejects every token, another one
/// does not help, and AWS charges for each.
const BETWEEN_REPLACEMENTS: Duration = Duration::from_secs(60);

/// Fetches tokens and caches the current one.
struct TokenSource {
    id: String,
    secret: String,
    url: String,
    http: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<CachedToken>,
    last_replacement: Option<Instant>,
}

struct CachedToken {
    value: String,
    /// When to stop using it. This clock may stand still while the machine sleeps; the API then
    /// rejects the token, and it is replaced.
    until: Instant,
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    expires_in: u32,
}

impl TokenSource {
    fn new(id: String, secret: String, url: String) -> Result<Self, Box<dyn Error>> {
        // A redirect would send the secret to another server (RFC 9700 section 4.12).
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { id, secret, url, http, state: Mutex::default() })
    }

    /// Returns the cached token, or fetches a new one. Concurrent callers share one fetch.
    async fn token(&self) -> Result<String, Box<dyn Error>> {
        let mut state = self.state.lock().await;
        if let Some(token) = &state.token
            && Instant::now() < token.until
        {
            return Ok(token.value.clone());
        }
        let token = self.fetch().await?;
        let value = token.value.clone();
        state.token = Some(token);
        Ok(value)
    }

    /// Drops this token, because the API rejected it: its key may be removed, or it is too old by
    /// the API's clock. Returns `true` if another token is worth a try.
    async fn replace(&self, rejected: &str) -> bool {
        let mut state = self.state.lock().await;
        // Another caller may have replaced it already.
        if state.token.as_ref().is_none_or(|token| token.value != rejected) {
            return true;
        }
        if state.last_replacement.is_some_and(|last| last.elapsed() < BETWEEN_REPLACEMENTS) {
            return false;
        }
        state.last_replacement = Some(Instant::now());
        state.token = None;
        true
    }

    /// Gets a token as Cognito expects it: `Basic` and the base64 of `ID:SECRET`, unchanged. Many
    /// libraries percent-encode the two parts before that (RFC 6749 section 2.3.1), so that a secret
    /// with `+` is wrong. With such a library, send ID and secret in the form body.
    async fn fetch(&self) -> Result<CachedToken, Box<dyn Error>> {
        let begin = Instant::now();
        let request = self
            .http
            .post(&self.url)
            .basic_auth(&self.id, Some(&self.secret))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let response = request.send().await?;
        let status = response.status();
        let body = response.bytes().await?;
        if status != StatusCode::OK {
            // An error of the grant is JSON without a secret, such as `{"error":"invalid_client"}`.
            let body = String::from_utf8_lossy(&body);
            return Err(format!("no token: {status}: {body:.200}").into());
        }
        let TokenResponse { access_token, expires_in } = serde_json::from_slice(&body)
            .map_err(|error| format!("no token in the response: {error}"))?;
        println!("a new token");
        let lifetime = Duration::from_secs(expires_in.into()).saturating_sub(MARGIN);
        Ok(CachedToken { value: access_token, until: begin + lifetime })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let names = ["CLIENT_ID", "CLIENT_SECRET", "TOKEN_ENDPOINT_URL", "API_URL"];
    let missing = names.into_iter().filter(|name| env::var(name).is_err()).collect::<Vec<_>>();
    if !missing.is_empty() {
        return Err(format!("not set, or not exported: {}", missing.join(", ")).into());
    }
    let [id, secret, token_url, api_url] = names.map(|name| env::var(name).unwrap_or_default());
    let tokens = TokenSource::new(id, secret, token_url)?;
    for _ in 0..3 {
        let response = call(&tokens, &api_url).await?;
        println!("{} {}", response.status(), response.text().await?);
    }
    Ok(())
}

/// Calls the API, and once more with a new token if it answers 401. A 403 does not depend on the
/// cached token: every token of this client has the same scopes.
async fn call(tokens: &TokenSource, url: &str) -> Result<reqwest::Response, Box<dyn Error>> {
    let token = tokens.token().await?;
    let response = tokens.http.get(url).bearer_auth(&token).send().await?;
    if response.status() != StatusCode::UNAUTHORIZED || !tokens.replace(&token).await {
        return Ok(response);
    }
    Ok(tokens.http.get(url).bearer_auth(tokens.token().await?).send().await?)
}
