//! Faults between the verifier and the issuer on real sockets and in real time: the server answers with
//! the bytes of the test. The number in a test name is that of the hostile input or the promise.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect;
use tokio::net::TcpSocket;
use tower_cognito::{ClientIds, Health, RefreshError, Rules, UserPool, Verifier};

use super::socket_issuer::{
    Answer, Authority, PATH, Server, chunk, document, good, head, response, rules,
};
use super::support::{CLIENT, Log, initially, issuer, machine};

const MAX_DOCUMENT_LEN: usize = 64 * 1024;

/// The good set in this many bytes.
fn padded_to(length: usize) -> String {
    let mut document = issuer().jwks_json();
    document.extend(std::iter::repeat_n(' ', length - document.len()));
    document
}

fn cause(error: &RefreshError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// The refresh fails, and that is all that happens: the keys stay, health tells, and once the
/// server is well again so is the verifier.
async fn survives(server: &Server, verifier: &Verifier, name: &str, fault: Answer) -> RefreshError {
    server.answers(fault);
    let error = fails(verifier, name).await;
    server.answers(good());
    recovers(verifier, name).await;
    error
}

async fn fails(verifier: &Verifier, name: &str) -> RefreshError {
    let Err(error) = verifier.refresh().await else { panic!("{name}: the refresh went well") };
    let Health::Degraded(degraded) = verifier.health() else {
        panic!("{name}: {:?} after {error:?}", verifier.health());
    };
    assert_eq!(
        degraded.last_error().map(|kind| kind.as_str()),
        Some(error.kind().as_str()),
        "{name}"
    );
    assert!(degraded.since() <= SystemTime::now() && degraded.age().is_some(), "{name}");
    assert!(verifier.try_verify(&machine("").sign()).is_ok(), "{name}");
    error
}

async fn recovers(verifier: &Verifier, name: &str) {
    if let Err(error) = verifier.refresh().await {
        panic!("{name}: {error:?} when all is well again");
    }
    assert_eq!(verifier.health(), Health::Ready, "{name}");
    assert!(verifier.try_verify(&machine("").sign()).is_ok(), "{name}");
}

/// It fails at the limit of 5 seconds.
async fn times_out(server: &Server, verifier: &Verifier, name: &str, fault: Answer) {
    server.answers(fault);
    let begun = Instant::now();
    let error = fails(verifier, name).await;
    let elapsed = begun.elapsed();
    assert_eq!(error.kind().as_str(), "timed_out", "{name}: {error:?}");
    let expected = Duration::from_millis(4_900)..Duration::from_secs(8);
    assert!(expected.contains(&elapsed), "{name}: {elapsed:?}");
    server.answers(good());
    recovers(verifier, name).await;
}

#[tokio::test]
async fn h055_closed_port_fails_until_it_is_open() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let url = format!("http://{}{PATH}", socket.local_addr().unwrap());
    let seeded = Verifier::builder(initially(rules(&url), SystemTime::now()));
    let verifier = seeded.connect_lazy().unwrap();
    let error = fails(&verifier, "closed port").await;
    assert_eq!(error.kind().as_str(), "transport", "{error:?}");

    let server = Server::of(socket.listen(8).unwrap());
    recovers(&verifier, "open port").await;
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn h055_reset_at_any_moment_is_a_failed_refresh() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let answer = response("200 OK", "", issuer().jwks_json());
    for length in [0, 10, answer.len() / 2, answer.len() - 1] {
        let name = format!("after {length} bytes");
        let fault = Answer::Reset(answer[..length].to_vec());
        let error = survives(&server, &verifier, &name, fault).await;
        assert_eq!(error.kind().as_str(), "transport", "{name}: {error:?}");
        let fault = Answer::Bytes(answer[..length].to_vec());
        let name = format!("the end {name}");
        let error = survives(&server, &verifier, &name, fault).await;
        assert_eq!(error.kind().as_str(), "transport", "{name}: {error:?}");
    }
}

#[tokio::test]
async fn h055_tls_works_only_with_a_root_certificate_of_the_application() {
    let (root, stranger) = (Authority::new(), Authority::new());
    let good = root.acceptor("localhost", 2100);
    let server = Server::bind_tls(good.clone()).await;
    let pool = format!("https://localhost:{}/pool", server.address.port());
    let rules = Rules::new(UserPool::from_issuer(&pool).unwrap(), ClientIds::only([CLIENT]));
    let token = issuer().machine_token(CLIENT).claim("iss", &*pool).sign();
    let builder = Verifier::builder(rules.clone()).http_client(root.client());
    let verifier = builder.connect().await.unwrap();
    assert!(verifier.try_verify(&token).is_ok());

    for (name, tls, reason) in [
        ("another root", Some(stranger.acceptor("localhost", 2100)), "InvalidCertificate("),
        ("expired", Some(root.acceptor("localhost", 2001)), "Expired"),
        ("another host", Some(root.acceptor("issuer.example", 2100)), "NotValidForName"),
        ("plaintext", None, "InvalidMessage"),
    ] {
        if tls.is_none() {
            server.answers(Answer::Unasked(response("200 OK", "", issuer().jwks_json())));
        }
        server.set_tls(tls);
        let before = server.requests().len();
        let error = verifier.refresh().await.expect_err(name);
        assert_eq!(error.kind().as_str(), "transport", "{name}: {error:?}");
        assert!(format!("{error:?}").contains(reason), "{name}: {error:?}");
        let Health::Degraded(degraded) = verifier.health() else { panic!("{name}") };
        assert_eq!(degraded.last_error().map(|kind| kind.as_str()), Some("transport"), "{name}");
        assert!(verifier.try_verify(&token).is_ok(), "{name}");
        assert_eq!(server.requests().len(), before, "{name}: nothing was asked of it");

        server.set_tls(Some(good.clone()));
        server.answers(self::good());
        verifier.refresh().await.expect(name);
        assert_eq!(verifier.health(), Health::Ready, "{name}");
    }

    // Without the root there is no start either.
    let verifier = Verifier::builder(rules).http_client(stranger.client()).connect_lazy().unwrap();
    let error = verifier.refresh().await.unwrap_err();
    assert_eq!(error.kind().as_str(), "transport", "{error:?}");
    assert!(format!("{error:?}").contains("InvalidCertificate("), "{error:?}");
    assert_eq!(verifier.health(), Health::NotReady);
}

#[tokio::test]
async fn h056_silent_issuer_times_out() {
    let (deaf, mute) = tokio::join!(Server::bind(), Server::bind());
    let (first, second) = tokio::join!(deaf.connect(), mute.connect());
    tokio::join!(
        times_out(&deaf, &first, "nothing is read", Answer::Unasked(Vec::new())),
        times_out(&mute, &second, "nothing is said", Answer::Stall(Vec::new())),
    );
    tokio::join!(deaf.was_hung_up(1), mute.was_hung_up(1));
}

#[tokio::test]
async fn h056_slow_headers_and_endless_informational_responses_time_out() {
    let (slow, continuing) = tokio::join!(Server::bind(), Server::bind());
    let (first, second) = tokio::join!(slow.connect(), continuing.connect());
    // One that counts the time since the last byte would never give up.
    let pause = Duration::from_millis(100);
    let headers = head("200 OK", &"x-header: of an endless answer\r\n".repeat(10));
    let informational = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let pause_of_informational = Duration::from_millis(2);
    tokio::join!(
        times_out(&slow, &first, "headers", Answer::Drip(Vec::new(), headers, pause)),
        times_out(
            &continuing,
            &second,
            "100 Continue",
            Answer::Drip(Vec::new(), informational, pause_of_informational)
        ),
    );
}

#[tokio::test]
async fn h056_slow_body_times_out() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let body = issuer().jwks_json().into_bytes();
    let head = head("200 OK", &format!("content-length: {}\r\n", body.len()));
    let fault = Answer::Drip(head, body, Duration::from_millis(100));
    times_out(&server, &verifier, "body", fault).await;
}

#[tokio::test]
async fn h057_endless_body_is_left_at_64_kib() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let block = vec![b' '; 4096];
    for (name, headers, block) in [
        ("without a length", "", block.clone()),
        ("of 10 GB", "content-length: 10000000000\r\n", block.clone()),
        ("in chunks", "transfer-encoding: chunked\r\n", chunk(&block)),
    ] {
        let before = server.sent();
        let begun = Instant::now();
        let fault = Answer::Endless(head("200 OK", headers), block);
        let error = survives(&server, &verifier, name, fault).await;
        assert_eq!(cause(&error), "invalid JWK Set: it is longer than 64 KiB", "{name}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{name}: {:?}", begun.elapsed());
        // What the sockets hold is sent, and not received.
        let sent = server.sent() - before;
        assert!(sent < 32 << 20, "{name}: {sent} bytes");
    }
}

#[tokio::test]
async fn h057_endless_headers_are_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    for (name, line) in
        [("many", b"x-header: value\r\n".repeat(100)), ("one that is long", vec![b'x'; 4096])]
    {
        let fault = Answer::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), line);
        let begun = Instant::now();
        let error = survives(&server, &verifier, name, fault).await;
        assert_eq!(error.kind().as_str(), "transport", "{name}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{name}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn h057_chunked_body_without_its_end_is_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let complete = [head("200 OK", "transfer-encoding: chunked\r\n"), chunk(issuer().jwks_json())];
    let complete = complete.concat();
    let fault = Answer::Bytes(complete.clone());
    let error = survives(&server, &verifier, "it ends", fault).await;
    assert_eq!(error.kind().as_str(), "transport", "{error:?}");
    times_out(&server, &verifier, "it stays open", Answer::Stall(complete.clone())).await;
    server.was_hung_up(1).await;
    let more = chunk(" ");
    let pause = Duration::from_millis(20);
    times_out(&server, &verifier, "it continues", Answer::Drip(complete, more, pause)).await;
}

#[tokio::test]
async fn h057_too_small_content_length_is_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let body = issuer().jwks_json();
    for length in [0, 1, body.len() / 2, body.len() - 1] {
        let head = head("200 OK", &format!("content-length: {length}\r\n"));
        let fault = Answer::Bytes([&head, body.as_bytes()].concat());
        let error = survives(&server, &verifier, &format!("{length} bytes"), fault).await;
        assert_eq!(error.kind().as_str(), "document", "{length} bytes: {error:?}");
    }
}

#[tokio::test]
async fn h057_too_large_content_length_is_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let body = issuer().jwks_json();
    for length in [(body.len() + 1).to_string(), u64::MAX.to_string(), "-1".into(), "1, 2".into()] {
        let head = head("200 OK", &format!("content-length: {length}\r\n"));
        let fault = Answer::Bytes([&head, body.as_bytes()].concat());
        let error = survives(&server, &verifier, &length, fault).await;
        assert_eq!(error.kind().as_str(), "transport", "{length}: {error:?}");
    }
    let head = head("200 OK", &format!("content-length: {}\r\n", body.len() + 1));
    let fault = Answer::Stall([&head, body.as_bytes()].concat());
    times_out(&server, &verifier, "it stays open", fault).await;
    server.was_hung_up(1).await;
}

#[tokio::test]
async fn h057_response_that_is_not_http_is_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let body = issuer().jwks_json();
    for (name, answer) in [
        ("another protocol", "SSH-2.0-OpenSSH_9.6\r\n".to_owned()),
        ("no status line", body.clone()),
        ("no status", format!("HTTP/1.1\r\n\r\n{body}")),
        ("status of two digits", format!("HTTP/1.1 20\r\n\r\n{body}")),
        ("another version", format!("HTTP/2.0 200 OK\r\n\r\n{body}")),
        ("NUL in a header", format!("HTTP/1.1 200 OK\r\nx: \0\r\n\r\n{body}")),
        (
            "a chunk without a size",
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"
            ),
        ),
        (
            "a chunk of 2^68 bytes",
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100000000000000000\r\n{body}"
            ),
        ),
    ] {
        let fault = Answer::Bytes(answer.into_bytes());
        let error = survives(&server, &verifier, name, fault).await;
        assert_eq!(error.kind().as_str(), "transport", "{name}: {error:?}");
    }
}

#[tokio::test]
async fn h058_gzip_and_all_other_encodings_are_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    for encoding in ["gzip", "br", "zstd", "deflate", "x-gzip", "GZIP", "gzip, br", "aws-chunked"] {
        // The body is valid, so only the header can cause the rejection.
        let headers = format!("content-encoding: {encoding}\r\n");
        let fault = Answer::Bytes(response("200 OK", &headers, issuer().jwks_json()));
        let error = survives(&server, &verifier, encoding, fault).await;
        assert_eq!(cause(&error), "invalid JWK Set: it is compressed", "{encoding}");
    }
    let twice = "content-encoding: gzip\r\ncontent-encoding: br\r\n";
    let fault = Answer::Bytes(response("200 OK", twice, issuer().jwks_json()));
    let error = survives(&server, &verifier, "twice", fault).await;
    assert_eq!(error.kind().as_str(), "document");
}

const REDIRECTS: [&str; 4] = ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"];

#[tokio::test]
async fn h059_redirects_are_not_followed() {
    let (server, other) = (Server::bind().await, Server::bind().await);
    let verifier = server.connect().await;
    // In vain: what a loopback URL is fetched with is not the application's.
    let following = server.builder().http_client(server.client().redirect(redirects(10)));
    let following = following.connect().await.unwrap();
    for verifier in [&verifier, &following] {
        redirects_end_there(&server, verifier, &other).await;
    }
}

#[tokio::test]
async fn h059_redirects_are_not_followed_by_a_client_that_would() {
    let (server, other) = (Server::bind().await, Server::bind().await);
    let client = server.client().redirect(redirects(10)).resolve("other.test", other.address);
    let verifier = server.connect_with(client).await;
    redirects_end_there(&server, &verifier, &other).await;
}

fn redirects(most: usize) -> redirect::Policy {
    redirect::Policy::limited(most)
}

async fn redirects_end_there(server: &Server, verifier: &Verifier, other: &Server) {
    for status in REDIRECTS {
        for target in [
            other.url(),
            format!("http://other.test:{}{PATH}", other.address.port()),
            server.url(),
            server.url_by_name(),
            PATH.to_owned(),
            "http://169.254.169.254/latest/meta-data".to_owned(),
        ] {
            let name = format!("{status} to {target}");
            // The body is good, and does not count either.
            let location = format!("location: {target}\r\n");
            let fault = Answer::Bytes(response(status, &location, issuer().jwks_json()));
            let before = server.requests().len();
            let error = survives(server, verifier, &name, fault).await;
            assert_eq!(
                error.to_string(),
                format!("the response has status {}, expected 200", &status[..3])
            );
            let requests = server.requests().len() - before;
            assert_eq!(requests, 2, "{name}: one that was redirected, one that was not");
        }
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn h061_statuses_other_than_200_are_rejected() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    for status in [
        "201 Created",
        "202 Accepted",
        "203 Non-Authoritative",
        "204 No Content",
        "206 Partial Content",
        "300 Multiple Choices",
        "304 Not Modified",
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "407 Proxy Authentication Required",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
        "599 Unheard of",
        "999 Unheard of",
    ] {
        // The body is good, and does not count.
        let fault = Answer::Bytes(response(status, "", issuer().jwks_json()));
        let error = survives(&server, &verifier, status, fault).await;
        assert_eq!(
            error.to_string(),
            format!("the response has status {}, expected 200", &status[..3])
        );
        assert_eq!(error.kind().as_str(), "status");
    }
}

#[tokio::test]
async fn h061_retry_after_is_clamped_and_never_a_panic() {
    let server = Server::bind().await;
    let verifier = server.connect().await;
    let backoff = 500..=1_000;
    for (status, value, pause) in [
        ("429", "0", 1_000..=1_000),
        ("503", "0", 1_000..=1_000),
        ("503", "20", 20_000..=20_000),
        ("429", " 20 ", 20_000..=20_000),
        ("429", "1000000000000", 300_000..=300_000),
        ("503", "18446744073709551615", 300_000..=300_000),
        ("503", "18446744073709551616", backoff.clone()),
        ("503", "-1", backoff.clone()),
        ("503", "1e12", backoff.clone()),
        ("503", "1.5", backoff.clone()),
        ("503", "", backoff.clone()),
        ("429", "soon", backoff.clone()),
        ("429", "\u{fffd}", backoff.clone()),
        ("429", "Fri, 31 Dec 9999 23:59:59 GMT", backoff.clone()),
        ("500", "20", backoff.clone()),
        ("404", "20", backoff.clone()),
    ] {
        let name = format!("{status} with Retry-After {value:?}");
        let log = Log::of_this_thread_and_keys_at(&server.url());
        let headers = format!("retry-after: {value}\r\n");
        let fault = Answer::Bytes(response(status, &headers, ""));
        let error = survives(&server, &verifier, &name, fault).await;
        assert_eq!(
            error.to_string(),
            format!("the response has status {status}, expected 200"),
            "{name}"
        );
        let log = log.take();
        let (_, logged) = log.split_once("retry_in_ms=").expect(&name);
        let digits = logged.find(|c: char| !c.is_ascii_digit()).unwrap();
        let logged = logged[..digits].parse::<u64>().unwrap();
        assert!(pause.contains(&logged), "{name}: {logged} ms");
    }
}

#[tokio::test]
async fn h085_stalled_tls_handshake_ends_at_the_connect_limit() {
    let root = Authority::new();
    let server = Server::bind_tls(root.acceptor("localhost", 2100)).await;
    let url = format!("https://localhost:{}{PATH}", server.address.port());
    // This has no effect: an application cannot extend the limit.
    let client = root.client().connect_timeout(Duration::from_secs(60));
    let builder = Verifier::builder(rules(&url)).http_client(client);
    let verifier = builder.connect().await.unwrap();

    server.answers(Answer::Unasked(Vec::new()));
    let begun = Instant::now();
    let error = fails(&verifier, "no handshake").await;
    let elapsed = begun.elapsed();
    assert_eq!(error.kind().as_str(), "timed_out", "{error:?}");
    let expected = Duration::from_millis(1_900)..Duration::from_millis(4_500);
    assert!(expected.contains(&elapsed), "{elapsed:?}");
    server.was_hung_up(1).await;
    server.answers(good());
    recovers(&verifier, "a handshake").await;
}

#[tokio::test]
async fn p11_connection_that_a_middlebox_dropped_is_not_used_again() {
    let server = Server::bind().await;
    // It stays open, and nothing that comes over it later is answered.
    let body = issuer().jwks_json();
    let kept = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    server.answers(Answer::Stall(kept.into_bytes()));
    let verifier = server.connect().await;
    recovers(&verifier, "the next one").await;
    let that_would = server.client().pool_max_idle_per_host(8);
    let verifier = server.connect_with(that_would).await;
    recovers(&verifier, "a client that would keep it").await;
    assert_eq!(server.connections(), 4);
    server.was_hung_up(4).await;
}

#[tokio::test]
async fn p12_request_is_one_get_without_data_of_the_client() {
    let server = Server::bind().await;
    let cookie = response("200 OK", "set-cookie: session=1; path=/\r\n", issuer().jwks_json());
    server.answers(Answer::Bytes(cookie));
    let verifier = server.connect().await;
    verifier.refresh().await.unwrap();
    let expected = [
        format!("GET {PATH} HTTP/1.1"),
        "accept: application/json".to_owned(),
        format!("host: {}", server.address),
    ];
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        let mut lines = request.trim_end().split("\r\n").collect::<Vec<_>>();
        lines[1..].sort_unstable();
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn p12_query_of_the_url_is_kept() {
    let server = Server::bind().await;
    let url = format!("http://{}/keys?pool=a%2Fb&x", server.address);
    Verifier::builder(rules(&url)).connect().await.unwrap();
    assert!(server.requests()[0].starts_with("GET /keys?pool=a%2Fb&x HTTP/1.1\r\n"));
}

#[tokio::test]
async fn p12_document_of_64_kib_is_read_and_a_longer_one_is_not() {
    let server = Server::bind().await;
    let (longest, too_long) = (padded_to(MAX_DOCUMENT_LEN), padded_to(MAX_DOCUMENT_LEN + 1));
    let chunked = |body: &str, size: usize| {
        let chunks = body.as_bytes().chunks(size).flat_map(chunk).collect::<Vec<_>>();
        [&head("200 OK", "transfer-encoding: chunked\r\n"), &*chunks, b"0\r\n\r\n"].concat()
    };
    let until_the_end = |body: &str| [&head("200 OK", ""), body.as_bytes()].concat();

    server.answers(document(&longest));
    let verifier = server.connect().await;
    for answer in [chunked(&longest, 1000), chunked(&longest, 1 << 20), until_the_end(&longest)] {
        server.answers(Answer::Bytes(answer));
        recovers(&verifier, "64 KiB").await;
    }
    for (name, fault) in [
        ("a length", document(&too_long)),
        ("chunks", Answer::Bytes(chunked(&too_long, 1000))),
        ("one chunk", Answer::Bytes(chunked(&too_long, 1 << 20))),
        ("the end", Answer::Bytes(until_the_end(&too_long))),
        // It is rejected before it has ended.
        ("no end", Answer::Stall(until_the_end(&too_long))),
    ] {
        let begun = Instant::now();
        let error = survives(&server, &verifier, name, fault).await;
        assert_eq!(cause(&error), "invalid JWK Set: it is longer than 64 KiB", "{name}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{name}: {:?}", begun.elapsed());
    }
    server.was_hung_up(1).await;
}

#[tokio::test]
async fn p12_client_of_the_application_cannot_lift_the_limits() {
    let server = Server::bind().await;
    let headers = [
        (ACCEPT, HeaderValue::from_static("text/html")),
        (ACCEPT_ENCODING, HeaderValue::from_static("gzip, br")),
    ];
    let day = Duration::from_secs(24 * 3600);
    let client = server.client().timeout(day).read_timeout(day).connect_timeout(day);
    let client = client.default_headers(HeaderMap::from_iter(headers));
    let verifier = server.connect_with(client).await;

    let request = &server.requests()[0];
    assert!(request.contains("accept-encoding: gzip, br\r\n"), "it is in use: {request}");
    assert_eq!(request.matches("accept: ").count(), 1, "{request}");
    assert!(request.contains("accept: application/json\r\n"), "{request}");

    let encoded = response("200 OK", "content-encoding: gzip\r\n", issuer().jwks_json());
    let error = survives(&server, &verifier, "encoding", Answer::Bytes(encoded)).await;
    assert_eq!(cause(&error), "invalid JWK Set: it is compressed");
    let fault = Answer::Endless(head("200 OK", ""), vec![b' '; 4096]);
    let error = survives(&server, &verifier, "size", fault).await;
    assert_eq!(cause(&error), "invalid JWK Set: it is longer than 64 KiB");
    times_out(&server, &verifier, "time", Answer::Stall(Vec::new())).await;
    server.was_hung_up(1).await;
}

#[test]
fn p12_proxy_of_the_environment_is_not_used_for_a_loopback_url() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());

    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.extend(["examples", "quickstart"]);
    let mut command = Command::new(&program);
    for name in ["USER_POOL_ID", "CLIENT_IDS", "ISSUER", "JWKS_URL"] {
        command.env_remove(format!("COGNITO_{name}"));
    }
    for name in ["NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, &url).env(name.to_lowercase(), &url);
    }
    command.env("QUICKSTART_API", "127.0.0.1:0").env("QUICKSTART_ISSUER", "127.0.0.1:0");
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program:?}: {e}; `cargo build --examples` makes it"));
    let output = BufReader::new(process.stdout.take().unwrap());
    // It fetches its keys before it is ready, and ends if it cannot.
    let is_ready = output.lines().any(|line| line.unwrap() == "ready");
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(proxy.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(is_ready);
}

#[test]
fn error_without_ca_certificates_names_what_the_operator_has_set() {
    const CHILD: &str = "TOWER_COGNITO_TEST_WITHOUT_CERTIFICATES";

    if std::env::var_os(CHILD).is_some() {
        let rules = rules("https://issuer.example/keys");
        println!("{}.", Verifier::builder(rules).connect_lazy().unwrap_err());
        return;
    }
    let folder = std::env::temp_dir().join(format!("tower-cognito-no-ca-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    let (file, dir) = (folder.join("empty.pem"), folder.join("empty"));
    std::fs::write(&file, "").unwrap();
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    let missing = format!("{file}.missing");
    let name = "refresh_http::error_without_ca_certificates_names_what_the_operator_has_set";
    for (set, expected) in [
        (vec![("SSL_CERT_FILE", file)], format!("`{file}` (`SSL_CERT_FILE`)")),
        (vec![("SSL_CERT_FILE", &missing)], format!("`{missing}` (`SSL_CERT_FILE`)")),
        (vec![("SSL_CERT_DIR", dir)], format!("`{dir}` (`SSL_CERT_DIR`)")),
        (
            vec![("SSL_CERT_FILE", file), ("SSL_CERT_DIR", dir)],
            format!("`{file}` (`SSL_CERT_FILE`) and `{dir}` (`SSL_CERT_DIR`)"),
        ),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(CHILD, "1");
        child.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(set);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let problem = format!("no HTTP client: no CA certificates were loaded from {expected}.");
        assert!(text.contains(&problem), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
