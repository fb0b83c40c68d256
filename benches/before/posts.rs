//! Sends POST requests without a token to two builds of this crate, in turns, as a client that keeps its
//! connection. `benches/before.sh` generates the package that it belongs to.
//!
//!     posts ROUNDS   # rounds of 50 requests for each row and build
//!
//! Each line has the name of a row, then for the older build and this one: the microseconds of a request,
//! by the minimum of all rounds, and the number of requests without a response in all rounds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::routing::post;
use axum::serve::ListenerExt;
use http::{Request, StatusCode};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

const REQUESTS: u32 = 50;

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

const ROWS: [(&str, Protocol, usize); 4] = [
    ("HTTP/1.1, 64 KB", Protocol::Http1, 64 << 10),
    ("HTTP/1.1, 900 kB", Protocol::Http1, 900_000),
    ("HTTP/2, 64 KB", Protocol::Http2, 64 << 10),
    ("HTTP/2, 900 kB", Protocol::Http2, 900_000),
];

/// Starts a server with one of the builds on its own thread, and returns its address.
macro_rules! serve {
    ($krate:ident, $fetch:ident) => {{
        use $krate::{
            ClientIds, JwksDocument, RefreshError, RequireToken, Rules, TestIssuer, Verifier,
        };

        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let issuer = TestIssuer::new();
            let document = issuer.jwks_json();
            let fetch = move |_: String| {
                let document = document.clone();
                async move { Ok::<_, RefreshError>(JwksDocument::new(document)) }
            };
            let rules = Rules::new(issuer.user_pool(), ClientIds::only(["client"]));
            let verifier = Verifier::builder(rules).$fetch(fetch).connect().await.unwrap();
            let receive = async |body: Bytes| drop(body);
            let app = Router::new().route("/", post(receive)).layer(RequireToken::new(verifier));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            tokio::spawn(async { axum::serve(listener, app).await });
            address
        });
        (address, runtime)
    }};
}

enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Client {
    async fn connect(address: SocketAddr, protocol: Protocol) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        match protocol {
            Protocol::Http1 => {
                let (client, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Self::Http1(client)
            }
            Protocol::Http2 => {
                let executor = TokioExecutor::new();
                let (client, connection) = http2::handshake(executor, stream).await.unwrap();
                tokio::spawn(connection);
                Self::Http2(client)
            }
        }
    }

    /// Returns whether the connection can send another request.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(client) => client.ready().await.is_ok(),
            Self::Http2(client) => client.ready().await.is_ok(),
        }
    }

    /// Returns whether the response of a rejection arrived as a whole.
    async fn is_rejected(&mut self, request: Request<Body>) -> bool {
        let response = match self {
            Self::Http1(client) => client.send_request(request).await,
            Self::Http2(client) => client.send_request(request).await,
        };
        let Ok(response) = response else { return false };
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        to_bytes(Body::new(response.into_body()), 1 << 16).await.is_ok()
    }
}

/// Sends the requests of one round. Returns the time, and how many got no response.
async fn round(address: SocketAddr, protocol: Protocol, body: &Bytes) -> (Duration, u32) {
    let mut client = Client::connect(address, protocol).await;
    let mut lost = 0;
    let began = Instant::now();
    for _ in 0..REQUESTS {
        if !client.is_ready().await {
            client = Client::connect(address, protocol).await;
        }
        let uri = match protocol {
            Protocol::Http1 => "/".to_owned(),
            Protocol::Http2 => format!("http://{address}/"),
        };
        let request = Request::post(uri).header("host", address.to_string());
        let request = request.body(Body::from(body.clone())).unwrap();
        if !client.is_rejected(request).await {
            lost += 1;
        }
    }
    (began.elapsed() / REQUESTS, lost)
}

fn main() {
    let rounds: u32 = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let (before, _before) = serve!(before, fetch_with);
    let (after, _after) = serve!(after, jwks_fetcher);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, protocol, length) in ROWS {
        let body = Bytes::from(vec![b'x'; length]);
        let mut results = [(Duration::MAX, 0); 2];
        for _ in 0..rounds {
            for (address, (least, all_lost)) in [before, after].into_iter().zip(&mut results) {
                let (time, lost) = client.block_on(round(address, protocol, &body));
                *least = (*least).min(time);
                *all_lost += lost;
            }
        }
        let [(before, lost_before), (after, lost_after)] = results;
        let [before, after] = [before.as_micros(), after.as_micros()];
        println!("{name}\t{before}\t{lost_before}\t{after}\t{lost_after}");
    }
}
