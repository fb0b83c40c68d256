//! Starts, saved keys, files and other details of the key source that no numbered promise or fault
//! covers: those are in `refresh_guarantees` and `faults`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{advance, sleep};
use tower_cognito::test_issuer::Fault;
use tower_cognito::{
    ClientIds, JwksDocument, RefreshError, Rules, TestIssuer, TestServer, UserPool, Verifier,
    VerifyErrorKind,
};

use super::fake_issuer::{Fake, Reply, kind, lasting};
use super::support::{self, CLIENT, initially, issuer};

fn current(issuer: &TestIssuer) -> Reply {
    Reply::Set(issuer.jwks_json())
}

fn rules_of(issuer: &TestIssuer) -> Rules {
    Rules::new(issuer.user_pool(), ClientIds::only([CLIENT]))
}

fn from_file(issuer: &TestIssuer, path: &std::path::Path) -> Rules {
    Rules::new(issuer.user_pool().with_jwks_file(path), ClientIds::only([CLIENT]))
}

/// Returns a token that is valid both now and at the time of a [`Fake`].
fn token_of(issuer: &TestIssuer) -> String {
    lasting(issuer, issuer.issuer())
}

#[tokio::test(start_paused = true)]
async fn connect_fails_at_once_if_there_is_no_such_key_set() {
    let fake = Fake::new(Reply::Status(404));
    let begun = tokio::time::Instant::now();
    let error = fake.builder_for(support::rules()).connect().await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(fake.requests(), 1);
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
async fn connect_retries_temporary_errors_and_names_every_pool_that_failed() {
    let fake = Fake::new(Reply::Status(503));
    let one = UserPool::new("us-east-1_One").unwrap();
    let two = UserPool::new("us-east-1_Two").unwrap();
    let begun = tokio::time::Instant::now();
    let error = fake
        .builder_for(Rules::new(one, ClientIds::any()))
        .add_pool(Rules::new(two, ClientIds::any()))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(fake.requests() > 10, "{} requests", fake.requests());
    let problems = error.problems().collect::<Vec<_>>();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("us-east-1_One/") && problems[0].contains("503"), "{problems:?}");
    assert!(problems[1].contains("us-east-1_Two/") && problems[1].contains("503"), "{problems:?}");

    // One that recovers in time.
    let fake = Fake::new(Reply::Status(503));
    let recovering = fake.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(4)).await;
        recovering.answers(current(issuer()));
    });
    assert!(fake.builder_for(support::rules()).connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn error_of_ready_without_a_response_says_so() {
    let fake = Fake::new(Reply::Hang);
    let verifier = fake.builder_for(support::rules()).connect_lazy().unwrap();
    // What is wrong without any key is reported without any key.
    assert_eq!(kind(&verifier, "a.b"), Some(VerifyErrorKind::Malformed));
    let error = verifier.ready(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().ends_with("no response yet"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn initial_keys_are_used_at_once_and_age_from_their_fetch() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let token = token_of(issuer());
    let fake = Fake::new(Reply::Status(503));
    let clock = fake.clock();
    let saved = |age| {
        let rules = initially(support::rules(), clock() - age);
        fake.builder_for(rules).connect_lazy().unwrap()
    };
    assert_eq!(kind(&saved(hours(0)), &token), None);
    assert_eq!(kind(&saved(hours(23)), &token), None);
    assert_eq!(kind(&saved(hours(24)), &token), Some(VerifyErrorKind::KeysUnavailable));

    // `connect` returns at once with them, and a fetch is open.
    let before = fake.requests();
    let seeded = fake.builder_for(initially(support::rules(), clock()));
    let verifier = seeded.connect().await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(kind(&verifier, &token), None);
    assert!(fake.requests() > before);
}

#[tokio::test(start_paused = true)]
async fn fixed_keys_never_become_too_old_and_no_request_waits() {
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

#[tokio::test(start_paused = true)]
async fn fetch_that_began_before_the_rotation_is_followed_by_another() {
    let issuer = TestIssuer::new();
    let fake = Fake::new(current(&issuer));
    let verifier = fake.builder_for(rules_of(&issuer)).connect().await.unwrap();
    // A scheduled fetch is open, and brings the keys from before the rotation.
    let gate = Arc::new(Semaphore::new(0));
    fake.answers(Reply::After(Arc::clone(&gate), issuer.jwks_json()));
    while fake.requests() < 2 {
        sleep(Duration::from_secs(1)).await;
    }
    issuer.rotate();
    fake.answers(current(&issuer));
    let token = token_of(&issuer);
    let waiting = tokio::spawn(async move { verifier.verify(&token).await.is_ok() });
    sleep(Duration::from_millis(10)).await;
    gate.add_permits(1);
    assert!(waiting.await.unwrap());
    assert_eq!(fake.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn h068_keys_of_one_pool_verify_no_token_of_another() {
    let (our, theirs) = (issuer(), TestIssuer::new());
    let their_pool = UserPool::from_issuer("https://theirs.example/pool").unwrap();
    let documents = [our.jwks_json(), theirs.jwks_json()];
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
    assert_eq!(kind(&verifier, &token_of(our)), None);
    assert_eq!(kind(&verifier, &theirs_good.sign()), None);
    // Signed with their key and our issuer, the other way round, and their client in our pool.
    let in_our_name = theirs_good.clone().claim("iss", our.issuer());
    assert_eq!(kind(&verifier, &in_our_name.sign()), Some(VerifyErrorKind::UnknownKey));
    let in_their_name = our.machine_token("their-client").claim("iss", iss);
    assert_eq!(kind(&verifier, &in_their_name.sign()), Some(VerifyErrorKind::UnknownKey));
    let client = our.machine_token("their-client");
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

#[tokio::test(start_paused = true)]
async fn initial_keys_that_are_too_old_are_not_used() {
    let fake = Fake::new(Reply::Status(404));
    let saved = (fake.clock())() - Duration::from_secs(3 * 24 * 3600);
    let builder = || fake.builder_for(initially(support::rules(), saved));
    assert!(builder().connect().await.is_err());
    let verifier = builder().connect_lazy().unwrap();
    assert!(verifier.ready(Duration::from_secs(1)).await.is_err());
    fake.answers(current(issuer()));
    // As soon as without initial keys.
    verifier.ready(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn longest_durations_do_not_overflow() {
    let fake = Fake::new(Reply::Status(503));
    let verifier =
        fake.builder_for(support::rules()).max_key_age(Duration::MAX).connect_lazy().unwrap();
    let waiting = {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.ready(Duration::MAX).await })
    };
    sleep(Duration::from_secs(3600)).await;
    assert!(!waiting.is_finished());
    fake.answers(current(issuer()));
    waiting.await.unwrap().unwrap();
    let error = fake
        .builder_for(support::rules())
        .max_key_age(Duration::MAX)
        .refresh_interval(Duration::MAX)
        .connect_lazy()
        .unwrap_err();
    assert!(error.to_string().contains("but the maximum is 24 hours"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_every_wait() {
    let fake = Fake::new(current(issuer()));
    let verifier = fake.builder_for(support::rules()).connect().await.unwrap();
    fake.answers(Reply::Hang);
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
async fn keys_are_read_from_a_file_and_from_its_replacement() {
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
async fn share_keys_reports_every_problem_of_the_rules() {
    let verifier = support::verifier();
    let elsewhere = UserPool::new("us-east-1_Elsewhere").unwrap();
    let invalid = |pool| Rules::new(pool, ClientIds::only([""; 0]));
    let error = verifier.share_keys(invalid(elsewhere)).unwrap_err();
    assert_eq!(error.problems().count(), 2, "{error}");
    let known = support::issuer().user_pool();
    assert_eq!(verifier.share_keys(invalid(known)).unwrap_err().problems().count(), 1);
}
