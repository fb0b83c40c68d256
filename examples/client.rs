//! A system that calls a protected API. It gets a token by the client credentials grant, keeps it
//! until shortly before it expires, and sends it with every call.
//!
//!     cargo run --example quickstart     # prints the four settings
//!     CLIENT_ID=… CLIENT_SECRET=… TOKEN_ENDPOINT_URL=… API_URL=… cargo run --example client

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    TokenResponse, TokenUrl,
};
use tokio::sync::Mutex;

/// Stop using a token this long before it expires: a request takes time, and clocks differ.
const MARGIN: Duration = Duration::from_secs(60);

type OAuthClient =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// Fetches tokens and caches the current one.
struct TokenSource {
    client: OAuthClient,
    http: reqwest::Client,
    cached: Mutex<Option<(String, Instant)>>,
}

impl TokenSource {
    fn new(id: String, secret: String, url: String) -> Result<Self, Box<dyn Error>> {
        let client = BasicClient::new(ClientId::new(id))
            .set_client_secret(ClientSecret::new(secret))
            .set_token_uri(TokenUrl::new(url)?)
            .set_auth_type(AuthType::BasicAuth);
        // A redirect would send the secret to another server (RFC 9700 section 4.12).
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { client, http, cached: Mutex::new(None) })
    }

    /// Returns the cached token, or fetches a new one. Concurrent callers share one fetch.
    async fn token(&self) -> Result<String, Box<dyn Error>> {
        let mut cached = self.cached.lock().await;
        if let Some((token, until)) = &*cached
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let http = |request| fetch(self.http.clone(), request);
        let response: BasicTokenResponse =
            self.client.exchange_client_credentials().request_async(&http).await?;
        println!("a new token");
        let token = response.access_token().secret().clone();
        let lifetime = response.expires_in().unwrap_or_default().saturating_sub(MARGIN);
        *cached = Some((token.clone(), Instant::now() + lifetime));
        Ok(token)
    }

    /// Drops the cached token, because the API rejected it: it may be revoked, or its key removed.
    async fn forget(&self) {
        *self.cached.lock().await = None;
    }
}

async fn fetch(
    http: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let response = http.execute(request.try_into()?).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = HttpResponse::new(response.bytes().await?.to_vec());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
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
        let mut response = call(&tokens, &api_url).await?;
        // Retry only once. A second rejection does not depend on the cached token.
        if response.status() == reqwest::StatusCode::UNAUTHORIZED {
            tokens.forget().await;
            response = call(&tokens, &api_url).await?;
        }
        println!("{} {}", response.status(), response.text().await?);
    }
    Ok(())
}

async fn call(tokens: &TokenSource, url: &str) -> Result<reqwest::Response, Box<dyn Error>> {
    Ok(tokens.http.get(url).bearer_auth(tokens.token().await?).send().await?)
}
