//! tower_governor: a rate limit for each client, inside the layer that verifies the token.

use axum::Router;
use axum::routing::get;
use http::Request;
use tower_cognito::{AccessToken, RequireScope, RequireToken};
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

#[derive(Clone)]
pub(crate) struct ByClient;

impl KeyExtractor for ByClient {
    type Key = String;

    fn extract<B>(&self, request: &Request<B>) -> Result<String, GovernorError> {
        let token = request.extensions().get::<AccessToken>();
        token.map(|token| token.client_id().to_owned()).ok_or(GovernorError::UnableToExtractKey)
    }
}

pub(crate) fn app(tokens: RequireToken) -> Router {
    let mut limit = GovernorConfigBuilder::default().key_extractor(ByClient);
    let limit = limit.per_second(60).burst_size(3).finish().expect("neither is 0");
    let items = get(async |token: AccessToken| token.client_id().to_owned());
    let items = items.layer(RequireScope::new("demo-dev/read"));
    Router::new().route("/item", items).layer(GovernorLayer::new(limit)).layer(tokens)
}
