//! Rejected requests whose body has not arrived yet, over real sockets. The clients send the head,
//! wait until the layer has it, and only then send the body.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::routing::{any, post};
use http::Extensions;
use http_body_util::{BodyExt, Limited};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic_web::GrpcWebLayer;
use tower_cognito::{
    Access, Rejection, RejectionKind, RequireScope, RequireToken, Scope, ScopeTable,
};

use super::support::{machine, serve, verifier, without_keys};

/// Fails a test instead of waiting without end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the layer reads at most after it has sent the response.
const LIMIT_AFTER_RESPONSE: usize = 32 * 1024 * 1024;

const MIB: usize = 1024 * 1024;

/// The limit in the tests that do not set one.
const DEFAULT: Option<u64> = None;

fn valid() -> String {
    format!("authorization: Bearer {}\r\n", machine("activity/*").sign())
}

fn without_scope() -> String {
    format!("authorization: Bearer {}\r\n", machine("item/read").sign())
}

/// A server, and the signals of its service.
struct Server {
    address: SocketAddr,
    /// A permit for each request that has reached the layers.
    arrived: Arc<Semaphore>,
    /// Lets `/slow` respond.
    released: Arc<Notify>,
}

impl Server {
    async fn start(limit: Option<u64>) -> Self {
        Self::with(limited(RequireToken::new(verifier()), limit)).await
    }

    async fn with(layer: RequireToken) -> Self {
        let released = Arc::new(Notify::new());
        let release = Arc::clone(&released);
        let slow = move || async move {
            release.notified().await;
            "slow"
        };
        let app = Router::new()
            .route("/activity", any(echo).layer(RequireScope::new("activity/*")))
            .route("/slow", post(slow))
            .layer(layer);
        Self::serve(app, released).await
    }

    async fn serve(app: Router, released: Arc<Notify>) -> Self {
        let arrived = Arc::new(Semaphore::new(0));
        let signal = Arc::clone(&arrived);
        // The server calls the layer in the same turn, and sends its response if there is one.
        let app = app.layer(middleware::from_fn(move |request: Request, next: Next| {
            signal.add_permits(1);
            next.run(request)
        }));
        Self { address: serve(app).await, arrived, released }
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Connects, sends the head of a request, and waits until the layers have it.
    async fn sent(&self, line: &str, headers: &str) -> Client {
        let mut client = self.connect().await;
        client.send(head(line, headers).as_bytes()).await;
        self.has_arrived(1).await;
        client
    }

    async fn has_arrived(&self, requests: u32) {
        let permits = timeout(PATIENCE, self.arrived.acquire_many(requests)).await;
        permits.expect("requests arrive").unwrap().forget();
    }
}

async fn echo(body: Bytes) -> Bytes {
    body
}

fn limited(layer: RequireToken, limit: Option<u64>) -> RequireToken {
    match limit {
        Some(limit) => layer.drain_limit(limit),
        None => layer,
    }
}

/// A connection without an HTTP library, which would hide when the response comes.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    /// The status line and the headers, in lower case.
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether it closes the connection.
    fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads one response, or `None` if the connection ends before.
    async fn answer(&mut self, method: &str) -> Option<Answer> {
        timeout(PATIENCE, self.read_answer(method)).await.expect("the server responds")
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            match self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.read_more().await?,
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let length = if method == "HEAD" { 0 } else { length };
        while self.unread.len() < length {
            self.read_more().await?;
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        Some(Answer { head, body })
    }

    async fn read_more(&mut self) -> Option<()> {
        // A reset ends the connection as well.
        match self.stream.read_buf(&mut self.unread).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Sends another request, and returns whether it is answered.
    async fn is_open(&mut self) -> bool {
        let request = format!(
            "POST /activity HTTP/1.1\r\nhost: x\r\n{}content-length: 5\r\n\r\nhello",
            valid()
        );
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return false;
        }
        let answer = self.answer("POST").await;
        answer.is_some_and(|answer| (answer.status(), &*answer.body) == ("200", "hello"))
    }

    /// Returns whether the connection has no more bytes and was ended.
    async fn has_ended(&mut self) -> bool {
        timeout(PATIENCE, self.read_more()).await.expect("the server ends the connection").is_none()
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug)]
enum Framing {
    ContentLength,
    /// In chunks of 8 KiB, with a trailer.
    Chunked,
}

impl Framing {
    fn header(self, length: usize) -> String {
        match self {
            Self::ContentLength => format!("content-length: {length}\r\n"),
            Self::Chunked => "transfer-encoding: chunked\r\ntrailer: checksum\r\n".to_owned(),
        }
    }

    fn body(self, length: usize) -> Vec<u8> {
        let bytes = vec![b'x'; length];
        match self {
            Self::ContentLength => bytes,
            Self::Chunked => {
                let mut body = Vec::new();
                for chunk in bytes.chunks(8 * 1024) {
                    body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    body.extend(chunk);
                    body.extend(b"\r\n");
                }
                body.extend(b"0\r\nchecksum: 0\r\n\r\n");
                body
            }
        }
    }
}

const FRAMINGS: [Framing; 2] = [Framing::ContentLength, Framing::Chunked];
const POST: &str = "POST /activity HTTP/1.1";

fn head(line: &str, headers: &str) -> String {
    format!("{line}\r\nhost: x\r\n{headers}\r\n")
}

/// As Java's `HttpClient` does on every new connection.
const UPGRADE: &str =
    "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAE\r\n";

#[tokio::test]
async fn rejected_request_whose_body_comes_later_keeps_the_connection() {
    let server = Server::start(DEFAULT).await;
    for (method, headers, lengths) in [
        ("POST", "", &[300, 20_000, 200_000, 900_000, MIB][..]),
        ("HEAD", "", &[20_000]),
        ("POST", UPGRADE, &[20_000]),
    ] {
        let cases = FRAMINGS.map(|framing| lengths.iter().map(move |length| (framing, *length)));
        for (framing, length) in cases.into_iter().flatten() {
            let name = format!("{method}, {headers}, {framing:?}, {length}");
            let headers = format!("{headers}{}", framing.header(length));
            let mut client = server.sent(&format!("{method} /activity HTTP/1.1"), &headers).await;
            client.send(&framing.body(length)).await;
            let answer = client.answer(method).await.expect(&name);
            assert_eq!((answer.status(), answer.closes()), ("401", false), "{name}: {answer:?}");
            let body = if method == "HEAD" { "" } else { r#"{"error":"unauthorized","# };
            assert!(answer.body.starts_with(body), "{name}: {answer:?}");
            assert!(client.is_open().await, "{name}");
            server.has_arrived(1).await;
        }
    }
}

#[tokio::test]
async fn request_that_is_pipelined_after_a_rejected_body_is_answered() {
    let server = Server::start(DEFAULT).await;
    for framing in FRAMINGS {
        let mut client = server.sent(POST, &framing.header(20_000)).await;
        let mut rest = framing.body(20_000);
        rest.extend(format!("GET /activity HTTP/1.1\r\nhost: x\r\n{}\r\n", valid()).bytes());
        client.send(&rest).await;
        assert_eq!(client.answer("POST").await.unwrap().status(), "401", "{framing:?}");
        assert_eq!(client.answer("GET").await.unwrap().status(), "200", "{framing:?}");
        server.has_arrived(1).await;
    }
}

#[tokio::test]
async fn drain_limit_of_0_answers_before_the_body() {
    let server = Server::start(Some(0)).await;
    for framing in FRAMINGS {
        let mut client = server.sent(POST, &framing.header(20_000)).await;
        assert_eq!(client.answer("POST").await.unwrap().status(), "401", "{framing:?}");
        assert!(client.has_ended().await, "{framing:?}: hyper closes, because the body is unread");
    }
}

/// Every response that the layers create, in one table.
#[tokio::test]
async fn every_rejection_waits_for_the_body() {
    let no_keys = without_keys();
    let scope = |scope: &str| Access::scope(scope.parse::<Scope>().unwrap().as_str());
    let table = ScopeTable::new([("POST /activity", scope("activity/*"))]).unwrap();
    let usual = || RequireToken::new(verifier());
    let json = "content-type: application/json\r\n".to_owned();
    let web = "content-type: application/grpc-web+proto\r\n".to_owned();
    let grpc = "content-type: application/grpc\r\n".to_owned();
    let malformed = "authorization: Bearer\r\n".to_owned();
    let rows = [
        (usual(), "POST /activity", json.clone(), "401", RejectionKind::MissingToken),
        (usual(), "POST /activity", malformed, "400", RejectionKind::InvalidRequest),
        (usual(), "POST /activity", without_scope(), "403", RejectionKind::InsufficientScope),
        (
            usual().scope_table(table.clone()),
            "POST /activity",
            without_scope(),
            "403",
            RejectionKind::InsufficientScope,
        ),
        (usual().scope_table(table), "PUT /activity", valid(), "403", RejectionKind::Forbidden),
        (usual().allow_anonymous(), "POST /activity", json, "401", RejectionKind::MissingToken),
        (RequireToken::new(no_keys), "POST /activity", valid(), "503", RejectionKind::Unavailable),
        (usual(), "POST /activity", web, "200", RejectionKind::MissingToken),
        (usual(), "POST /activity", grpc, "200", RejectionKind::MissingToken),
    ];
    for (layer, line, headers, status, kind) in rows {
        let server = Server::with(layer.clone()).await;
        for version in ["HTTP/1.0", "HTTP/1.1"] {
            let name = format!("{line} {version} {status} {kind:?}");
            check_waits(&server, &format!("{line} {version}"), &headers, status, &name).await;
        }
        let server = Server::with(layer.drain_limit(0)).await;
        let mut client = server.connect().await;
        let framed = format!("{headers}content-length: 20000\r\n");
        client.send(head(&format!("{line} HTTP/1.1"), &framed).as_bytes()).await;
        server.has_arrived(1).await;
        assert_eq!(client.answer("POST").await.unwrap().status(), status, "not drained: {kind:?}");
    }

    let app = Router::new().route("/activity", post(echo).layer(RequireScope::new("activity/*")));
    let server = Server::serve(app, Arc::default()).await;
    check_waits(&server, POST, "", "500", "no `RequireToken`").await;
}

/// Checks that a rejected request is answered after its body, and that the connection stays open.
async fn check_waits(server: &Server, line: &str, headers: &str, status: &str, name: &str) {
    let mut client = server.connect().await;
    let framed = format!("{headers}connection: keep-alive\r\ncontent-length: 20000\r\n");
    client.send(head(line, &framed).as_bytes()).await;
    server.has_arrived(1).await;
    client.send(&[b'x'; 10_000]).await;
    let mut byte = [0];
    let early = timeout(Duration::from_millis(20), client.stream.peek(&mut byte)).await;
    assert!(early.is_err(), "{name}: answered before the body has ended");
    client.send(&[b'x'; 10_000]).await;
    let answer = client.answer("POST").await.expect(name);
    assert_eq!(answer.status(), status, "{name}");
    assert!(!answer.closes(), "{name}: {answer:?}");
    client.send(b"GET /none HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(client.answer("GET").await.is_some(), "{name}: the connection is open");
    server.has_arrived(1).await;
}

#[tokio::test]
async fn http_1_0_request_without_keep_alive_is_answered_after_its_body() {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    client.send(b"POST /activity HTTP/1.0\r\ncontent-length: 900000\r\n\r\n").await;
    server.has_arrived(1).await;
    client.send(&vec![b'x'; 900_000]).await;
    assert_eq!(client.answer("POST").await.unwrap().status(), "401");
    assert!(client.has_ended().await);
}

#[tokio::test]
async fn tunnels_are_answered_at_once() {
    let server = Server::start(DEFAULT).await;
    for (line, headers) in [
        ("CONNECT example.com:443 HTTP/1.1", ""),
        ("CONNECT example.com:443 HTTP/1.1", "content-length: 10\r\n"),
        ("GET /activity HTTP/1.1", "connection: upgrade\r\nupgrade: websocket\r\n"),
    ] {
        let mut client = server.connect().await;
        client.send(head(line, headers).as_bytes()).await;
        let answer = client.answer("CONNECT").await.expect(line);
        assert_eq!((answer.status(), answer.closes()), ("401", false), "{line}, {headers}");
    }
}

/// At once, or at the limit if the length is not known.
#[tokio::test]
async fn longer_body_is_answered_before_its_end_and_read_on() {
    let server = Server::start(DEFAULT).await;
    for framing in FRAMINGS {
        let mut client = server.sent(POST, &framing.header(5 * MIB)).await;
        let body = framing.body(5 * MIB);
        let (first, rest) =
            body.split_at(if matches!(framing, Framing::Chunked) { 2 * MIB } else { 0 });
        client.send(first).await;
        let answer = client.answer("POST").await.unwrap();
        assert_eq!((answer.status(), answer.closes()), ("401", true), "{framing:?}");
        client.send(rest).await;
        assert!(client.has_ended().await, "{framing:?}");
    }
}

#[tokio::test]
async fn drain_limit_sets_the_size_above_which_the_answer_comes_at_once() {
    let server = Server::start(Some(1_000)).await;
    for (length, closes) in [(1_000, false), (1_001, true)] {
        for framing in FRAMINGS {
            let mut client = server.sent(POST, &framing.header(length)).await;
            client.send(&framing.body(length)).await;
            let answer = client.answer("POST").await.unwrap();
            let actual = (answer.status(), answer.closes());
            assert_eq!(actual, ("401", closes), "{length}, {framing:?}");
        }
    }
}

#[tokio::test]
async fn huge_body_is_read_up_to_the_second_limit() {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    let headers = Framing::ContentLength.header(64 * MIB);
    client.send(head(POST, &headers).as_bytes()).await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status(), answer.closes()), ("401", true));
    let mut sent = 0;
    let error = loop {
        match timeout(PATIENCE, client.stream.write(&[b'x'; 64 * 1024])).await.unwrap() {
            Ok(length) => sent += length,
            Err(error) => break error,
        }
    };
    let ends = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(ends.contains(&error.kind()), "{error}");
    // What is in the buffers of both sockets was not read by the server.
    assert!(sent < LIMIT_AFTER_RESPONSE + 14 * MIB, "{sent}");
}

#[tokio::test]
async fn expect_100_continue_is_answered_at_once_and_closes() {
    let server = Server::start(DEFAULT).await;
    for expect in ["100-continue", "100-Continue", "other\r\nexpect: 100-continue"] {
        for framing in FRAMINGS {
            let name = format!("{expect}, {framing:?}");
            let mut client = server.connect().await;
            let headers = format!("expect: {expect}\r\n{}", framing.header(20_000));
            client.send(head(POST, &headers).as_bytes()).await;
            // The first response: there is no `100 Continue` before it.
            let answer = client.answer("POST").await.expect(&name);
            assert_eq!((answer.status(), answer.closes()), ("401", true), "{name}: {answer:?}");
            assert!(client.has_ended().await, "{name}");
        }
    }
}

#[tokio::test]
async fn expect_in_http_1_0_changes_nothing() {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    let headers = "connection: keep-alive\r\nexpect: 100-continue\r\ncontent-length: 5\r\n";
    client.send(head("POST /activity HTTP/1.0", headers).as_bytes()).await;
    server.has_arrived(1).await;
    client.send(b"hello").await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status(), answer.closes()), ("401", false), "{answer:?}");
    assert!(client.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn body_of_one_byte_a_second_is_answered_after_two_seconds() {
    let server = Server::start(DEFAULT).await;
    for framing in FRAMINGS {
        let mut client = server.sent(POST, &framing.header(100)).await;
        let began = Instant::now();
        let answer = loop {
            client
                .send(if matches!(framing, Framing::Chunked) { b"1\r\nx\r\n" } else { b"x" })
                .await;
            match timeout(Duration::from_secs(1), client.read_answer("POST")).await {
                Ok(answer) => break answer.unwrap(),
                Err(_) => assert!(began.elapsed() < PATIENCE, "{framing:?}: no response"),
            }
        };
        assert_eq!(began.elapsed().as_millis() / 100, 20, "{framing:?}");
        assert_eq!((answer.status(), answer.closes()), ("401", true), "{framing:?}");
        assert!(client.has_ended().await);
        assert!(began.elapsed() < Duration::from_millis(4_100), "{framing:?}: 2 more seconds");
    }
}

#[tokio::test]
async fn client_that_hangs_up_in_the_body_does_no_harm() {
    let began = Instant::now();
    let server = Server::start(DEFAULT).await;
    for _ in 0..300 {
        let mut client = server.sent(POST, "content-length: 5\r\n").await;
        client.send(b"he").await;
    }
    // Their 256 places become free again.
    let mut closes = true;
    while closes {
        let mut client = server.sent(POST, "content-length: 5\r\n").await;
        // If there is no place, the server may have closed the connection.
        let _ = client.stream.write_all(b"hello").await;
        closes = client.answer("POST").await.is_none_or(|answer| answer.closes());
        assert!(began.elapsed() < PATIENCE, "no place became free");
    }
}

/// The three lines of the page, and the extractor that also solves the problem.
#[tokio::test]
async fn handler_that_reads_the_body_before_its_rejection_keeps_the_connection() {
    async fn early(request: Request) -> Result<(), Rejection> {
        RequireScope::new("activity/admin").authorize(request.extensions())?;
        Ok(())
    }
    async fn three_lines(request: Request) -> Result<(), Rejection> {
        let rejection =
            RequireScope::new("activity/admin").authorize(request.extensions()).map(drop);
        let mut body = Limited::new(request.into_body(), MIB);
        let drained = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = timeout(Duration::from_secs(2), drained).await;
        rejection
    }
    async fn extractor(extensions: Extensions, _body: Bytes) -> Result<(), Rejection> {
        RequireScope::new("activity/admin").authorize(&extensions)?;
        Ok(())
    }
    for (name, handler, stays_open) in [
        ("early", post(early), false),
        ("three lines", post(three_lines), true),
        ("extractor", post(extractor), true),
    ] {
        let app = Router::new()
            .route("/upload", handler)
            .route("/activity", post(echo))
            .layer(RequireToken::new(verifier()));
        let server = Server::serve(app, Arc::default()).await;
        let mut client = server.connect().await;
        let headers = format!("{}content-length: 20000\r\n", valid());
        client.send(head("POST /upload HTTP/1.1", &headers).as_bytes()).await;
        server.has_arrived(1).await;
        // If the handler is early, the server may have closed the connection.
        let _ = client.stream.write_all(&[b'x'; 20_000]).await;
        assert_eq!(client.answer("POST").await.unwrap().status(), "403", "{name}");
        assert_eq!(client.is_open().await, stays_open, "{name}");
    }
}

#[tokio::test]
async fn at_most_256_bodies_are_read_at_a_time() {
    let server = Server::start(DEFAULT).await;
    let mut clients = Vec::new();
    for _ in 0..256 {
        let mut client = server.connect().await;
        client.send(head(POST, "content-length: 5\r\n").as_bytes()).await;
        clients.push(client);
        server.has_arrived(1).await;
    }
    let mut next = server.connect().await;
    next.send(head(POST, "content-length: 5\r\n").as_bytes()).await;
    let answer = next.answer("POST").await.unwrap();
    assert_eq!((answer.status(), answer.closes()), ("401", true));
    server.has_arrived(1).await;

    // One ends, and gives its place to the next.
    let mut first = clients.remove(0);
    first.send(b"hello").await;
    let answer = first.answer("POST").await.unwrap();
    assert_eq!((answer.status(), answer.closes()), ("401", false));
    first.send(head(POST, "content-length: 5\r\n").as_bytes()).await;
    server.has_arrived(1).await;
    first.send(b"hello").await;
    assert!(!first.answer("POST").await.unwrap().closes());
}

/// The layer sees the content type of gRPC, and HTTP/1.1.
#[tokio::test]
async fn grpc_web_that_is_translated_outside_keeps_the_connection() {
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().accept_http1(true);
    let mut server = server.layer(GrpcWebLayer::new()).layer(RequireToken::new(verifier()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(server.add_service(health).serve_with_incoming(incoming));

    let mut client = Client::connect(address).await;
    let headers = "content-type: application/grpc-web+proto\r\ncontent-length: 20000\r\n";
    let request = head("POST /grpc.health.v1.Health/Check HTTP/1.1", headers);
    for _ in 0..2 {
        client.send(request.as_bytes()).await;
        // No signal: the server of tonic calls the layer a few turns later.
        sleep(Duration::from_millis(50)).await;
        client.send(&[b'x'; 20_000]).await;
        let answer = client.answer("POST").await.unwrap();
        assert!(answer.head.contains("\r\ngrpc-status: 16\r\n"), "{answer:?}");
        assert!(!answer.closes(), "{answer:?}");
    }
}

// HTTP/2, in frames: a library would stop sending after a reset, and a network does not.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// Appends a frame.
fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// Encodes a request without Huffman codes or a dynamic table (RFC 7541 section 6.2.2).
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match u8::try_from(text.len()) {
                Ok(length @ ..=126) => block.push(length),
                _ => {
                    let rest = text.len() - 127;
                    block.extend([127, u8::try_from(rest % 128).unwrap() | 128]);
                    assert!(rest / 128 < 128);
                    block.push(u8::try_from(rest / 128).unwrap());
                }
            }
            block.extend(text.bytes());
        }
    }
    block
}

fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut all =
        vec![(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)];
    all.extend(more);
    fields(&all)
}

impl Client {
    async fn start_http_2(&mut self) {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        // The responses of a test need no more than this.
        frame(&mut bytes, WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        self.send(&bytes).await;
    }

    async fn next_frame(&mut self) -> Frame {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame").expect("a connection")
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((head, rest)) = self.unread.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let length = usize::try_from(length).unwrap();
                if rest.len() >= length {
                    let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
                    let (kind, flags) = (head[3], head[4]);
                    let payload = self.unread.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            self.read_more().await?;
        }
    }
}

#[tokio::test]
async fn rejections_in_great_number_do_not_end_an_http_2_connection() {
    rejections_do_not_end_the_connection("application/json").await;
}

/// Under paused time, the bodies are read by a task of the same runtime.
#[tokio::test(start_paused = true)]
async fn grpc_rejections_in_great_number_do_not_end_an_http_2_connection() {
    rejections_do_not_end_the_connection("application/grpc").await;
}

/// Sends 3,000 requests, up to 100 at a time, and their bodies late.
async fn rejections_do_not_end_the_connection(content_type: &str) {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    client.start_http_2().await;
    let token = format!("Bearer {}", machine("activity/*").sign());
    let mut bytes = Vec::new();
    let slow = request("/slow", &[("authorization", &*token)]);
    frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &slow);
    client.send(&bytes).await;
    server.has_arrived(1).await;

    let block = request("/activity", &[("content-type", content_type)]);
    let mut stream = 1;
    for _ in 0..30 {
        let streams = (0..100).map(|n| stream + 2 + 2 * n).collect::<Vec<u32>>();
        stream = *streams.last().unwrap();
        let mut bytes = Vec::new();
        for &stream in &streams {
            frame(&mut bytes, HEADERS, END_HEADERS, stream, &block);
        }
        let _ = client.stream.write_all(&bytes).await;
        // Keeps what is read for later. If the connection ends, the next frames say why.
        tokio::select! {
            () = server.has_arrived(100) => {}
            () = async { while client.read_more().await.is_some() {} } => {}
        }
        let mut bytes = Vec::new();
        for part in 0..3 {
            for &stream in &streams {
                let flags = if part == 2 { END_STREAM } else { 0 };
                frame(&mut bytes, DATA, flags, stream, &[b'x'; 100]);
            }
        }
        let _ = client.stream.write_all(&bytes).await;
        let mut answered = 0;
        while answered < 100 {
            let frame = client.next_frame().await;
            let text = String::from_utf8_lossy(&frame.payload);
            assert_ne!(frame.kind, GOAWAY, "after stream {stream}: {text}");
            if frame.ends() {
                answered += 1;
            }
            if frame.kind == DATA {
                assert!(text.contains(r#""error":"unauthorized""#), "{text}");
            }
        }
        // The bodies of gRPC calls are read after the response.
        sleep(Duration::from_millis(1)).await;
    }
    server.released.notify_one();
    loop {
        let frame = client.next_frame().await;
        assert_ne!(frame.kind, GOAWAY);
        if frame.kind == DATA && frame.stream == 1 {
            assert_eq!(frame.payload, b"slow");
            return;
        }
    }
}

#[tokio::test]
async fn grpc_call_over_http_2_is_answered_at_once() {
    answered_at_once(&request("/activity", &[("content-type", "application/grpc")])).await;
}

#[tokio::test]
async fn http_2_connect_is_answered_at_once() {
    answered_at_once(&fields(&[(":method", "CONNECT"), (":authority", "x:443")])).await;
}

async fn answered_at_once(block: &[u8]) {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    client.start_http_2().await;
    let mut bytes = Vec::new();
    frame(&mut bytes, HEADERS, END_HEADERS, 1, block);
    client.send(&bytes).await;
    while !client.next_frame().await.ends() {}
}

#[tokio::test]
async fn longer_http_2_body_is_answered_at_once_without_a_reset() {
    let server = Server::start(DEFAULT).await;
    let mut client = server.connect().await;
    client.start_http_2().await;
    let block = request("/activity", &[("content-length", "5000000")]);
    let mut bytes = Vec::new();
    frame(&mut bytes, HEADERS, END_HEADERS, 1, &block);
    client.send(&bytes).await;
    while !client.next_frame().await.ends() {}
    // Without updates of the window, this is all that may be sent on a stream. It is taken.
    let mut sent = 0;
    let mut window = 65_535;
    while sent < 5_000_000 {
        let length = 16_384.min(window).min(5_000_000 - sent);
        if length == 0 {
            let frame = client.next_frame().await;
            assert_ne!(frame.kind, RST_STREAM, "reset after {sent} bytes");
            if frame.kind == WINDOW_UPDATE && frame.stream == 1 {
                window +=
                    usize::try_from(u32::from_be_bytes(frame.payload.try_into().unwrap())).unwrap();
            }
            continue;
        }
        let mut bytes = Vec::new();
        let flags = if sent + length == 5_000_000 { END_STREAM } else { 0 };
        frame(&mut bytes, DATA, flags, 1, &vec![b'x'; length]);
        client.send(&bytes).await;
        (sent, window) = (sent + length, window - length);
    }
}
