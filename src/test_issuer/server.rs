//! Serves a `TestIssuer` on a loopback port: JWK Set, discovery document and token endpoint.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, StatusCode};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::JoinHandle;

use super::issuer::{POOL_ID, TestIssuer};
use crate::{FetchJwks, JwksDocument, RefreshError};

/// A [`TestIssuer`] that is served over HTTP on this machine until it is dropped.
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
    clients: Mutex<HashMap<String, Client>>,
    fault: Mutex<Option<Fault>>,
    jwks_requests: AtomicU64,
}

struct Client {
    secret: String,
    scopes: Vec<String>,
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
            .route(&format!("/{POOL_ID}/.well-known/jwks.json"), get(jwks))
            .route(&format!("/{POOL_ID}/.well-known/openid-configuration"), get(discovery))
            .route("/oauth2/token", post(token))
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
    /// The pool's resource servers define these scopes from then on.
    pub fn add_client<'a>(
        &self,
        id: &str,
        secret: &str,
        scopes: impl IntoIterator<Item = &'a str>,
    ) {
        let scopes = scopes.into_iter().map(str::to_owned).collect();
        let client = Client { secret: secret.to_owned(), scopes };
        locked(&self.shared.clients).insert(id.to_owned(), client);
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

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    let issuer = shared.issuer.issuer();
    let host = issuer.strip_suffix(POOL_ID).unwrap_or(issuer);
    let document = format!(
        r#"{{"id_token_signing_alg_values_supported":["RS256"],"issuer":"{issuer}","jwks_uri":"{issuer}/.well-known/jwks.json","response_types_supported":["code","token"],"scopes_supported":["openid","email","phone","profile"],"subject_types_supported":["public"],"token_endpoint":"{host}oauth2/token","token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"]}}"#
    );
    json(StatusCode::OK, document)
}

type Pairs = Form<Vec<(String, String)>>;

/// Implements the client credentials grant (RFC 6749 section 4.4) with Cognito's answers.
async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    form: Result<Pairs, FormRejection>,
) -> Response {
    match grant(&shared, &headers, form) {
        Ok(token) => json(
            StatusCode::OK,
            format!(r#"{{"access_token":"{token}","expires_in":3600,"token_type":"Bearer"}}"#),
        ),
        Err(error) => json(StatusCode::BAD_REQUEST, format!(r#"{{"error":"{error}"}}"#)),
    }
}

fn grant(
    shared: &Shared,
    headers: &HeaderMap,
    form: Result<Pairs, FormRejection>,
) -> Result<String, &'static str> {
    let Form(pairs) = form.map_err(|_| "invalid_request")?;
    let mut names = HashSet::new();
    if !pairs.iter().all(|(name, _)| names.insert(name)) {
        return Err("invalid_request");
    }
    let parameter = |name| {
        let pair = pairs.iter().find(|(parameter, _)| parameter == name);
        pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };

    let grant_type = parameter("grant_type").ok_or("invalid_request")?;
    if grant_type != "client_credentials" {
        return Err("unsupported_grant_type");
    }
    let (id, secret) = match headers.get(AUTHORIZATION) {
        Some(value) => basic_credentials(value).ok_or("invalid_client")?,
        None => {
            let id = parameter("client_id").ok_or("invalid_client")?;
            (id.to_owned(), parameter("client_secret").ok_or("invalid_client")?.to_owned())
        }
    };
    let clients = locked(&shared.clients);
    let client = clients.get(&id).filter(|client| client.secret == secret);
    let client = client.ok_or("invalid_client")?;
    let scopes = granted_scopes(parameter("scope"), client, &clients)?;
    Ok(shared.issuer.machine_token(&id).scope(&scopes).sign())
}

/// Returns the scopes that Cognito would grant. Without `scope`, these are all scopes of the
/// client. Requested scopes that no resource server defines are dropped; the others must belong to
/// the client. The request fails if none is left.
fn granted_scopes(
    requested: Option<&str>,
    client: &Client,
    clients: &HashMap<String, Client>,
) -> Result<String, &'static str> {
    let Some(requested) = requested else {
        return Ok(client.scopes.join(" "));
    };
    let is_defined = |scope: &&str| {
        clients.values().any(|client| client.scopes.iter().any(|defined| defined == scope))
    };
    let defined = requested.split(' ').filter(is_defined).collect::<Vec<_>>();
    if defined.is_empty() {
        return Err("invalid_scope");
    }
    if !defined.iter().all(|scope| client.scopes.iter().any(|own| own == scope)) {
        return Err("invalid_grant");
    }
    Ok(defined.join(" "))
}

fn basic_credentials(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn json(status: StatusCode, body: String) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
