use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

/// Serves a JWK Set on this machine and returns its URL. Some crates accept keys only from a URL,
/// and all of them must verify the token of the same issuer.
pub(crate) async fn serve(jwks: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let answer = move || async move { ([(CONTENT_TYPE, "application/json")], jwks) };
    let app = Router::new().route("/.well-known/jwks.json", get(answer));
    tokio::spawn(async { axum::serve(listener, app).await });
    format!("http://{address}/.well-known/jwks.json")
}
