//! The client credentials grant of a `TestServer`: its app clients, and the two requests that get a
//! token.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::extract::Form;
use axum::extract::rejection::FormRejection;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap};
use serde_json::Value;

/// The app clients of a pool.
#[derive(Default)]
pub(super) struct Clients {
    clients: HashMap<String, Client>,
    validity: HashMap<String, Duration>,
}

struct Client {
    secret: String,
    scopes: Vec<String>,
}

/// A client that authenticated, and the scopes of its token.
pub(super) struct Granted {
    pub(super) client_id: String,
    pub(super) scope: String,
    /// How long the token is valid.
    pub(super) validity: Duration,
}

const DEFAULT_VALIDITY: Duration = Duration::from_secs(3600);

/// The requested scopes cannot be granted.
enum ScopeError {
    /// A requested scope is not one of a resource server, or none is defined.
    Invalid,
    /// A requested scope is defined, but the client does not have it.
    NotOfClient,
}

impl Clients {
    pub(super) fn add<'a>(
        &mut self,
        id: &str,
        secret: &str,
        scopes: impl IntoIterator<Item = &'a str>,
    ) {
        let scopes = scopes.into_iter().map(str::to_owned).collect();
        self.clients.insert(id.to_owned(), Client { secret: secret.to_owned(), scopes });
    }

    pub(super) fn set_validity(&mut self, id: &str, validity: Duration) {
        self.validity.insert(id.to_owned(), validity);
    }

    fn granted(&self, client_id: String, scope: String) -> Granted {
        let validity = self.validity.get(&client_id).copied().unwrap_or(DEFAULT_VALIDITY);
        Granted { client_id, scope, validity }
    }

    /// Returns the scopes that Cognito would grant. Without a request, these are all custom scopes
    /// of the client. Requested scopes that no resource server defines are dropped; the others must
    /// belong to the client. The request fails if none is left, or if it contains a scope such as
    /// `openid`, which is only for users.
    fn grant(&self, client: &Client, requested: Option<&[&str]>) -> Result<String, ScopeError> {
        let is_custom = |scope: &&str| scope.contains('/');
        let Some(requested) = requested else {
            let own = client.scopes.iter().map(String::as_str).filter(is_custom);
            return Ok(own.collect::<Vec<_>>().join(" "));
        };
        if !requested.iter().all(is_custom) {
            return Err(ScopeError::Invalid);
        }
        let is_defined = |scope: &&str| self.clients.values().any(|client| client.has(scope));
        let mut granted = Vec::new();
        for scope in requested.iter().copied().filter(is_defined) {
            if !granted.contains(&scope) {
                granted.push(scope);
            }
        }
        if granted.is_empty() {
            return Err(ScopeError::Invalid);
        }
        if !granted.iter().all(|scope| client.has(scope)) {
            return Err(ScopeError::NotOfClient);
        }
        Ok(granted.join(" "))
    }
}

impl Client {
    fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// Answers a request to the token endpoint (RFC 6749 section 4.4) as Cognito does, or returns the
/// code of its error.
///
/// Other parameters are ignored. One of them is `resource`: a machine token has no `aud`.
pub(super) fn at_token_endpoint(
    clients: &Clients,
    headers: &HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Result<Granted, &'static str> {
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
    let (client_id, secret) = match headers.get(AUTHORIZATION) {
        Some(value) => basic_credentials(value).ok_or("invalid_client")?,
        None => {
            let id = parameter("client_id").ok_or("invalid_client")?;
            (id.to_owned(), parameter("client_secret").ok_or("invalid_client")?.to_owned())
        }
    };
    let client = clients.clients.get(&client_id).filter(|client| client.secret == secret);
    let client = client.ok_or("invalid_client")?;
    let requested = parameter("scope").map(|scope| scope.split_whitespace().collect::<Vec<_>>());
    match clients.grant(client, requested.as_deref()) {
        Ok(scope) => Ok(clients.granted(client_id, scope)),
        Err(ScopeError::Invalid) => Err("invalid_scope"),
        Err(ScopeError::NotOfClient) => Err("invalid_grant"),
    }
}

/// Answers the operation `GetClientToken` of the user pools API, or returns the name and the
/// message of its exception.
pub(super) fn by_get_client_token(
    clients: &Clients,
    input: &[u8],
) -> Result<Granted, (&'static str, &'static str)> {
    const INVALID: &str = "InvalidParameterException";

    let input: Value =
        serde_json::from_slice(input).map_err(|_| ("SerializationException", "not JSON"))?;
    let text = |name: &str| input.get(name).and_then(Value::as_str);
    let client_id = text("ClientId").ok_or((INVALID, "ClientId is missing"))?.to_owned();
    let secret = text("Secret").ok_or((INVALID, "Secret is missing"))?;
    let requested = match input.get("Scopes") {
        None | Some(Value::Null) => None,
        Some(scopes) => {
            let scopes = scopes.as_array().ok_or((INVALID, "Scopes is not a list"))?;
            let texts = scopes.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            Some(texts.ok_or((INVALID, "a scope is not a string"))?)
        }
    };
    let requested = requested.filter(|scopes| !scopes.is_empty());
    let client = clients.clients.get(&client_id);
    let client = client.ok_or(("ResourceNotFoundException", "the app client does not exist"))?;
    if client.secret != secret {
        return Err(("NotAuthorizedException", "the client secret is wrong"));
    }
    match clients.grant(client, requested.as_deref()) {
        Ok(scope) => Ok(clients.granted(client_id, scope)),
        Err(ScopeError::Invalid) => Err((INVALID, "a scope is not defined")),
        Err(ScopeError::NotOfClient) => Err((INVALID, "the app client does not have the scope")),
    }
}

/// Returns the client ID and the secret as they are sent. Cognito does not percent-decode them.
fn basic_credentials(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}
