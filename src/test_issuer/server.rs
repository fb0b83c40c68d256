//! Serves a `TestIssuer` on a loopback port: JWK Set, discovery document, token endpoint and
//! `GetClientToken`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONTENT_TYPE, HeaderMap,
};
use http::{HeaderValue, StatusCode};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::JoinHandle;

use super::grant::{self, Clients, Granted};
use super::issuer::{POOL_ID, TestIssuer};
use crate::{FetchJwks, JwksDocument, RefreshError};

/// A [`TestIssuer`] that is served over HTTP on this machine until it is dropped.
///
/// It serves what a machine needs to get a token and a service to verify it:
///
/// * the JWK Set and the discovery document of the pool. The document has the members of Cognito's,
///   and no other. The endpoints for users that it names answer 404, because there are no users.
/// * the token endpoint, for the client credentials grant. The client authenticates by HTTP Basic
///   or in the body. The parameter `resource` is ignored, because Cognito's machine tokens have no
///   `aud`.
/// * the operation `GetClientToken` of the user pools API, at the root of this server, for the AWS
///   SDKs. Cognito wants `ALLOW_CLIENT_TOKEN_AUTH` as the only flow of such an app client; here,
///   every client can use both ways.
///
/// Programs of every origin can read the responses in a browser.
///
/// ```
/// use tower_cognito::{ClientIds, Rules, TestServer, Verifier};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = TestServer::bind("127.0.0.1:0").await?;
/// server.add_client("my-client", "my-secret", ["activity/*"]);
///
/// let rules = Rules::new(server.issuer().user_pool(), ClientIds::only(["my-client"]));
/// let verifier = Verifier::builder(rules).connect().await?;
///
/// let token = server.issuer().machine_token("my-client").scope("activity/*").sign();
/// assert!(verifier.verify(&token).await.is_ok());
/// # Ok(())
/// # }
/// ```
pub struct TestServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

struct Shared {
    issuer: TestIssuer,
    clients: Mutex<Clients>,
    fault: Mutex<Option<Fault>>,
    jwks_requests: AtomicU64,
}

impl Shared {
    fn sign(&self, granted: &Granted) -> String {
        let token = self.issuer.machine_token(&granted.client_id).scope(&granted.scope);
        token.valid_for(granted.validity).sign()
    }
}

/// A fault of the JWK Set endpoint of a [`TestServer`](crate::TestServer), or of a verifier without
/// a network.
///
/// As a [`FetchJwks`], it never returns keys. So a test of the answer 503 needs no server:
///
/// ```
/// use tower_cognito::test_issuer::Fault;
/// use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier, VerifyErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = TestIssuer::new();
/// let rules = Rules::new(issuer.user_pool(), ClientIds::only(["my-client"]));
/// let verifier = Verifier::builder(rules).jwks_fetcher(Fault::Down).connect_lazy()?;
///
/// let token = issuer.machine_token("my-client").sign();
/// let error = verifier.verify(&token).await.unwrap_err();
/// assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable); // the layers answer 503
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The endpoint answers 503.
    Down,
    /// The endpoint answers 200 with HTML.
    Garbage,
    /// The endpoint answers 200 with a document of more than 64 KiB.
    Oversize,
    /// The endpoint answers correctly after this delay. A fetcher, which has no keys, answers 503
    /// after it.
    Slow(Duration),
}

/// The document of [`Fault::Garbage`].
const HTML: &str = "<!doctype html><title>Sign in</title>";

/// The document of [`Fault::Oversize`].
fn oversize() -> String {
    " ".repeat(70_000)
}

/// Answers as the endpoint with this fault, without a network.
impl FetchJwks for Fault {
    async fn fetch_jwks(&self, _url: &str) -> Result<JwksDocument, RefreshError> {
        match self {
            Self::Down => {}
            Self::Garbage => return Ok(JwksDocument::new(HTML)),
            Self::Oversize => return Ok(JwksDocument::new(oversize())),
            Self::Slow(delay) => tokio::time::sleep(*delay).await,
        }
        Err(RefreshError::status(503))
    }
}

impl TestServer {
    /// Serves a new issuer on a loopback address.
    ///
    /// Port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// Returns an error if the address cannot be bound or is not a loopback address. Everyone who
    /// can reach this server can get tokens.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            let problem = "a test issuer listens only on a loopback address";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let shared = Arc::new(Shared {
            issuer: TestIssuer::served_at(&format!("http://{address}/{POOL_ID}")),
            clients: Mutex::default(),
            fault: Mutex::default(),
            jwks_requests: AtomicU64::new(0),
        });
        let app = Router::new()
            .route(&format!("/{POOL_ID}/.well-known/jwks.json"), get(jwks).options(preflight))
            .route(
                &format!("/{POOL_ID}/.well-known/openid-configuration"),
                get(discovery).options(preflight),
            )
            .route("/oauth2/token", post(token).options(preflight))
            .route("/", post(user_pools_api).options(preflight))
            .layer(map_response(allow_every_origin))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(axum::serve(listener, app).into_future());
        Ok(Self { shared, address, task })
    }

    /// Returns the pool that is served.
    pub fn issuer(&self) -> &TestIssuer {
        &self.shared.issuer
    }

    /// Returns the URL of the token endpoint.
    pub fn token_endpoint_url(&self) -> String {
        format!("http://{}/oauth2/token", self.address)
    }

    /// Adds an app client that may request these scopes.
    ///
    /// The pool's resource servers define these scopes from then on. A token request without `scope`
    /// gets all of them. Of the requested scopes, one that no client has is dropped. The request is
    /// rejected with `invalid_scope` if none is left or one has no `/`, like `openid`, and with
    /// `invalid_grant` if only another client has one.
    pub fn add_client<'a>(
        &self,
        id: &str,
        secret: &str,
        scopes: impl IntoIterator<Item = &'a str>,
    ) {
        locked(&self.shared.clients).add(id, secret, scopes);
    }

    /// Sets how long the access tokens of this app client are valid. The default is 1 hour.
    ///
    /// Cognito allows 5 minutes to 24 hours. A shorter time lets a test see a token expire.
    pub fn set_access_token_validity(&self, client_id: &str, validity: Duration) {
        locked(&self.shared.clients).set_validity(client_id, validity);
    }

    /// Sets the fault of the JWK Set endpoint. By default, there is none.
    pub fn set_fault(&self, fault: Fault) {
        *locked(&self.shared.fault) = Some(fault);
    }

    /// Clears the fault of the JWK Set endpoint.
    pub fn clear_fault(&self) {
        *locked(&self.shared.fault) = None;
    }

    /// Returns the number of requests for the JWK Set so far.
    pub fn jwks_requests(&self) -> u64 {
        self.shared.jwks_requests.load(Ordering::Relaxed)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for TestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServer").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    shared.jwks_requests.fetch_add(1, Ordering::Relaxed);
    let fault = locked(&shared.fault).clone();
    match fault {
        Some(Fault::Down) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Fault::Garbage) => return HTML.into_response(),
        Some(Fault::Oversize) => return json(StatusCode::OK, oversize()),
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    json(StatusCode::OK, shared.issuer.jwks_json())
}

/// Has the members of Cognito's document, in its order, and no other. Only `jwks_uri` and
/// `token_endpoint` are served.
async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    let issuer = shared.issuer.issuer();
    let domain = issuer.strip_suffix(POOL_ID).unwrap_or(issuer);
    let document = format!(
        r#"{{"authorization_endpoint":"{domain}oauth2/authorize","end_session_endpoint":"{domain}logout","id_token_signing_alg_values_supported":["RS256"],"issuer":"{issuer}","jwks_uri":"{issuer}/.well-known/jwks.json","response_types_supported":["code","token"],"revocation_endpoint":"{domain}oauth2/revoke","scopes_supported":["openid","email","phone","profile"],"subject_types_supported":["public"],"token_endpoint":"{domain}oauth2/token","token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],"userinfo_endpoint":"{domain}oauth2/userInfo"}}"#
    );
    json(StatusCode::OK, document)
}

/// Implements the client credentials grant.
async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let granted = grant::at_token_endpoint(&locked(&shared.clients), &headers, form);
    match granted.map(|granted| (shared.sign(&granted), granted.validity.as_secs())) {
        Ok((token, seconds)) => json(
            StatusCode::OK,
            format!(r#"{{"access_token":"{token}","expires_in":{seconds},"token_type":"Bearer"}}"#),
        ),
        Err(error) => json(StatusCode::BAD_REQUEST, format!(r#"{{"error":"{error}"}}"#)),
    }
}

/// Implements the operation `GetClientToken` of the user pools API, whose endpoint is the root of
/// this server.
async fn user_pools_api(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    input: Bytes,
) -> Response {
    let operation = headers.get("x-amz-target").map(HeaderValue::as_bytes);
    let granted = match operation {
        Some(b"AWSCognitoIdentityProviderService.GetClientToken") => {
            grant::by_get_client_token(&locked(&shared.clients), &input)
        }
        _ => Err(("UnknownOperationException", "only GetClientToken is served")),
    };
    let (status, body) = match granted
        .map(|granted| (shared.sign(&granted), granted.validity.as_secs()))
    {
        Ok((token, seconds)) => (
            StatusCode::OK,
            format!(
                r#"{{"ClientAuthenticationResult":{{"AccessToken":"{token}","ExpiresIn":{seconds},"TokenType":"Bearer"}}}}"#
            ),
        ),
        Err((exception, message)) => (
            StatusCode::BAD_REQUEST,
            format!(r#"{{"__type":"{exception}","message":"{message}"}}"#),
        ),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

/// Answers the preflight of a browser. AWS documents only that every origin is allowed.
async fn preflight(headers: HeaderMap) -> Response {
    let mut response = StatusCode::OK.into_response();
    let allowed = HeaderValue::from_static("GET, POST");
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, allowed);
    if let Some(requested) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    response
}

/// Lets programs of every origin read the response, as Cognito does.
async fn allow_every_origin(mut response: Response) -> Response {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn json(status: StatusCode, body: String) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
