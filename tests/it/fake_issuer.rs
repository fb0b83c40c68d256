//! The issuer of the tests under paused time, its keys and its tokens, and what else these tests share.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower_cognito::{
    ClientIds, Degraded, FetchJwks, Health, JwksDocument, RefreshError, Rules, TestIssuer,
    Verifier, VerifierBuilder, VerifyErrorKind,
};

use super::support::CLIENT;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One issuer, generated once: its keys before and after a rotation, and tokens that do not expire
/// during a test.
pub(crate) struct Keys {
    pub(crate) issuer: TestIssuer,
    /// The members of its JWK Sets.
    pub(crate) old: String,
    pub(crate) new: String,
    pub(crate) id: String,
    pub(crate) old_token: String,
    pub(crate) new_token: String,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let issuer = TestIssuer::new();
        let [old, id] = members(&issuer).try_into().unwrap();
        let old_token = lasting(&issuer, issuer.issuer());
        issuer.rotate();
        let [new, _, _] = members(&issuer).try_into().unwrap();
        let new_token = lasting(&issuer, issuer.issuer());
        Keys { issuer, old, new, id, old_token, new_token }
    });
    &KEYS
}

pub(crate) fn members(issuer: &TestIssuer) -> Vec<String> {
    let set: serde_json::Value = serde_json::from_str(&issuer.jwks_json()).unwrap();
    set["keys"].as_array().unwrap().iter().map(ToString::to_string).collect()
}

pub(crate) fn lasting(issuer: &TestIssuer, iss: &str) -> String {
    let token = issuer.machine_token(CLIENT).claim("iss", iss);
    token.claim("exp", 9_999_999_999_u64).sign()
}

pub(crate) fn set(members: &[&str]) -> String {
    format!(r#"{{"keys":[{}]}}"#, members.join(","))
}

pub(crate) fn old_set() -> Reply {
    Reply::Set(set(&[&keys().old]))
}

pub(crate) fn new_set() -> Reply {
    Reply::Set(set(&[&keys().new]))
}

pub(crate) fn both_sets() -> Reply {
    Reply::Set(set(&[&keys().old, &keys().new]))
}

/// Returns a token whose key ID is in no set. It passes every check before that of the key.
pub(crate) fn unknown(number: u64) -> String {
    let header = format!(r#"{{"kid":"unknown-{number}","alg":"RS256"}}"#);
    let (_, rest) = keys().old_token.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
}

pub(crate) fn rules() -> Rules {
    Rules::new(keys().issuer.user_pool(), ClientIds::only([CLIENT]))
}

pub(crate) fn kind(verifier: &Verifier, token: &str) -> Option<VerifyErrorKind> {
    verifier.try_verify(token).err().map(|error| error.kind())
}

/// The response of the issuer.
#[derive(Clone)]
pub(crate) enum Reply {
    Set(String),
    Status(u16),
    RetryAfter(u64),
    Hang,
    Panic,
    /// Hangs, and panics when it is dropped.
    PanicInDrop,
    /// This set, once the semaphore has a permit.
    After(Arc<Semaphore>, String),
    /// One and the other in turns.
    ByTurns(Box<[Self; 2]>),
}

/// An issuer that answers with the reply of the test, after the time of the test, and a wall clock that
/// advances with the paused time. It records when each fetch began, and how many are open.
#[derive(Clone)]
pub(crate) struct Fake {
    reply: Arc<Mutex<Reply>>,
    takes: Arc<Mutex<Duration>>,
    times: Arc<Mutex<Vec<Instant>>>,
    urls: Arc<Mutex<Vec<Arc<str>>>>,
    threads: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) last_good: Arc<Mutex<Option<Instant>>>,
    open: Arc<AtomicUsize>,
    ahead: Arc<AtomicI64>,
}

impl Fake {
    pub(crate) fn new(reply: Reply) -> Self {
        Self {
            reply: Arc::new(Mutex::new(reply)),
            takes: Arc::default(),
            times: Arc::default(),
            urls: Arc::default(),
            threads: Arc::default(),
            last_good: Arc::default(),
            open: Arc::default(),
            ahead: Arc::default(),
        }
    }

    pub(crate) fn answers(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// Sets how long a fetch takes from now on. Its reply is the one at its end.
    pub(crate) fn takes(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }

    pub(crate) fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.times.lock().unwrap().len()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Waits until a fetch is open.
    pub(crate) async fn is_open(&self) {
        while self.open() == 0 {
            sleep(ms(100)).await;
        }
    }

    /// Sets the wall clock this many seconds ahead.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let (begun, ahead) = (Instant::now(), Arc::clone(&self.ahead));
        move || {
            let ahead = ahead.load(Ordering::SeqCst);
            let off = s(ahead.unsigned_abs());
            let now = UNIX_EPOCH + s(2_000_000_000) + begun.elapsed();
            if ahead < 0 { now - off } else { now + off }
        }
    }

    pub(crate) fn builder(&self) -> VerifierBuilder {
        self.builder_for(rules())
    }

    pub(crate) fn builder_for(&self, rules: Rules) -> VerifierBuilder {
        Verifier::builder(rules).clock(self.clock()).jwks_fetcher(self.fetcher())
    }

    /// Returns a verifier whose runtime was dropped during a fetch.
    pub(crate) fn connect_in_a_runtime_that_ends_during_a_fetch(&self) -> Verifier {
        paused_runtime().block_on(async {
            let verifier = self.builder().connect().await.unwrap();
            self.answers(Reply::Hang);
            self.is_open().await;
            verifier
        })
    }

    pub(crate) fn fetcher(&self) -> impl FetchJwks + use<> {
        let fake = self.clone();
        move |url: String| {
            fake.record(&url);
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            fake.threads.lock().unwrap().insert(thread);
            fake.fetch()
        }
    }

    /// Returns the URL of each fetch.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.urls.lock().unwrap().iter().map(|url| url.to_string()).collect()
    }

    /// Stores equal URLs once, so that they do not hide how much memory others keep.
    fn record(&self, url: &str) {
        let mut urls = self.urls.lock().unwrap();
        let last = urls.last().filter(|last| &***last == url);
        let url = last.map_or_else(|| url.into(), Arc::clone);
        urls.push(url);
    }

    /// Returns the names of the threads that fetched.
    pub(crate) fn threads(&self) -> BTreeSet<String> {
        self.threads.lock().unwrap().clone()
    }

    pub(crate) fn fetch(
        &self,
    ) -> impl Future<Output = Result<JwksDocument, RefreshError>> + Send + use<> {
        let fake = self.clone();
        async move {
            let number = {
                let mut times = fake.times.lock().unwrap();
                times.push(Instant::now());
                times.len()
            };
            fake.open.fetch_add(1, Ordering::SeqCst);
            let mut open = Open { count: Arc::clone(&fake.open), panics: false };
            let takes = *fake.takes.lock().unwrap();
            if !takes.is_zero() {
                sleep(takes).await;
            }
            let mut reply = fake.reply.lock().unwrap().clone();
            if let Reply::ByTurns(replies) = reply {
                reply = replies[number % 2].clone();
            }
            match reply {
                Reply::Set(document) => {
                    if document.contains("kid") {
                        *fake.last_good.lock().unwrap() = Some(Instant::now());
                    }
                    Ok(JwksDocument::new(document))
                }
                Reply::After(semaphore, document) => {
                    semaphore.acquire().await.unwrap().forget();
                    Ok(JwksDocument::new(document))
                }
                Reply::Status(code) => Err(RefreshError::status(code)),
                Reply::RetryAfter(seconds) => {
                    Err(RefreshError::status(503).with_retry_after(s(seconds)))
                }
                Reply::Hang => std::future::pending().await,
                Reply::Panic => resume_unwind(Box::new("this fetcher panics, and prints nothing")),
                Reply::PanicInDrop => {
                    open.panics = true;
                    std::future::pending().await
                }
                Reply::ByTurns(_) => unreachable!("turns are not nested"),
            }
        }
    }
}

/// Returns an issuer with this reply, and a verifier that has fetched its keys.
pub(crate) async fn connected(reply: Reply) -> (Fake, Verifier) {
    let fake = Fake::new(reply);
    let verifier = fake.builder().connect().await.unwrap();
    (fake, verifier)
}

/// A fetch that has begun and is not dropped yet.
struct Open {
    count: Arc<AtomicUsize>,
    panics: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        if self.panics && !std::thread::panicking() {
            resume_unwind(Box::new("this fetch panics when it is dropped"));
        }
    }
}

/// Generates the same numbers for the same seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

pub(crate) fn degraded(health: Health) -> Degraded {
    match health {
        Health::Degraded(degraded) => degraded,
        other => panic!("not degraded: {other:?}"),
    }
}

/// Returns a runtime with paused time on this thread.
pub(crate) fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Returns `true` if this process runs only this test. Otherwise runs the test in another process,
/// and returns `false`.
pub(crate) fn is_only_test(test: &str) -> bool {
    const ISOLATED: &str = "TOWER_COGNITO_ISOLATED_TEST";
    if std::env::var_os(ISOLATED).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test, "--nocapture"]).env(ISOLATED, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{test} was not found: {text}");
    false
}
