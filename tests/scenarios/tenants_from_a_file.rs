//! A service whose tenants are in a TOML file: name, pool, clients and required scopes. Handlers
//! identify callers by the tenant's name.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use serde::Deserialize;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, JwksDocument, RefreshError, RequireToken, Rules,
    TestIssuer, UserPool, Verifier, VerifierBuilder,
};

use crate::ask;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    tenants: Vec<Tenant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenant {
    name: String,
    user_pool_id: String,
    client_ids: Vec<String>,
    scopes: Vec<String>,
}

impl Tenant {
    fn rules(&self) -> Result<Rules, Box<dyn Error>> {
        let pool = UserPool::new(&self.user_pool_id)?;
        let scopes = self.scopes.clone();
        Ok(Rules::new(pool, ClientIds::only(&self.client_ids)).with_check(move |token| {
            let held = token.scopes();
            if scopes.iter().all(|scope| held.contains(scope)) {
                Ok(())
            } else {
                Err(CheckError::Forbidden)
            }
        }))
    }
}

/// The names of the tenants by pool ID. Every issuer of a pool ends with its ID.
type Names = Arc<HashMap<String, String>>;

fn read(text: &str) -> Result<(VerifierBuilder, Names), Box<dyn Error>> {
    let Settings { tenants } = toml::from_str(text)?;
    let (first, others) = tenants.split_first().ok_or("the file has no tenant")?;
    let mut builder = Verifier::builder(first.rules()?);
    for tenant in others {
        builder = builder.add_pool(tenant.rules()?);
    }
    let names = tenants.into_iter().map(|tenant| (tenant.user_pool_id, tenant.name)).collect();
    Ok((builder, Arc::new(names)))
}

fn app(verifier: Verifier, names: Names) -> Router {
    Router::new().route("/whoami", get(whoami)).with_state(names).layer(RequireToken::new(verifier))
}

async fn whoami(State(names): State<Names>, token: AccessToken) -> Result<String, StatusCode> {
    let pool_id = token.issuer().rsplit('/').next().unwrap_or_default();
    names.get(pool_id).cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const FILE: &str = r#"
    [[tenants]]
    name = "acme"
    user_pool_id = "eu-west-1_Acme"
    client_ids = ["acme-web", "acme-robot"]
    scopes = []

    [[tenants]]
    name = "bolt"
    user_pool_id = "us-east-1_Bolt"
    client_ids = ["bolt-web"]
    scopes = ["bolt/use"]
"#;

const ACME: &str = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Acme";
const BOLT: &str = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Bolt";
const BOLT_UPDATED: &str = "https://issuer-cognito-idp.us-east-1.amazonaws.com/us-east-1_Bolt";

#[tokio::test]
async fn each_tenant_has_a_name_and_its_own_rules() {
    let (acme, bolt) = (TestIssuer::new(), TestIssuer::new());
    let (builder, names) = read(FILE).unwrap();
    let pools = [("eu-west-1_Acme", acme.clone()), ("us-east-1_Bolt", bolt.clone())];
    let verifier = builder
        .jwks_fetcher(move |url: String| {
            let pool = pools.iter().find(|(id, _)| url.contains(id));
            let document = pool.map(|(_, issuer)| JwksDocument::new(issuer.jwks_json()));
            async move { document.ok_or(RefreshError::status(404)) }
        })
        .connect()
        .await
        .unwrap();
    let app = app(verifier, names);
    let of_acme = acme.machine_token("acme-robot").claim("iss", ACME);
    let of_bolt = bolt.machine_token("bolt-web").scope("bolt/use").claim("iss", BOLT);

    for (token, status, body) in [
        (of_acme.clone(), StatusCode::OK, "acme"),
        (of_bolt.clone(), StatusCode::OK, "bolt"),
        (of_bolt.clone().claim("iss", BOLT_UPDATED), StatusCode::OK, "bolt"),
        (of_bolt.clone().scope("acme/use"), StatusCode::FORBIDDEN, "not allowed"),
        (of_bolt.clone().claim("client_id", "acme-web"), StatusCode::UNAUTHORIZED, "invalid"),
        (of_bolt.claim("iss", ACME), StatusCode::UNAUTHORIZED, "invalid"),
        (of_acme.claim("iss", BOLT), StatusCode::UNAUTHORIZED, "invalid"),
    ] {
        let answer = ask(&app, "GET /whoami", &token.sign()).await;
        assert_eq!(answer.status, status, "{}", token.payload_json());
        assert!(answer.body.contains(body), "{}", answer.body);
    }
}

#[test]
fn invalid_file_is_an_error_at_the_start() {
    assert!(read("tenants = []").is_err());
    assert!(read(&FILE.replace("us-east-1_Bolt", "Bolt")).is_err());
    assert!(read(&FILE.replace("scopes", "scope")).is_err());
}
