//! A Lambda authorizer for API Gateway: REST APIs (`TOKEN` and `REQUEST`), HTTP APIs (payload format
//! 2.0 with simple responses) and the `$connect` route of WebSocket APIs.
//!
//! `COGNITO_USER_POOL_ID` and `COGNITO_CLIENT_IDS` set the user pool and its clients; `Config`
//! documents the other settings. `API_BASE_PATH` is the path of an HTTP API below its custom domain.
//! The README explains when an authorizer is needed.

#![forbid(unsafe_code)]

#[path = "../keys.rs"]
mod keys;
mod policy;
#[path = "../process.rs"]
mod process;

use std::collections::HashMap;
use std::process::ExitCode;

use lambda_http::lambda_runtime;
use lambda_http::{Error, LambdaEvent, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_cognito::{
    Access, AccessToken, ConfigError, RejectionKind, RequireToken, ScopeTable, TokenSource,
    Verifier,
};

/// A REST or WebSocket API answers 401 if this is the text of the error. AWS does not document the
/// answer of an HTTP API.
const UNAUTHORIZED: &str = "Unauthorized";

/// Returns what each request requires. The method and the path are those of the API, without stage
/// and base path. `GET /$connect` is the handshake of a WebSocket API.
fn table() -> Result<ScopeTable, ConfigError> {
    ScopeTable::new([
        ("POST /activity", Access::scope("activity/*")),
        ("GET /item", Access::scope("demo-dev/read")),
        ("GET /item/{id}", Access::scope("demo-dev/read")),
        ("GET /$connect", Access::scope("demo-dev/read")),
    ])
}

struct Authorizer {
    verifier: Verifier,
    table: ScopeTable,
    /// The token in the `Authorization` header, and in a WebSocket subprotocol.
    header: RequireToken,
    subprotocol: RequireToken,
    base_path: String,
}

/// The parts of an event that the authorizer reads. Which ones an event has tells its kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    /// A `TOKEN` event has the value of the header only here.
    authorization_token: Option<String>,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    multi_value_headers: Option<HashMap<String, Vec<String>>>,
    /// In events of REST and WebSocket APIs: `arn:…:execute-api:…:API/STAGE/METHOD/PATH`.
    method_arn: Option<String>,
    /// In events of HTTP APIs.
    raw_path: Option<String>,
    request_context: Option<RequestContext>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    domain_name: Option<String>,
    stage: Option<String>,
    http: Option<HttpContext>,
}

#[derive(Deserialize)]
struct HttpContext {
    method: String,
}

/// The API that sent the event, and the request.
enum Api<'e> {
    Rest { stage: &'e str, method: &'e str, path: String },
    Http { method: &'e str, path: &'e str },
    WebSocket { arn: &'e str },
}

impl Event {
    fn api(&self, base_path: &str) -> Option<Api<'_>> {
        if let Some(arn) = &self.method_arn {
            // The ARN has the path without stage and base path, in both kinds of REST events.
            let resource = arn.splitn(6, ':').nth(5)?;
            let mut parts = resource.splitn(4, '/');
            let (api, stage, method) = (parts.next()?, parts.next()?, parts.next()?);
            if method == "$connect" {
                return Some(Api::WebSocket { arn });
            }
            let end = arn.len() - resource.len() + api.len() + 1 + stage.len();
            let path = format!("/{}", parts.next()?);
            return Some(Api::Rest { stage: arn.get(..end)?, method, path });
        }
        let context = self.request_context.as_ref()?;
        let method = &context.http.as_ref()?.method;
        // At API Gateway's own host, the path begins with the stage, if it has a name. At a custom
        // domain, it begins with the base path.
        let prefix = match (context.stage.as_deref()?, context.domain_name.as_deref()?) {
            ("$default", domain) if domain.contains(".execute-api.") => "".to_owned(),
            (stage, domain) if domain.contains(".execute-api.") => format!("/{stage}"),
            (_, _) => base_path.to_owned(),
        };
        // No row matches an empty path.
        let path = match self.raw_path.as_deref()?.strip_prefix(&*prefix) {
            Some("") => "/",
            Some(path) if path.starts_with('/') => path,
            _ => "",
        };
        Some(Api::Http { method, path })
    }

    /// Returns every value of this header.
    fn values(&self, name: &str) -> Vec<&[u8]> {
        if let Some(headers) = &self.multi_value_headers {
            let ours = headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            return ours.flat_map(|(_, values)| values).map(String::as_bytes).collect();
        }
        let headers = self.headers.iter().flatten();
        let ours = headers.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        ours.map(|(_, value)| value.as_bytes()).collect()
    }
}

impl Authorizer {
    async fn authorize(&self, event: LambdaEvent<Value>) -> Result<Value, Error> {
        keys::refresh_if_due(&self.verifier).await;
        // An error of `serde` could name a part of the token.
        let event = Event::deserialize(event.payload).map_err(|_| "unknown event")?;
        let api = event.api(&self.base_path).ok_or("unknown event")?;
        let authorization = event.values("authorization");
        let verified = match (&event.authorization_token, &api) {
            (Some(value), _) => self.header.verify_header_values([value.as_bytes()]).await,
            (None, Api::WebSocket { .. }) if authorization.is_empty() => {
                let values = event.values("sec-websocket-protocol");
                self.subprotocol.verify_header_values(values).await
            }
            (None, _) => self.header.verify_header_values(authorization).await,
        };
        let token = match verified {
            Ok(token) => token,
            Err(rejection) => match rejection.kind() {
                RejectionKind::ExpiredToken
                | RejectionKind::InvalidToken
                | RejectionKind::MissingToken => return Err(UNAUTHORIZED.into()),
                _ => return Ok(denied(&api, rejection.error_code())),
            },
        };
        Ok(self.answer(&api, &token))
    }

    fn answer(&self, api: &Api<'_>, token: &AccessToken) -> Value {
        let scopes = token.scopes().iter().collect::<Vec<_>>().join(" ");
        // API Gateway hands this to the integration. The values are texts: it accepts no lists.
        let context = json!({
            "client_id": token.client_id(),
            "sub": token.subject(),
            "scope": scopes,
        });
        let principal = token.subject();
        match api {
            Api::Rest { stage, method, path } => {
                let policy = policy::policy(&self.table, token, stage, method, path);
                json!({ "principalId": principal, "policyDocument": policy, "context": context })
            }
            Api::WebSocket { arn } if self.table.allows("GET", "/$connect", token) => {
                let policy = policy::allow_only(arn);
                json!({ "principalId": principal, "policyDocument": policy, "context": context })
            }
            Api::WebSocket { .. } => denied(api, "forbidden"),
            Api::Http { method, path } => {
                let is_authorized = self.table.allows(method, path, token);
                json!({ "isAuthorized": is_authorized, "context": context })
            }
        }
    }
}

/// Returns the answer for which API Gateway answers 403. The reason is in the context.
fn denied(api: &Api<'_>, error: &str) -> Value {
    let context = json!({ "error": error });
    let stage = match api {
        Api::Http { .. } => return json!({ "isAuthorized": false, "context": context }),
        Api::Rest { stage, .. } => stage,
        Api::WebSocket { arn } => arn.strip_suffix("/$connect").unwrap_or(arn),
    };
    let policy = policy::deny_all(stage);
    json!({ "principalId": "anonymous", "policyDocument": policy, "context": context })
}

// Lambda sends one request at a time, so one thread is enough.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    process::run(authorize_events()).await
}

async fn authorize_events() -> Result<(), Error> {
    let base_path = std::env::var("API_BASE_PATH").unwrap_or_default();
    if !(base_path.is_empty() || base_path.starts_with('/') && !base_path.ends_with('/')) {
        return Err("`API_BASE_PATH` does not begin with `/`, or ends with it".into());
    }
    let table = table()?;
    let verifier = keys::connect().await?;
    let header = RequireToken::new(verifier.clone());
    let subprotocol = header.clone().token_source(TokenSource::websocket_protocol());
    let authorizer = &Authorizer { verifier, table, header, subprotocol, base_path };
    lambda_runtime::run(service_fn(|event| authorizer.authorize(event))).await
}
