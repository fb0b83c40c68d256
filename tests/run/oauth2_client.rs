//! Gets a token with the `oauth2` crate and prints it, for tests/run/oauth_clients.py. The argument is
//! `basic` or `body`: where the client's secret is sent.

use std::env;
use std::error::Error;

use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, TokenResponse, TokenUrl,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let auth_type = match env::args().nth(1).as_deref() {
        Some("basic") => AuthType::BasicAuth,
        Some("body") => AuthType::RequestBody,
        _ => return Err("the argument is `basic` or `body`".into()),
    };
    let client = BasicClient::new(ClientId::new(env::var("CLIENT_ID")?))
        .set_client_secret(ClientSecret::new(env::var("CLIENT_SECRET")?))
        .set_token_uri(TokenUrl::new(env::var("TOKEN_ENDPOINT_URL")?)?)
        .set_auth_type(auth_type);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let token: BasicTokenResponse = client
        .exchange_client_credentials()
        .request_async(&|request| fetch(http.clone(), request))
        .await?;
    println!("{}", token.access_token().secret());
    Ok(())
}

async fn fetch(
    http: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let response = http.execute(request.try_into()?).await?;
    let status = response.status();
    let headers = response.headers().clone();
    let mut answer = HttpResponse::new(response.bytes().await?.to_vec());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}
