//! utoipa: the security scheme and the scopes of each path, next to the layers.

use axum::Router;
use tower_cognito::{AccessToken, RequireScope, RequireToken};
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

#[utoipa::path(get, path = "/item", responses((status = OK)), security(("cognito" = ["demo-dev/read"])))]
async fn items(token: AccessToken) -> String {
    token.client_id().to_owned()
}

pub(crate) fn app(tokens: RequireToken) -> (Router, OpenApi) {
    let items = routes!(items).layer(RequireScope::new("demo-dev/read"));
    let (app, mut api) = OpenApiRouter::new().routes(items).layer(tokens).split_for_parts();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    api.components.get_or_insert_default().add_security_scheme("cognito", scheme);
    (app, api)
}
