//! Every public type is `Send` and `Sync`, and the futures are `Send`.

use tower::ServiceExt;
use tower_cognito::layer::{
    RequireGroupService, RequireScopeService, RequireTokenService, ResponseBody,
};
use tower_cognito::test_issuer::{Fault, TokenBuilder};
use tower_cognito::*;
use tower_layer::Layer;

use super::support::{Plain, request};

fn shared<T: Send + Sync>() {}
fn cloned<T: Clone + Send + Sync + 'static>() {}
fn sent<T: Send>(value: T) -> T {
    value
}

#[test]
fn public_types_are_send_and_sync() {
    shared::<ClientIds>();
    shared::<Fault>();
    shared::<InvalidClaims>();
    shared::<InvalidJwks>();
    shared::<InvalidScope>();
    shared::<InvalidUrl>();
    shared::<InvalidUserPoolId>();
    shared::<Jwks>();
    shared::<JwksDocument>();
    shared::<RefreshError>();
    shared::<RejectionBody>();
    shared::<ResponseBody<axum::body::Bytes>>();
    shared::<Scope>();
    shared::<Scopes<'static>>();
    shared::<ScopesIter<'static>>();
    shared::<StartError>();
    shared::<TestServer>();
    shared::<TokenBuilder>();
    shared::<UserPool>();
    shared::<VerifierBuilder>();
    shared::<VerifyError>();
    cloned::<AccessToken>();
    cloned::<Rejection>();
    cloned::<RequireGroup>();
    cloned::<RequireGroupService<()>>();
    cloned::<RequireScope>();
    cloned::<RequireScopeService<()>>();
    cloned::<RequireToken>();
    cloned::<RequireTokenService<()>>();
    cloned::<Rules>();
    cloned::<TestIssuer>();
    cloned::<Verifier>();
}

#[tokio::test]
async fn futures_are_send() {
    let verifier = super::support::verifier();
    let _ = sent(verifier.verify("")).await;
    let _ = sent(verifier.ready(std::time::Duration::ZERO)).await;
    let service = RequireToken::new(verifier).layer(RequireScope::new("a/b").layer(Plain));
    let _ = sent(service.oneshot(request(None))).await;
}
