//! Starts and uses verifiers in a program that is built with `panic = "abort"`, on every kind of
//! executor. A panic anywhere ends the program, also one that would be caught otherwise.

use std::future::Future;
use std::pin::{Pin, pin};
use std::process::exit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_cognito::{
    ClientIds, Health, JwksDocument, RefreshError, Rules, TestIssuer, Verifier, VerifyErrorKind,
};

const CLIENT: &str = "5a1b2c3d4e5f6g7h8i9j0k1l2m";
/// No check takes as long.
const LIMIT: Duration = Duration::from_secs(120);

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    if cfg!(panic = "unwind") {
        eprintln!("not ok - build this program with `--profile abort`");
        exit(1);
    }
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("not ok - {panic}");
    }));
    thread::spawn(|| {
        thread::sleep(LIMIT);
        eprintln!("not ok - a wait has no end");
        exit(1);
    });

    let without_timers = Builder::new_current_thread().build().unwrap();
    check("a tokio runtime without timers", |wait| without_timers.block_on(wait));
    check("no runtime", |wait| block_on(wait));
    let with_timers = Builder::new_current_thread().enable_time().build().unwrap();
    check("a tokio runtime with timers", |wait| with_timers.block_on(wait));
    check_idle_runtime(&with_timers);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    println!("ok - the panic hook was never called");
}

type Wait<'v> = Pin<Box<dyn Future<Output = ()> + 'v>>;

fn check(executor: &str, block_on: impl Fn(Wait<'_>)) {
    let mut issuer = Issuer::new();
    let verifier = Mutex::new(None);
    block_on(Box::pin(async { *verifier.lock().unwrap() = Some(issuer.connect_lazy()) }));
    let verifier = verifier.into_inner().unwrap().unwrap();
    println!("ok - {executor}: starts");
    check_waits(executor, &mut issuer, &verifier, block_on);
}

/// The runtime that the verifier was started on still exists, but no thread drives it.
fn check_idle_runtime(runtime: &Runtime) {
    let mut issuer = Issuer::new();
    let verifier = runtime.block_on(async { issuer.connect_lazy() });
    check_waits("next to an idle runtime", &mut issuer, &verifier, |wait| block_on(wait));
}

fn check_waits(
    executor: &str,
    issuer: &mut Issuer,
    verifier: &Verifier,
    block_on: impl Fn(Wait<'_>),
) {
    block_on(Box::pin(async { verifier.ready(Duration::from_secs(20)).await.unwrap() }));
    println!("ok - {executor}: is ready");

    let begun = Instant::now();
    let unknown = issuer.issuer.machine_token(CLIENT).header("kid", "unknown").sign();
    block_on(Box::pin(async {
        let error = verifier.verify(&unknown).await.unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::UnknownKey);
    }));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    println!("ok - {executor}: an unknown key ID is rejected in time");

    issuer.rotate();
    let token = issuer.issuer.machine_token(CLIENT).sign();
    block_on(Box::pin(async {
        verifier.verify(&token).await.unwrap();
    }));
    println!("ok - {executor}: a new key is found");

    *issuer.document.lock().unwrap() = None;
    let begun = Instant::now();
    let unknown = issuer.issuer.machine_token(CLIENT).header("kid", "another").sign();
    block_on(Box::pin(async {
        verifier.verify(&unknown).await.unwrap_err();
        assert!(verifier.refresh().await.is_err());
    }));
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    println!("ok - {executor}: an issuer that hangs delays within limits");

    issuer.rotate();
    block_on(Box::pin(async { verifier.refresh().await.unwrap() }));
    assert_eq!(verifier.health(), Health::Ready);
    block_on(Box::pin(verifier.shutdown()));
    assert!(verifier.try_verify(&token).is_ok());
    println!("ok - {executor}: refreshes and shuts down");
}

/// An issuer in this process. It hangs while it has no document.
struct Issuer {
    issuer: TestIssuer,
    document: Arc<Mutex<Option<String>>>,
}

impl Issuer {
    fn new() -> Self {
        let issuer = TestIssuer::new();
        let document = Arc::new(Mutex::new(Some(issuer.jwks_json())));
        Self { issuer, document }
    }

    fn rotate(&mut self) {
        self.issuer.rotate();
        *self.document.lock().unwrap() = Some(self.issuer.jwks_json());
    }

    fn connect_lazy(&self) -> Verifier {
        let document = Arc::clone(&self.document);
        let rules = Rules::new(self.issuer.user_pool(), ClientIds::only([CLIENT]));
        let builder = Verifier::builder(rules).jwks_fetcher(move |_url| {
            let document = document.lock().unwrap().clone();
            async move {
                // The thread of the crate has timers, whatever the caller has.
                tokio::time::sleep(Duration::from_millis(20)).await;
                match document {
                    Some(document) => Ok::<_, RefreshError>(JwksDocument::new(document)),
                    None => std::future::pending().await,
                }
            }
        });
        builder.connect_lazy().unwrap()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls without any runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}
