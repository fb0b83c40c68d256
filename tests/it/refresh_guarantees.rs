//! The guarantees of the refresh engine: the number in a test name is that of the promise, `p01` to
//! `p20`. Time is paused, and the wall clock advances with it. Tests with a real runtime or a socket
//! measure no time. Tests of rejected documents and responses are in `jwks` and `refresh_http`.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tonic::service::Interceptor;
use tower::{Layer, Service};
use tower_cognito::{
    ClientIds, Health, RefreshError, RequireToken, Rules, TestIssuer, TestServer, TokenInterceptor,
    UserPool, Verifier, VerifierBuilder, VerifyErrorKind,
};

use super::executors::block_on_within;
use super::fake_issuer::{
    Dice, Fake, HOUR, Keys, Reply, both_sets, connected, degraded, is_only_test, keys, kind,
    lasting, members, ms, new_set, old_set, paused_runtime, rules, s, set, unknown,
};
use super::support::{CLIENT, Log, Plain, grpc_call, request};

const DAY: Duration = Duration::from_secs(24 * 3600);
const INTERVAL: Duration = Duration::from_secs(300);
/// Timers fire on whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// The most of these times, in order, that lie within one second.
fn busiest_second(times: &[Instant]) -> usize {
    let within = |first: Instant| times.partition_point(|time| *time < first + s(1));
    let counts = (0..).zip(times).map(|(before, first)| within(*first) - before);
    counts.max().unwrap_or(0)
}

fn gaps(times: &[Instant]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Returns the resident memory of this process in bytes, or 0 if the system does not report it.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).map_or(0, |pages| pages.parse::<u64>().unwrap() * 4096)
}

#[tokio::test(start_paused = true)]
async fn p01_connect_lazy_fetches_nothing_and_requests_before_the_first_keys_never_wait() {
    let fake = Fake::new(Reply::Status(503));
    let verifier = fake.builder().connect_lazy().unwrap();
    assert_eq!(fake.requests(), 0, "`connect_lazy` itself does nothing");

    let mut unavailable = 0;
    for _ in 0..3_000 {
        let begun = Instant::now();
        let error = verifier.verify(&keys().old_token).await.unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable);
        assert_eq!(error.retry_after(), Some(s(1)));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
        unavailable += 1;
        sleep(ms(200)).await;
    }
    assert_eq!(unavailable, 3_000);

    let takes = ms(300);
    fake.takes(takes);
    fake.answers(old_set());
    let returned = Instant::now();
    while verifier.verify(&keys().old_token).await.is_err() {
        sleep(ms(1)).await;
    }
    let waited = returned.elapsed();
    assert!(waited <= s(5) + takes + TICK, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn p01_hung_issuer_delays_no_request() {
    let fake = Fake::new(Reply::Hang);
    let verifier = fake.builder().connect_lazy().unwrap();
    for _ in 0..100 {
        let begun = Instant::now();
        let error = verifier.verify(&keys().old_token).await.unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sleep(ms(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn p01_ready_waits_at_most_as_long_as_requested() {
    let fake = Fake::new(Reply::Status(503));
    let verifier = fake.builder().connect_lazy().unwrap();
    let begun = Instant::now();
    assert!(verifier.ready(s(7)).await.is_err());
    assert!((s(7)..=s(7) + TICK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let (waiting, begun) = (verifier.clone(), Instant::now());
    let waiting = tokio::spawn(async move { waiting.ready(s(60)).await.map(|()| Instant::now()) });
    sleep(s(20)).await;
    fake.answers(old_set());
    let ready = waiting.await.unwrap().unwrap();
    assert!(ready - begun <= s(25) + TICK, "{:?}", ready - begun);
    // Once there are keys there is no wait.
    let begun = Instant::now();
    verifier.ready(Duration::ZERO).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn p02_ten_thousand_waits_for_the_first_keys_cause_one_fetch() {
    let fake = Fake::new(old_set());
    fake.takes(ms(800));
    let verifier = fake.builder().connect_lazy().unwrap();
    let begun = Instant::now();
    let waiting = (0..10_000).map(|_| {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.ready(s(10)).await })
    });
    for waiting in waiting.collect::<Vec<_>>() {
        waiting.await.unwrap().unwrap();
    }
    assert!(begun.elapsed() <= ms(850), "{:?}", begun.elapsed());
    assert_eq!(fake.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_ten_thousand_waits_on_many_threads_cause_one_request() {
    let server = TestServer::bind("127.0.0.1:0").await.unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::only([CLIENT]));
    let verifier = Verifier::builder(rules).connect_lazy().unwrap();
    let waiting = (0..10_000).map(|_| {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.ready(s(60)).await })
    });
    for waiting in waiting.collect::<Vec<_>>() {
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(server.jwks_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn p03_known_key_causes_no_fetch_and_no_wait() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Hang);
    for _ in 0..100 {
        let verified = pin!(verifier.verify(&keys().old_token));
        let polled = verified.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(_))), "ready at the first poll");
    }
    assert_eq!(fake.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p03_key_change_rejects_no_token_whose_key_is_in_both_sets() {
    let Keys { old, new, id, .. } = keys();
    let [small, large] = [Reply::Set(set(&[old, new])), Reply::Set(set(&[id, new, old]))];
    let (fake, verifier) = connected(Reply::ByTurns(Box::new([small, large]))).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = (0..4).map(|_| {
        let (verifier, is_over) = (verifier.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut verified = 0_u32;
            while !is_over.load(Ordering::SeqCst) {
                for token in [&keys().old_token, &keys().new_token] {
                    verifier.verify(token).await.unwrap();
                    verifier.try_verify(token).unwrap();
                    verified += 2;
                }
                tokio::task::yield_now().await;
            }
            verified
        })
    });
    let clients = clients.collect::<Vec<_>>();
    for _ in 0..400 {
        verifier.refresh().await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert_eq!(fake.requests(), 401);
}

#[tokio::test(start_paused = true)]
async fn p04_keys_are_refreshed_in_advance_without_traffic() {
    const CYCLES: usize = 10_000;
    let (fake, _verifier) = connected(old_set()).await;
    while fake.requests() <= CYCLES {
        sleep(INTERVAL * 100).await;
    }
    let gaps = gaps(&fake.times()[..=CYCLES]);
    let longest = gaps.iter().max().unwrap();
    let shortest = gaps.iter().min().unwrap();
    assert!(*longest <= INTERVAL + TICK, "{longest:?}");
    assert!(*shortest >= INTERVAL.mul_f64(0.8), "{shortest:?}");
    let mean = gaps.iter().sum::<Duration>() / u32::try_from(CYCLES).unwrap();
    assert!((s(267)..=s(273)).contains(&mean), "{mean:?}");
    println!("mean {mean:?}, from {shortest:?} to {longest:?}");
}

/// Checks that each pause is between half and all of a time that doubles up to its cap.
fn check_backoff(gaps: &[Duration], first: Duration, cap: Duration) {
    for (number, gap) in (0..).zip(gaps) {
        let most = first.saturating_mul(1 << number.min(20)).min(cap);
        assert!((most / 2..=most + TICK).contains(gap), "pause {number} is {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p05_outage_with_keys_causes_few_attempts() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Status(500));
    sleep(INTERVAL).await;
    let down = fake.requests();
    sleep(HOUR).await;
    let attempts = fake.requests() - down;
    println!("{attempts} attempts in an hour of outage");
    assert!((110..=180).contains(&attempts), "{attempts}");
    check_backoff(&gaps(&fake.times()[1..]), s(1), s(30));

    // A success forgets the failures.
    fake.answers(old_set());
    verifier.refresh().await.unwrap();
    let recovered = fake.requests();
    fake.answers(Reply::Status(500));
    sleep(INTERVAL + s(60)).await;
    check_backoff(&gaps(&fake.times()[recovered..]), s(1), s(30));
}

#[tokio::test(start_paused = true)]
async fn p05_attempts_without_keys_come_sooner() {
    for reply in [Reply::Status(500), Reply::Panic, Reply::Set("{}".into())] {
        let fake = Fake::new(reply);
        let _verifier = fake.builder().connect_lazy().unwrap();
        sleep(s(120)).await;
        check_backoff(&gaps(&fake.times()), ms(100), s(5));
    }
}

#[tokio::test(start_paused = true)]
async fn p05_retry_after_is_honored_within_limits() {
    for (asked, pause) in [(0, s(1)), (20, s(20)), (1_000_000_000_000, s(300))] {
        let (fake, verifier) = connected(old_set()).await;
        fake.answers(Reply::RetryAfter(asked));
        let _ = verifier.refresh().await;
        sleep(pause * 5 + ms(100)).await;
        for gap in &gaps(&fake.times())[1..] {
            assert!((pause..=pause + TICK).contains(gap), "{asked}: {gap:?}");
        }
        assert_eq!(fake.requests(), 7);
        assert_eq!(kind(&verifier, &keys().old_token), None);
    }
}

#[tokio::test(start_paused = true)]
async fn p05_refresh_that_clients_trigger_respects_the_age_and_the_pause() {
    let (fake, verifier) = connected(old_set()).await;
    let calls = |min_age| {
        let verifier = verifier.clone();
        async move {
            for _ in 0..20 {
                let _ = verifier.refresh_if_older_than(min_age).await;
            }
            verifier.refresh_if_older_than(min_age).await
        }
    };
    calls(s(60)).await.unwrap();
    assert_eq!(fake.requests(), 1, "the keys are young");
    sleep(s(60)).await;
    calls(s(60)).await.unwrap();
    assert_eq!(fake.requests(), 2);
    // The monotonic clock stood still.
    fake.set_ahead(60);
    calls(s(60)).await.unwrap();
    assert_eq!(fake.requests(), 3);

    fake.answers(Reply::Status(500));
    sleep(s(1)).await;
    // A failed fetch counts too, and no time is shorter than a second.
    assert!(calls(Duration::ZERO).await.is_err());
    assert_eq!(fake.requests(), 4);

    fake.answers(Reply::RetryAfter(300));
    verifier.refresh().await.unwrap_err();
    assert_eq!(fake.requests(), 5);
    for _ in 0..59 {
        sleep(s(5)).await;
        assert!(calls(s(1)).await.is_err());
    }
    assert_eq!(fake.requests(), 5, "the issuer requested 300 seconds");
    fake.answers(old_set());
    fake.set_ahead(400);
    calls(s(1)).await.unwrap();
    assert_eq!(fake.requests(), 6, "they are over by the time of day");
}

#[tokio::test(start_paused = true)]
async fn p05_refresh_that_many_clients_trigger_is_one_fetch() {
    let (fake, verifier) = connected(old_set()).await;
    fake.takes(ms(500));
    sleep(s(10)).await;
    let requests = (0..1_000).map(|number| {
        let verifier = verifier.clone();
        tokio::spawn(async move {
            sleep(ms(number / 2)).await;
            verifier.refresh_if_older_than(s(10)).await
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap().unwrap();
    }
    assert_eq!(fake.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn p05_refresh_that_clients_trigger_does_not_wait_for_a_fetch_that_hangs() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Hang);
    sleep(s(10)).await;
    let first = tokio::time::timeout(s(1), verifier.refresh_if_older_than(s(10))).await;
    assert!(first.is_err(), "it waits");
    let begun = Instant::now();
    for _ in 0..50 {
        let error = verifier.refresh_if_older_than(s(10)).await.unwrap_err();
        assert_eq!(error.kind().as_str(), "timed_out");
    }
    assert_eq!((begun.elapsed(), fake.requests()), (Duration::ZERO, 2));
}

#[tokio::test(start_paused = true)]
async fn p06_storm_of_unknown_keys_causes_at_most_four_fetches_a_minute() {
    for takes in [Duration::ZERO, ms(700)] {
        let (fake, verifier) = connected(old_set()).await;
        let connected = fake.requests();
        fake.takes(takes);
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < s(60) {
            assert_eq!(kind(&verifier, &unknown(sent)), Some(VerifyErrorKind::UnknownKey));
            let waiting = verifier.clone();
            tokio::spawn(async move { waiting.verify(&unknown(sent + 1)).await.unwrap_err() });
            sent += 2;
            sleep(ms(20)).await;
        }
        assert!(sent > 5_000, "{sent}");
        let fetches = fake.requests() - connected;
        assert!((3..=4).contains(&fetches), "{fetches} fetches for {sent} unknown keys");
        assert_eq!(kind(&verifier, &keys().old_token), None);
    }
}

#[tokio::test(start_paused = true)]
async fn p06_explicit_refresh_does_not_bypass_the_budget() {
    let (fake, verifier) = connected(old_set()).await;
    verifier.refresh().await.unwrap();
    let before = fake.requests();
    for number in 0..10 {
        assert_eq!(kind(&verifier, &unknown(number)), Some(VerifyErrorKind::UnknownKey));
        sleep(ms(1)).await;
    }
    assert_eq!(fake.requests() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn p06_budget_refills_every_30_seconds() {
    let (fake, verifier) = connected(old_set()).await;
    for number in 0..40 {
        sleep(s(30) + TICK).await;
        let before = fake.requests();
        // Neither of the two waits.
        if number % 2 == 0 {
            assert_eq!(kind(&verifier, &unknown(number)), Some(VerifyErrorKind::UnknownKey));
        } else {
            let call = grpc_call(Some(&format!("Bearer {}", unknown(number))));
            let status = TokenInterceptor::new(verifier.clone()).call(call).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
        }
        sleep(ms(1)).await;
        assert_eq!(fake.requests(), before + 1, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn p06_many_pools_make_at_most_16_fetches_at_once_and_denied_ones_later() {
    let pools = Pools::new();
    let verifier = pools.builder(40).connect().await.unwrap();
    pools.fake.answers(Reply::Hang);
    // All before the first of their tasks has its turn.
    for number in 0..40 {
        let token = keys().issuer.machine_token(CLIENT).claim("iss", issuer_of(number));
        assert!(verifier.try_verify(&token.header("kid", "unknown").sign()).is_err());
    }
    for _ in 0..100 {
        sleep(ms(20)).await;
        assert!(pools.fake.open() <= 16, "{} at once", pools.fake.open());
    }
    assert_eq!(pools.fake.requests(), 40 + 16);
    // The fetches that hung are abandoned; a denied fetch is made later.
    sleep(s(5)).await;
    pools.fake.answers(new_set());
    let before = pools.fake.requests();
    let token = keys().issuer.machine_token(CLIENT).claim("iss", issuer_of(39));
    let _ = verifier.verify(&token.header("kid", "unknown").sign()).await;
    assert_eq!(pools.fake.requests(), before + 1);
}

#[test]
fn p06_unknown_keys_leave_nothing_in_memory() {
    if !is_only_test("refresh_guarantees::p06_unknown_keys_leave_nothing_in_memory") {
        return;
    }
    paused_runtime().block_on(async {
        let (_, verifier) = connected(old_set()).await;
        let storm = |from: u64| {
            for number in from..from + 5_000 {
                assert!(verifier.try_verify(&unknown(number)).is_err());
            }
        };
        storm(0);
        let before = resident();
        storm(5_000);
        storm(10_000);
        let grown = resident().saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes more");
    });
}

#[tokio::test(start_paused = true)]
async fn p07_at_most_1024_requests_wait_for_at_most_one_second() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Hang);
    let begun = Instant::now();
    let requests = (0..5_000).map(|number| {
        let verifier = verifier.clone();
        tokio::spawn(async move {
            let error = verifier.verify(&unknown(number)).await.unwrap_err();
            assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
            begun.elapsed()
        })
    });
    let mut at_once = 0;
    let mut waited = 0;
    for request in requests.collect::<Vec<_>>() {
        match request.await.unwrap() {
            Duration::ZERO => at_once += 1,
            time if (s(1)..=s(1) + TICK).contains(&time) => waited += 1,
            time => panic!("answered after {time:?}"),
        }
    }
    assert_eq!((waited, at_once), (1_024, 5_000 - 1_024));
    assert_eq!(fake.requests(), 2);

    // Those requests are gone, and others may wait.
    let begun = Instant::now();
    assert!(verifier.verify(&unknown(0)).await.is_err());
    assert!(begun.elapsed() >= s(1));
    assert_eq!(fake.requests(), 2, "for the fetch that is open");
}

#[tokio::test(start_paused = true)]
async fn p07_new_key_of_another_pool_is_fetched_while_all_places_are_taken() {
    const OTHER: &str = "https://other.example";

    let (fake, other) = (Fake::new(old_set()), Fake::new(old_set()));
    let other_rules = Rules::new(UserPool::from_issuer(OTHER).unwrap(), ClientIds::only([CLIENT]));
    let (first, second) = (fake.clone(), other.clone());
    let verifier = Verifier::builder(rules()).add_pool(other_rules).clock(fake.clock());
    let verifier =
        verifier.jwks_fetcher(
            move |url: String| {
                if url.starts_with(OTHER) { second.fetch() } else { first.fetch() }
            },
        );
    let verifier = verifier.connect().await.unwrap();
    fake.answers(Reply::Hang);
    other.answers(new_set());
    let waiting = (0..1_024).map(|number| {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.verify(&unknown(number)).await.is_err() })
    });
    let waiting = waiting.collect::<Vec<_>>();
    fake.is_open().await;
    let token = lasting(&keys().issuer, OTHER);
    let error = verifier.verify(&token).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey, "no place to wait is left");
    sleep(ms(1)).await;
    assert_eq!(other.requests(), 2);
    assert_eq!(kind(&verifier, &token), None, "the key was fetched all the same");
    assert!(!waiting.iter().any(|request| request.is_finished()));
}

/// Counts how often a verifier reads the clock: once for each verification, and once to look for a
/// cached token.
async fn with_clock_count(fake: &Fake) -> (Verifier, Arc<AtomicUsize>) {
    let (clock, count) = (fake.clock(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let builder = fake.builder().clock(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        clock()
    });
    (builder.connect().await.unwrap(), count)
}

#[tokio::test(start_paused = true)]
async fn p07_unknown_key_is_verified_once_if_the_budget_is_closed() {
    let fake = Fake::new(old_set());
    let (verifier, clock) = with_clock_count(&fake).await;
    let mut layer = RequireToken::new(verifier.clone()).layer(Plain);
    for number in 0..2 {
        assert!(verifier.verify(&unknown(number)).await.is_err());
    }
    sleep(ms(1)).await;
    assert_eq!(fake.requests(), 3, "the budget is spent");

    let begun = Instant::now();
    clock.store(0, Ordering::SeqCst);
    assert!(verifier.verify(&unknown(2)).await.is_err());
    assert_eq!(clock.swap(0, Ordering::SeqCst), 1, "`verify` looks and verifies at one time");
    let response = layer.call(request(Some(&format!("Bearer {}", unknown(3))))).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(clock.swap(0, Ordering::SeqCst), 2);
    assert_eq!((begun.elapsed(), fake.requests()), (Duration::ZERO, 3));
}

#[tokio::test(start_paused = true)]
async fn p07_unknown_key_is_verified_again_only_with_other_keys() {
    let fake = Fake::new(old_set());
    let (verifier, clock) = with_clock_count(&fake).await;
    fake.takes(ms(100));
    clock.store(0, Ordering::SeqCst);
    let begun = Instant::now();
    assert!(verifier.verify(&unknown(0)).await.is_err());
    assert!(begun.elapsed() >= ms(100));
    let with_same_keys = clock.swap(0, Ordering::SeqCst);
    fake.answers(new_set());
    verifier.verify(&keys().new_token).await.unwrap();
    // The token is verified again, and the age of the keys is not checked again.
    assert_eq!(clock.swap(0, Ordering::SeqCst), with_same_keys);
}

#[tokio::test(start_paused = true)]
async fn p07_unknown_key_is_unavailable_if_the_keys_become_too_old_during_the_wait() {
    let fake = Fake::new(old_set());
    let verifier = fake.builder().clock(fake.clock()).connect().await.unwrap();
    fake.answers(Reply::Hang);
    let token = unknown(0);
    let later = async {
        sleep(ms(100)).await;
        fake.set_ahead(2 * 24 * 60 * 60);
    };
    let (result, ()) = tokio::join!(verifier.verify(&token), later);
    assert_eq!(result.unwrap_err().kind(), VerifyErrorKind::KeysUnavailable);
}

#[tokio::test(start_paused = true)]
async fn p07_only_a_token_that_passed_all_earlier_checks_waits() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Hang);
    let token = keys().issuer.machine_token(CLIENT).header("kid", "unknown");
    let begun = Instant::now();
    for hopeless in [
        token.clone().header("alg", "none").sign(),
        token.clone().header("alg", "HS256").sign(),
        token.clone().header("typ", "dpop+jwt").sign(),
        token.clone().header("crit", ["exp"]).sign(),
        token.clone().header("kid", "k".repeat(300)).sign(),
        token.clone().without_header("kid").sign(),
        token.clone().claim("iss", "https://elsewhere.example").sign(),
        token.clone().claim("pad", "x".repeat(17_000)).sign(),
        "not.a.token".to_owned(),
    ] {
        let error = verifier.verify(&hopeless).await.unwrap_err();
        assert_ne!(error.kind(), VerifyErrorKind::KeysUnavailable);
        assert_eq!(begun.elapsed(), Duration::ZERO, "{hopeless}");
    }
    sleep(ms(1)).await;
    assert_eq!(fake.requests(), 1, "none of them is worth a fetch");
}

#[tokio::test(start_paused = true)]
async fn p08_key_not_published_in_advance_is_known_after_one_fetch() {
    let takes = ms(250);
    let (fake, verifier) = connected(old_set()).await;
    fake.takes(takes);
    fake.answers(new_set());
    let begun = Instant::now();
    verifier.verify(&keys().new_token).await.unwrap();
    assert!(begun.elapsed() <= takes + ms(10), "{:?}", begun.elapsed());
    assert_eq!(fake.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn p08_new_key_is_known_within_30_seconds_during_an_attack() {
    let takes = ms(250);
    for seed in 0..3 {
        let mut dice = Dice(seed);
        let (fake, verifier) = connected(old_set()).await;
        fake.takes(takes);
        let attacked = verifier.clone();
        let attack = tokio::spawn(async move {
            for number in 0.. {
                let _ = attacked.try_verify(&unknown(number));
                sleep(ms(50)).await;
            }
        });
        sleep(ms(dice.below(120_000))).await;
        fake.answers(both_sets());
        let rotated = Instant::now();
        while verifier.verify(&keys().new_token).await.is_err() {
            sleep(ms(20)).await;
        }
        let waited = rotated.elapsed();
        assert!(waited <= s(30) + takes + ms(50), "seed {seed}: {waited:?}");
        attack.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn p09_removed_key_is_trusted_at_most_for_an_interval_and_a_fetch() {
    let takes = s(5) - ms(1);
    let mut longest = Duration::ZERO;
    for seed in 0..5 {
        let mut dice = Dice(seed);
        let (fake, verifier) = connected(both_sets()).await;
        fake.takes(takes);
        sleep(ms(dice.below(900_000))).await;
        fake.answers(new_set());
        let removed = Instant::now();
        while kind(&verifier, &keys().old_token).is_none() {
            sleep(ms(250)).await;
        }
        assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::UnknownKey));
        assert_eq!(kind(&verifier, &keys().new_token), None);
        longest = longest.max(removed.elapsed());
    }
    assert!(longest <= s(305) + ms(250), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn p09_refresh_removes_a_key_at_once() {
    let (fake, verifier) = connected(both_sets()).await;
    assert_eq!(kind(&verifier, &keys().old_token), None);
    fake.answers(new_set());
    let begun = Instant::now();
    verifier.refresh().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn p10_outage_rejects_no_valid_token_for_a_day_and_is_503_afterwards() {
    let takes = ms(400);
    let (fake, verifier) = connected(old_set()).await;
    let last_good = fake.times()[0];
    fake.answers(Reply::Status(503));
    while last_good.elapsed() < DAY - s(60) {
        assert_eq!(kind(&verifier, &keys().old_token), None);
        sleep(s(60)).await;
    }
    while last_good.elapsed() < DAY {
        assert_eq!(kind(&verifier, &keys().old_token), None, "{:?}", last_good.elapsed());
        sleep(ms(100)).await;
    }
    let error = verifier.verify(&keys().old_token).await.unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable);
    assert!((s(1)..=s(30)).contains(&error.retry_after().unwrap()));
    assert_eq!(verifier.health(), Health::NotReady);
    sleep(HOUR).await;
    assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
    assert_eq!(kind(&verifier, &unknown(0)), Some(VerifyErrorKind::KeysUnavailable));

    fake.takes(takes);
    fake.answers(old_set());
    let returned = Instant::now();
    while verifier.verify(&keys().old_token).await.is_err() {
        sleep(ms(10)).await;
    }
    assert!(returned.elapsed() <= s(30) + takes + ms(10), "{:?}", returned.elapsed());
    assert_eq!(verifier.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn p10_only_the_age_of_the_keys_decides_during_outages() {
    let (takes, max_key_age) = (ms(400), HOUR);
    let mut outages = 0;
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let fake = Fake::new(old_set());
        fake.takes(takes);
        let verifier = fake.builder().max_key_age(max_key_age).connect().await.unwrap();
        for _ in 0..6 {
            let outage = match dice.below(5) {
                0 => Reply::Hang,
                1 => Reply::Panic,
                2 => Reply::Set("<html>".into()),
                3 => Reply::Status(404),
                _ => Reply::Status(500),
            };
            fake.answers(outage);
            outages += 1;
            let over = Instant::now() + ms(dice.below(2 * 3_600_000));
            while Instant::now() < over {
                let age = fake.last_good.lock().unwrap().unwrap().elapsed();
                let expected = (age >= max_key_age).then_some(VerifyErrorKind::KeysUnavailable);
                assert_eq!(kind(&verifier, &keys().old_token), expected, "seed {seed}: {age:?}");
                sleep(ms(dice.below(60_000))).await;
            }
            fake.answers(old_set());
            // A fetch that hangs is given up first.
            sleep(s(35) + takes + TICK).await;
            assert_eq!(kind(&verifier, &keys().old_token), None, "seed {seed}: recovered");
            sleep(ms(dice.below(600_000))).await;
            assert_eq!(kind(&verifier, &keys().old_token), None, "seed {seed}: still well");
        }
    }
    assert_eq!(outages, 36);
}

#[tokio::test(start_paused = true)]
async fn p14_no_time_of_day_stops_verification_or_the_refresh() {
    const YEARS_70: i64 = 70 * 366 * 24 * 3600;
    const YEARS_10: i64 = 10 * 365 * 24 * 3600;
    // 1963, an hour ago, ten years on, and back again.
    for ahead in [-YEARS_70, -3600, YEARS_10] {
        let (fake, verifier) = connected(old_set()).await;
        for ahead in [ahead, 0] {
            fake.set_ahead(ahead);
            // What is too old by the time of day is fetched before it is used again.
            let _ = kind(&verifier, &keys().old_token);
            sleep(ms(10)).await;
            assert_eq!(kind(&verifier, &keys().old_token), None, "{ahead} s ahead");
            assert_eq!(verifier.health(), Health::Ready, "{ahead} s ahead");
            let before = fake.requests();
            sleep(HOUR).await;
            let fetches = fake.requests() - before;
            assert!((12..=15).contains(&fetches), "{ahead} s ahead: {fetches} fetches in an hour");
            assert_eq!(kind(&verifier, &keys().old_token), None, "{ahead} s ahead");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p14_clock_set_back_makes_no_stale_keys_usable_but_an_expired_token_valid() {
    let fake = Fake::new(both_sets());
    let verifier = fake.builder().max_key_age(HOUR).connect().await.unwrap();
    fake.answers(Reply::Status(500));
    // The tests' clock begins in 2033.
    let expires = UNIX_EPOCH + s(2_000_000_000 - 600);
    let short = keys().issuer.machine_token(CLIENT).expires_at(expires).sign();
    assert_eq!(kind(&verifier, &short), Some(VerifyErrorKind::Expired));
    // Set back by less than it has been expired for, or by more.
    fake.set_ahead(-599);
    assert_eq!(kind(&verifier, &short), Some(VerifyErrorKind::Expired));
    fake.set_ahead(-601);
    assert_eq!(kind(&verifier, &short), None);
    // Keys age on the monotonic clock whatever the time of day.
    fake.set_ahead(-3_000_000_000);
    sleep(HOUR - s(1)).await;
    assert_eq!(kind(&verifier, &keys().old_token), None);
    sleep(s(1)).await;
    assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
}

#[tokio::test(start_paused = true)]
async fn p15_fetcher_that_panics_every_second_time_is_survived() {
    let turns = Reply::ByTurns(Box::new([Reply::Panic, old_set()]));
    let (fake, verifier) = connected(turns).await;
    for _ in 0..200 {
        assert_eq!(kind(&verifier, &keys().old_token), None);
        sleep(s(30)).await;
    }
    // A panic is a failure like any other: the next attempt is 0.5 to 1 s later.
    let gaps = gaps(&fake.times());
    assert!(gaps.len() > 40, "{} fetches", gaps.len());
    for pair in gaps.chunks_exact(2) {
        assert!((s(240)..=INTERVAL + TICK).contains(&pair[0]), "{pair:?}");
        assert!((ms(500)..=s(1) + TICK).contains(&pair[1]), "{pair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p15_fetch_that_panics_while_it_is_dropped_is_survived() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::PanicInDrop);
    let error = verifier.refresh().await.unwrap_err();
    assert_eq!(error.kind().as_str(), "timed_out");
    sleep(HOUR).await;
    assert!(fake.requests() > 60, "{} requests", fake.requests());
    assert_eq!(kind(&verifier, &keys().old_token), None);
    assert!(fake.open() <= 1, "{} fetches are open", fake.open());
    fake.answers(old_set());
    sleep(s(36)).await;
    assert_eq!(verifier.health(), Health::Ready);
    // The last handle goes while such a fetch is open.
    fake.answers(Reply::PanicInDrop);
    fake.is_open().await;
    drop(verifier);
    sleep(ms(1)).await;
    assert_eq!(fake.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn p15_panic_is_reported_as_panicked() {
    let fake = Fake::new(Reply::Panic);
    let error = fake.builder().connect_timeout(s(1)).connect().await.unwrap_err();
    assert!(error.to_string().ends_with("the fetch panicked"), "{error}");
    let verifier = fake.builder().connect_lazy().unwrap();
    assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), "panicked");
}

#[test]
fn p16_refresh_continues_in_another_runtime() {
    let fake = Fake::new(old_set());
    let first = paused_runtime();
    let verifier = first.block_on(fake.builder().connect()).unwrap();
    drop(first);
    assert_eq!(kind(&verifier, &keys().old_token), None);

    // The second runtime's clock begins at the time of its making; past the deadline in it.
    let second = paused_runtime();
    second.block_on(async {
        sleep(INTERVAL + s(10)).await;
        fake.answers(new_set());
        let before = fake.requests();
        assert_eq!(kind(&verifier, &keys().old_token), None, "this one is not delayed");
        sleep(ms(1)).await;
        assert_eq!(fake.requests(), before + 1);
        assert_eq!(kind(&verifier, &keys().new_token), None);
        assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::UnknownKey));
        assert_eq!(verifier.health(), Health::Ready);
        // And there it stays.
        sleep(HOUR).await;
        assert!((12..=15).contains(&(fake.requests() - before - 1)), "{}", fake.requests());
    });
}

#[test]
fn p16_refresh_continues_without_a_runtime() {
    // A request finds the refresh overdue, or has an unknown key.
    for ahead in [400, 0] {
        let fake = Fake::new(old_set());
        let first = paused_runtime();
        let verifier = first.block_on(fake.builder().connect()).unwrap();
        drop(first);
        fake.answers(both_sets());
        fake.set_ahead(ahead);
        assert_eq!(kind(&verifier, &keys().old_token), None, "this one is not delayed");
        block_on_within(s(20), verifier.verify(&keys().new_token)).unwrap();
        assert_eq!(fake.requests(), 2, "{ahead} s ahead");
        assert_eq!(kind(&verifier, &keys().old_token), None);
        assert_eq!(verifier.health(), Health::Ready);
        block_on_within(s(20), verifier.refresh()).unwrap();
        assert_eq!(fake.requests(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn p18_keys_without_a_task_are_used_until_they_are_too_old() {
    let (fake, verifier) = connected(old_set()).await;
    verifier.shutdown().await;
    let day = i64::try_from(DAY.as_secs()).unwrap();
    assert_eq!(verifier.health(), Health::Ready);
    for ahead in [400, 3600, day - 60] {
        fake.set_ahead(ahead);
        assert_eq!(kind(&verifier, &keys().old_token), None);
        // No task, and so no wait either.
        let verified = pin!(verifier.verify(&keys().old_token));
        let polled = verified.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(_))));
        let degraded = degraded(verifier.health());
        assert_eq!(degraded.last_error().map(|kind| kind.as_str()), None, "nothing was tried");
        assert!(degraded.age().unwrap() >= s(ahead.unsigned_abs()));
    }
    fake.set_ahead(day + 1);
    assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
    assert_eq!(verifier.health(), Health::NotReady);
    assert_eq!(fake.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn p17_dropping_the_last_handle_ends_the_task_and_its_fetch() {
    let tasks = Handle::current().metrics();
    let (fake, verifier) = connected(old_set()).await;
    assert_eq!(tasks.num_alive_tasks(), 1);
    fake.answers(Reply::Hang);
    fake.is_open().await;
    assert_eq!((fake.open(), tasks.num_alive_tasks()), (1, 2));
    let clone = verifier.clone();
    drop(verifier);
    sleep(ms(1)).await;
    assert_eq!((fake.open(), tasks.num_alive_tasks()), (1, 2));
    drop(clone);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!((fake.open(), tasks.num_alive_tasks()), (0, 0));
    let requests = fake.requests();
    sleep(DAY).await;
    assert_eq!(fake.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn p17_shutdown_waits_until_task_and_fetch_are_gone() {
    let (fake, verifier) = connected(old_set()).await;
    fake.answers(Reply::Hang);
    fake.is_open().await;
    let begun = Instant::now();
    verifier.shutdown().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // The one that refreshes is gone, and its open fetch at the next turn.
    assert!(Handle::current().metrics().num_alive_tasks() <= 1);
    tokio::task::yield_now().await;
    assert_eq!((fake.open(), Handle::current().metrics().num_alive_tasks()), (0, 0));

    // The keys stay in use, no request waits for other keys, and no task starts again.
    let requests = fake.requests();
    assert_eq!(kind(&verifier, &keys().old_token), None);
    assert!(verifier.verify(&unknown(0)).await.is_err());
    assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), "transport");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    sleep(HOUR).await;
    assert_eq!(kind(&verifier, &keys().old_token), None);
    assert_eq!(degraded(verifier.health()).last_error().map(|kind| kind.as_str()), None);
    sleep(DAY).await;
    assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
    verifier.shutdown().await;
    assert_eq!(fake.requests(), requests);
}

#[test]
fn p16_request_from_another_runtime_is_served_there() {
    let in_another = |ask: fn(&Verifier) -> Asked<'_>| {
        let fake = Fake::new(old_set());
        let verifier = fake.connect_in_a_runtime_that_ends_during_a_fetch();
        fake.answers(new_set());
        paused_runtime().block_on(async {
            let begun = Instant::now();
            ask(&verifier).await;
            assert!(begun.elapsed() <= TICK, "{:?}", begun.elapsed());
            assert_eq!(fake.requests(), 3);
            assert_eq!(kind(&verifier, &keys().new_token), None);
        });
    };
    in_another(|verifier| Box::pin(async { verifier.refresh().await.unwrap() }));
    in_another(|verifier| {
        Box::pin(async {
            verifier.verify(&keys().new_token).await.unwrap();
        })
    });
}

type Asked<'v> = std::pin::Pin<Box<dyn Future<Output = ()> + 'v>>;

#[test]
fn p17_ten_thousand_verifiers_leave_no_task_and_no_memory() {
    if !is_only_test("refresh_guarantees::p17_ten_thousand_verifiers_leave_no_task_and_no_memory") {
        return;
    }
    paused_runtime().block_on(async {
        let tasks = Handle::current().metrics();
        let fake = Fake::new(Reply::Hang);
        let create_and_drop = async |times: usize| {
            for _ in 0..times {
                let verifier = fake.builder().connect_lazy().unwrap();
                sleep(ms(1)).await;
                assert_eq!((fake.open(), tasks.num_alive_tasks()), (1, 2));
                drop(verifier);
                sleep(ms(1)).await;
                assert_eq!((fake.open(), tasks.num_alive_tasks()), (0, 0));
            }
        };
        create_and_drop(1_000).await;
        let before = resident();
        create_and_drop(9_000).await;
        let grown = resident().saturating_sub(before);
        assert_eq!(fake.requests(), 10_000);
        assert!(grown < 1_500_000, "{grown} bytes more");
    });
}

#[tokio::test(start_paused = true)]
async fn p19_a_thousand_replicas_started_together_drift_apart() {
    const REPLICAS: usize = 1_000;
    let fake = Fake::new(old_set());
    let replicas =
        (0..REPLICAS).map(|_| fake.builder().connect_lazy().unwrap()).collect::<Vec<_>>();
    sleep(INTERVAL * 4).await;
    let times = fake.times();
    assert_eq!(busiest_second(&times[..REPLICAS]), REPLICAS, "they did start together");
    let later = &times[REPLICAS..];
    assert!(later.len() >= 3 * REPLICAS, "{}", later.len());
    let most = busiest_second(later);
    println!("at most {most} of {REPLICAS} in one second");
    assert!(most <= REPLICAS / 20, "{most}");
    drop(replicas);
}

#[tokio::test(start_paused = true)]
async fn p20_health_goes_from_not_ready_to_ready_to_degraded_and_back() {
    let fake = Fake::new(Reply::Hang);
    let clock = fake.clock();
    let verifier = fake.builder().max_key_age(HOUR).connect_lazy().unwrap();
    assert_eq!(verifier.health(), Health::NotReady);
    sleep(s(10)).await;
    assert_eq!(verifier.health(), Health::NotReady, "a failure without keys is no degradation");
    fake.answers(old_set());
    verifier.ready(s(30)).await.unwrap();
    assert_eq!(verifier.health(), Health::Ready);

    // Each class of error, with the time of the first failure.
    for (reply, class) in [
        (Reply::Status(500), "status"),
        (Reply::Panic, "panicked"),
        (Reply::Hang, "timed_out"),
        (Reply::Set("[]".into()), "document"),
    ] {
        fake.answers(old_set());
        verifier.refresh().await.unwrap();
        assert_eq!(verifier.health(), Health::Ready);
        let good = *fake.last_good.lock().unwrap();
        fake.answers(reply);
        assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), class);
        let since = clock();
        for minutes in [0, 1, 58] {
            sleep(s(60 * minutes)).await;
            let degraded = degraded(verifier.health());
            assert_eq!(degraded.last_error().map(|kind| kind.as_str()), Some(class));
            assert_eq!(degraded.since(), since, "{class}: the first failure");
            assert_eq!(degraded.age(), good.map(|good| good.elapsed()));
        }
        assert_eq!(kind(&verifier, &keys().old_token), None, "degraded keys serve");
        sleep(s(61)).await;
        assert_eq!(verifier.health(), Health::NotReady, "{class}: too old");
        assert_eq!(kind(&verifier, &keys().old_token), Some(VerifyErrorKind::KeysUnavailable));
    }
    assert_eq!(verifier.health_of("https://elsewhere.example"), None);
    assert_eq!(verifier.health_of(keys().issuer.issuer()), Some(Health::NotReady));
    fake.answers(old_set());
    sleep(s(36)).await;
    assert_eq!(verifier.health(), Health::Ready);
}

fn pool(number: usize) -> Rules {
    let pool = UserPool::new(&format!("us-east-1_Pool{number}")).unwrap();
    Rules::new(pool, ClientIds::only([CLIENT]))
}

fn issuer_of(number: usize) -> String {
    format!("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_Pool{number}")
}

/// Many pools with the same keys; some of them are down.
struct Pools {
    fake: Fake,
    down: Arc<Mutex<Vec<usize>>>,
}

impl Pools {
    fn new() -> Self {
        Self { fake: Fake::new(both_sets()), down: Arc::default() }
    }

    fn builder(&self, pools: usize) -> VerifierBuilder {
        let (fake, down) = (self.fake.clone(), Arc::clone(&self.down));
        let builder = Verifier::builder(pool(0)).clock(fake.clock()).jwks_fetcher(move |url| {
            let fetch = fake.fetch();
            let is_down =
                |number: &usize| url == format!("{}/.well-known/jwks.json", issuer_of(*number));
            let is_down = down.lock().unwrap().iter().any(is_down);
            async move { if is_down { Err(RefreshError::status(503)) } else { fetch.await } }
        });
        (1..pools).fold(builder, |builder, number| builder.add_pool(pool(number)))
    }

    fn token(number: usize) -> String {
        lasting(&keys().issuer, &issuer_of(number))
    }
}

#[tokio::test(start_paused = true)]
async fn p20_one_pool_that_is_down_degrades_the_health_of_all() {
    let pools = Pools::new();
    let verifier = pools.builder(3).max_key_age(HOUR).connect().await.unwrap();
    assert_eq!(verifier.health(), Health::Ready);
    pools.down.lock().unwrap().push(1);
    sleep(INTERVAL * 2).await;
    assert_eq!(degraded(verifier.health()).last_error().map(|kind| kind.as_str()), Some("status"));
    for (number, is_down) in [(0, false), (1, true), (2, false)] {
        let health = verifier.health_of(&issuer_of(number)).unwrap();
        assert_eq!(matches!(health, Health::Degraded(_)), is_down, "{number}: {health:?}");
        assert_eq!(kind(&verifier, &Pools::token(number)), None);
    }
    // Too old: only the tokens of this pool are rejected, and the health of all is still degraded.
    sleep(HOUR).await;
    assert_eq!(verifier.health_of(&issuer_of(1)), Some(Health::NotReady));
    assert!(degraded(verifier.health()).age().unwrap() >= HOUR);
    for (number, expected) in [(0, None), (1, Some(VerifyErrorKind::KeysUnavailable)), (2, None)] {
        assert_eq!(kind(&verifier, &Pools::token(number)), expected, "{number}");
    }
    pools.down.lock().unwrap().extend([0, 2]);
    sleep(HOUR + INTERVAL).await;
    assert_eq!(verifier.health(), Health::NotReady, "when none is left");
    pools.down.lock().unwrap().clear();
    sleep(s(31)).await;
    assert_eq!(verifier.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn p20_keys_are_degraded_when_their_refresh_is_more_than_seven_seconds_late() {
    let fake = Fake::new(old_set());
    let clock = fake.clock();
    let verifier = fake.builder().connect().await.unwrap();
    let fetched = clock();
    for (late, is_degraded) in [(0, false), (7, false), (8, true), (60, true)] {
        fake.set_ahead(300 + late);
        let expected = fetched + INTERVAL;
        match verifier.health() {
            Health::Degraded(degraded) => {
                assert!(is_degraded, "{late} s late");
                assert_eq!(
                    (degraded.since(), degraded.last_error().map(|kind| kind.as_str())),
                    (expected, None)
                );
            }
            health => assert_eq!((health, is_degraded), (Health::Ready, false), "{late} s late"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p20_missing_first_keys_are_not_logged_as_too_old() {
    let log = Log::of_this_thread();
    let fake = Fake::new(Reply::Status(500));
    let verifier = fake.builder().connect_lazy().unwrap();
    sleep(HOUR).await;
    assert_eq!(verifier.health(), Health::NotReady);
    let log = log.take();
    assert!(log.contains("there are no keys") && !log.contains("too old"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn p20_keys_that_are_too_old_are_logged_once() {
    let log = Log::of_this_thread();
    let fake = Fake::new(old_set());
    let verifier = fake.builder().max_key_age(HOUR).connect().await.unwrap();
    for _ in 0..2 {
        fake.answers(Reply::Status(500));
        verifier.refresh().await.unwrap_err();
        for (minutes, times) in [(50, 0), (20, 1), (60, 0)] {
            sleep(s(60 * minutes)).await;
            assert_eq!(log.take().matches("too old").count(), times, "after {minutes} minutes");
        }
        fake.answers(old_set());
        verifier.refresh().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn p20_pool_without_a_response_yet_degrades_the_health_of_all() {
    let pools = Pools::new();
    let begun = pools.fake.clock()();
    pools.fake.takes(s(1));
    let verifier = pools.builder(2).connect_lazy().unwrap();
    // The second begins 4 ms after the first.
    sleep(ms(1_002)).await;
    assert_eq!(kind(&verifier, &Pools::token(0)), None);
    let degraded = degraded(verifier.health());
    assert_eq!(
        (degraded.since(), degraded.age(), degraded.last_error().map(|kind| kind.as_str())),
        (begun, None, None)
    );
    sleep(ms(10)).await;
    assert_eq!(verifier.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn p20_a_thousand_pools_start_spread_out_and_fail_one_by_one() {
    const POOLS: usize = 1_000;
    let pools = Pools::new();
    let begun = Instant::now();
    let verifier = pools.builder(POOLS).connect().await.unwrap();
    let first = pools.fake.times();
    assert_eq!(first.len(), POOLS, "one fetch each");
    assert!(begun.elapsed() <= s(5), "{:?}", begun.elapsed());
    let most = busiest_second(&first);
    println!("{POOLS} pools were there after {:?}, at most {most} in one second", begun.elapsed());
    assert!(most <= POOLS / 4 + 1, "{most}");
    assert_eq!(verifier.health(), Health::Ready);

    // The outage of one touches no other, and costs no more attempts than that of one.
    pools.down.lock().unwrap().push(7);
    sleep(INTERVAL * 2).await;
    for number in (0..POOLS).step_by(100).chain([6, 7, 8]) {
        assert_eq!(kind(&verifier, &Pools::token(number)), None, "{number}");
        let health = verifier.health_of(&issuer_of(number)).unwrap();
        assert_eq!(health == Health::Ready, number != 7, "{number}: {health:?}");
    }
    let most = busiest_second(&pools.fake.times()[POOLS..]);
    assert!(most <= POOLS / 20, "{most} in one second of the second cycle");
}

/// The lines of a log that have all of these words.
fn lines<'l>(log: &'l str, words: &[&str]) -> Vec<&'l str> {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).collect()
}

#[tokio::test(start_paused = true)]
async fn p20_key_events_are_logged_with_fields_and_without_tokens() {
    let log = Log::of_this_thread();
    let url = format!("jwks_url={}/.well-known/jwks.json", keys().issuer.issuer());
    let fake = Fake::new(old_set());
    let verifier = fake.builder().max_key_age(HOUR).connect().await.unwrap();
    fake.answers(new_set());
    verifier.verify(&keys().new_token).await.unwrap();
    assert!(verifier.verify(&keys().old_token).await.is_err());
    fake.answers(Reply::Status(503));
    assert!(verifier.refresh().await.is_err());
    sleep(HOUR + s(60)).await;
    assert!(verifier.try_verify(&keys().new_token).is_err());
    fake.answers(new_set());
    sleep(s(31)).await;
    let log = log.take();

    let kids = |member: &str| {
        let key: serde_json::Value = serde_json::from_str(member).unwrap();
        format!("kid={}", key["kid"])
    };
    let (old, new) = (kids(&keys().old), kids(&keys().new));
    assert_eq!(lines(&log, &[" INFO ", "key added", &url, &old]).len(), 1, "{log}");
    assert_eq!(lines(&log, &[" INFO ", "key added", &url, &new]).len(), 1, "{log}");
    assert_eq!(lines(&log, &[" INFO ", "key removed", &url, &old]).len(), 1, "{log}");
    assert_eq!(lines(&log, &["key added"]).len() + lines(&log, &["key removed"]).len(), 3);
    assert!(!lines(&log, &["DEBUG", "keys refreshed", &url, "keys=1"]).is_empty());

    let failed = lines(&log, &[" WARN ", "key refresh failed, the current keys stay in use", &url]);
    assert!(failed.len() > 100, "{}", failed.len());
    for (failures, line) in (1..).zip(&failed) {
        for field in [
            "error=the response has status 503, expected 200",
            "class=\"status\"",
            "age_s=",
            "retry_in_ms=",
        ] {
            assert!(line.contains(field), "{field} is not in {line}");
        }
        assert!(line.contains(&format!(" failures={failures} ")), "{line}");
    }
    let stale = lines(&log, &["ERROR", "every token is rejected with status 503", &url]);
    assert!((1..=50).contains(&stale.len()), "{stale:?}");
    let works = lines(&log, &[" INFO ", "key refresh recovered", &url]);
    assert_eq!(works.len(), 1, "{works:?}");
    assert!(works[0].contains(&format!("failures={}", failed.len())), "{works:?}");

    for token in [&keys().old_token, &keys().new_token] {
        for part in token.split('.') {
            assert!(!log.contains(part), "no part of a token is logged");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p20_exhausted_budget_is_logged_at_most_every_30_seconds() {
    let log = Log::of_this_thread();
    let (_, verifier) = connected(old_set()).await;
    let _ = verifier.verify(&unknown(0)).await;
    sleep(s(60)).await;
    for number in 0..1_800 {
        let _ = verifier.verify(&unknown(number)).await;
        sleep(ms(100)).await;
    }
    let log = log.take();
    let said = lines(&log, &[" WARN ", "the fetch budget is exhausted"]);
    // Not for the one that left another, nor for the first of the two.
    assert!((5..=6).contains(&said.len()), "{} times in 180 s", said.len());
    assert!(!log.contains("unknown-"), "what a client sent is not logged");
}

/// A key that cannot be used is logged once, however often the same set is fetched.
#[tokio::test(start_paused = true)]
async fn p20_unusable_key_is_logged_once_and_again_when_it_comes_back() {
    let log = Log::of_this_thread();
    let (fake, verifier) = connected(old_set()).await;
    let Reply::Set(plain) = old_set() else { panic!("a set") };
    let mut set: serde_json::Value = serde_json::from_str(&plain).unwrap();
    set["keys"].as_array_mut().unwrap().push(serde_json::json!({ "kty": "oct", "kid": "k" }));
    for (document, refreshes) in [(set.to_string(), 5), (plain.clone(), 2), (set.to_string(), 3)] {
        fake.answers(Reply::Set(document));
        for _ in 0..refreshes {
            verifier.refresh().await.unwrap();
        }
    }
    let log = log.take();
    assert_eq!(lines(&log, &[" WARN ", "a key in the JWK Set cannot be used"]).len(), 2, "{log}");
}

#[tokio::test(start_paused = true)]
async fn p20_each_reason_for_an_unusable_key_is_logged_by_name() {
    let log = Log::of_this_thread();
    let with = |key: &str, name: &str, value: &str| {
        let mut key: serde_json::Value = serde_json::from_str(key).unwrap();
        key[name] = value.into();
        key.to_string()
    };
    let Keys { old, new, .. } = keys();
    // Not one of the shared keys, because nothing in this process would trust it again.
    let private = &members(&TestIssuer::new())[0];
    let fake = Fake::new(Reply::Set(set(&[
        old,
        "7",
        r#"{"kty":"oct","kid":"k"}"#,
        &with(&with(private, "kid", "private"), "d", ""),
        &with(&with(new, "kid", "short"), "n", "AQAB"),
        &with(old, "kid", "same"),
        &with(new, "kid", "same"),
    ])));
    fake.builder().connect().await.unwrap();
    let log = log.take();
    for (index, reason) in [
        (1, "malformed"),
        (2, "other_purpose"),
        (3, "private"),
        (4, "unacceptable_numbers"),
        (5, "ambiguous"),
        (6, "ambiguous"),
    ] {
        let event = format!("index={index} reason=\"{reason}\"");
        assert_eq!(lines(&log, &[&event]).len(), 1, "{event}: {log}");
    }
}
