use std::collections::HashMap;
use std::sync::Arc;

use aliri::jwa::Algorithm as AliriAlgorithm;
use aliri::jwt::{Audiences, CoreClaims, CoreValidator, Issuer, IssuerRef, Subject, SubjectRef};
use aliri::{Jwks, JwtRef};
use aliri_clock::UnixTime;
use aliri_oauth2::{Authority, HasScope, Scope, ScopePolicy};
use axum_jwt_auth::{Decoder, RemoteJwksDecoder};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use jsonwebtokens_cognito::KeySet;
use jwt_authorizer::{Authorizer, JwtAuthorizer};
use jwt_verify::{OidcAccessTokenClaims, OidcJwtVerifier};
use oauth_resource_server::{KeyNaming, OAuthConfig, OAuthValidator};
use serde::Deserialize;
use serde_json::Value;
use tower_oauth2_resource_server::server::OAuth2ResourceServer;
use tower_oauth2_resource_server::tenant::TenantConfiguration;
use tower_oauth2_resource_server::validation::ClaimsValidationSpec;

use super::{AUDIENCE, Claims, Setting, Token, finish, version};
use crate::requests::CLIENT;

/// A candidate that verifies a token without a request.
pub struct Neighbour {
    pub name: String,
    pub token: Token,
    pub accepts: Box<dyn Fn(&str) -> bool>,
}

impl Neighbour {
    pub fn new(name: String, token: &Token, accepts: impl Fn(&str) -> bool + 'static) -> Self {
        Self { name, token: token.clone(), accepts: Box::new(accepts) }
    }
}

/// Returns all candidates that have a function to verify a token.
pub async fn neighbours(setting: &Setting) -> Vec<Neighbour> {
    let named = |name: &str, beginning: &str| format!("{name} {}", version(name, beginning));
    let token = &setting.token;

    let mut all = Vec::new();
    let accepts = jsonwebtoken(setting);
    all.push(Neighbour::new(named("jsonwebtoken", "12."), token, accepts));
    let accepts = aliri_oauth2(setting);
    all.push(Neighbour::new(named("aliri_oauth2", ""), token, accepts));
    let decoder = axum_jwt_auth_decoder(setting).await;
    let accepts = move |token: &str| finish(decoder.decode(token)).is_ok();
    all.push(Neighbour::new(named("axum-jwt-auth", ""), token, accepts));
    let authorizer = jwt_authorizer(setting).await;
    let accepts = move |token: &str| finish(authorizer.check_auth(token)).is_ok();
    all.push(Neighbour::new(named("jwt-authorizer", ""), token, accepts));
    let validator = oauth_resource_server(setting);
    let accepts = move |token: &str| finish(validator.validate(token)).is_ok();
    let name = format!("{}, with aud", named("oauth-resource-server", ""));
    all.push(Neighbour::new(name, &setting.token_with_audience, accepts));
    let accepts = jsonwebtokens_cognito(setting);
    all.push(Neighbour::new(named("jsonwebtokens-cognito", ""), token, accepts));
    let accepts = jwt_verify(setting).await;
    all.push(Neighbour::new(named("jwt-verify", ""), token, accepts));
    all
}

/// Uses a map of keys by `kid`, parsed as far as jsonwebtoken parses them.
fn jsonwebtoken(setting: &Setting) -> impl Fn(&str) -> bool + use<> {
    let set: JwkSet = serde_json::from_str(&setting.issuer.jwks_json()).unwrap();
    let keys = set.keys.iter().map(|jwk| {
        let kid = jwk.common.key_id.clone().unwrap();
        (kid, DecodingKey::from_jwk(jwk).unwrap())
    });
    let keys = keys.collect::<HashMap<_, _>>();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[setting.issuer.issuer()]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    validation.validate_aud = false;
    move |token| {
        let header = jsonwebtoken::decode_header(token).ok();
        let key = header.and_then(|header| keys.get(&header.kid?));
        key.is_some_and(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).is_ok())
    }
}

fn aliri_oauth2(setting: &Setting) -> impl Fn(&str) -> bool + use<> {
    let jwks: Jwks = serde_json::from_str(&setting.issuer.jwks_json()).unwrap();
    let validator = CoreValidator::default()
        .add_approved_algorithm(AliriAlgorithm::from(aliri::jwa::rsa::SigningAlgorithm::RS256))
        .require_issuer(Issuer::from(setting.issuer.issuer()));
    let authority = Authority::new(jwks, validator);
    let policy = ScopePolicy::allow_any();
    move |token| authority.verify_token::<AliriClaims>(JwtRef::from_str(token), &policy).is_ok()
}

/// [`Claims`] with the types of aliri.
#[derive(Deserialize)]
struct AliriClaims {
    sub: Subject,
    #[serde(rename = "token_use", deserialize_with = "super::access")]
    _token_use: String,
    scope: Scope,
    iss: Issuer,
    exp: UnixTime,
    #[serde(rename = "client_id", deserialize_with = "super::client")]
    _client_id: String,
}

impl CoreClaims for AliriClaims {
    fn nbf(&self) -> Option<UnixTime> {
        None
    }

    fn exp(&self) -> Option<UnixTime> {
        Some(self.exp)
    }

    fn aud(&self) -> &Audiences {
        Audiences::EMPTY_AUD
    }

    fn iss(&self) -> Option<&IssuerRef> {
        Some(&self.iss)
    }

    fn sub(&self) -> Option<&SubjectRef> {
        Some(&self.sub)
    }
}

impl HasScope for AliriClaims {
    fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Returns the decoder that its extractor calls.
pub async fn axum_jwt_auth_decoder(setting: &Setting) -> Decoder<Claims> {
    let mut validation = jsonwebtoken_10::Validation::new(jsonwebtoken_10::Algorithm::RS256);
    validation.set_issuer(&[setting.issuer.issuer()]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    validation.validate_aud = false;
    let decoder = RemoteJwksDecoder::builder()
        .jwks_url(setting.jwks_url.clone())
        .validation(validation)
        .build()
        .unwrap();
    decoder.initialize().await.unwrap();
    Arc::new(decoder)
}

pub(crate) async fn jwt_authorizer(setting: &Setting) -> Authorizer<Claims> {
    let validation = jwt_authorizer::Validation::new().iss(&[setting.issuer.issuer()]);
    let authorizer = JwtAuthorizer::from_jwks_url(&setting.jwks_url)
        .validation(validation)
        .build()
        .await
        .unwrap();
    // The first token makes it fetch the keys.
    authorizer.check_auth(&setting.token.text).await.unwrap();
    authorizer
}

/// Disables its own check of scopes, which is a separate step in the other crates.
pub(crate) fn oauth_resource_server(setting: &Setting) -> Arc<OAuthValidator> {
    let config = OAuthConfig {
        enabled: true,
        issuer: setting.issuer.issuer().to_owned(),
        audience: AUDIENCE.to_owned(),
        resource: AUDIENCE.to_owned(),
        allowed_client_ids: vec![CLIENT.to_owned()],
        required_claims: [("token_use".to_owned(), Value::from("access"))].into(),
        allow_unscoped_tokens: true,
        algorithms: vec!["RS256".to_owned()],
        ..OAuthConfig::default()
    };
    let config = config.resolve(KeyNaming::Dotted("oauth")).unwrap().expect("it is enabled");
    let validator = OAuthValidator::builder(&config).initial_jwks(&setting.issuer.jwks_json());
    Arc::new(validator.build().unwrap())
}

/// Uses its verifier with our own lookup of keys, because its `KeySet` fetches keys only from
/// amazonaws.com.
fn jsonwebtokens_cognito(setting: &Setting) -> impl Fn(&str) -> bool + use<> {
    use jsonwebtokens::{Algorithm, AlgorithmID, raw};

    let pool = setting.issuer.issuer().rsplit('/').next().unwrap();
    let key_set = KeySet::new("us-east-1", pool).unwrap();
    let verifier = key_set.new_access_token_verifier(&[CLIENT]).build().unwrap();
    let jwks: Value = serde_json::from_str(&setting.issuer.jwks_json()).unwrap();
    let keys = jwks["keys"].as_array().unwrap().iter().map(|key| {
        let member = |name: &str| key[name].as_str().unwrap();
        let (n, e) = (member("n"), member("e"));
        let mut key = Algorithm::new_rsa_n_e_b64_verifier(AlgorithmID::RS256, n, e).unwrap();
        key.set_kid(member("kid"));
        (member("kid").to_owned(), key)
    });
    let keys = keys.collect::<HashMap<_, _>>();
    move |token| {
        let header = raw::decode_header_only(token).ok();
        let key = header.and_then(|header| keys.get(header.get("kid")?.as_str()?));
        key.is_some_and(|key| verifier.verify(token, key).is_ok())
    }
}

/// Uses its verifier for OpenID Connect, because the one for Cognito fetches keys only from
/// amazonaws.com. It reads `client_id` as `aud` and does not check `token_use`.
async fn jwt_verify(setting: &Setting) -> impl Fn(&str) -> bool + use<> {
    let (issuer, url) = (setting.issuer.issuer(), &setting.jwks_url);
    let clients = [CLIENT.to_owned()];
    let verifier = OidcJwtVerifier::new_single_provider(issuer, Some(url), &clients).unwrap();
    for (_, fetched) in verifier.hydrate().await {
        fetched.unwrap();
    }
    move |token| {
        let claims = finish(verifier.verify::<OidcAccessTokenClaims>(token));
        claims.is_ok_and(|claims| claims.base.validate_token_use("access"))
    }
}

/// Has only a layer. The keys are fixed, because it does not wait for the first fetch.
pub async fn tower_oauth2_resource_server(setting: &Setting) -> OAuth2ResourceServer<Claims> {
    let validation = ClaimsValidationSpec::new().iss(setting.issuer.issuer()).exp(true);
    let tenant = TenantConfiguration::static_builder(setting.issuer.jwks_json())
        .claims_validation(validation)
        .allowed_algorithms(&[jsonwebtoken_11::Algorithm::RS256])
        .build()
        .unwrap();
    OAuth2ResourceServer::<Claims>::builder().add_tenant(tenant).build().await.unwrap()
}
