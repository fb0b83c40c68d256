//! The tables and the code of `src/docs/comparison.md`, where they are about other layers.

#![cfg(test)]

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use serde::Deserialize;
use tower::{Service, ServiceExt};
use tower_cognito::test_issuer::Fault;
use tower_cognito::{TestIssuer, TestServer};

const PAGE: &str = include_str!("../../src/docs/comparison.md");
const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// What an application has to read, where its layer leaves these to it.
#[derive(Clone, Deserialize)]
struct Claims {
    client_id: String,
    token_use: String,
    scope: String,
}

mod jwt_authorizer_before {
    use axum_07::Router;
    use axum_07::routing::post;
    use jwt_authorizer::error::InitError;
    use jwt_authorizer::{Authorizer, IntoLayer, JwtAuthorizer, JwtClaims, Validation};

    use super::{CLIENT, Claims};

    pub(super) async fn app(issuer: &str, jwks_url: &str) -> Result<Router, InitError> {
        let authorizer: Authorizer<Claims> = JwtAuthorizer::from_jwks_url(jwks_url)
            .validation(Validation::new().iss(&[issuer]))
            .check(|claims: &Claims| {
                claims.token_use == "access"
                    && claims.client_id == CLIENT
                    && claims.scope.split(' ').any(|scope| scope == "activity/*")
            })
            .build()
            .await?;
        Ok(Router::new().route("/activity", post(receive)).layer(authorizer.into_layer()))
    }

    async fn receive(JwtClaims(claims): JwtClaims<Claims>) -> String {
        claims.client_id
    }
}

mod tower_oauth2_resource_server_before {
    use axum::http::StatusCode;
    use axum::routing::post;
    use axum::{Extension, Router};
    use tower_oauth2_resource_server::error::StartupError;
    use tower_oauth2_resource_server::server::OAuth2ResourceServer;
    use tower_oauth2_resource_server::tenant::TenantConfiguration;

    use super::{CLIENT, Claims};

    pub(super) async fn app(issuer: &str) -> Result<Router, StartupError> {
        let tenant = TenantConfiguration::builder(issuer).build().await?;
        let server = OAuth2ResourceServer::<Claims>::builder().add_tenant(tenant).build().await?;
        Ok(Router::new().route("/activity", post(receive)).layer(server.into_layer()))
    }

    async fn receive(Extension(claims): Extension<Claims>) -> Result<String, StatusCode> {
        if claims.token_use != "access" || claims.client_id != CLIENT {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if !claims.scope.split(' ').any(|scope| scope == "activity/*") {
            return Err(StatusCode::FORBIDDEN);
        }
        Ok(claims.client_id)
    }

    /// As its own documentation has it, with an audience.
    pub(super) async fn app_with_audience(issuer: &str) -> Result<Router, StartupError> {
        let tenant = TenantConfiguration::builder(issuer).audiences(&[CLIENT]).build().await?;
        let server = OAuth2ResourceServer::<Claims>::builder().add_tenant(tenant).build().await?;
        Ok(Router::new().route("/activity", post(receive)).layer(server.into_layer()))
    }
}

mod after {
    use axum::Router;
    use axum::routing::post;
    use tower_cognito::{
        AccessToken, ClientIds, RequireScope, RequireToken, Rules, StartError, UserPool, Verifier,
    };

    use super::CLIENT;

    pub(super) fn app(pool: UserPool) -> Result<Router, StartError> {
        let rules = Rules::new(pool, ClientIds::only([CLIENT]));
        let verifier = Verifier::builder(rules).connect_lazy()?;
        Ok(Router::new()
            .route("/activity", post(receive).layer(RequireScope::new("activity/*")))
            .layer(RequireToken::new(verifier)))
    }

    async fn receive(token: AccessToken) -> String {
        token.client_id().to_owned()
    }
}

/// In the order of the table's columns.
struct Apps {
    jwt_authorizer: axum_07::Router,
    tower_oauth2_resource_server: axum::Router,
    here: axum::Router,
}

impl Apps {
    async fn new(server: &TestServer) -> Self {
        let issuer = server.issuer().issuer();
        let jwks_url = format!("{issuer}/.well-known/jwks.json");
        Self {
            jwt_authorizer: jwt_authorizer_before::app(issuer, &jwks_url).await.unwrap(),
            tower_oauth2_resource_server: tower_oauth2_resource_server_before::app(issuer)
                .await
                .unwrap(),
            here: after::app(server.issuer().user_pool()).unwrap(),
        }
    }

    async fn statuses(&self, headers: &HeaderMap) -> [u16; 3] {
        [
            status(&self.jwt_authorizer, headers).await,
            status(&self.tower_oauth2_resource_server, headers).await,
            status(&self.here, headers).await,
        ]
    }

    /// All three have their keys: two of them do not wait for the first ones.
    async fn until_they_have_keys(&self, good: &HeaderMap) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.statuses(good).await != [200; 3] {
            assert!(Instant::now() < deadline, "they have no keys");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Of `POST /activity`.
async fn status<S, B>(app: &S, headers: &HeaderMap) -> u16
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut request = Request::post("/activity").body(String::new()).unwrap();
    *request.headers_mut() = headers.clone();
    let Ok(response) = app.clone().oneshot(request).await;
    response.status().as_u16()
}

fn authorization<'a>(values: impl IntoIterator<Item = &'a str>) -> HeaderMap {
    let values = values.into_iter();
    values.map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

fn bearer(token: &str) -> HeaderMap {
    authorization([&*format!("Bearer {token}")])
}

/// The request that a row of the table is about.
fn request(row: &str, issuer: &TestIssuer) -> HeaderMap {
    let now = SystemTime::now();
    let machine = || issuer.machine_token(CLIENT).scope("activity/*");
    let good = machine().sign();
    match row {
        "a valid token" => bearer(&good),
        "no token" => HeaderMap::new(),
        "`Bearer` and no token" => authorization(["Bearer "]),
        "`bearer` in lower case" => authorization([&*format!("bearer {good}")]),
        "two `Authorization` lines" => {
            authorization([&*format!("Bearer {good}"), &*format!("Bearer {good}")])
        }
        "a token without the scope" => bearer(&machine().scope("activity/read").sign()),
        "a token of another client" => {
            bearer(&issuer.machine_token("another").scope("activity/*").sign())
        }
        "an ID token" => bearer(&issuer.id_token(CLIENT, "alice").sign()),
        "expired 30 seconds ago" => {
            bearer(&machine().expires_at(now - Duration::from_secs(30)).sign())
        }
        "`nbf` an hour from now" => {
            let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            bearer(&machine().claim("nbf", seconds + 3_600).sign())
        }
        "no `iss`" => bearer(&machine().without_claim("iss").sign()),
        "an `aud`, and none is required" => {
            bearer(&machine().claim("aud", "https://api.example.com").sign())
        }
        "a `crit` header" => {
            let token = machine().header("crit", ["exp"]).header("exp", 1);
            bearer(&token.sign())
        }
        _ => panic!("no request is known for the row `{row}`"),
    }
}

/// The rows of the table with these column titles, whose cells but the first are statuses.
fn rows(title: &str) -> Vec<(&'static str, [u16; 3])> {
    let (_, table) = PAGE.split_once(title).unwrap_or_else(|| panic!("no table {title}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    let rows = rows.map(|row| {
        let cells = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>();
        let [name, statuses @ ..] = &*cells else { panic!("{row}") };
        let statuses = statuses.iter().map(|cell| cell.parse().unwrap()).collect::<Vec<_>>();
        (*name, statuses.try_into().unwrap())
    });
    rows.collect()
}

const TITLE: &str = "| request | jwt-authorizer | tower-oauth2-resource-server | here |";
const ROTATED: &str = "the first token of a new key";
const DOWN: &str = "a valid token, and no keys yet";

#[tokio::test]
async fn statuses_are_those_of_the_page() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let apps = Apps::new(&server).await;
    let good = request("a valid token", server.issuer());
    apps.until_they_have_keys(&good).await;

    let rows = rows(TITLE);
    let (of_a_moment, of_a_request): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|(row, _)| [ROTATED, DOWN].contains(row));
    assert_eq!((of_a_request.len(), of_a_moment.len()), (13, 2));
    for (row, expected) in of_a_request {
        assert_eq!(apps.statuses(&request(row, server.issuer())).await, expected, "{row}");
    }

    server.issuer().rotate();
    let rotated = apps.statuses(&request("a valid token", server.issuer())).await;

    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    server.set_fault(Fault::Down);
    let apps = Apps::new(&server).await;
    let down = apps.statuses(&request("a valid token", server.issuer())).await;
    assert_eq!(of_a_moment, [(ROTATED, rotated), (DOWN, down)]);
}

/// The token has no `aud`, as none of Cognito's has unless its client requested one.
#[tokio::test]
async fn with_a_required_audience_one_rejects_all_tokens_and_one_checks_nothing() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let issuer = server.issuer();
    let good = request("a valid token", issuer);
    let with_audience = issuer.machine_token(CLIENT).scope("activity/*").claim("aud", CLIENT);
    let with_audience = bearer(&with_audience.sign());
    let app = tower_oauth2_resource_server_before::app_with_audience(issuer.issuer()).await;
    let app = app.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&app, &with_audience).await != 200 {
        assert!(Instant::now() < deadline, "it has no keys");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status(&app, &good).await, 401);

    let validation = jwt_authorizer::Validation::new().iss(&[issuer.issuer()]).aud(&["another"]);
    let jwks_url = format!("{}/.well-known/jwks.json", issuer.issuer());
    let authorizer = jwt_authorizer::JwtAuthorizer::<Claims>::from_jwks_url(&jwks_url);
    let authorizer = authorizer.validation(validation).build().await.unwrap();
    let token = |headers: &HeaderMap| headers[AUTHORIZATION].to_str().unwrap()[7..].to_owned();
    assert!(authorizer.check_auth(&token(&good)).await.is_ok());
    assert!(authorizer.check_auth(&token(&with_audience)).await.is_err());
}
