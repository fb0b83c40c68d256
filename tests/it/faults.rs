//! Faults and hostile responses, each by its number in the list of hostile inputs: `h064` to `h084`.
//! Those that a promise covers are in `refresh_guarantees`. A forked process (`h077`) is not tested:
//! its child has handles and no thread, which a unit test of `background` imitates.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};
use tower_cognito::{
    ClientIds, Health, Jwks, JwksDocument, RefreshError, Rules, TestIssuer, UserPool, Verifier,
    VerifyErrorKind, verify,
};

use super::executors::block_on_within;
use super::fake_issuer::{
    Dice, Fake, HOUR, Keys, Reply, both_sets, connected, degraded, keys, kind, lasting, members,
    ms, new_set, old_set, paused_runtime, rules, s, set, unknown,
};
use super::support::{CLIENT, Log};

/// A member of a set under another key ID.
fn renamed(member: &str, kid: &str) -> String {
    let mut key: serde_json::Value = serde_json::from_str(member).unwrap();
    key["kid"] = kid.into();
    key.to_string()
}

fn kid(member: &str) -> String {
    let key: serde_json::Value = serde_json::from_str(member).unwrap();
    key["kid"].as_str().unwrap().to_owned()
}

async fn verifier_of(reply: Reply) -> Verifier {
    Fake::new(reply).builder().connect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn h065_backends_that_disagree_reject_a_token_for_at_most_an_interval() {
    let turns = Reply::ByTurns(Box::new([old_set(), both_sets()]));
    let verifier = verifier_of(turns).await;
    let mut rejected_since = None;
    let mut longest = Duration::ZERO;
    let begun = Instant::now();
    while begun.elapsed() < HOUR {
        // Both sets have this key, so it is always known.
        assert_eq!(kind(&verifier, &keys().old_token), None);
        match verifier.verify(&keys().new_token).await {
            Ok(_) => rejected_since = None,
            Err(_) => {
                let since = *rejected_since.get_or_insert_with(Instant::now);
                longest = longest.max(since.elapsed());
            }
        }
        sleep(s(5)).await;
    }
    assert!(longest <= s(300), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn h066_another_key_with_the_same_id_is_used_after_the_change() {
    let Keys { old, new, old_token, .. } = keys();
    let (fake, verifier) = connected(old_set()).await;
    let successor = renamed(new, &kid(old));
    let new_token = keys().issuer.machine_token(CLIENT).header("kid", kid(old));
    let new_token = new_token.claim("exp", 9_999_999_999_u64).sign();
    assert_eq!(kind(&verifier, old_token), None);
    assert_eq!(kind(&verifier, &new_token), Some(VerifyErrorKind::BadSignature));
    fake.answers(Reply::Set(set(&[&successor])));
    verifier.refresh().await.unwrap();
    assert_eq!(kind(&verifier, old_token), Some(VerifyErrorKind::BadSignature));
    assert_eq!(kind(&verifier, &new_token), None);
}

#[tokio::test(start_paused = true)]
async fn h067_private_key_is_skipped_and_logged_as_an_error() {
    let log = Log::of_this_thread();
    let Disposable { member, other, token, other_token, .. } = &disposable();
    for part in PRIVATE_PARTS {
        let private = with_part(member, part, r#""c2VjcmV0LXBhcnQ""#);
        let fake = Fake::new(Reply::Set(set(&[other, &private])));
        let verifier = fake.builder_for(disposable_rules()).connect().await.unwrap();
        verifier.refresh().await.unwrap();
        assert_eq!(kind(&verifier, other_token), None);
        assert_eq!(kind(&verifier, token), Some(VerifyErrorKind::UnknownKey));
        let log = log.take();
        let said = log.lines().filter(|line| line.contains("ERROR")).collect::<Vec<_>>();
        let [said] = said[..] else { panic!("{part}: {log}") };
        assert!(said.contains("the issuer publishes a private key"), "{part}: {log}");
        assert!(said.contains("index=1") && !log.contains("c2VjcmV0LXBhcnQ"), "{part}: {log}");
    }
}

const PRIVATE_PARTS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const DISPOSABLE: &str = "https://disposable.example";

/// Two keys that only one test uses, because nothing in the process trusts a compromised key again.
struct Disposable {
    member: String,
    other: String,
    token: String,
    other_token: String,
}

fn disposable() -> Disposable {
    let issuer = TestIssuer::new();
    let [member, _] = members(&issuer).try_into().unwrap();
    let token = lasting(&issuer, DISPOSABLE);
    issuer.rotate();
    let [other, _, _] = members(&issuer).try_into().unwrap();
    Disposable { member, other, token, other_token: lasting(&issuer, DISPOSABLE) }
}

fn disposable_rules() -> Rules {
    Rules::new(UserPool::from_issuer(DISPOSABLE).unwrap(), ClientIds::only([CLIENT]))
}

fn with_part(member: &str, part: &str, value: &str) -> String {
    format!(r#"{{"{part}":{value},{}"#, &member[1..])
}

fn errors(log: &Log) -> Vec<String> {
    log.take().lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn h067_compromised_key_is_distrusted_at_once_in_every_pool() {
    let Disposable { member, token, .. } = &disposable();
    let fake = Fake::new(Reply::Set(set(&[member])));
    let leaking = fake.builder_for(disposable_rules()).connect().await.unwrap();
    let their_fake = Fake::new(Reply::Set(set(&[&renamed(member, "another"), member])));
    let neighbour = their_fake.builder_for(disposable_rules()).connect().await.unwrap();
    let jwks = Jwks::from_json(set(&[member])).unwrap();
    let fixed = Verifier::builder(disposable_rules()).clock(fake.clock());
    let fixed = fixed.build_with_jwks(jwks.clone()).unwrap();
    let shared = fixed.share_keys(disposable_rules()).unwrap();
    let verifiers = [&leaking, &neighbour, &fixed, &shared];
    for verifier in verifiers {
        verifier.try_verify(token).unwrap();
        assert_eq!(verifier.health(), Health::Ready);
    }

    let log = Log::of_this_thread();
    fake.answers(Reply::Set(set(&[&renamed(&with_part(member, "d", r#""x""#), "disguise")])));
    let error = leaking.refresh().await.unwrap_err();
    assert_eq!(error.kind().as_str(), "document");
    for (number, verifier) in verifiers.into_iter().enumerate() {
        // Also from the token cache.
        let error = verifier.try_verify(token).unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable, "{number}");
        assert!(error.retry_after().is_some_and(|pause| pause >= s(1) && pause <= s(30)));
        assert_eq!(verifier.health(), Health::NotReady, "{number}");
    }
    let errors = errors(&log);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let event = format!("kid=\"{}\" index=0", kid(member));
    assert!(errors[0].contains("the issuer publishes a private key"), "{errors:?}");
    assert!(errors[0].contains(&event), "{errors:?}");

    // The neighbour has fetched again at once, and has keys as soon as its issuer has replaced them.
    sleep(ms(1)).await;
    assert_eq!(their_fake.requests(), 2);
    their_fake.answers(new_set());
    sleep(s(5)).await;
    assert_eq!(neighbour.health(), Health::Ready);

    // A plain function of its arguments.
    let now = (fake.clock())();
    assert!(verify(token, &jwks, &disposable_rules(), now).is_ok());
}

#[tokio::test(start_paused = true)]
async fn h067_other_keys_of_the_pool_stay_in_use() {
    let Disposable { member, other, token, other_token } = &disposable();
    let fake = Fake::new(Reply::Set(set(&[member, other])));
    let verifier = fake.builder_for(disposable_rules()).connect().await.unwrap();
    let jwks = Jwks::from_json(set(&[member, other])).unwrap();
    let fixed = Verifier::builder(disposable_rules()).clock(fake.clock());
    let fixed = fixed.build_with_jwks(jwks).unwrap();
    let verifiers = [&verifier, &fixed];
    for verifier in verifiers {
        for token in [token, other_token] {
            verifier.try_verify(token).unwrap();
        }
    }
    // No key of this document can be used, so the other key is still the one from before.
    fake.answers(Reply::Set(set(&[&with_part(member, "p", r#""x""#)])));
    verifier.refresh().await.unwrap_err();
    for verifier in verifiers {
        assert_eq!(kind(verifier, token), Some(VerifyErrorKind::UnknownKey));
        assert_eq!(kind(verifier, other_token), None);
    }
    assert!(matches!(verifier.health(), Health::Degraded(_)));
    assert_eq!(fixed.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn h067_compromised_key_stays_distrusted_without_its_private_part() {
    let Disposable { member, token, .. } = &disposable();
    let plain = set(&[member]);
    let fake = Fake::new(Reply::Set(set(&[member, &with_part(member, "d", r#""x""#)])));
    let brief = ms(10);
    let start = fake.builder_for(disposable_rules()).connect_timeout(brief).connect().await;
    let text = start.unwrap_err().to_string();
    assert!(text.contains("key 0 is ambiguous") || text.contains("key 1 is private"), "{text}");

    fake.answers(Reply::Set(plain.clone()));
    let start = fake.builder_for(disposable_rules()).connect_timeout(brief).connect().await;
    let text = start.unwrap_err().to_string();
    assert!(text.ends_with("it has no usable key: key 0 is compromised"), "{text}");

    let saved = Jwks::from_json(&plain).unwrap();
    let pool = disposable_rules().pool().clone();
    let initially = pool.clone().with_initial_jwks(saved, (fake.clock())());
    let rules = Rules::new(initially, ClientIds::only([CLIENT]));
    let verifier = fake.builder_for(rules).connect_lazy().unwrap();
    assert_eq!(kind(&verifier, token), Some(VerifyErrorKind::KeysUnavailable));

    let file = std::env::temp_dir().join(format!("tower-cognito-leak-{}", std::process::id()));
    std::fs::write(&file, &plain).unwrap();
    let rules = Rules::new(pool.with_jwks_file(&file), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect_lazy().unwrap();
    let error = verifier.refresh().await.unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(error.kind().as_str(), "document");
    assert_eq!(kind(&verifier, token), Some(VerifyErrorKind::KeysUnavailable));
}

#[tokio::test(start_paused = true)]
async fn h067_private_member_without_a_value_proves_nothing() {
    let log = Log::of_this_thread();
    let Disposable { member, other, token, .. } = &disposable();
    let fake = Fake::new(Reply::Set(set(&[member, other])));
    let verifier = fake.builder_for(disposable_rules()).connect().await.unwrap();
    for part in PRIVATE_PARTS {
        for value in ["null", r#""""#, "1", "[]", "{}", "true"] {
            fake.answers(Reply::Set(set(&[&with_part(member, part, value), other])));
            verifier.refresh().await.unwrap();
            assert_eq!(kind(&verifier, token), Some(VerifyErrorKind::UnknownKey), "{part}");
            fake.answers(Reply::Set(set(&[member, other])));
            verifier.refresh().await.unwrap();
            assert_eq!(kind(&verifier, token), None, "{part}: {value}");
        }
    }
    let log = log.take();
    assert!(!log.contains("ERROR"), "{log}");
    let warned = log.matches(r#"a key in the JWK Set cannot be used"#).count();
    assert_eq!(warned, 8 * 6, "{log}");
}

#[tokio::test(start_paused = true)]
async fn h067_private_part_counts_in_a_key_that_cannot_be_used_otherwise() {
    for (name, value) in [("use", r#""enc""#), ("alg", r#""RS512""#), ("kty", "7"), ("kid", "7")] {
        let Disposable { member, other, token, .. } = &disposable();
        let fake = Fake::new(Reply::Set(set(&[member, other])));
        let verifier = fake.builder_for(disposable_rules()).connect().await.unwrap();
        let mut key: serde_json::Value = serde_json::from_str(member).unwrap();
        key[name] = serde_json::from_str(value).unwrap();
        key["n"] = format!("AAAA{}=", key["n"].as_str().unwrap()).into();
        key["d"] = "x".into();
        fake.answers(Reply::Set(set(&[other, &key.to_string()])));
        verifier.refresh().await.unwrap();
        fake.answers(Reply::Set(set(&[member, other])));
        verifier.refresh().await.unwrap();
        assert_eq!(kind(&verifier, token), Some(VerifyErrorKind::UnknownKey), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn h060_each_key_of_a_set_without_a_usable_one_is_logged_once() {
    let log = Log::of_this_thread();
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Set(set(&["7", r#"{"kty":"oct","kid":"k"}"#])));
    for _ in 0..3 {
        verifier.refresh().await.unwrap_err();
    }
    let log = log.take();
    let text = "it has no usable key: key 0 is malformed, key 1 is other_purpose";
    assert_eq!(log.matches(text).count(), 3, "{log}");
    for event in ["index=0 reason=\"malformed\"", "index=1 reason=\"other_purpose\""] {
        assert_eq!(log.matches(event).count(), 1, "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn h069_jumps_of_the_clock_do_not_change_the_refresh_pace() {
    let mut dice = Dice(69);
    let (fake, verifier) = connected(old_set()).await;
    for _ in 0..200 {
        // By up to 20 years, to before 1970 and back; each jump forward may cost one fetch.
        let years_20 = 20 * 365 * 24 * 3600;
        let ahead = i64::try_from(dice.below(2 * years_20)).unwrap() - 2_100_000_000;
        fake.set_ahead(ahead);
        let _ = verifier.verify(&keys().old_token).await;
        sleep(ms(1)).await;
        assert_eq!(kind(&verifier, &keys().old_token), None, "{ahead} s ahead");
        assert_eq!(verifier.health(), Health::Ready, "{ahead} s ahead");
        sleep(s(60)).await;
    }
    assert!(fake.requests() <= 1 + 200 + 50, "{} requests", fake.requests());
}

#[tokio::test(start_paused = true)]
async fn h070_first_request_after_a_freeze_is_served_and_wakes_the_refresh() {
    let (fake, verifier) = connected(old_set()).await;
    fake.set_ahead(2 * 3600);
    fake.answers(both_sets());
    assert!(degraded(verifier.health()).age().unwrap() >= 2 * HOUR);
    assert_eq!(kind(&verifier, &keys().old_token), None);
    sleep(ms(1)).await;
    assert_eq!(fake.requests(), 2);
    assert_eq!(kind(&verifier, &keys().new_token), None);
    assert_eq!(verifier.health(), Health::Ready);
    // With the issuer down it is tried in the usual rhythm, and not for each request.
    fake.answers(Reply::Status(503));
    fake.set_ahead(4 * 3600);
    for _ in 0..600 {
        assert_eq!(kind(&verifier, &keys().old_token), None);
        sleep(ms(100)).await;
    }
    assert!(fake.requests() <= 2 + 9, "{} requests", fake.requests());
}

#[tokio::test(start_paused = true)]
async fn h071_time_travel_of_a_test_causes_no_busy_loop() {
    let fake = Fake::new(old_set());
    // A time of day that stands still, as the system's does under paused time.
    let now = (fake.clock())();
    let verifier = fake.builder().clock(move || now).connect().await.unwrap();
    sleep(24 * HOUR).await;
    assert!((288..=362).contains(&fake.requests()), "{} requests in a day", fake.requests());
    // All at once is one step.
    let before = fake.requests();
    tokio::time::advance(24 * HOUR).await;
    sleep(ms(1)).await;
    assert_eq!(fake.requests(), before + 1);
    assert_eq!(kind(&verifier, &keys().old_token), None);
}

#[tokio::test(start_paused = true)]
async fn h072_late_fetch_is_abandoned_and_never_used() {
    let (fake, verifier) = connected(old_set()).await;
    // It would bring another set a second after its time.
    fake.takes(s(6));
    fake.answers(new_set());
    let begun = Instant::now();
    assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), "timed_out");
    assert!((s(5)..=s(5) + ms(2)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    for _ in 0..600 {
        sleep(ms(100)).await;
        assert_eq!(kind(&verifier, &keys().old_token), None);
        assert!(fake.open() <= 1, "one at a time");
    }
    // Within the limit it counts.
    fake.takes(s(5) - ms(1));
    sleep(s(40)).await;
    assert_eq!(kind(&verifier, &keys().new_token), None);
}

#[test]
fn h072_fetcher_that_blocks_its_thread_stops_no_verification() {
    let runtime = paused_runtime();
    let (entered, is_entered) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    let gate = Mutex::new((entered, is_released));
    let fetches = Arc::new(AtomicUsize::new(0));
    let fetched = Arc::clone(&fetches);
    let builder = Verifier::builder(rules()).jwks_fetcher(move |_url| {
        let is_first = fetched.fetch_add(1, Ordering::SeqCst) == 0;
        if !is_first {
            let (entered, is_released) = &*gate.lock().unwrap();
            // The receiver is gone once the test is over.
            let _ = entered.send(());
            let _ = is_released.recv();
        }
        async { Ok::<_, RefreshError>(JwksDocument::new(set(&[&keys().old]))) }
    });
    let verifier = runtime.block_on(builder.connect()).unwrap();
    let blocked = verifier.clone();
    let thread = std::thread::spawn(move || runtime.block_on(blocked.refresh()));
    is_entered.recv().unwrap();
    for _ in 0..100 {
        assert_eq!(kind(&verifier, &keys().old_token), None);
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(verifier.verify(&keys().old_token)).poll(&mut context).is_ready());
    }
    drop(release);
    thread.join().unwrap().unwrap();
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

/// A verifier whose clock panics while the flag is up.
async fn with_bad_clock(fake: &Fake) -> (Verifier, Arc<AtomicBool>) {
    let (clock, panics) = (fake.clock(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&panics);
    let builder = fake.builder().clock(move || {
        if flag.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("this clock panics"));
        }
        clock()
    });
    (builder.connect().await.unwrap(), panics)
}

#[tokio::test(start_paused = true)]
async fn h073_clock_that_panics_is_survived_in_a_request_and_in_the_task() {
    let fake = Fake::new(old_set());
    let (verifier, panics) = with_bad_clock(&fake).await;
    panics.store(true, Ordering::SeqCst);
    let request = {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.verify(&keys().old_token).await })
    };
    assert!(request.await.unwrap_err().is_panic());
    // It ends the task in the middle of a refresh.
    sleep(s(301)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    panics.store(false, Ordering::SeqCst);
    // The first request that finds the refresh overdue starts it again.
    assert_eq!(kind(&verifier, &keys().old_token), None);
    sleep(s(70)).await;
    assert_eq!(kind(&verifier, &keys().old_token), None);
    sleep(ms(1)).await;
    assert_eq!(verifier.health(), Health::Ready);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
}

#[tokio::test(start_paused = true)]
async fn h074_check_that_panics_leaves_no_lock_behind() {
    let fake = Fake::new(new_set());
    let panics = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&panics);
    let rules = rules().with_check(move |_| {
        if flag.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("this check panics"));
        }
        Ok(())
    });
    let verifier = fake.builder_for(rules).connect().await.unwrap();
    let verdict =
        |token: &str| std::panic::catch_unwind(AssertUnwindSafe(|| kind(&verifier, token))).ok();
    // As many as the token cache has shards, or more.
    for number in 0..100 {
        let token = keys().issuer.machine_token(CLIENT).claim("jti", number.to_string());
        let token = token.claim("exp", 9_999_999_999_u64).sign();
        // Both when the token is verified and when it is cached.
        for round in 0..2 {
            panics.store(true, Ordering::SeqCst);
            assert_eq!(verdict(&token), None, "{number}, {round}");
            panics.store(false, Ordering::SeqCst);
            assert_eq!(verdict(&token), Some(None), "{number}, {round}");
        }
    }
    verifier.refresh().await.unwrap();
    assert_eq!(verifier.health(), Health::Ready);
}

#[test]
fn h075_runtime_that_ends_during_a_fetch_loses_no_key() {
    for has_another in [true, false] {
        let fake = Fake::new(old_set());
        let verifier = fake.connect_in_a_runtime_that_ends_during_a_fetch();
        assert_eq!(fake.open(), 0);
        assert_eq!(kind(&verifier, &keys().old_token), None);
        fake.answers(both_sets());
        if has_another {
            paused_runtime().block_on(async {
                sleep(s(700)).await;
                assert_eq!(kind(&verifier, &keys().old_token), None);
                sleep(ms(1)).await;
            });
        } else {
            assert_eq!(kind(&verifier, &unknown(0)), Some(VerifyErrorKind::UnknownKey));
            block_on_within(s(20), verifier.verify(&keys().new_token)).unwrap();
        }
        assert_eq!(fake.requests(), 3);
        assert_eq!(kind(&verifier, &keys().new_token), None);
    }
}

#[test]
fn h076_wait_in_another_runtime_ends() {
    let fake = Fake::new(old_set());
    let first = paused_runtime();
    let verifier = first.block_on(fake.builder().connect()).unwrap();
    // The task's runtime stands still, and the wait is over after its second all the same.
    paused_runtime().block_on(async {
        let begun = Instant::now();
        assert!(verifier.verify(&unknown(0)).await.is_err());
        assert!((s(1)..=s(1) + ms(2)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    });
    // Where it is driven, the wait brings the key.
    fake.answers(both_sets());
    first.block_on(verifier.verify(&keys().new_token)).unwrap();
    let many = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let inside = verifier.clone();
    let waited = many.block_on(async move {
        let blocking = move || Handle::current().block_on(inside.verify(&keys().new_token));
        tokio::task::spawn_blocking(blocking).await.unwrap()
    });
    assert!(waited.is_ok());
}

#[tokio::test(start_paused = true)]
async fn h078_task_itself_may_drop_the_last_handle() {
    // In the fetch, or in the clock, which the task reads when the fetch is over.
    for in_clock in [false, true] {
        let fake = Fake::new(old_set());
        let held = Arc::new(Mutex::new(None::<Verifier>));
        let [in_fetch, in_time] = [Arc::clone(&held), Arc::clone(&held)];
        let (fetching, clock) = (fake.clone(), fake.clock());
        let verifier = Verifier::builder(rules())
            .clock(move || {
                drop(in_time.try_lock().ok().and_then(|mut held| held.take_if(|_| in_clock)));
                clock()
            })
            .jwks_fetcher(move |_url: String| {
                drop(in_fetch.lock().unwrap().take_if(|_| !in_clock));
                fetching.fetch()
            })
            .connect()
            .await
            .unwrap();
        *held.lock().unwrap() = Some(verifier);
        sleep(s(301)).await;
        assert!(held.lock().unwrap().is_none());
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        let requests = fake.requests();
        sleep(HOUR).await;
        assert_eq!(fake.requests(), requests);
    }
}

#[tokio::test(start_paused = true)]
async fn h079_verifiers_that_share_keys_share_nothing_else() {
    let (fake, ours) = connected(new_set()).await;
    let pool = || keys().issuer.user_pool();
    let theirs = ours.share_keys(Rules::new(pool(), ClientIds::only(["other"]))).unwrap();
    let other_token = keys().issuer.machine_token("other").claim("exp", 9_999_999_999_u64).sign();
    for _ in 0..2 {
        assert_eq!(kind(&ours, &keys().new_token), None);
        assert_eq!(kind(&theirs, &keys().new_token), Some(VerifyErrorKind::WrongClient));
        assert_eq!(kind(&theirs, &other_token), None);
        assert_eq!(kind(&ours, &other_token), Some(VerifyErrorKind::WrongClient));
    }
    assert_eq!((fake.requests(), Handle::current().metrics().num_alive_tasks()), (1, 1));
    // The task is the last one's.
    drop(ours);
    sleep(s(301)).await;
    assert_eq!(fake.requests(), 2);
    drop(theirs);
    sleep(ms(1)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn h080_clients_that_hang_up_give_their_places_back_and_end_no_fetch() {
    let (fake, verifier) = connected(old_set()).await;
    fake.takes(ms(900));
    fake.answers(both_sets());
    for _ in 0..3 {
        let gone = (0..1_500).map(|number| {
            let verifier = verifier.clone();
            tokio::spawn(async move { verifier.verify(&unknown(number)).await.is_err() })
        });
        let gone = gone.collect::<Vec<_>>();
        sleep(ms(100)).await;
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        sleep(ms(1)).await;
    }
    assert_eq!((fake.requests(), fake.open()), (2, 1));
    // There is a place for one more, and the fetch that the others caused brings its key.
    let begun = Instant::now();
    verifier.verify(&keys().new_token).await.unwrap();
    assert!(begun.elapsed() <= ms(600), "{:?}", begun.elapsed());
    assert_eq!(fake.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn h081_unknown_keys_while_the_issuer_is_down_cause_few_attempts() {
    for reply in [Reply::Status(500), Reply::Hang, Reply::Panic] {
        let (fake, verifier) = connected(old_set()).await;
        fake.answers(reply);
        let storm = async |minutes: u64| {
            let before = fake.requests();
            let over = Instant::now() + s(60 * minutes);
            while Instant::now() < over {
                assert_eq!(kind(&verifier, &unknown(1)), Some(VerifyErrorKind::UnknownKey));
                let waiting = verifier.clone();
                tokio::spawn(async move { waiting.verify(&unknown(2)).await.is_err() });
                sleep(ms(250)).await;
            }
            fake.requests() - before
        };
        // The first minute has the quick attempts of the backoff, and two for the budget.
        let first = storm(1).await;
        assert!(first <= 9 + 2, "{first} attempts in the first minute");
        let later = storm(5).await;
        assert!(later <= 5 * 4, "{later} attempts in five minutes more");
    }
}

#[tokio::test(start_paused = true)]
async fn h082_exhausted_budget_delays_a_new_key_at_most_30_seconds() {
    let (fake, verifier) = connected(old_set()).await;
    for number in 0..10 {
        let _ = verifier.verify(&unknown(number)).await;
    }
    assert_eq!(fake.requests(), 3);
    fake.takes(ms(200));
    fake.answers(new_set());
    let rotated = Instant::now();
    assert!(verifier.verify(&keys().new_token).await.is_err());
    assert_eq!(rotated.elapsed(), Duration::ZERO, "rejected at once, without a wait");
    while verifier.verify(&keys().new_token).await.is_err() {
        sleep(ms(10)).await;
    }
    assert!(rotated.elapsed() <= s(30) + ms(220), "{:?}", rotated.elapsed());
}

#[tokio::test(start_paused = true)]
async fn h083_fetch_that_ends_as_waiters_give_up_causes_no_stampede() {
    for takes in [ms(990), ms(999), ms(1_000), ms(1_001), ms(1_010)] {
        let (fake, verifier) = connected(old_set()).await;
        fake.takes(takes);
        let waiting = (0..500).map(|number| {
            let verifier = verifier.clone();
            tokio::spawn(async move { verifier.verify(&unknown(number)).await.is_err() })
        });
        for waiting in waiting.collect::<Vec<_>>() {
            assert!(waiting.await.unwrap());
        }
        sleep(s(20)).await;
        // The one that they joined, and one more that began after the first request.
        assert!(fake.requests() <= 3, "{} requests after {takes:?}", fake.requests());
        assert_eq!(fake.open(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h084_each_load_during_changes_sees_one_whole_set() {
    let Keys { old, new, .. } = keys();
    let successor = renamed(new, &kid(old));
    let token = keys().issuer.machine_token(CLIENT).header("kid", kid(old));
    let new_token = token.claim("exp", 9_999_999_999_u64).sign();
    // One ID, two keys: a torn set would know neither token or have no such key.
    let turns = [Reply::Set(set(&[old])), Reply::Set(set(&[&successor]))];
    let (fake, verifier) = connected(Reply::ByTurns(Box::new(turns))).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (verifier, new_token) = (verifier.clone(), new_token.clone());
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                for token in [&keys().old_token, &new_token] {
                    let kind = kind(&verifier, token);
                    assert!(matches!(kind, None | Some(VerifyErrorKind::BadSignature)), "{kind:?}");
                }
                tokio::task::yield_now().await;
            }
        })
    });
    let readers = readers.collect::<Vec<_>>();
    for _ in 0..200 {
        verifier.refresh().await.unwrap();
        // After a refresh, no reader sees the previous set.
        let accepted =
            [&keys().old_token, &new_token].map(|token| kind(&verifier, token).is_none());
        let is_odd = fake.requests() % 2 == 1;
        assert_eq!(accepted, [!is_odd, is_odd]);
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
}
