//! salvo takes Tower's layers as they are.

use salvo::http::ReqBody;
use salvo::prelude::*;
use tower_cognito::{AccessToken, RequireScope, RequireToken};

pub(crate) fn router(tokens: RequireToken) -> Router {
    let scope = RequireScope::new("demo-dev/read").compat::<ReqBody>();
    let route = Router::with_path("item").hoop(scope).get(items);
    Router::new().hoop(tokens.compat::<ReqBody>()).push(route)
}

#[handler]
async fn items(request: &mut Request) -> String {
    let token = request.extensions().get::<AccessToken>().expect("the layer inserts it");
    token.client_id().to_owned()
}
