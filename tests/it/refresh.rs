//! Keys over time. Under paused time the fetcher is a closure; where a socket is the point, the
//! embedded issuer serves on loopback.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::{advance, sleep};
use tower_cognito::test_issuer::Fault;
use tower_cognito::{
    ClientIds, Jwks, JwksDocument, RefreshError, Rules, TestIssuer, TestServer, UserPool, Verifier,
    VerifierBuilder, VerifyErrorKind,
};

use super::support::{self, CLIENT, initially, issuer};

/// What an issuer answers, and how often it was asked.
#[derive(Clone)]
struct Endpoint {
    answer: Arc<Mutex<Answer>>,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Document(String),
    Hang,
    Panic,
    Status(u16),
    /// The document, once the semaphore has a permit.
    When(Arc<Semaphore>, String),
}

impl Endpoint {
    fn new(answer: Answer) -> Self {
        Self { answer: Arc::new(Mutex::new(answer)), requests: Arc::default() }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn builder(&self, rules: Rules) -> VerifierBuilder {
        let endpoint = self.clone();
        Verifier::builder(rules).jwks_fetcher(move |_url| {
            endpoint.requests.fetch_add(1, Ordering::SeqCst);
            let answer = endpoint.answer.lock().unwrap().clone();
            async move {
                match answer {
                    Answer::Document(document) => Ok(JwksDocument::new(document)),
                    Answer::Hang => std::future::pending().await,
                    Answer::Panic => panic!("this fetcher panics"),
                    Answer::Status(code) => Err(RefreshError::status(code)),
                    Answer::When(semaphore, document) => {
                        semaphore.acquire().await.unwrap().forget();
                        Ok(JwksDocument::new(document))
                    }
                }
            }
        })
    }
}

fn current(issuer: &TestIssuer) -> Answer {
    Answer::Document(issuer.jwks_json())
}

fn rules_of(issuer: &TestIssuer) -> Rules {
    Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]))
}

fn from_file(issuer: &TestIssuer, path: &std::path::Path) -> Rules {
    Rules::new(issuer.user_pool().with_jwks_file(path), ClientIds::only([CLIENT]))
}

fn token_of(issuer: &TestIssuer) -> String {
    issuer.machine_token(CLIENT).sign()
}

fn kind(verifier: &Verifier, token: &str) -> Option<VerifyErrorKind> {
    verifier.try_verify(token).err().map(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn connect_fetches_once_and_verifies() {
    let endpoint = Endpoint::new(current(issuer()));
    let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    assert_eq!(endpoint.requests(), 1);
    assert_eq!(kind(&verifier, &token_of(issuer())), None);
    assert!(verifier.verify(&token_of(issuer())).await.is_ok());
    assert_eq!(endpoint.requests(), 1, "a known key needs no fetch");
}

#[tokio::test(start_paused = true)]
async fn connect_gives_up_at_once_where_there_is_no_such_key_set() {
    let endpoint = Endpoint::new(Answer::Status(404));
    let begun = tokio::time::Instant::now();
    let error = endpoint.builder(support::rules()).connect().await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(endpoint.requests(), 1);
    let url = format!("{}/.well-known/jwks.json", issuer().issuer());
    assert_eq!(
        error.to_string(),
        format!("cannot start: no keys from {url}: the response has status 404, expected 200")
    );
}

#[tokio::test(start_paused = true)]
async fn connect_with_a_short_limit_reports_the_error_of_the_first_fetch() {
    for limit in [0, 1, 40] {
        let verifier = Verifier::builder(support::rules()).jwks_fetcher(|_| async {
            sleep(Duration::from_millis(50)).await;
            Err(RefreshError::status(500))
        });
        let verifier = verifier.connect_timeout(Duration::from_millis(limit));
        let begun = tokio::time::Instant::now();
        let error = verifier.connect().await.unwrap_err().to_string();
        assert!(error.ends_with("the response has status 500, expected 200"), "{limit}: {error}");
        assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn connect_tries_again_what_may_pass_and_names_every_pool_that_failed() {
    let endpoint = Endpoint::new(Answer::Status(503));
    let one = UserPool::new("us-east-1_One").unwrap();
    let two = UserPool::new("us-east-1_Two").unwrap();
    let begun = tokio::time::Instant::now();
    let error = endpoint
        .builder(Rules::new(one, ClientIds::any()))
        .add_pool(Rules::new(two, ClientIds::any()))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(endpoint.requests() > 10, "{} requests", endpoint.requests());
    let problems = error.problems().collect::<Vec<_>>();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("us-east-1_One/") && problems[0].contains("503"), "{problems:?}");
    assert!(problems[1].contains("us-east-1_Two/") && problems[1].contains("503"), "{problems:?}");

    // One that recovers in time.
    let endpoint = Endpoint::new(Answer::Status(503));
    let recovering = endpoint.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(4)).await;
        recovering.answers(current(issuer()));
    });
    assert!(endpoint.builder(support::rules()).connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn start_answers_unavailable_until_the_keys_arrive() {
    let endpoint = Endpoint::new(Answer::Hang);
    let verifier = endpoint.builder(support::rules()).connect_lazy().unwrap();
    let token = token_of(issuer());
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::KeysUnavailable));
    let begun = tokio::time::Instant::now();
    let error = verifier.verify(&token).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for first keys");
    // What is wrong without any key is said without any key.
    assert_eq!(kind(&verifier, "a.b"), Some(VerifyErrorKind::Malformed));

    let error = verifier.ready(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().ends_with("no response yet"), "{error}");
    endpoint.answers(current(issuer()));
    verifier.ready(Duration::from_secs(20)).await.unwrap();
    assert_eq!(kind(&verifier, &token), None);
}

#[tokio::test(start_paused = true)]
async fn keys_are_refreshed_within_the_interval_without_any_traffic() {
    let endpoint = Endpoint::new(current(issuer()));
    let _verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    for fetches in 2..20 {
        let begun = tokio::time::Instant::now();
        while endpoint.requests() < fetches {
            sleep(Duration::from_millis(100)).await;
        }
        let pause = begun.elapsed().as_secs_f64();
        assert!((239.8..=300.2).contains(&pause), "{pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_key_stops_counting_within_one_interval() {
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let verifier = endpoint.builder(rules_of(&issuer)).connect().await.unwrap();
    let token = issuer.machine_token(CLIENT).sign();
    assert_eq!(kind(&verifier, &token), None);
    issuer.rotate();
    issuer.retire_old_keys();
    endpoint.answers(current(&issuer));
    sleep(Duration::from_secs(301)).await;
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn what_fails_or_is_no_key_set_never_replaces_good_keys() {
    let token = token_of(issuer());
    for answer in [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Hang,
        Answer::Panic,
        Answer::Document(String::new()),
        Answer::Document("<html>".into()),
        Answer::Document("{}".into()),
        Answer::Document(r#"{"keys":[]}"#.into()),
        Answer::Document(r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#.into()),
        Answer::Document(" ".repeat(70_000)),
    ] {
        let endpoint = Endpoint::new(current(issuer()));
        let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
        endpoint.answers(answer);
        sleep(Duration::from_secs(3600)).await;
        assert!(endpoint.requests() > 20, "{} requests", endpoint.requests());
        assert_eq!(kind(&verifier, &token), None);
        // And the engine has survived it.
        let before = endpoint.requests();
        endpoint.answers(current(issuer()));
        sleep(Duration::from_secs(60)).await;
        assert!(endpoint.requests() > before);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_too_old_are_unavailable_and_not_invalid() {
    let endpoint = Endpoint::new(current(issuer()));
    let token = issuer().machine_token(CLIENT).claim("exp", 9_999_999_999_u64).sign();
    let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    endpoint.answers(Answer::Status(503));
    sleep(Duration::from_secs(24 * 3600 - 1)).await;
    assert_eq!(kind(&verifier, &token), None);
    // The last success was the first fetch: nothing else has answered since.
    sleep(Duration::from_secs(1)).await;
    let error = verifier.try_verify(&token).unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable);
    let retry_after = error.retry_after().unwrap().as_secs();
    assert!((1..=30).contains(&retry_after), "{retry_after}");

    endpoint.answers(current(issuer()));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(kind(&verifier, &token), None);
}

#[tokio::test(start_paused = true)]
async fn age_is_the_larger_of_both_clocks() {
    let ahead = Arc::new(Mutex::new(Duration::ZERO));
    let clock = Arc::clone(&ahead);
    let endpoint = Endpoint::new(current(issuer()));
    let start = SystemTime::now();
    let token = issuer().machine_token(CLIENT).claim("exp", 9_999_999_999_u64).sign();
    let verifier = endpoint
        .builder(support::rules())
        .clock(move || start + *clock.lock().unwrap())
        .connect()
        .await
        .unwrap();
    endpoint.answers(Answer::Status(503));
    // A sandbox that was frozen: only the time of day went on.
    *ahead.lock().unwrap() = Duration::from_secs(24 * 3600);
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::KeysUnavailable));
    // A clock that was set back does not make keys younger than they are.
    *ahead.lock().unwrap() = Duration::ZERO;
    assert_eq!(kind(&verifier, &token), None);
    advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::KeysUnavailable));
}

#[tokio::test(start_paused = true)]
async fn saved_keys_serve_at_once_and_go_stale_from_when_they_were_fetched() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let token = token_of(issuer());
    let endpoint = Endpoint::new(Answer::Status(503));
    let saved = |age| {
        let rules = initially(support::rules(), SystemTime::now() - age);
        endpoint.builder(rules).connect_lazy().unwrap()
    };
    assert_eq!(kind(&saved(hours(0)), &token), None);
    assert_eq!(kind(&saved(hours(23)), &token), None);
    assert_eq!(kind(&saved(hours(24)), &token), Some(VerifyErrorKind::KeysUnavailable));

    // `connect` is content with them, and a fetch is under way.
    let before = endpoint.requests();
    let seeded = endpoint.builder(initially(support::rules(), SystemTime::now()));
    let verifier = seeded.connect().await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(kind(&verifier, &token), None);
    assert!(endpoint.requests() > before);
}

#[tokio::test(start_paused = true)]
async fn fixed_keys_never_go_stale_and_nobody_waits_for_others() {
    let verifier = support::verifier();
    let unknown = support::machine("").header("kid", "unknown").sign();
    let begun = tokio::time::Instant::now();
    let error = verifier.verify(&unknown).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let token = issuer().machine_token(CLIENT).claim("exp", 9_999_999_999_u64).sign();
    advance(Duration::from_secs(10 * 365 * 24 * 3600)).await;
    assert_eq!(kind(&verifier, &token), None);
}

/// A verifier, a token of a key that it does not have yet, and an endpoint that will bring the key
/// once the gate has a permit.
struct Rotated {
    endpoint: Endpoint,
    verifier: Verifier,
    gate: Arc<Semaphore>,
    token: String,
}

async fn rotated_behind_a_gate() -> Rotated {
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let verifier = endpoint.builder(rules_of(&issuer)).connect().await.unwrap();
    issuer.rotate();
    let gate = Arc::new(Semaphore::new(0));
    endpoint.answers(Answer::When(Arc::clone(&gate), issuer.jwks_json()));
    Rotated { endpoint, verifier, gate, token: token_of(&issuer) }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_waits_for_one_shared_fetch() {
    let Rotated { endpoint, verifier, gate, token } = rotated_behind_a_gate().await;

    // The synchronous door refuses at once, and asks for the fetch.
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::UnknownKey));
    let waiting = (0..200).map(|_| {
        let (verifier, token) = (verifier.clone(), token.clone());
        tokio::spawn(async move { verifier.verify(&token).await.is_ok() })
    });
    let waiting = waiting.collect::<Vec<_>>();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(endpoint.requests(), 2, "one for all of them");
    gate.add_permits(1);
    for request in waiting {
        assert!(request.await.unwrap());
    }
    assert_eq!(endpoint.requests(), 2);
    assert_eq!(kind(&verifier, &token), None);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_began_before_the_rotation_is_followed_by_another() {
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let verifier = endpoint.builder(rules_of(&issuer)).connect().await.unwrap();
    // A scheduled fetch is under way, and will bring the keys of before.
    let gate = Arc::new(Semaphore::new(0));
    endpoint.answers(Answer::When(Arc::clone(&gate), issuer.jwks_json()));
    while endpoint.requests() < 2 {
        sleep(Duration::from_secs(1)).await;
    }
    issuer.rotate();
    endpoint.answers(current(&issuer));
    let token = token_of(&issuer);
    let waiting = tokio::spawn(async move { verifier.verify(&token).await.is_ok() });
    sleep(Duration::from_millis(10)).await;
    gate.add_permits(1);
    assert!(waiting.await.unwrap());
    assert_eq!(endpoint.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn unknown_keys_cost_the_issuer_little_and_wait_at_most_a_second() {
    let endpoint = Endpoint::new(current(issuer()));
    let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    let unknown = support::machine("").header("kid", "unknown").sign();
    let mut refused = 0;
    for _ in 0..600 {
        let error = verifier.verify(&unknown).await.unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
        assert_eq!(kind(&verifier, &unknown), Some(VerifyErrorKind::UnknownKey));
        refused += 1;
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(refused, 600);
    // One at the start; then two at once and one in 30 s, over 60 s.
    assert!((4..=5).contains(&endpoint.requests()), "{} requests", endpoint.requests());

    sleep(Duration::from_secs(120)).await;
    endpoint.answers(Answer::Hang);
    let begun = tokio::time::Instant::now();
    assert!(verifier.verify(&unknown).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_does_not_end_the_fetch() {
    let Rotated { endpoint, verifier, gate, token } = rotated_behind_a_gate().await;
    let hung_up = {
        let (verifier, token) = (verifier.clone(), token.clone());
        tokio::spawn(async move { verifier.verify(&token).await.is_ok() })
    };
    sleep(Duration::from_millis(10)).await;
    hung_up.abort();
    gate.add_permits(1);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(endpoint.requests(), 2);
    assert_eq!(kind(&verifier, &token), None);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_verifier() {
    let endpoint = Endpoint::new(current(issuer()));
    let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    let clone = verifier.clone();
    let tasks = tokio::runtime::Handle::current().metrics();
    drop(verifier);
    tokio::task::yield_now().await;
    assert_eq!(tasks.num_alive_tasks(), 1);
    drop(clone);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks.num_alive_tasks(), 0);
    let requests = endpoint.requests();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(endpoint.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn one_pools_keys_never_count_for_another() {
    let (ours, theirs) = (issuer(), TestIssuer::new());
    let their_pool = UserPool::from_issuer("https://theirs.example/pool").unwrap();
    let documents = [ours.jwks_json(), theirs.jwks_json()];
    let verifier = Verifier::builder(support::rules())
        .add_pool(Rules::new(their_pool, ClientIds::only(["their-client"])))
        .jwks_fetcher(move |url: String| {
            let document = documents[usize::from(url.contains("theirs"))].clone();
            async { Ok::<_, RefreshError>(JwksDocument::new(document)) }
        })
        .connect()
        .await
        .unwrap();
    let iss = "https://theirs.example/pool";
    let theirs_good = theirs.machine_token("their-client").claim("iss", iss);
    assert_eq!(kind(&verifier, &token_of(ours)), None);
    assert_eq!(kind(&verifier, &theirs_good.sign()), None);
    // Signed with their key, in our name; and the other way round; and their client at ours.
    let in_our_name = theirs_good.clone().claim("iss", ours.issuer());
    assert_eq!(kind(&verifier, &in_our_name.sign()), Some(VerifyErrorKind::UnknownKey));
    let in_their_name = ours.machine_token("their-client").claim("iss", iss);
    assert_eq!(kind(&verifier, &in_their_name.sign()), Some(VerifyErrorKind::UnknownKey));
    let client = ours.machine_token("their-client");
    assert_eq!(kind(&verifier, &client.sign()), Some(VerifyErrorKind::WrongClient));
}

#[tokio::test]
async fn keys_come_over_http_from_the_served_issuer() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules.clone()).connect().await.unwrap();
    assert_eq!(server.jwks_requests(), 1);
    assert_eq!(kind(&verifier, &token_of(server.issuer())), None);

    for (fault, reason) in [
        (Fault::Down, "the response has status 503, expected 200"),
        (
            Fault::Garbage,
            "the response is not a usable JWK Set: invalid JWK Set: it is not a JSON object",
        ),
        (
            Fault::Oversize,
            "the response is not a usable JWK Set: invalid JWK Set: it is longer than 64 KiB",
        ),
    ] {
        server.set_fault(fault);
        let builder = Verifier::builder(rules.clone()).connect_timeout(Duration::from_millis(50));
        let error = builder.connect().await.unwrap_err();
        assert!(error.to_string().ends_with(reason), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_pool_fails_at_start_and_names_url_and_status() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let issuer = server.issuer().issuer().replace("us-east-1_TestIssuer", "us-east-1_WrongPool");
    let pool = UserPool::from_issuer(&issuer).unwrap();
    let begun = Instant::now();
    let error = Verifier::builder(Rules::new(pool, ClientIds::any())).connect().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let expected = format!(
        "no keys from {issuer}/.well-known/jwks.json: the response has status 404, expected 200"
    );
    assert_eq!(error.problems().collect::<Vec<_>>(), [expected]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_two_hundred_concurrent_requests_refuses_no_good_token() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect().await.unwrap();
    let issuer = server.issuer().clone();
    let rotated = Arc::new(tokio::sync::Barrier::new(201));
    let clients = (0..200).map(|_| {
        let (verifier, issuer) = (verifier.clone(), issuer.clone());
        let rotated = Arc::clone(&rotated);
        tokio::spawn(async move {
            let old = token_of(&issuer);
            verifier.verify(&old).await.unwrap();
            rotated.wait().await;
            rotated.wait().await;
            let new = token_of(&issuer);
            for token in [&new, &old, &new, &old] {
                verifier.verify(token).await.unwrap();
            }
        })
    });
    let clients = clients.collect::<Vec<_>>();
    rotated.wait().await;
    issuer.rotate();
    rotated.wait().await;
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(server.jwks_requests(), 2, "one at the start, one for the rotation");
}

#[test]
fn a_key_set_shows_its_ids_and_nothing_else() {
    let jwks: Jwks = issuer().jwks();
    assert_eq!(jwks.key_ids().count(), 2);
    let debug = format!("{jwks:?}");
    assert!(debug.len() < 120, "{debug}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn a_request_on_another_runtime_starts_the_task_again_and_gets_its_fetch() {
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let first = runtime();
    let verifier = first.block_on(endpoint.builder(rules_of(&issuer)).connect()).unwrap();
    drop(first);
    issuer.rotate();
    endpoint.answers(current(&issuer));
    let token = token_of(&issuer);
    // Without a runtime the token is rejected at once, and its fetch begins in the background.
    assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::UnknownKey));

    let second = runtime();
    let begun = Instant::now();
    assert!(second.block_on(verifier.verify(&token)).is_ok());
    second.block_on(verifier.refresh()).unwrap();
    assert_eq!(endpoint.requests(), 3);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_fetch_that_went_with_its_runtime_does_not_keep_others_from_asking() {
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let first = runtime();
    let verifier = first.block_on(endpoint.builder(rules_of(&issuer)).connect()).unwrap();
    issuer.rotate();
    let token = token_of(&issuer);
    endpoint.answers(Answer::Hang);
    first.block_on(async {
        assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::UnknownKey));
        sleep(Duration::from_millis(10)).await;
    });
    assert_eq!(endpoint.requests(), 2);
    drop(first);

    endpoint.answers(current(&issuer));
    runtime().block_on(async {
        assert_eq!(kind(&verifier, &token), Some(VerifyErrorKind::UnknownKey));
        sleep(Duration::from_millis(10)).await;
        assert_eq!(kind(&verifier, &token), None);
    });
}

#[tokio::test(start_paused = true)]
async fn that_the_keys_are_too_old_is_said_once() {
    let endpoint = Endpoint::new(current(issuer()));
    let builder = endpoint.builder(support::rules()).max_key_age(Duration::from_secs(3600));
    let _verifier = builder.connect().await.unwrap();
    endpoint.answers(Answer::Status(503));
    let log = support::Log::of_this_thread();
    sleep(Duration::from_secs(2 * 3600)).await;
    let log = log.take();
    assert_eq!(log.matches("the keys are too old").count(), 1, "{log}");
    assert!(log.matches("key refresh failed").count() > 100);
}

/// Polls without any runtime around it.
fn block_on_without_tokio<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_future_that_is_polled_outside_of_tokio_waits_by_the_timers_of_the_crate() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let issuer = TestIssuer::new();
    let endpoint = Endpoint::new(current(&issuer));
    let verifier = runtime.block_on(endpoint.builder(rules_of(&issuer)).connect()).unwrap();
    let unknown = issuer.machine_token(CLIENT).header("kid", "unknown").sign();
    let error = block_on_without_tokio(verifier.verify(&unknown)).unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    issuer.rotate();
    endpoint.answers(current(&issuer));
    assert!(block_on_without_tokio(verifier.verify(&token_of(&issuer))).is_ok());
    block_on_without_tokio(verifier.ready(Duration::MAX)).unwrap();
    block_on_without_tokio(verifier.refresh()).unwrap();
    endpoint.answers(Answer::Hang);
    assert!(block_on_without_tokio(verifier.verify(&unknown)).is_err());
    block_on_without_tokio(verifier.shutdown());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_was_denied_for_want_of_a_slot_can_be_had_later() {
    // 16 pools whose issuer hangs hold every slot for fetches on demand.
    let (ours, others) = (TestIssuer::new(), issuer());
    let endpoint = Endpoint::new(current(&ours));
    let hung = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let builder = {
        let (endpoint, hung, others) = (endpoint.clone(), Arc::clone(&hung), others.clone());
        Verifier::builder(rules_of(&ours)).jwks_fetcher(move |url: String| {
            let ours = !url.contains("other");
            if ours {
                endpoint.requests.fetch_add(1, Ordering::SeqCst);
            }
            let answer = endpoint.answer.lock().unwrap().clone();
            let (hung, others) = (hung.load(Ordering::SeqCst), others.jwks_json());
            async move {
                match answer {
                    Answer::Document(document) if ours => Ok(JwksDocument::new(document)),
                    _ if hung => std::future::pending().await,
                    _ => Ok::<_, RefreshError>(JwksDocument::new(others)),
                }
            }
        })
    };
    let names = (0..16).map(|n| format!("https://other-{n}.example")).collect::<Vec<_>>();
    let verifier = names.iter().fold(builder, |builder, name| {
        let pool = UserPool::from_issuer(name).unwrap();
        builder.add_pool(Rules::new(pool, ClientIds::any()))
    });
    let verifier = verifier.connect().await.unwrap();
    hung.store(true, Ordering::SeqCst);
    for name in &names {
        let unknown = others.machine_token("c").claim("iss", name).header("kid", "x").sign();
        assert_eq!(kind(&verifier, &unknown), Some(VerifyErrorKind::UnknownKey));
    }
    sleep(Duration::from_millis(10)).await;

    ours.rotate();
    endpoint.answers(current(&ours));
    let token = token_of(&ours);
    assert!(verifier.verify(&token).await.is_err(), "no slot is free");
    // The others' fetches end at their limit of 5 s.
    sleep(Duration::from_secs(5)).await;
    assert!(verifier.verify(&token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn saved_keys_that_are_too_old_are_none() {
    let endpoint = Endpoint::new(Answer::Status(404));
    let saved = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let builder = || endpoint.builder(initially(support::rules(), saved));
    assert!(builder().connect().await.is_err());
    let verifier = builder().connect_lazy().unwrap();
    assert!(verifier.ready(Duration::from_secs(1)).await.is_err());
    endpoint.answers(current(issuer()));
    // As soon as where there never were keys.
    verifier.ready(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_duration_is_too_long() {
    let endpoint = Endpoint::new(Answer::Status(503));
    let verifier =
        endpoint.builder(support::rules()).max_key_age(Duration::MAX).connect_lazy().unwrap();
    let waiting = {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.ready(Duration::MAX).await })
    };
    sleep(Duration::from_secs(3600)).await;
    assert!(!waiting.is_finished());
    endpoint.answers(current(issuer()));
    waiting.await.unwrap().unwrap();
    let error = endpoint
        .builder(support::rules())
        .max_key_age(Duration::MAX)
        .refresh_interval(Duration::MAX)
        .connect_lazy()
        .unwrap_err();
    assert!(error.to_string().contains("but the maximum is 24 hours"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_asks_for_a_pause_gets_it_from_unknown_keys_too() {
    let calls = Arc::new(AtomicUsize::new(0));
    let verifier = {
        let (calls, document) = (Arc::clone(&calls), issuer().jwks_json());
        Verifier::builder(support::rules())
            .jwks_fetcher(move |_| {
                let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
                let document = document.clone();
                async move {
                    let busy = RefreshError::status(429);
                    if is_first {
                        Ok(JwksDocument::new(document))
                    } else {
                        Err(busy.with_retry_after(Duration::from_secs(200)))
                    }
                }
            })
            .connect()
            .await
            .unwrap()
    };
    let unknown = support::machine("").header("kid", "unknown").sign();
    for _ in 0..190 {
        assert!(verifier.verify(&unknown).await.is_err());
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_those_go_who_wait() {
    let endpoint = Endpoint::new(current(issuer()));
    let verifier = endpoint.builder(support::rules()).connect().await.unwrap();
    endpoint.answers(Answer::Hang);
    let unknown = support::machine("").header("kid", "unknown").sign();
    let waiting = {
        let verifier = verifier.clone();
        tokio::spawn(async move {
            (verifier.verify(&unknown).await.is_err(), verifier.refresh().await.is_err())
        })
    };
    sleep(Duration::from_millis(10)).await;
    let begun = tokio::time::Instant::now();
    verifier.shutdown().await;
    assert_eq!(waiting.await.unwrap(), (true, true));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    assert_eq!(kind(&verifier, &token_of(issuer())), None, "the keys stay");
}

#[tokio::test(start_paused = true)]
async fn keys_come_from_a_file_and_a_new_file_is_read_when_a_key_is_unknown() {
    let issuer = TestIssuer::new();
    let folder = std::env::temp_dir().join(format!("tower-cognito-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("jwks.json");
    let replace = |document: String| {
        std::fs::write(folder.join("new"), document).unwrap();
        std::fs::rename(folder.join("new"), &file).unwrap();
    };
    let builder = || Verifier::builder(from_file(&issuer, &file));
    let missing = builder().connect_timeout(Duration::from_millis(10)).connect().await.unwrap_err();
    assert!(missing.to_string().contains("jwks.json"), "{missing}");
    replace(issuer.jwks_json());
    let verifier = builder().connect().await.unwrap();
    assert!(verifier.verify(&token_of(&issuer)).await.is_ok());

    issuer.rotate();
    replace(issuer.jwks_json());
    verifier.refresh().await.unwrap();
    assert!(verifier.verify(&token_of(&issuer)).await.is_ok());
    replace("half a docum".to_owned());
    assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), "document");
    assert!(verifier.verify(&token_of(&issuer)).await.is_ok());

    let folder_as_file = Verifier::builder(from_file(&issuer, &folder));
    let error = folder_as_file.connect_timeout(Duration::from_millis(10)).connect().await;
    assert!(error.unwrap_err().to_string().contains("it is not a regular file"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_policies_share_one_source_and_nothing_else() {
    let endpoint = Endpoint::new(current(issuer()));
    let ours = endpoint.builder(support::rules()).connect().await.unwrap();
    let rules = Rules::new(issuer().user_pool(), ClientIds::only(["another"]));
    let theirs = ours.share_keys(rules).unwrap();
    assert_eq!(endpoint.requests(), 1);
    let (our_token, their_token) = (token_of(issuer()), issuer().machine_token("another").sign());
    assert_eq!(kind(&ours, &our_token), None);
    assert_eq!(kind(&theirs, &their_token), None);
    assert_eq!(kind(&ours, &their_token), Some(VerifyErrorKind::WrongClient));
    assert_eq!(kind(&theirs, &our_token), Some(VerifyErrorKind::WrongClient));
    // The task lives as long as one of them.
    drop(ours);
    sleep(Duration::from_secs(301)).await;
    assert_eq!(endpoint.requests(), 2);

    let elsewhere = UserPool::new("us-east-1_Elsewhere").unwrap();
    let error = theirs.share_keys(Rules::new(elsewhere, ClientIds::only([""; 0]))).unwrap_err();
    assert_eq!(error.problems().count(), 2, "{error}");
}

#[tokio::test(start_paused = true)]
async fn max_age_shortens_the_interval_and_never_lengthens_it() {
    for (max_age, shortest, longest) in [(0, 60, 60), (100, 80, 100), (86_400, 240, 300)] {
        let fetches = Arc::new(Mutex::new(Vec::new()));
        let (times, document) = (Arc::clone(&fetches), issuer().jwks_json());
        let _verifier = Verifier::builder(support::rules())
            .jwks_fetcher(move |_| {
                times.lock().unwrap().push(tokio::time::Instant::now());
                let document = JwksDocument::new(document.clone());
                let document = document.with_max_age(Duration::from_secs(max_age));
                async { Ok::<_, RefreshError>(document) }
            })
            .connect()
            .await
            .unwrap();
        sleep(Duration::from_secs(4_000)).await;
        let fetches = fetches.lock().unwrap();
        for pair in fetches.windows(2) {
            let pause = (pair[1] - pair[0]).as_secs_f64();
            let expected = f64::from(shortest) - 0.1..=f64::from(longest) + 0.1;
            assert!(expected.contains(&pause), "max-age={max_age}: {pause} s");
        }
        assert!(fetches.len() > 10);
    }
}
