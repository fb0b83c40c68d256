//! poem has its own request type, which is not a Tower request.

use poem::{Endpoint, EndpointExt, Request, Response, Result};
use tower_cognito::{RequireScope, RequireToken};

// For `endpoint.around(move |next, request| check(tokens.clone(), next, request))`.
pub(crate) async fn check<E>(
    tokens: RequireToken,
    next: E,
    mut request: Request,
) -> Result<Response>
where
    E: Endpoint<Output = Response>,
{
    let checked = tokens.verify_headers(request.headers()).await.and_then(|token| {
        request.extensions_mut().insert(token);
        RequireScope::new("demo-dev/read").authorize(request.extensions()).map(drop)
    });
    let Err(rejection) = checked else { return next.call(request).await };
    let (parts, body) = rejection.to_response().into_parts();
    let mut response = Response::builder().status(parts.status).body(body);
    *response.headers_mut() = parts.headers;
    Ok(response)
}

/// The endpoint of the test.
pub(crate) fn app(tokens: RequireToken) -> impl Endpoint {
    let item = poem::endpoint::make_sync(|request: Request| {
        let token = request.extensions().get::<tower_cognito::AccessToken>();
        token.map(|token| token.client_id().to_owned()).unwrap_or_default()
    });
    poem::Route::new()
        .at("/item", poem::get(item))
        .map_to_response()
        .around(move |next, request| check(tokens.clone(), next, request))
}
