//! What the modules share: one issuer, since making RSA keys takes time, and its usual rules.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{LazyLock, Once};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{ClientIds, Rules, TestIssuer, Verifier};

pub(crate) const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";

/// Never rotated.
pub(crate) fn issuer() -> &'static TestIssuer {
    static ISSUER: LazyLock<TestIssuer> = LazyLock::new(TestIssuer::new);
    &ISSUER
}

pub(crate) fn rules() -> Rules {
    Rules::new(issuer().user_pool(), ClientIds::only([CLIENT]))
}

/// With the keys of [`issuer`], and no network.
pub(crate) fn verifier() -> Verifier {
    Verifier::builder(rules()).with_jwks(issuer().jwks()).unwrap()
}

/// A good token with these scopes.
pub(crate) fn machine(scope: &str) -> TokenBuilder {
    issuer().machine_token(CLIENT).scope(scope)
}

/// One request on a connection of its own.
pub(crate) async fn http_1(
    address: SocketAddr,
    request: http::request::Builder,
    body: &str,
) -> Response<Bytes> {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let body = Full::<Bytes>::from(body.to_owned());
    let request = request.header("host", "localhost").body(body).unwrap();
    let (parts, body) = client.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the thread that made it logs from then on, at every level. One subscriber serves the
/// whole process: a callsite that another thread saw first must not stay silent.
pub(crate) struct Log(());

impl Log {
    pub(crate) fn of_this_thread() -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| ThreadLog)
                .init();
        });
        LOG.take();
        Self(())
    }

    pub(crate) fn take(self) -> String {
        String::from_utf8(LOG.take()).unwrap()
    }
}

struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
