//! The verifier in real time on every executor: without tokio, on a tokio runtime without timers,
//! and on one that is alive but not driven. No test here may depend on a runtime of its own.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tower_cognito::{ClientIds, Health, Rules, TestServer, Verifier, VerifyErrorKind};

use super::fake_issuer::{
    Fake, Reply, both_sets, is_only_test, keys, kind, ms, old_set, paused_runtime, rules, s,
    unknown,
};
use super::support::CLIENT;

/// The name of the thread that refreshes the keys.
const THREAD: &str = "tower-cognito";
/// What a wait may take more than its limit, on a busy machine.
const SLACK: Duration = s(3);

/// Wakes the thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls on this thread without any runtime. Fails if the future is not ready in time, as a wait
/// without end would hang the test.
#[track_caller]
pub(crate) fn block_on_within<F: Future>(limit: Duration, future: F) -> F::Output {
    let begun = Instant::now();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = limit.checked_sub(begun.elapsed());
        thread::park_timeout(left.unwrap_or_else(|| panic!("not ready after {limit:?}")));
    }
}

/// Returns an issuer whose fetches take 20 ms, by a timer of tokio's.
fn issuer() -> Fake {
    let fake = Fake::new(old_set());
    fake.takes(ms(20));
    fake
}

/// Starts a verifier with the clock of the system.
fn connect_lazy(issuer: &Fake) -> Verifier {
    Verifier::builder(rules()).jwks_fetcher(issuer.fetcher()).connect_lazy().unwrap()
}

/// Everything that waits, polled by this function. Each wait ends in time, and a key that is new
/// is found.
fn check_every_wait(issuer: &Fake, verifier: &Verifier, block_on: impl Fn(Waits<'_>)) {
    let within = |limit: Duration, wait: Waits<'_>| {
        let begun = Instant::now();
        block_on(wait);
        assert!(begun.elapsed() < limit + SLACK, "{:?}", begun.elapsed());
    };
    within(s(0), Box::pin(async { verifier.ready(s(20)).await.unwrap() }));
    assert_eq!(kind(verifier, &keys().old_token), None);
    assert_eq!(issuer.requests(), 1);
    issuer.answers(both_sets());
    within(
        s(1),
        Box::pin(async {
            verifier.verify(&keys().new_token).await.unwrap();
        }),
    );
    assert_eq!(issuer.requests(), 2);
    within(
        s(1),
        Box::pin(async {
            let error = verifier.verify(&unknown(1)).await.unwrap_err();
            assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
        }),
    );
    assert_eq!(issuer.requests(), 3);
    within(s(0), Box::pin(async { verifier.refresh().await.unwrap() }));
    assert_eq!(issuer.requests(), 4);
    assert_eq!(verifier.health(), Health::Ready);
    within(s(0), Box::pin(verifier.shutdown()));
    assert_eq!(kind(verifier, &keys().new_token), None, "the keys stay");
    assert_eq!(issuer.threads(), BTreeSet::from([THREAD.to_owned()]));
}

type Waits<'v> = std::pin::Pin<Box<dyn Future<Output = ()> + 'v>>;

fn without_timers() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

#[test]
fn runtime_without_timers_starts_a_verifier_and_ends_every_wait() {
    let runtime = without_timers();
    let issuer = issuer();
    let verifier = runtime.block_on(async { connect_lazy(&issuer) });
    check_every_wait(&issuer, &verifier, |wait| runtime.block_on(wait));
}

#[test]
fn no_runtime_at_all_starts_a_verifier_and_ends_every_wait() {
    let issuer = issuer();
    let verifier = connect_lazy(&issuer);
    check_every_wait(&issuer, &verifier, |wait| block_on_within(s(30), wait));
}

#[test]
fn runtime_that_is_not_driven_delays_no_wait_elsewhere() {
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    for elsewhere in [None, Some(without_timers())] {
        let issuer = issuer();
        let verifier = idle.block_on(async {
            let verifier = connect_lazy(&issuer);
            verifier.ready(s(20)).await.unwrap();
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "no task is left on it");
            verifier
        });
        check_every_wait(&issuer, &verifier, |wait| match &elsewhere {
            None => block_on_within(s(30), wait),
            Some(runtime) => runtime.block_on(async { in_time(wait).await }),
        });
    }
    drop(idle);
}

/// Fails instead of waiting without end, on a runtime without timers too.
async fn in_time(wait: Waits<'_>) {
    let waker = std::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let begun = Instant::now();
    let (ended, is_ended) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if is_ended.recv_timeout(s(30)).is_err() {
            waker.wake();
        }
    });
    let mut wait = pin!(wait);
    std::future::poll_fn(|context| {
        assert!(begun.elapsed() < s(30), "not ready after {:?}", begun.elapsed());
        wait.as_mut().poll(context)
    })
    .await;
    let _ = ended.send(());
    watch.join().unwrap();
}

#[test]
fn unknown_key_waits_no_longer_than_its_limit_while_the_issuer_hangs() {
    let issuer = issuer();
    let verifier = connect_lazy(&issuer);
    block_on_within(s(20), verifier.ready(s(20))).unwrap();
    issuer.answers(Reply::Hang);
    let begun = Instant::now();
    let error = block_on_within(s(20), verifier.verify(&unknown(2))).unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    assert!((ms(990)..s(1) + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // The open fetch ends at its limit of 5 seconds, and so does the next.
    let begun = Instant::now();
    let error = block_on_within(s(30), verifier.refresh()).unwrap_err();
    assert_eq!(error.kind().as_str(), "timed_out");
    assert!((s(4)..s(11) + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn keys_come_over_http_and_from_a_file_without_a_runtime() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::bind("127.0.0.1:0")).unwrap();
    let rules = Rules::new(server.issuer().user_pool(), ClientIds::only([CLIENT]));
    let verifier = block_on_within(s(20), Verifier::builder(rules.clone()).connect()).unwrap();
    server.issuer().rotate();
    let token = server.issuer().machine_token(CLIENT).sign();
    block_on_within(s(20), verifier.verify(&token)).unwrap();

    let name = format!("tower-cognito-executors-{}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    fs::write(&file, server.issuer().jwks_json()).unwrap();
    let verifier = Verifier::builder(Rules::new(
        rules.pool().clone().with_jwks_file(&file),
        ClientIds::only([CLIENT]),
    ));
    let verifier = block_on_within(s(20), verifier.connect()).unwrap();
    block_on_within(s(20), verifier.verify(&token)).unwrap();
    fs::remove_file(&file).unwrap();
}

#[test]
fn verifier_of_real_time_finds_a_new_key_inside_of_paused_time() {
    let issuer = issuer();
    issuer.takes(ms(100));
    let verifier = connect_lazy(&issuer);
    block_on_within(s(20), verifier.ready(s(20))).unwrap();
    issuer.answers(both_sets());
    // The clock of this runtime jumps over every limit while it waits.
    paused_runtime().block_on(verifier.verify(&keys().new_token)).unwrap();
}

#[test]
fn panic_in_a_fetch_does_not_affect_other_verifiers() {
    let panics = connect_lazy(&Fake::new(Reply::Panic));
    let error = block_on_within(s(20), panics.refresh()).unwrap_err();
    assert_eq!(error.kind().as_str(), "panicked");
    let issuer = issuer();
    let verifier = connect_lazy(&issuer);
    check_every_wait(&issuer, &verifier, |wait| block_on_within(s(30), wait));
    assert_eq!(block_on_within(s(20), panics.refresh()).unwrap_err().kind().as_str(), "panicked");
}

/// How many threads of this process have the name; `None` if the system does not tell.
fn threads() -> Option<usize> {
    let names = fs::read_dir("/proc/self/task").ok()?.flatten();
    // A thread may end between the two reads.
    let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    Some(names.filter(|name| name.trim_end() == THREAD).count())
}

#[test]
fn all_verifiers_share_one_thread_which_ends_with_the_last() {
    if threads().is_none()
        || !is_only_test("executors::all_verifiers_share_one_thread_which_ends_with_the_last")
    {
        return;
    }
    let ends = || {
        let begun = Instant::now();
        while threads() != Some(0) {
            assert!(begun.elapsed() < s(20), "{:?} threads are left", threads());
            thread::sleep(ms(1));
        }
    };
    assert_eq!(threads(), Some(0));
    for _ in 0..3 {
        let issuer = issuer();
        let verifiers = [(); 20].map(|()| connect_lazy(&issuer));
        for verifier in &verifiers {
            block_on_within(s(20), verifier.ready(s(20))).unwrap();
        }
        assert_eq!(threads(), Some(1));
        let [last, others @ ..] = verifiers;
        drop(others);
        issuer.answers(both_sets());
        block_on_within(s(20), last.verify(&keys().new_token)).unwrap();
        assert_eq!(threads(), Some(1));
        drop(last);
        ends();
    }
    // `shutdown` ends it too, while the verifier continues.
    let issuer = issuer();
    let verifier = connect_lazy(&issuer);
    block_on_within(s(20), verifier.ready(s(20))).unwrap();
    assert_eq!(threads(), Some(1));
    block_on_within(s(20), verifier.shutdown());
    ends();
    assert_eq!(kind(&verifier, &keys().old_token), None);
    // Neither fixed keys nor paused time need it.
    let paused = paused_runtime();
    let verifier = paused.block_on(async {
        let verifier = connect_lazy(&issuer);
        tokio::time::sleep(s(1)).await;
        verifier
    });
    assert_eq!(kind(&verifier, &keys().old_token), None);
    super::support::verifier();
    assert_eq!(threads(), Some(0));
}
