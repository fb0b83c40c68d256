//! actix-web has no Tower services, and its own types of requests: an extractor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError};
use http::Extensions;
use tower_cognito::{AccessToken, Rejection, RequireScope, RequireToken};

/// The routes, for `App::configure`. One `RequireToken` serves all workers.
pub(crate) fn routes(tokens: RequireToken) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        config.app_data(Data::new(tokens)).route("/item", web::get().to(items));
    }
}

async fn items(caller: Caller) -> Result<String, Rejected> {
    caller.require(&RequireScope::new("demo-dev/read"))?;
    Ok(caller.token().client_id().to_owned())
}

/// The caller of a request: a handler that takes it is called only with a valid token.
struct Caller(Extensions);

impl Caller {
    fn token(&self) -> &AccessToken {
        self.0.get().expect("`from_request` inserts it")
    }

    fn require(&self, scope: &RequireScope) -> Result<(), Rejected> {
        scope.authorize(&self.0).map(drop).map_err(Rejected)
    }
}

impl FromRequest for Caller {
    type Error = Rejected;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Rejected>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let tokens = request.app_data::<Data<RequireToken>>().expect("`routes` sets it").clone();
        // Every value: if there are two, the request is rejected.
        let values = request.headers().get_all("authorization");
        let values = values.map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
        Box::pin(async move {
            let values = values.iter().map(Vec::as_slice);
            let token = tokens.verify_header_values(values).await.map_err(Rejected)?;
            let mut extensions = Extensions::new();
            extensions.insert(token);
            Ok(Self(extensions))
        })
    }
}

/// A rejection as an error of actix-web.
#[derive(Debug)]
struct Rejected(Rejection);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Rejected {
    fn status_code(&self) -> StatusCode {
        // actix-web has an older version of the crate `http`.
        StatusCode::from_u16(self.0.status().as_u16()).expect("it is a status")
    }

    fn error_response(&self) -> HttpResponse {
        let (parts, body) = self.0.to_response().into_parts();
        let mut response = HttpResponse::build(self.status_code());
        for (name, value) in &parts.headers {
            response.insert_header((name.as_str(), value.as_bytes()));
        }
        response.body(body)
    }
}
