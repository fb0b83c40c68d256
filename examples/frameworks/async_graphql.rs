//! async-graphql: the handler hands the token to the resolvers. `GraphQL`, its ready-made service, does
//! not.

use async_graphql::{Context, EmptyMutation, EmptySubscription, Object, Result, Schema};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use tower_cognito::{AccessToken, RequireScope, RequireToken};

type Api = Schema<Query, EmptyMutation, EmptySubscription>;

async fn graphql(
    State(api): State<Api>,
    token: AccessToken,
    request: GraphQLRequest,
) -> GraphQLResponse {
    api.execute(request.into_inner().data(token)).await.into()
}

pub(crate) struct Query;

#[Object]
impl Query {
    async fn client(&self, context: &Context<'_>) -> Result<String> {
        Ok(context.data::<AccessToken>()?.client_id().to_owned())
    }
}

pub(crate) fn app(tokens: RequireToken) -> Router {
    let api = Api::new(Query, EmptyMutation, EmptySubscription);
    let route = post(graphql).layer(RequireScope::new("demo-dev/read"));
    Router::new().route("/graphql", route).layer(tokens).with_state(api)
}
