//! aide: its handlers take the extractor in `NoApi`, because it describes no input of the API.

use aide::NoApi;
use aide::axum::ApiRouter;
use aide::axum::routing::get;
use aide::openapi::OpenApi;
use axum::Router;
use tower_cognito::{AccessToken, RequireScope, RequireToken};

async fn items(NoApi(token): NoApi<AccessToken>) -> String {
    token.client_id().to_owned()
}

pub(crate) fn app(tokens: RequireToken, api: &mut OpenApi) -> Router {
    let items = get(items).layer(RequireScope::new("demo-dev/read"));
    ApiRouter::new().api_route("/item", items).layer(tokens).finish_api(api)
}
