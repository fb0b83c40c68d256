use std::convert::Infallible;
use std::hint::black_box;

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use jwt_authorizer::{AuthError, IntoLayer};
use oauth_resource_server::http_layer::HttpAuthLayer;
use tower::{Layer, Service};
use tower_cognito::RequireToken;

use super::verifiers::{jwt_authorizer, oauth_resource_server, tower_oauth2_resource_server};
use super::{Setting, Token, finish, version};
use crate::requests::{Bare, CACHE, request};

/// A service that answers immediately, with the layers around it.
pub trait Stack {
    fn status(&mut self, request: Request<Body>) -> StatusCode;
}

/// A stack that is measured by the time that it adds to a request.
pub struct Layered {
    pub name: String,
    pub token: Token,
    pub stack: Box<dyn Stack>,
    headers: HeaderMap,
}

impl Layered {
    fn new(name: String, token: &Token, stack: impl Stack + 'static) -> Self {
        let headers = headers(&token.text);
        Self { name, token: token.clone(), stack: Box::new(stack), headers }
    }

    /// Calls the stack with a new request, as for the bare service.
    pub fn call(&mut self) -> bool {
        self.stack.status(black_box(request(&self.headers))) == StatusCode::OK
    }

    pub fn shown(&mut self) {
        let stack = &mut self.stack;
        self.token
            .shown(&self.name, |token| stack.status(request(&headers(token))) == StatusCode::OK);
    }
}

fn headers(token: &str) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a token is ASCII");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// Returns the bare service, then `tower-cognito` with its cache off and on, then the other crates.
pub async fn layers(setting: &Setting) -> Vec<Layered> {
    let named = |name: &str| format!("{name} {}", version(name, ""));
    let token = &setting.token;
    let bare = <Bare>::default();

    let mut all = vec![Layered::new("a bare service".to_owned(), token, bare.clone())];
    for (cache, name) in [(0, "cache off"), (CACHE, "cached token")] {
        let layer = RequireToken::new(setting.verifier(cache));
        let name = format!("{}, {name}", named("tower-cognito"));
        all.push(Layered::new(name, token, layer.layer(bare.clone())));
    }
    let layer = tower_oauth2_resource_server(setting).await.into_layer::<Body>();
    let name = named("tower-oauth2-resource-server");
    all.push(Layered::new(name, token, layer.layer(bare.clone())));
    let layer = jwt_authorizer(setting).await.into_layer();
    let service = layer.layer(Bare::<Answer>::default());
    all.push(Layered::new(named("jwt-authorizer"), token, service));
    let layer = HttpAuthLayer::builder().oauth(oauth_resource_server(setting)).build().unwrap();
    let name = format!("{}, with aud", named("oauth-resource-server"));
    all.push(Layered::new(name, &setting.token_with_audience, layer.layer(bare)));
    all
}

impl<S, R> Stack for S
where
    S: Service<Request<Body>, Response = R, Error = Infallible>,
    R: Answers,
{
    fn status(&mut self, request: Request<Body>) -> StatusCode {
        let Ok(response) = finish(self.call(request));
        response.status_code()
    }
}

/// The responses of a [`Bare`] service.
trait Answers {
    fn status_code(&self) -> StatusCode;
}

impl<B> Answers for Response<B> {
    fn status_code(&self) -> StatusCode {
        self.status()
    }
}

/// The response type for jwt-authorizer, which uses axum 0.7 and converts its rejections into it.
#[derive(Default)]
struct Answer(Response<Body>);

impl Answers for Answer {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }
}

impl From<AuthError> for Answer {
    fn from(_: AuthError) -> Self {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        Self(response)
    }
}
