//! warp's filters become a Tower service. Its type cannot be named, so this is a macro for the test.

macro_rules! service {
    ($tokens:expr) => {{
        use tower_cognito::{AccessToken, RequireScope};

        let item = ::warp::path("item").and(::warp::ext::get::<AccessToken>());
        let item = item.map(|token: AccessToken| token.client_id().to_owned());
        let layers = tower::ServiceBuilder::new().layer($tokens);
        layers.layer(RequireScope::new("demo-dev/read")).service(::warp::service(item))
    }};
}
