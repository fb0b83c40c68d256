//! The issuer of the tests that need a socket and a fault: it answers with the bytes of the test, over TLS
//! or without. Tests that need a working issuer use [`tower_cognito::TestServer`], and those under
//! paused time `fake_issuer`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use reqwest::{Client, ClientBuilder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_cognito::{ClientIds, Rules, UserPool, Verifier, VerifierBuilder};

use super::support::{CLIENT, issuer};

pub(crate) const PATH: &str = "/pool/.well-known/jwks.json";
/// A name that no resolver knows.
const NAME: &str = "issuer.test";

/// The response on a connection.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These bytes, once there is a request, and the end of the connection.
    Bytes(Vec<u8>),
    /// The first bytes, and then the others one at a time, again and again.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// The first bytes, and then the others again and again, as fast as they are taken.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and then a reset, whatever was asked.
    Reset(Vec<u8>),
    /// These bytes, once there is a request, and then nothing more.
    Stall(Vec<u8>),
    /// These bytes without a request, not even in TLS, and then nothing more.
    Unasked(Vec<u8>),
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    answer: Mutex<Answer>,
    tls: Mutex<Option<TlsAcceptor>>,
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    sent: AtomicUsize,
    /// A permit for each connection that the client has ended.
    hung_up: Semaphore,
}

impl Server {
    pub(crate) async fn bind() -> Self {
        Self::of(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) async fn bind_tls(tls: TlsAcceptor) -> Self {
        let server = Self::bind().await;
        server.set_tls(Some(tls));
        server
    }

    pub(crate) fn of(listener: TcpListener) -> Self {
        let shared = Arc::new(Shared {
            answer: Mutex::new(good()),
            tls: Mutex::default(),
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            sent: AtomicUsize::new(0),
            hung_up: Semaphore::new(0),
        });
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&serving);
                // The client may close the connection first.
                tokio::spawn(async move { shared.serve(stream).await.unwrap_or_default() });
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn answers(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    pub(crate) fn set_tls(&self, tls: Option<TlsAcceptor>) {
        *self.shared.tls.lock().unwrap() = tls;
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns how many bytes of endless answers were sent.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until the client has ended as many connections that were never answered.
    pub(crate) async fn was_hung_up(&self, connections: u32) {
        let permits = self.shared.hung_up.acquire_many(connections);
        timeout(Duration::from_secs(3), permits).await.unwrap().unwrap().forget();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The same, by a name that only [`Server::client`] knows: no loopback URL.
    pub(crate) fn url_by_name(&self) -> String {
        format!("http://{NAME}:{}{PATH}", self.address.port())
    }

    /// An application's client.
    pub(crate) fn client(&self) -> ClientBuilder {
        Client::builder().no_proxy().tls_certs_only([]).resolve(NAME, self.address)
    }

    pub(crate) fn builder(&self) -> VerifierBuilder {
        Verifier::builder(rules(&self.url()))
    }

    /// A verifier that has good keys.
    pub(crate) async fn connect(&self) -> Verifier {
        self.builder().connect().await.unwrap()
    }

    /// With a client of the application, which is not used for loopback URLs.
    pub(crate) async fn connect_with(&self, client: ClientBuilder) -> Verifier {
        let url = self.url_by_name();
        let host = format!("{NAME}:{}", self.address.port());
        let pool = rules(&url).pool().clone().with_insecure_jwks_host(&host).unwrap();
        let rules = Rules::new(pool, ClientIds::only([CLIENT]));
        let builder = Verifier::builder(rules).http_client(client);
        builder.connect().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let answer = self.answer.lock().unwrap().clone();
        match &answer {
            Answer::Reset(bytes) => {
                stream.write_all(bytes).await?;
                // What is dropped unread is answered with a reset.
                return stream.readable().await;
            }
            Answer::Unasked(bytes) => {
                stream.write_all(bytes).await?;
                return self.wait_for_the_end(&mut stream).await;
            }
            _ => {}
        }
        let tls = self.tls.lock().unwrap().clone();
        match tls {
            Some(tls) => self.speak(tls.accept(stream).await?, answer).await,
            None => self.speak(stream, answer).await,
        }
    }

    async fn speak(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answer: Answer,
    ) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        self.requests.lock().unwrap().push(String::from_utf8(request).unwrap());
        match answer {
            Answer::Bytes(bytes) => {
                stream.write_all(&bytes).await?;
                stream.shutdown().await
            }
            Answer::Drip(first, others, pause) => {
                stream.write_all(&first).await?;
                for byte in others.iter().cycle() {
                    stream.write_all(&[*byte]).await?;
                    sleep(pause).await;
                }
                Ok(())
            }
            Answer::Endless(first, others) => {
                stream.write_all(&first).await?;
                loop {
                    stream.write_all(&others).await?;
                    self.sent.fetch_add(others.len(), Ordering::SeqCst);
                }
            }
            Answer::Stall(bytes) => {
                stream.write_all(&bytes).await?;
                self.wait_for_the_end(&mut stream).await
            }
            Answer::Reset(_) | Answer::Unasked(_) => unreachable!("answered without a request"),
        }
    }

    async fn wait_for_the_end(&self, stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        self.hung_up.add_permits(1);
        Ok(())
    }
}

pub(crate) fn rules(url: &str) -> Rules {
    let pool = UserPool::from_issuer(issuer().issuer()).unwrap();
    Rules::new(pool.with_jwks_url(url).unwrap(), ClientIds::only([CLIENT]))
}

/// Each `headers` ends with CR LF.
pub(crate) fn head(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n").into_bytes()
}

pub(crate) fn response(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let headers = format!("{headers}content-length: {}\r\n", body.len());
    [&head(status, &headers), body].concat()
}

pub(crate) fn document(body: impl AsRef<[u8]>) -> Answer {
    Answer::Bytes(response("200 OK", "content-type: application/json\r\n", body))
}

pub(crate) fn good() -> Answer {
    document(issuer().jwks_json())
}

pub(crate) fn chunk(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Returns a client that trusts only this authority.
    pub(crate) fn client(&self) -> ClientBuilder {
        let root = reqwest::Certificate::from_der(self.certificate.der()).unwrap();
        Client::builder().no_proxy().tls_certs_only([root])
    }

    /// With a certificate for this host that is good until that year.
    pub(crate) fn acceptor(&self, host: &str, year: i32) -> TlsAcceptor {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
