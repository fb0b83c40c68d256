//! A service that can revoke access before a token expires: one token by its `jti`, or all tokens
//! of a client that were issued before a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, Config, RequireToken, Rules, StartError, TestIssuer,
    TestServer, UserPool, Verifier,
};

use crate::ask;

#[derive(Clone, Default)]
struct Revoked(Arc<RwLock<Lists>>);

#[derive(Default)]
struct Lists {
    tokens: HashSet<String>,
    clients: HashMap<String, SystemTime>,
}

impl Revoked {
    fn token(&self, jti: &str) {
        self.0.write().unwrap().tokens.insert(jti.to_owned());
    }

    fn all_of_client_issued_before(&self, client_id: &str, moment: SystemTime) {
        self.0.write().unwrap().clients.insert(client_id.to_owned(), moment);
    }

    /// Rejects revoked tokens, tokens without `jti` or `iat`, and every token if the lists cannot
    /// be read.
    fn check(&self, token: &AccessToken) -> Result<(), CheckError> {
        let lists = self.0.read().map_err(|_| CheckError::Revoked)?;
        let (Some(id), Some(issued_at)) = (token.jwt_id(), token.issued_at()) else {
            return Err(CheckError::Revoked);
        };
        let too_old = lists.clients.get(token.client_id()).is_some_and(|from| issued_at < *from);
        if too_old || lists.tokens.contains(id) { Err(CheckError::Revoked) } else { Ok(()) }
    }
}

fn rules(pool: UserPool, revoked: Revoked) -> Rules {
    Rules::new(pool, ClientIds::only(["robot", "web"]))
        .with_check(move |token| revoked.check(token))
}

/// Creates a verifier from settings in the environment. A verifier from the settings fetches the
/// keys; the returned one shares them and adds the lists to the rules.
async fn from_settings(config: &Config, revoked: Revoked) -> Result<Verifier, StartError> {
    let verifier = config.verifier_builder().connect().await?;
    Ok(verifier.share_keys(config.rules().clone().with_check(move |token| revoked.check(token)))?)
}

fn app(verifier: Verifier) -> Router {
    Router::new().route("/", get(|| async { "in" })).layer(RequireToken::new(verifier))
}

#[tokio::test]
async fn revocation_takes_effect_at_the_next_request() {
    let issuer = TestIssuer::new();
    let revoked = Revoked::default();
    let rules = rules(issuer.user_pool(), revoked.clone());
    let app = app(Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap());
    let now = SystemTime::now();
    let stolen = issuer.user_token("web", "alice").claim("jti", "stolen").sign();
    let other = issuer.user_token("web", "bob").sign();
    let old = issuer.machine_token("robot").issued_at(now - Duration::from_secs(60)).sign();
    let new = issuer.machine_token("robot").issued_at(now).sign();

    for token in [&stolen, &other, &old, &new] {
        // The second request finds the token in the cache.
        assert_eq!(ask(&app, "GET /", token).await.status, StatusCode::OK);
        assert_eq!(ask(&app, "GET /", token).await.status, StatusCode::OK);
    }

    revoked.token("stolen");
    let answer = ask(&app, "GET /", &stolen).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
    assert_eq!(ask(&app, "GET /", &other).await.status, StatusCode::OK);

    revoked.all_of_client_issued_before("robot", now - Duration::from_secs(30));
    assert_eq!(ask(&app, "GET /", &old).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&app, "GET /", &new).await.status, StatusCode::OK);
    assert_eq!(ask(&app, "GET /", &other).await.status, StatusCode::OK);

    let anonymous = issuer.machine_token("robot").without_claim("jti").sign();
    assert_eq!(ask(&app, "GET /", &anonymous).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn revocation_list_works_with_settings_from_the_environment() {
    let cognito = TestServer::bind("127.0.0.1:0").await.unwrap();
    let issuer = cognito.issuer();
    let vars = [("COGNITO_ISSUER", issuer.issuer()), ("COGNITO_CLIENT_IDS", "web, robot")];
    let config = Config::from_vars(vars).unwrap();
    let revoked = Revoked::default();
    let app = app(from_settings(&config, revoked.clone()).await.unwrap());
    let stolen = issuer.machine_token("robot").claim("jti", "stolen").sign();

    assert_eq!(ask(&app, "GET /", &stolen).await.status, StatusCode::OK);
    revoked.token("stolen");
    assert_eq!(ask(&app, "GET /", &stolen).await.status, StatusCode::UNAUTHORIZED);
    let other = issuer.machine_token("robot").sign();
    assert_eq!(ask(&app, "GET /", &other).await.status, StatusCode::OK);
    let stranger = issuer.machine_token("stranger").sign();
    assert_eq!(ask(&app, "GET /", &stranger).await.status, StatusCode::UNAUTHORIZED);
}
