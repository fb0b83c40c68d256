//! The embedded issuer: jsonwebtoken accepts its tokens, and its token endpoint answers as
//! Cognito's does.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, Request, StatusCode};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use tower_cognito::test_issuer::Fault;
use tower_cognito::{
    ClientIds, RefreshErrorKind, Rejection, Rules, TestIssuer, TestServer, UserPool, Verifier,
    VerifyErrorKind as Kind,
};

use super::support::{CLIENT, has_second_opinion, http_1, issuer, machine};

fn decoded(part: &str) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn tokens_have_the_claims_of_cognitos_tokens() {
    let token = machine("activity/*").sign();
    let [header, payload] = [0, 1].map(|part| decoded(token.split('.').nth(part).unwrap()));
    let header: Value = serde_json::from_str(&header).unwrap();
    let key_id = header["kid"].as_str().unwrap();
    assert_eq!(header, json!({"kid": key_id, "alg": "RS256"}));
    assert_eq!((key_id.len(), STANDARD.decode(key_id).unwrap().len()), (44, 32));

    let names = |payload: &str| {
        let fields = payload.trim_matches(['{', '}']).split(",\"");
        fields.map(|f| f.trim_matches('"').split('"').next().unwrap().to_owned()).collect()
    };
    let found: Vec<String> = names(&payload);
    assert_eq!(
        found,
        [
            "sub",
            "token_use",
            "scope",
            "auth_time",
            "iss",
            "exp",
            "iat",
            "version",
            "jti",
            "client_id"
        ]
    );
    let claims: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(claims["sub"], claims["client_id"]);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert_eq!(claims["auth_time"], claims["iat"]);

    let id = issuer().id_token(CLIENT, "alice").sign();
    let claims: Value = serde_json::from_str(&decoded(id.split('.').nth(1).unwrap())).unwrap();
    assert_eq!((&claims["aud"], &claims["token_use"]), (&json!(CLIENT), &json!("id")));
    assert!(claims.get("client_id").is_none() && claims.get("scope").is_none());
    let id_header: Value = serde_json::from_str(&decoded(id.split('.').next().unwrap())).unwrap();
    assert_ne!(id_header["kid"], header["kid"], "another key signs ID tokens");
}

#[test]
fn tokens_have_plain_or_escaped_slashes() {
    let plain = machine("activity/*");
    let escaped = plain.clone().escaped_slashes();
    assert!(!plain.payload_json().contains(r"\/"));
    assert!(escaped.payload_json().contains(r#""activity\/*""#));
    assert!(escaped.payload_json().contains(r#""iss":"https:\/\/cognito-idp"#));
    let with_slash = machine("").header("kid", "a/b").escaped_slashes();
    assert_eq!(with_slash.header_json(), r#"{"kid":"a\/b","alg":"RS256"}"#);
}

#[test]
fn jsonwebtoken_accepts_the_tokens() {
    if !has_second_opinion() {
        return;
    }
    let set: JwkSet = serde_json::from_str(&issuer().jwks_json()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    validation.set_issuer(&[issuer().issuer()]);
    validation.set_required_spec_claims(&["exp", "iss", "sub"]);
    for token in [
        machine("activity/*").sign(),
        machine("activity/*").escaped_slashes().sign(),
        issuer().user_token(CLIENT, "alice").sign(),
        issuer().id_token(CLIENT, "alice").sign(),
    ] {
        let key_id = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&key_id).unwrap()).unwrap();
        jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    }
}

#[test]
fn rotation_publishes_the_old_key_until_it_is_retired() {
    let issuer = TestIssuer::new();
    let ids = || issuer.jwks().key_ids().map(str::to_owned).collect::<HashSet<_>>();
    let before = ids();
    issuer.rotate();
    let during = ids();
    assert!(before.is_subset(&during) && during.len() == before.len() + 1);
    issuer.retire_old_keys();
    let after = ids();
    assert_eq!(after.intersection(&before).count(), 1, "the key of ID tokens stays");
    assert_eq!(after.len(), 2);
}

/// The URL of the pool is one of AWS, which a test must not reach.
#[tokio::test]
async fn verifier_of_a_test_issuer_has_its_keys_without_a_network() {
    let issuer = TestIssuer::new();
    let rules = Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    let token = issuer.machine_token(CLIENT);
    assert!(verifier.verify(&token.sign()).await.is_ok());

    issuer.rotate();
    let new = issuer.machine_token(CLIENT).sign();
    assert!(verifier.verify(&new).await.is_ok(), "the new key is fetched");
    issuer.retire_old_keys();
    verifier.refresh().await.unwrap();
    assert_eq!(verifier.verify(&token.sign()).await.unwrap_err().kind(), Kind::UnknownKey);

    let elsewhere = UserPool::from_issuer(issuer.issuer()).unwrap();
    assert_eq!(issuer.user_pool(), elsewhere, "the fetch in process is not compared");
    let other = Rules::new(elsewhere, ClientIds::any());
    assert!(verifier.share_keys(other).unwrap().verify(&new).await.is_ok());
}

#[tokio::test]
async fn two_pools_of_a_test_have_keys_each_from_its_own_place() {
    let (local, server) = (TestIssuer::new(), server().await);
    let rules = |issuer: &TestIssuer| Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]));
    let builder = Verifier::builder(rules(&local)).add_pool(rules(server.issuer()));
    let verifier = builder.connect().await.unwrap();
    for issuer in [&local, server.issuer()] {
        let token = issuer.machine_token(CLIENT).sign();
        assert!(verifier.verify(&token).await.is_ok(), "{}", issuer.issuer());
    }
    assert_eq!(server.jwks_requests(), 1, "a server's pool is fetched over HTTP");
}

#[tokio::test]
async fn setting_for_the_keys_replaces_the_fetch_in_process() {
    let issuer = TestIssuer::new();
    let token = issuer.machine_token(CLIENT).sign();
    let builder = |pool| Verifier::builder(Rules::new(pool, ClientIds::only([CLIENT])));

    let fetched = builder(issuer.user_pool()).jwks_fetcher(Fault::Down).connect_lazy().unwrap();
    assert!(fetched.ready(Duration::from_millis(1)).await.is_err());

    // Each of these two has other keys.
    let other = TestIssuer::new();
    let path = std::env::temp_dir().join(format!("jwks-{}.json", std::process::id()));
    std::fs::write(&path, other.jwks_json()).unwrap();
    let of_file = builder(issuer.user_pool().with_jwks_file(&path)).connect().await.unwrap();
    assert_eq!(of_file.verify(&token).await.unwrap_err().kind(), Kind::UnknownKey);
    std::fs::remove_file(&path).unwrap();

    let server = server().await;
    let url = format!("{}/.well-known/jwks.json", server.issuer().issuer());
    let pool = issuer.user_pool().with_jwks_url(&url).unwrap();
    let of_url = builder(pool).connect().await.unwrap();
    assert_eq!(of_url.verify(&token).await.unwrap_err().kind(), Kind::UnknownKey);
    assert_eq!(server.jwks_requests(), 2, "at the start, and for the unknown key");

    // Fixed keys are still allowed.
    let fixed = builder(issuer.user_pool()).build_with_jwks(issuer.jwks()).unwrap();
    assert!(fixed.verify(&token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn fault_is_a_fetcher_that_never_returns_keys() {
    let issuer = TestIssuer::new();
    let token = issuer.machine_token(CLIENT).sign();
    for (fault, expected) in [
        (Fault::Down, RefreshErrorKind::Status),
        (Fault::Garbage, RefreshErrorKind::Document),
        (Fault::Oversize, RefreshErrorKind::Document),
        (Fault::Slow(Duration::from_secs(2)), RefreshErrorKind::Status),
        (Fault::Slow(Duration::from_secs(20)), RefreshErrorKind::TimedOut),
    ] {
        let rules = Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]));
        let verifier = Verifier::builder(rules).jwks_fetcher(fault.clone()).connect_lazy().unwrap();
        let error = verifier.refresh().await.unwrap_err();
        assert_eq!(error.kind(), expected, "{fault:?}");
        let error = verifier.verify(&token).await.unwrap_err();
        assert_eq!(Rejection::from(error).status(), 503, "{fault:?}");
    }
}

#[tokio::test]
async fn token_endpoint_grants_client_credentials() {
    let server = server().await;
    for (headers, body) in [
        (vec![("authorization", basic("client", "secret"))], "grant_type=client_credentials"),
        (vec![], "grant_type=client_credentials&client_id=client&client_secret=secret"),
    ] {
        let (status, text) = post(&server, headers, body).await;
        assert_eq!(status, 200);
        let answer: Value = serde_json::from_str(&text).unwrap();
        let token = answer["access_token"].as_str().unwrap();
        let expected = json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"});
        assert_eq!(answer, expected);
        let rules = Rules::new(server.issuer().user_pool(), ClientIds::only(["client"]));
        let verifier = Verifier::builder(rules).connect().await.unwrap();
        let token = verifier.verify(token).await.unwrap();
        assert_eq!(token.scopes().iter().collect::<Vec<_>>(), ["activity/*", "activity/read"]);
    }
}

#[tokio::test]
async fn token_endpoint_grants_the_requested_scopes() {
    let server = server().await;
    for (scope, granted) in [
        ("activity%2Fread", "activity/read"),
        ("activity%2Fread+activity%2F*", "activity/read activity/*"),
        ("activity%2Fread+not%2Fdefined", "activity/read"),
        ("activity%2Fread+activity%2Fread", "activity/read"),
        ("", "activity/* activity/read"),
    ] {
        let body = format!("grant_type=client_credentials&scope={scope}");
        let headers = vec![("authorization", basic("client", "secret"))];
        let (status, text) = post(&server, headers, &body).await;
        assert_eq!(status, 200, "{scope}: {text}");
        assert_eq!(claims_of(&text, "/access_token")["scope"], granted, "{scope}");
    }
}

#[tokio::test]
async fn token_endpoint_has_cognitos_errors() {
    let server = server().await;
    let grant = "grant_type=client_credentials";
    let valid = || Some(basic("client", "secret"));
    for (name, authorization, body, error) in [
        ("wrong secret", Some(basic("client", "wrong")), grant.to_owned(), "invalid_client"),
        ("unknown client", Some(basic("unknown", "secret")), grant.to_owned(), "invalid_client"),
        ("no credentials", None, grant.to_owned(), "invalid_client"),
        ("another scheme", Some("Bearer x".to_owned()), grant.to_owned(), "invalid_client"),
        ("no grant type", valid(), "scope=a".to_owned(), "invalid_request"),
        ("no body", valid(), String::new(), "invalid_request"),
        ("repeated parameter", valid(), format!("{grant}&{grant}"), "invalid_request"),
        ("password", valid(), "grant_type=password".to_owned(), "unsupported_grant_type"),
        ("undefined scope", valid(), format!("{grant}&scope=no%2Fscope"), "invalid_scope"),
        ("openid", valid(), format!("{grant}&scope=openid"), "invalid_scope"),
        (
            "openid next to a valid scope",
            valid(),
            format!("{grant}&scope=activity%2F*+openid"),
            "invalid_scope",
        ),
        ("only a space", valid(), format!("{grant}&scope=+"), "invalid_scope"),
        (
            "authorization code",
            valid(),
            "grant_type=authorization_code&code=a".to_owned(),
            "unsupported_grant_type",
        ),
        (
            "scope of another client",
            valid(),
            format!("{grant}&scope=orders%2Fread"),
            "invalid_grant",
        ),
    ] {
        let headers = authorization.map(|value| ("authorization", value)).into_iter().collect();
        let (status, text) = post(&server, headers, &body).await;
        assert_eq!(status, 400, "{name}: {text}");
        assert_eq!(text, format!(r#"{{"error":"{error}"}}"#), "{name}");
    }
}

#[tokio::test]
async fn token_without_a_requested_scope_has_no_scope_for_users() {
    let server = server().await;
    server.add_client("users-too", "secret", ["openid", "activity/read"]);
    let headers = vec![("authorization", basic("users-too", "secret"))];
    let (_, text) = post(&server, headers, "grant_type=client_credentials").await;
    assert_eq!(claims_of(&text, "/access_token")["scope"], "activity/read");
}

#[tokio::test]
async fn machine_token_has_no_audience_for_a_requested_resource() {
    let server = server().await;
    let headers = vec![("authorization", basic("client", "secret"))];
    let body = "grant_type=client_credentials&resource=https%3A%2F%2Fapi.example%2Fmcp";
    let (status, text) = post(&server, headers, body).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(claims_of(&text, "/access_token").get("aud"), None);
}

/// The members and their order are those of the documents that Cognito publishes.
#[tokio::test]
async fn discovery_document_has_the_members_of_cognitos_document() {
    let server = server().await;
    let issuer = server.issuer().issuer();
    let domain = server.token_endpoint_url().replace("/oauth2/token", "");
    let (status, text) = send(&server, Method::GET, DISCOVERY, vec![], "").await;
    assert_eq!(status, 200);
    let expected = [
        ("authorization_endpoint", json!(format!("{domain}/oauth2/authorize"))),
        ("end_session_endpoint", json!(format!("{domain}/logout"))),
        ("id_token_signing_alg_values_supported", json!(["RS256"])),
        ("issuer", json!(issuer)),
        ("jwks_uri", json!(format!("{issuer}/.well-known/jwks.json"))),
        ("response_types_supported", json!(["code", "token"])),
        ("revocation_endpoint", json!(format!("{domain}/oauth2/revoke"))),
        ("scopes_supported", json!(["openid", "email", "phone", "profile"])),
        ("subject_types_supported", json!(["public"])),
        ("token_endpoint", json!(format!("{domain}/oauth2/token"))),
        (
            "token_endpoint_auth_methods_supported",
            json!(["client_secret_basic", "client_secret_post"]),
        ),
        ("userinfo_endpoint", json!(format!("{domain}/oauth2/userInfo"))),
    ];
    let members = expected.map(|(name, value)| format!("{}:{value}", json!(name)));
    assert_eq!(text, format!("{{{}}}", members.join(",")));

    assert_eq!(send(&server, Method::GET, "/oauth2/token", vec![], "").await.0, 405);
    let of_another_pool = "/us-east-1_Another/.well-known/jwks.json";
    for path in [
        "/elsewhere",
        "/oauth2/authorize",
        "/.well-known/oauth-authorization-server",
        of_another_pool,
    ] {
        assert_eq!(send(&server, Method::GET, path, vec![], "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn programs_of_every_origin_can_read_the_responses() {
    let server = server().await;
    let jwks = "/us-east-1_TestIssuer/.well-known/jwks.json";
    for (method, path, status) in [
        (Method::GET, jwks, 200),
        (Method::GET, DISCOVERY, 200),
        (Method::POST, "/oauth2/token", 400),
        (Method::POST, "/", 400),
        (Method::GET, "/elsewhere", 404),
    ] {
        let request = Request::builder().method(method).uri(path);
        let response = http_1(address(&server), request.header("origin", "https://a.example"), "");
        let response = response.await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "{path}");
    }
    for path in [jwks, DISCOVERY, "/oauth2/token", "/"] {
        let preflight = Request::options(path)
            .header("origin", "https://a.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-amz-user-agent");
        let response = http_1(address(&server), preflight, "").await;
        assert_eq!(response.status(), 200, "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", "authorization,x-amz-user-agent"),
        ] {
            assert_eq!(response.headers()[name], value, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn get_client_token_issues_the_same_tokens() {
    let server = server().await;
    for (scopes, granted) in [
        (json!(null), "activity/* activity/read"),
        (json!([]), "activity/* activity/read"),
        (json!(["activity/read", "not/defined"]), "activity/read"),
    ] {
        let input = json!({"ClientId": "client", "Secret": "secret", "Scopes": scopes});
        let (status, text) = get_client_token(&server, &input.to_string()).await;
        assert_eq!(status, 200, "{scopes}: {text}");
        let token = "/ClientAuthenticationResult/AccessToken";
        assert_eq!(claims_of(&text, token)["scope"], granted, "{scopes}");
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        *answer.pointer_mut(token).unwrap() = json!("TOKEN");
        let result = json!({"AccessToken": "TOKEN", "ExpiresIn": 3600, "TokenType": "Bearer"});
        assert_eq!(answer, json!({"ClientAuthenticationResult": result}));
    }
}

#[tokio::test]
async fn get_client_token_has_the_exceptions_of_its_model() {
    let server = server().await;
    let invalid = "InvalidParameterException";
    for (name, input, exception) in [
        ("not JSON", "{".to_owned(), "SerializationException"),
        ("no client", json!({"Secret": "secret"}).to_string(), invalid),
        ("no secret", json!({"ClientId": "client"}).to_string(), invalid),
        (
            "unknown client",
            json!({"ClientId": "unknown", "Secret": "secret"}).to_string(),
            "ResourceNotFoundException",
        ),
        (
            "wrong secret",
            json!({"ClientId": "client", "Secret": "wrong"}).to_string(),
            "NotAuthorizedException",
        ),
        ("scopes in a string", with_scopes(&json!("activity/*")), invalid),
        ("a number as a scope", with_scopes(&json!([1])), invalid),
        ("undefined scope", with_scopes(&json!(["no/scope"])), invalid),
        ("openid", with_scopes(&json!(["openid", "activity/*"])), invalid),
        ("scope of another client", with_scopes(&json!(["orders/read"])), invalid),
    ] {
        let (status, text) = get_client_token(&server, &input).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status.as_u16(), &answer["__type"]),
            (400, &json!(exception)),
            "{name}: {text}"
        );
        assert!(answer["message"].is_string(), "{name}: {text}");
    }
    let target = vec![("x-amz-target", "AWSCognitoIdentityProviderService.SignUp".to_owned())];
    for headers in [vec![], target] {
        let (status, text) = send(&server, Method::POST, "/", headers, "{}").await;
        assert_eq!(status, 400);
        assert!(text.contains("UnknownOperationException"), "{text}");
    }

    fn with_scopes(scopes: &Value) -> String {
        json!({"ClientId": "client", "Secret": "secret", "Scopes": scopes}).to_string()
    }
}

#[tokio::test]
async fn rejects_an_address_that_is_not_loopback() {
    let error = TestServer::bind("0.0.0.0:0").await.unwrap_err();
    assert_eq!(error.to_string(), "a test issuer listens only on a loopback address");
}

const DISCOVERY: &str = "/us-east-1_TestIssuer/.well-known/openid-configuration";

/// Returns the claims of the token at this place of an answer.
fn claims_of(answer: &str, place: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let token = answer.pointer(place).and_then(Value::as_str).unwrap();
    serde_json::from_str(&decoded(token.split('.').nth(1).unwrap())).unwrap()
}

#[tokio::test]
async fn access_token_validity_is_that_of_the_client() {
    let server = server().await;
    server.set_access_token_validity("client", Duration::from_secs(5));
    for (client, seconds) in [("client", 5), ("other", 3600)] {
        let headers = vec![("authorization", basic(client, "secret"))];
        let (_, token) = post(&server, headers, "grant_type=client_credentials").await;
        let input = json!({"ClientId": client, "Secret": "secret"});
        let (_, result) = get_client_token(&server, &input.to_string()).await;
        for (text, token, expires_in) in [
            (token, "/access_token", "/expires_in"),
            (
                result,
                "/ClientAuthenticationResult/AccessToken",
                "/ClientAuthenticationResult/ExpiresIn",
            ),
        ] {
            let claims = claims_of(&text, token);
            let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
            let answer: Value = serde_json::from_str(&text).unwrap();
            let said = answer.pointer(expires_in).unwrap();
            assert_eq!((lifetime, said), (seconds, &json!(seconds)), "{client}");
        }
    }
}

async fn get_client_token(server: &TestServer, input: &str) -> (StatusCode, String) {
    let headers = vec![
        ("x-amz-target", "AWSCognitoIdentityProviderService.GetClientToken".to_owned()),
        ("content-type", "application/x-amz-json-1.1".to_owned()),
    ];
    send(server, Method::POST, "/", headers, input).await
}

async fn server() -> TestServer {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    server.add_client("client", "secret", ["activity/*", "activity/read"]);
    server.add_client("other", "secret", ["orders/read"]);
    server
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

async fn post(
    server: &TestServer,
    mut headers: Vec<(&str, String)>,
    body: &str,
) -> (StatusCode, String) {
    headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
    send(server, Method::POST, "/oauth2/token", headers, body).await
}

async fn send(
    server: &TestServer,
    method: Method,
    path: &str,
    headers: Vec<(&str, String)>,
    body: &str,
) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = http_1(address(server), request, body).await;
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    (response.status(), body)
}

fn address(server: &TestServer) -> SocketAddr {
    let url = server.token_endpoint_url();
    url.split('/').nth(2).unwrap().parse().unwrap()
}
