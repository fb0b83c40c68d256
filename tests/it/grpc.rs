//! A real gRPC client and server over a loopback socket. The service is the health service, with
//! methods that return the client ID of the token in the metadata of the response.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::{Once, once};
use tonic::server::NamedService;
use tonic::service::{InterceptorLayer, LayerExt};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_web::GrpcWebLayer;
use tower::util::MapRequestLayer;
use tower::{Service, ServiceBuilder};
use tower_cognito::{AccessToken, ClientIds, RequireScope, RequireToken, Rules, TokenInterceptor};

use super::rejections::{Case, Guard, Row, cases, valid_token};
use super::support::{CLIENT, http_1, issuer, machine, verifier, verifier_of};

/// Counts its calls.
#[derive(Clone, Default)]
struct Who {
    calls: Arc<AtomicUsize>,
}

impl Who {
    fn answer<T>(
        &self,
        request: &tonic::Request<HealthCheckRequest>,
        body: T,
    ) -> tonic::Response<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let token = request.extensions().get::<AccessToken>();
        let client = token.map_or("anonymous", AccessToken::client_id).parse().unwrap();
        let mut response = tonic::Response::new(body);
        response.metadata_mut().insert("client", client);
        response
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl Health for Who {
    type WatchStream = Once<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        Ok(self.answer(&request, HealthCheckResponse::default()))
    }

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Ok(self.answer(&request, once(Ok(HealthCheckResponse::default()))))
    }
}

/// A second service with the same methods.
#[derive(Clone)]
struct Feed(HealthServer<Who>);

impl NamedService for Feed {
    const NAME: &'static str = "activity.v1.Feed";
}

impl Service<Request<tonic::body::Body>> for Feed {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = <HealthServer<Who> as Service<Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<tonic::body::Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path().replace("activity.v1.Feed", "grpc.health.v1.Health");
        *request.uri_mut() = path.parse().unwrap();
        self.0.call(request)
    }
}

/// Starts a server on a free port.
async fn listen<F>(serve: impl FnOnce(TcpIncoming) -> F) -> SocketAddr
where
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(TcpIncoming::from(listener)));
    address
}

/// The additional headers of every request of a client.
#[derive(Clone, Default)]
struct Sent {
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The service that is called instead of the health service.
    service: Option<&'static str>,
}

impl Sent {
    fn authorization(values: &[HeaderValue]) -> Self {
        let headers = values.iter().map(|value| (AUTHORIZATION, value.clone()));
        Self { headers: headers.collect(), service: None }
    }

    fn bearer(token: &str) -> Self {
        Self::authorization(&[format!("Bearer {token}").parse().unwrap()])
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((HeaderName::from_static(name), value.parse().unwrap()));
        self
    }

    fn to(self, service: &'static str) -> Self {
        Self { service: Some(service), ..self }
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.timeout(Duration::from_secs(20)).connect().await.unwrap()
}

/// Calls the unary method, and returns the client ID that it found, or the rejection.
async fn check(channel: &Channel, sent: Sent) -> Result<String, Status> {
    call(channel, sent, Method::Check).await
}

#[derive(Clone, Copy, Debug)]
enum Method {
    Check,
    Watch,
}

async fn call(channel: &Channel, sent: Sent, method: Method) -> Result<String, Status> {
    let channel = ServiceBuilder::new()
        .map_request(move |mut request: Request<tonic::body::Body>| {
            for (name, value) in &sent.headers {
                request.headers_mut().append(name, value.clone());
            }
            if let Some(service) = sent.service {
                let uri = request.uri().to_string().replace("grpc.health.v1.Health", service);
                *request.uri_mut() = uri.parse().unwrap();
            }
            request
        })
        .service(channel.clone());
    let mut client = HealthClient::new(channel);
    let request = HealthCheckRequest::default();
    let metadata = match method {
        Method::Check => client.check(request).await?.metadata().clone(),
        Method::Watch => {
            let mut answer = client.watch(request).await?;
            assert!(answer.get_mut().message().await?.is_some());
            assert!(answer.get_mut().message().await?.is_none());
            answer.metadata().clone()
        }
    };
    Ok(metadata.get("client").unwrap().to_str().unwrap().to_owned())
}

#[track_caller]
fn check_rejected(answer: Result<String, Status>, case: &Case, row: &Row, name: &str) {
    let name = format!("{}, {name}", case.name);
    let status = answer.expect_err(&name);
    assert_eq!(status.code() as i32, row.grpc_status, "{name}: {status:?}");
    assert_eq!(status.message(), row.grpc_message, "{name}");
    assert_eq!(status.details(), b"", "{name}");
    let metadata = status.metadata();
    let text = |name| metadata.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(text("grpc-retry-pushback-ms"), row.pushback, "{name}");
    assert_eq!(text("cache-control"), Some("no-store"), "{name}");
    assert_eq!(text("www-authenticate"), row.challenge().as_deref(), "{name}");
}

#[track_caller]
fn check_status(answer: Result<String, Status>, code: Code, message: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

/// Starts a server with the layers around all services.
async fn layered_server(who: &Who, token: Option<RequireToken>, scope: RequireScope) -> SocketAddr {
    let service = HealthServer::new(who.clone());
    let server = Server::builder();
    match token {
        Some(token) => {
            let router = server.layer(token).layer(scope).add_service(service);
            listen(|incoming| router.serve_with_incoming(incoming)).await
        }
        None => {
            let router = server.layer(scope).add_service(service);
            listen(|incoming| router.serve_with_incoming(incoming)).await
        }
    }
}

/// Starts a server with the layers around one service, and another service next to it.
async fn layered_service(
    who: &Who,
    token: Option<RequireToken>,
    scope: RequireScope,
) -> SocketAddr {
    let service = HealthServer::new(who.clone());
    let open = Feed(HealthServer::new(Who::default()));
    let router = match token {
        Some(token) => {
            let layers = ServiceBuilder::new().layer(token).layer(scope).into_inner();
            Server::builder().add_service(layers.named_layer(service))
        }
        None => Server::builder().add_service(scope.named_layer(service)),
    };
    listen(|incoming| router.add_service(open).serve_with_incoming(incoming)).await
}

async fn intercepted_service(who: &Who, interceptor: TokenInterceptor) -> SocketAddr {
    let service = HealthServer::with_interceptor(who.clone(), interceptor);
    let router = Server::builder().add_service(service);
    listen(|incoming| router.serve_with_incoming(incoming)).await
}

async fn intercepted_server(who: &Who, interceptor: TokenInterceptor) -> SocketAddr {
    let mut server = Server::builder().layer(InterceptorLayer::new(interceptor));
    let router = server.add_service(HealthServer::new(who.clone()));
    listen(|incoming| router.serve_with_incoming(incoming)).await
}

/// Starts a server for each way to apply the guard.
async fn servers(who: &Who, guard: &Guard) -> Vec<(&'static str, SocketAddr)> {
    let (token, scope) = (guard.require_token(), guard.scope.clone());
    let mut servers = vec![
        ("server", layered_server(who, token.clone(), scope.clone()).await),
        ("service", layered_service(who, token, scope).await),
    ];
    if let Some(interceptor) = guard.interceptor() {
        servers.push(("with_interceptor", intercepted_service(who, interceptor.clone()).await));
        servers.push(("InterceptorLayer", intercepted_server(who, interceptor).await));
    }
    servers
}

#[tokio::test]
async fn each_row_reaches_the_client_and_other_services_stay_open() {
    let mut count = 0;
    for case in cases() {
        let who = Who::default();
        for (server, address) in servers(&who, &case.guard).await {
            let is_layer = ["server", "service"].contains(&server);
            let row = if is_layer { case.row } else { case.row_of_interceptor() };
            let channel = channel(address).await;
            let sent = Sent::authorization(&case.authorization);
            for method in [Method::Check, Method::Watch] {
                let answer = call(&channel, sent.clone(), method).await;
                check_rejected(answer, &case, &row, &format!("{server}, {method:?}"));
            }
            if server == "service" {
                assert_eq!(check(&channel, sent.to(Feed::NAME)).await.unwrap(), "anonymous");
            }
            count += 1;
        }
        assert_eq!(who.calls(), 0, "{}", case.name);
    }
    assert!(count > 100, "{count}");
}

#[tokio::test]
async fn valid_call_passes_with_its_token() {
    let who = Who::default();
    for (server, address) in servers(&who, &Guard::new(verifier())).await {
        let channel = channel(address).await;
        for method in [Method::Check, Method::Watch] {
            let answer = call(&channel, Sent::bearer(&valid_token()), method).await;
            assert_eq!(answer.expect(server), CLIENT, "{method:?}");
        }
    }
    assert_eq!(who.calls(), 8);

    // By default, no scope is required.
    let address = intercepted_service(&who, TokenInterceptor::new(verifier())).await;
    let sent = Sent::bearer(&machine("").sign());
    assert_eq!(check(&channel(address).await, sent).await.unwrap(), CLIENT);
}

#[tokio::test]
async fn h014_metadata_with_another_name_is_ignored() {
    let who = Who::default();
    let token = format!("Bearer {}", valid_token());
    let binary = STANDARD.encode(&token);
    for (server, address) in servers(&who, &Guard::new(verifier())).await {
        let channel = channel(address).await;
        for name in ["authorization-bin", "grpc-authorization", "x-authorization"] {
            for value in [&token, &binary] {
                let answer = check(&channel, Sent::default().with(name, value)).await;
                let status = answer.expect_err(server);
                let seen = (status.code(), status.message());
                assert_eq!(
                    seen,
                    (Code::Unauthenticated, "missing bearer token"),
                    "{server}, {name}"
                );
            }
        }
        let sent = Sent::bearer(&valid_token()).with("authorization-bin", "QmVhcmVyIGJhZA");
        assert_eq!(check(&channel, sent).await.expect(server), CLIENT);
    }
    assert_eq!(who.calls(), 4);
}

#[tokio::test]
async fn h013_forged_token_in_extensions_is_ignored() {
    let any_client = verifier_of(Rules::new(issuer().user_pool(), ClientIds::any()));
    let forged = any_client.try_verify(&issuer().machine_token("forged").sign()).unwrap();
    let forge = MapRequestLayer::new(move |mut request: Request<tonic::body::Body>| {
        request.extensions_mut().insert(forged.clone());
        request
    });
    let service = || HealthServer::new(Who::default());
    let own = || Sent::bearer(&valid_token());

    let router = Server::builder().layer(forge.clone()).add_service(service());
    let open = channel(listen(|incoming| router.serve_with_incoming(incoming)).await).await;
    assert_eq!(check(&open, own()).await.unwrap(), "forged");

    let layer = RequireToken::new(verifier()).allow_anonymous();
    let router = Server::builder().layer(forge.clone()).layer(layer).add_service(service());
    let layered = channel(listen(|incoming| router.serve_with_incoming(incoming)).await).await;
    assert_eq!(check(&layered, Sent::default()).await.unwrap(), "anonymous");
    assert_eq!(check(&layered, own()).await.unwrap(), CLIENT);

    let layer = InterceptorLayer::new(TokenInterceptor::new(verifier()));
    let router = Server::builder().layer(forge).layer(layer).add_service(service());
    let intercepted = channel(listen(|incoming| router.serve_with_incoming(incoming)).await).await;
    let answer = check(&intercepted, Sent::default()).await;
    check_status(answer, Code::Unauthenticated, "missing bearer token");
    assert_eq!(check(&intercepted, own()).await.unwrap(), CLIENT);
}

/// A request body of the messages that are sent, for as long as there is a sender.
struct Messages(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An empty message.
const MESSAGE: &[u8] = &[0; 5];

#[tokio::test]
async fn h087_stream_is_authorized_before_its_first_message() {
    let who = Who::default();
    for (calls, (server, address)) in
        servers(&who, &Guard::new(verifier())).await.into_iter().enumerate()
    {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = |token: &str| {
            let (messages, body) = mpsc::unbounded_channel();
            let request = Request::post("http://localhost/grpc.health.v1.Health/Watch")
                .header(AUTHORIZATION, format!("Bearer {token}"))
                .header(CONTENT_TYPE, "application/grpc")
                .header("te", "trailers");
            (messages, request.body(Messages(body)).unwrap())
        };

        let (_no_messages, rejected) = request("bad");
        let answer = timeout(Duration::from_secs(20), client.send_request(rejected)).await;
        let answer = answer.expect(server).unwrap();
        assert_eq!(answer.status(), 200, "{server}");
        assert_eq!(answer.headers()["grpc-status"], "16", "{server}");
        assert!(answer.body().is_end_stream(), "{server}: trailers only");
        assert_eq!(who.calls(), calls, "{server}");

        let (messages, passed) = request(&valid_token());
        messages.send(Bytes::from_static(MESSAGE)).unwrap();
        drop(messages);
        let answer = client.send_request(passed).await.unwrap();
        assert_eq!(answer.headers()["client"], CLIENT, "{server}");
        assert_eq!(who.calls(), calls + 1, "{server}");
    }
}

#[tokio::test]
async fn h089_grpc_web_gets_its_own_form_with_translation_inside_or_outside() {
    let body = std::str::from_utf8(MESSAGE).unwrap();
    for case in cases() {
        let Some(token) = case.guard.require_token() else {
            continue;
        };
        let scope = case.guard.scope.clone();
        for (order, [binary, text], address) in [
            (
                "inside",
                ["application/grpc-web+proto", "application/grpc-web-text+proto"],
                web_inside(token.clone(), scope.clone()).await,
            ),
            (
                // tonic-web only reads `accept`, which the request does not have.
                "outside",
                ["application/grpc-web+proto", "application/grpc-web+proto"],
                web_outside(token.clone(), scope.clone()).await,
            ),
        ] {
            for (sent, answered) in [
                ("application/grpc-web", binary),
                ("application/grpc-web+proto", binary),
                ("application/grpc-web-text", text),
            ] {
                let name = format!("{}, {order}, {sent}", case.name);
                let mut request = web_request(sent);
                for value in &case.authorization {
                    request = request.header(AUTHORIZATION, value);
                }
                let answer = http_1(address, request, body).await;
                assert_eq!(answer.status(), 200, "{name}");
                let text = |header| answer.headers().get(header).map(|v| v.to_str().unwrap());
                let status = case.row.grpc_status.to_string();
                assert_eq!(text("content-type"), Some(answered), "{name}");
                assert_eq!(text("grpc-status"), Some(&*status), "{name}");
                assert_eq!(text("grpc-message"), Some(case.row.grpc_message), "{name}");
                assert_eq!(text("grpc-retry-pushback-ms"), case.row.pushback, "{name}");
                let challenge = case.row.challenge();
                assert_eq!(text("www-authenticate"), challenge.as_deref(), "{name}");
                assert_eq!(answer.body(), "", "{name}");
            }
        }
    }
}

#[tokio::test]
async fn valid_grpc_web_call_passes_with_translation_inside_or_outside() {
    let body = std::str::from_utf8(MESSAGE).unwrap();
    let token = || RequireToken::new(verifier());
    let scope = || RequireScope::new("activity/*");
    for address in [web_inside(token(), scope()).await, web_outside(token(), scope()).await] {
        let request = web_request("application/grpc-web+proto");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", valid_token()));
        let answer = http_1(address, request, body).await;
        assert_eq!(answer.headers()["client"], CLIENT);
        assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
        assert!(answer.headers().get("grpc-status").is_none());
        let trailers = String::from_utf8_lossy(answer.body());
        assert!(trailers.contains("grpc-status:0"), "{trailers}");
    }
}

/// Starts a server that translates gRPC-Web inside the layers.
async fn web_inside(token: RequireToken, scope: RequireScope) -> SocketAddr {
    let server = Server::builder().accept_http1(true);
    let mut server = server.layer(token).layer(scope).layer(GrpcWebLayer::new());
    let router = server.add_service(HealthServer::new(Who::default()));
    listen(|incoming| router.serve_with_incoming(incoming)).await
}

/// Starts a server that translates gRPC-Web outside the layers.
async fn web_outside(token: RequireToken, scope: RequireScope) -> SocketAddr {
    let server = Server::builder().accept_http1(true);
    let mut server = server.layer(GrpcWebLayer::new()).layer(token).layer(scope);
    let router = server.add_service(HealthServer::new(Who::default()));
    listen(|incoming| router.serve_with_incoming(incoming)).await
}

fn web_request(content_type: &str) -> http::request::Builder {
    Request::post("/grpc.health.v1.Health/Check").header(CONTENT_TYPE, content_type)
}
