//! Cached tokens: the result is always the one that a verifier without a cache gives. The metric of
//! hits shows where a result came from. The numbers are those of the hostile inputs.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use allocation_counter::measure;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tonic::service::Interceptor;
use tower::{Layer, ServiceExt, service_fn};
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    AccessToken, CheckError, ClientIds, Jwks, JwksDocument, RefreshError, Rejection, RejectionBody,
    RequireToken, Rules, TestIssuer, TokenInterceptor, UserPool, Verifier, VerifyError,
    VerifyErrorKind as Kind, verify,
};

use super::fake_issuer::{
    self, Dice, Fake, HOUR, Reply, both_sets, connected, keys, ms, new_set, old_set, s, set,
    unknown,
};
use super::support::{CLIENT, EmptyBody, grpc_call, issuer, machine, rules, verifier_of};

/// Whether a result came from the cache.
const HIT: bool = true;
const MISS: bool = false;

/// The `jti` of an accepted token, or why a token was rejected.
type Verdict = Result<String, Kind>;

/// Every way to present a token.
#[derive(Clone, Copy, Debug)]
enum Door {
    TryVerify,
    Verify,
    Layer,
    Interceptor,
}

impl Door {
    const ALL: [Self; 4] = [Self::TryVerify, Self::Verify, Self::Layer, Self::Interceptor];

    async fn asks(self, verifier: &Verifier, token: &str) -> Verdict {
        match self {
            Self::TryVerify => verdict(verifier.try_verify(token)),
            Self::Verify => verdict(verifier.verify(token).await),
            Self::Layer => by_layer(verifier, format!("Bearer {token}").as_bytes()).await,
            Self::Interceptor => {
                let call = grpc_call(Some(&format!("Bearer {token}")));
                match TokenInterceptor::new(verifier.clone()).call(call) {
                    Ok(call) => Ok(jti(call.extensions().get::<AccessToken>().unwrap())),
                    Err(status) => {
                        let source = std::error::Error::source(&status).unwrap();
                        Err(kind(source.downcast_ref::<Rejection>().unwrap()))
                    }
                }
            }
        }
    }
}

/// Sends the token through a layer. The header may contain any bytes.
async fn by_layer(verifier: &Verifier, authorization: &[u8]) -> Verdict {
    let seen = Arc::<Mutex<Option<Verdict>>>::default();
    let (passed, rejected) = (Arc::clone(&seen), Arc::clone(&seen));
    let layer = RequireToken::new(verifier.clone()).rejection_body(move |rejection| {
        *rejected.lock().unwrap() = Some(Err(kind(rejection)));
        RejectionBody::json(rejection)
    });
    let service = service_fn(move |request: Request<EmptyBody>| {
        *passed.lock().unwrap() = request.extensions().get::<AccessToken>().map(jti).map(Ok);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let mut request = Request::new(EmptyBody::new());
    let value = HeaderValue::from_bytes(authorization).unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    layer.layer(service).oneshot(request).await.unwrap();
    seen.lock().unwrap().take().unwrap()
}

/// A malformed header is rejected before the verifier is called.
fn kind(rejection: &Rejection) -> Kind {
    rejection.verify_error().map_or(Kind::Malformed, VerifyError::kind)
}

fn verdict(result: Result<AccessToken, VerifyError>) -> Verdict {
    result.map(|token| jti(&token)).map_err(|error| error.kind())
}

fn jti(token: &AccessToken) -> String {
    token.jwt_id().unwrap().to_owned()
}

fn jti_in(token: &str) -> String {
    let payload = URL_SAFE_NO_PAD.decode(parts(token)[1]).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().unwrap()
}

/// Returns the output, and the number of cache hits.
async fn counted<F: Future>(future: F) -> (F::Output, u64) {
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    let mut future = pin!(future);
    let output =
        poll_fn(|cx| metrics::with_local_recorder(&recorder, || future.as_mut().poll(cx))).await;
    (output, hits(&metrics))
}

/// Returns the number of cache hits since the last call.
fn hits(metrics: &Snapshotter) -> u64 {
    let hits = metrics.snapshot().into_vec().into_iter().map(|(key, _, _, value)| match value {
        DebugValue::Counter(count) if key.key().name() == "cognito_token_cache_hits_total" => count,
        _ => 0,
    });
    hits.sum()
}

/// Presents the token in one way.
async fn check_at(
    door: Door,
    name: &str,
    verifier: &Verifier,
    token: &str,
    expected: Result<(), Kind>,
    is_hit: bool,
) {
    let (verdict, hits) = counted(door.asks(verifier, token)).await;
    let expected = expected.map(|()| jti_in(token));
    assert_eq!(verdict, expected, "{name}, {door:?}");
    assert_eq!(hits, u64::from(is_hit), "{name}, {door:?}: {verdict:?}, hits");
}

/// Presents the token once, to [`Verifier::try_verify`].
async fn check(
    name: &str,
    verifier: &Verifier,
    token: &str,
    expected: Result<(), Kind>,
    is_hit: bool,
) {
    check_at(Door::TryVerify, name, verifier, token, expected, is_hit).await;
}

/// Presents the token in every way.
async fn check_everywhere(
    name: &str,
    verifier: &Verifier,
    token: &str,
    expected: Result<(), Kind>,
    is_hit: bool,
) {
    for door in Door::ALL {
        check_at(door, name, verifier, token, expected, is_hit).await;
    }
}

/// Presents a valid token until it is cached.
async fn cache(name: &str, verifier: &Verifier, token: &str) {
    check(name, verifier, token, Ok(()), MISS).await;
    check_everywhere(name, verifier, token, Ok(()), HIT).await;
}

/// Returns a verifier that verifies every signature, and caches only a header.
fn without_token_cache(jwks: Jwks, rules: Rules, now: SystemTime) -> Verifier {
    let builder = Verifier::builder(rules).clock(move || now).token_cache_bytes(0);
    builder.build_with_jwks(jwks).unwrap()
}

/// A clock that a test sets.
#[derive(Clone)]
struct Time(Arc<Mutex<SystemTime>>);

impl Time {
    fn new(seconds: u64) -> Self {
        Self(Arc::new(Mutex::new(UNIX_EPOCH + s(seconds))))
    }

    fn set(&self, time: SystemTime) {
        *self.0.lock().unwrap() = time;
    }

    fn clock(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let time = self.clone();
        move || *time.0.lock().unwrap()
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns unsigned texts that are almost this token. Edits of one character are in `mutated_tokens`.
fn near_misses(token: &str) -> Vec<(&'static str, String)> {
    let [header, payload, signature] = parts(token);
    let other = machine("activity/*").claim("sub", "another").sign();
    let [_, other_payload, other_signature] = parts(&other);
    let forger = TestIssuer::new();
    let forged = forger.machine_token(CLIENT).sign_texts(&text_of(header), &text_of(payload));
    let sampled = token.len() - 64..token.len() - 32;
    let keep_sample = |text: &str| {
        let mut text = text.to_owned();
        text.replace_range(sampled.clone(), &token[sampled.clone()]);
        text
    };
    let filler = |character: char| character.to_string().repeat(signature.len());
    let claims = text_of(payload).replace(CLIENT, &CLIENT.to_uppercase());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    vec![
        ("the signature of another", format!("{header}.{payload}.{other_signature}")),
        ("the payload of another", format!("{header}.{other_payload}.{signature}")),
        ("a forger's with the same sample", keep_sample(&forged)),
        ("a forger's signature", forged),
        ("the same sample among A", keep_sample(&format!("{header}.{payload}.{}", filler('A')))),
        ("another payload, the same sample", keep_sample(&format!("{signed}.{}", filler('_')))),
        ("the same sample and nothing else", keep_sample(&"x".repeat(token.len()))),
        ("all but the header", format!("{}.{payload}.{signature}", header.to_lowercase())),
        ("upper case", token.to_uppercase()),
        ("twice", format!("{token}{token}")),
    ]
}

fn text_of(part: &str) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn h093_text_that_is_almost_a_cached_token_is_rejected() {
    let token = machine("activity/*").sign();
    let verifier = verifier_of(rules());
    cache("first", &verifier, &token).await;
    for (name, text) in near_misses(&token) {
        assert_ne!(text, token, "{name}");
        let (verdict, hits) = counted(Door::TryVerify.asks(&verifier, &text)).await;
        let fresh = verify(&text, &issuer().jwks(), &rules(), SystemTime::now());
        assert_eq!(verdict.unwrap_err(), fresh.unwrap_err().kind(), "{name}");
        assert_eq!(hits, 0, "{name}");
    }
    check_everywhere("still", &verifier, &token, Ok(()), HIT).await;
}

const EXP: u64 = 2_000_000_000;
const NBF: u64 = EXP - 3_600;

#[tokio::test]
async fn h094_times_are_checked_again_at_each_hit() {
    let nbf = || machine("a/b").claim("nbf", NBF);
    let nanosecond = Duration::from_nanos(1);
    for leeway in [Duration::ZERO, s(60), s(300)] {
        let (exp, nbf_time) = (UNIX_EPOCH + s(EXP), UNIX_EPOCH + s(NBF));
        let times = [
            exp - s(1),
            exp - nanosecond,
            exp,
            exp + s(1),
            exp + leeway - nanosecond,
            exp + leeway,
            exp + HOUR,
            exp + s(1 << 40),
            // The clock goes back.
            exp - s(1_800),
            nbf_time + s(1),
            nbf_time,
            nbf_time - nanosecond,
            nbf_time - leeway,
            nbf_time - leeway - nanosecond,
            nbf_time - HOUR,
            UNIX_EPOCH,
            UNIX_EPOCH - s(1 << 33),
            exp - s(1_800),
        ];
        for (name, token) in [
            ("with nbf", nbf().claim("exp", EXP).sign()),
            ("without nbf", machine("a/b").claim("exp", EXP).sign()),
        ] {
            let time = Time::new(EXP - 1_800);
            let rules = rules().with_leeway(leeway);
            let builder = Verifier::builder(rules.clone()).clock(time.clock());
            let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
            cache(name, &verifier, &token).await;
            for now in times {
                let name = format!("{name}, leeway {leeway:?}, at {now:?}");
                time.set(now);
                let expected = if now >= exp + leeway {
                    Err(Kind::Expired)
                } else if name.starts_with("with nbf") && nbf_time > now + leeway {
                    Err(Kind::NotYetValid)
                } else {
                    Ok(())
                };
                check_everywhere(&name, &verifier, &token, expected, HIT).await;
                let result = verify(&token, &issuer().jwks(), &rules, now);
                assert_eq!(result.map(drop).map_err(|error| error.kind()), expected, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn h094_expiry_is_checked_before_the_applications_check_at_a_hit() {
    let is_revoked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_revoked);
    let rules = rules().with_check(move |_| match seen.load(Ordering::SeqCst) {
        true => Err(CheckError::Revoked),
        false => Ok(()),
    });
    let time = Time::new(EXP - 1);
    let builder = Verifier::builder(rules.clone()).clock(time.clock());
    let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
    let token = machine("a/b").claim("exp", EXP).sign();
    cache("first", &verifier, &token).await;
    is_revoked.store(true, Ordering::SeqCst);
    check_everywhere("revoked", &verifier, &token, Err(Kind::Revoked), HIT).await;
    let now = UNIX_EPOCH + s(EXP);
    time.set(now);
    check_everywhere("both", &verifier, &token, Err(Kind::Expired), HIT).await;
    let result = verify(&token, &issuer().jwks(), &rules, now);
    assert_eq!(result.unwrap_err().kind(), Kind::Expired);
}

/// The ID of the old key with the numbers of the new key.
fn replaced_set() -> Reply {
    let mut new: serde_json::Value = serde_json::from_str(&keys().new).unwrap();
    let old: serde_json::Value = serde_json::from_str(&keys().old).unwrap();
    new["kid"] = old["kid"].clone();
    Reply::Set(set(&[&new.to_string(), &keys().new]))
}

/// Ways to make a verifier fetch.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Asked,
    Due,
    UnknownKey,
}

impl Cause {
    async fn comes(self, verifier: &Verifier) {
        match self {
            Self::Asked => verifier.refresh().await.unwrap(),
            Self::Due => sleep(s(400)).await,
            Self::UnknownKey => drop(verifier.verify(&unknown(1)).await),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn h095_removed_key_invalidates_its_cached_tokens() {
    let (old, new) = (&keys().old_token, &keys().new_token);
    for (reply, expected) in [(new_set(), Kind::UnknownKey), (replaced_set(), Kind::BadSignature)] {
        for cause in [Cause::Asked, Cause::Due, Cause::UnknownKey] {
            for door in Door::ALL {
                let name = format!("{expected:?}, {cause:?}");
                let (fake, verifier) = connected(both_sets()).await;
                let sharer = verifier.share_keys(fake_issuer::rules()).unwrap();
                for verifier in [&verifier, &sharer] {
                    cache(&name, verifier, old).await;
                    cache(&name, verifier, new).await;
                }
                fake.answers(reply.clone());
                cause.comes(&verifier).await;
                for verifier in [&verifier, &sharer] {
                    // The first lookup after the key change is made in this way.
                    check_at(door, &name, verifier, old, Err(expected), MISS).await;
                    check_everywhere(&name, verifier, old, Err(expected), MISS).await;
                    cache(&name, verifier, new).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn h095_restored_key_does_not_revive_cached_tokens() {
    let old = &keys().old_token;
    let (fake, verifier) = connected(old_set()).await;
    cache("first", &verifier, old).await;
    fake.answers(new_set());
    verifier.refresh().await.unwrap();
    // It is not presented while its key is missing, so only the key change can have removed it.
    fake.answers(old_set());
    verifier.refresh().await.unwrap();
    cache("again", &verifier, old).await;
}

#[tokio::test(start_paused = true)]
async fn h095_unchanged_keys_keep_cached_tokens() {
    let (old, new) = (&keys().old_token, &keys().new_token);
    let (fake, verifier) = connected(both_sets()).await;
    cache("old", &verifier, old).await;
    cache("new", &verifier, new).await;
    let unusable = r#"{"kty":"EC","kid":"ec","crv":"P-256"}"#;
    let (old_key, new_key) = (&*keys().old, &*keys().new);
    let spaced = set(&[old_key, new_key]).replace(',', " , ");
    for (name, reply) in [
        ("the same document", both_sets()),
        ("another order", Reply::Set(set(&[new_key, old_key]))),
        ("one twice", Reply::Set(set(&[old_key, old_key, new_key]))),
        ("one more that cannot be used", Reply::Set(set(&[old_key, unusable, new_key]))),
        ("white space", Reply::Set(spaced)),
        ("an outage", Reply::Status(503)),
        ("no key set", Reply::Set("{}".to_owned())),
        ("an empty set", Reply::Set(set(&[]))),
        ("the same document again", both_sets()),
    ] {
        fake.answers(reply);
        let before = fake.requests();
        let _ = verifier.refresh().await;
        assert!(fake.requests() > before, "{name}");
        for token in [old, new] {
            check_everywhere(name, &verifier, token, Ok(()), HIT).await;
        }
        sleep(HOUR).await;
        assert!(fake.requests() > before + 10, "{name}");
        for token in [old, new] {
            check_everywhere(name, &verifier, token, Ok(()), HIT).await;
        }
    }
    // A set with one more key is another set: each token is verified again.
    fake.answers(Reply::Set(set(&[old_key, new_key, &keys().id])));
    verifier.refresh().await.unwrap();
    cache("old, one key more", &verifier, old).await;
    cache("new, one key more", &verifier, new).await;
}

/// A check that blocks once, until it is released.
struct Stop {
    rules: Rules,
    is_armed: Arc<AtomicBool>,
    reached: tokio::sync::mpsc::UnboundedReceiver<()>,
    resume: std::sync::mpsc::Sender<()>,
}

impl Stop {
    fn new() -> Self {
        let (reach, reached) = tokio::sync::mpsc::unbounded_channel();
        let (resume, resumed) = std::sync::mpsc::channel();
        let resumed = Mutex::new(resumed);
        let is_armed = Arc::new(AtomicBool::new(false));
        let armed = Arc::clone(&is_armed);
        let rules = fake_issuer::rules().with_check(move |_| {
            if armed.swap(false, Ordering::SeqCst) {
                reach.send(()).unwrap();
                resumed.lock().unwrap().recv().unwrap();
            }
            Ok(())
        });
        Self { rules, is_armed, reached, resume }
    }

    /// Presents the token on another thread, and does the other thing while it is verified there.
    async fn meanwhile(
        &mut self,
        door: Door,
        verifier: &Verifier,
        token: &str,
        other: impl Future<Output = ()>,
    ) -> Verdict {
        self.is_armed.store(true, Ordering::SeqCst);
        let (verifier, token) = (verifier.clone(), token.to_owned());
        let handle = Handle::current();
        let mut asked = spawn_blocking(move || handle.block_on(door.asks(&verifier, &token)));
        tokio::select! {
            reached = self.reached.recv() => reached.unwrap(),
            verdict = &mut asked => panic!("no check was made: {verdict:?}"),
        }
        other.await;
        self.resume.send(()).unwrap();
        asked.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn h095_token_verified_during_a_key_change_is_not_a_hit_afterwards() {
    let token = &keys().old_token;
    for was_known in [false, true] {
        for (reply, expected) in [
            (new_set(), Err(Kind::UnknownKey)),
            (replaced_set(), Err(Kind::BadSignature)),
            (Reply::Set(set(&[&keys().old, &keys().id])), Ok(())),
        ] {
            for door in Door::ALL {
                let name = format!("{expected:?}, {door:?}, known before: {was_known}");
                let mut stop = Stop::new();
                let fake = Fake::new(both_sets());
                let builder = fake.builder_for(stop.rules.clone());
                let verifier = builder.connect().await.unwrap();
                if was_known {
                    cache(&name, &verifier, token).await;
                }
                let swap = async {
                    fake.answers(reply.clone());
                    verifier.refresh().await.unwrap();
                };
                let verdict = stop.meanwhile(door, &verifier, token, swap).await;
                assert_eq!(verdict, Ok(jti_in(token)), "{name}: the keys it began with");
                check_at(door, &name, &verifier, token, expected, MISS).await;
                check(&name, &verifier, token, expected, expected.is_ok()).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn h095_token_verified_while_keys_change_twice_is_not_a_hit_afterwards() {
    let token = &keys().old_token;
    for door in Door::ALL {
        let mut stop = Stop::new();
        let fake = Fake::new(both_sets());
        let verifier = fake.builder_for(stop.rules.clone()).connect().await.unwrap();
        let swaps = async {
            for reply in [new_set(), both_sets()] {
                fake.answers(reply);
                verifier.refresh().await.unwrap();
            }
        };
        let verdict = stop.meanwhile(door, &verifier, token, swaps).await;
        assert_eq!(verdict, Ok(jti_in(token)), "{door:?}");
        cache("there and back", &verifier, token).await;
    }
}

#[tokio::test(start_paused = true)]
async fn h095_token_that_waited_for_its_key_is_cached_with_that_key() {
    for door in [Door::Verify, Door::Layer] {
        let (fake, verifier) = connected(old_set()).await;
        fake.takes(ms(300));
        fake.answers(both_sets());
        let token = &keys().new_token;
        check_at(door, "waits", &verifier, token, Ok(()), MISS).await;
        check_everywhere("waited", &verifier, token, Ok(()), HIT).await;
        fake.answers(old_set());
        verifier.refresh().await.unwrap();
        check("its key is gone", &verifier, token, Err(Kind::UnknownKey), MISS).await;
    }
}

#[tokio::test]
async fn h096_verifiers_with_different_rules_share_no_cached_result() {
    let token = machine("a/b").claim("aud", "https://a").claim("cognito:groups", ["g"]).sign();
    let pool = || issuer().user_pool();
    let time = Time::new(0);
    let exp = SystemTime::now() + HOUR;
    time.set(exp - s(1_000));
    let token_that_ends = machine("a/b").expires_at(exp).sign();
    let first = Verifier::builder(Rules::new(pool(), ClientIds::any()).with_leeway(s(300)))
        .clock(time.clock())
        .build_with_jwks(issuer().jwks())
        .unwrap();
    for (name, other, expected) in [
        ("the same rules", Rules::new(pool(), ClientIds::any()), Ok(())),
        ("this client", rules(), Ok(())),
        ("another client", Rules::new(pool(), ClientIds::only(["x"])), Err(Kind::WrongClient)),
        ("this audience", rules().with_audience("https://a"), Ok(())),
        ("another audience", rules().with_audience("https://b"), Err(Kind::WrongAudience)),
        ("its group", rules().with_groups(["g", "h"]), Ok(())),
        ("another group", rules().with_groups(["h"]), Err(Kind::Forbidden)),
        (
            "a check that rejects",
            rules().with_check(|_| Err(CheckError::Revoked)),
            Err(Kind::Revoked),
        ),
    ] {
        let first = first.share_keys(Rules::new(pool(), ClientIds::any())).unwrap();
        let second = first.share_keys(other).unwrap();
        cache(name, &first, &token).await;
        check(name, &second, &token, expected, MISS).await;
        check_everywhere(name, &second, &token, expected, expected.is_ok()).await;
        check_everywhere(name, &first, &token, Ok(()), HIT).await;
        check_everywhere(name, &first.clone(), &token, Ok(()), HIT).await;
    }
    // Each verifier uses its own leeway, at a hit as well.
    let second = first.share_keys(rules()).unwrap();
    cache("leeway", &first, &token_that_ends).await;
    cache("no leeway", &second, &token_that_ends).await;
    // Claims are in whole seconds.
    time.set(exp + s(1));
    check_everywhere("leeway", &first, &token_that_ends, Ok(()), HIT).await;
    check_everywhere("no leeway", &second, &token_that_ends, Err(Kind::Expired), HIT).await;
}

#[tokio::test]
async fn h096_verifiers_share_no_cached_result() {
    let token = machine("a/b").sign();
    let (first, second) = (verifier_of(rules()), verifier_of(rules()));
    cache("first", &first, &token).await;
    cache("second", &second, &token).await;
    // Other keys under the same issuer: the cache of the first verifier does not apply to this one.
    let other = Verifier::builder(rules()).build_with_jwks(TestIssuer::new().jwks()).unwrap();
    check_everywhere("other keys", &other, &token, Err(Kind::UnknownKey), MISS).await;
    check_everywhere("first", &first, &token, Ok(()), HIT).await;
}

/// Two pools of one verifier, with the same keys except for the changes of a test.
struct Pools {
    verifier: Verifier,
    sets: Arc<[Mutex<String>; 2]>,
    time: Time,
}

const POOLS: [&str; 2] = ["https://blue.example/pool", "https://green.example/pool"];

impl Pools {
    async fn new(check: [bool; 2]) -> Self {
        let sets = Arc::new([(); 2].map(|()| Mutex::new(set(&[&keys().old, &keys().new]))));
        let served = Arc::clone(&sets);
        let fetch = move |url: String| {
            let pool = usize::from(!url.starts_with(POOLS[0]));
            assert!(url.starts_with(POOLS[pool]));
            let document = JwksDocument::new(served[pool].lock().unwrap().clone());
            ready(Ok::<_, RefreshError>(document))
        };
        let [blue, green] = [0, 1].map(|pool| {
            let rules = Rules::new(UserPool::from_issuer(POOLS[pool]).unwrap(), ClientIds::any());
            // Only one of them has leeway.
            let leeway = [Duration::ZERO, s(300)][pool];
            let result = if check[pool] { Ok(()) } else { Err(CheckError::Forbidden) };
            rules.with_leeway(leeway).with_check(move |_| result)
        });
        let time = Time::new(EXP - 1_000);
        let builder =
            Verifier::builder(blue).add_pool(green).clock(time.clock()).jwks_fetcher(fetch);
        Self { verifier: builder.connect().await.unwrap(), sets, time }
    }

    fn token(pool: usize) -> String {
        let token = keys().issuer.machine_token(CLIENT).claim("iss", POOLS[pool]);
        token.claim("exp", EXP).sign()
    }
}

#[tokio::test(start_paused = true)]
async fn h096_pools_of_one_verifier_share_no_cached_result() {
    let Pools { verifier, sets, time } = Pools::new([true, true]).await;
    let [blue, green] = [Pools::token(0), Pools::token(1)];
    for token in [&blue, &green] {
        cache("both", &verifier, token).await;
    }
    // Each token is verified under the rules of its own pool.
    time.set(UNIX_EPOCH + s(EXP));
    check_everywhere("no leeway", &verifier, &blue, Err(Kind::Expired), HIT).await;
    check_everywhere("leeway", &verifier, &green, Ok(()), HIT).await;
    time.set(UNIX_EPOCH + s(EXP - 1_000));
    // Each cached token is used as long as its own pool has its keys.
    for (pool, gone, kept) in [(1, &green, &blue), (0, &blue, &green)] {
        *sets[pool].lock().unwrap() = set(&[&keys().old]);
        verifier.refresh().await.unwrap();
        check_everywhere("gone", &verifier, gone, Err(Kind::UnknownKey), MISS).await;
        check_everywhere("kept", &verifier, kept, Ok(()), HIT).await;
        *sets[pool].lock().unwrap() = set(&[&keys().old, &keys().new]);
        verifier.refresh().await.unwrap();
        cache("back", &verifier, gone).await;
    }
}

#[tokio::test(start_paused = true)]
async fn h096_check_of_one_pool_does_not_apply_to_the_other() {
    for good in [0, 1] {
        let Pools { verifier, .. } = Pools::new([good == 0, good == 1]).await;
        let bad = 1 - good;
        let name = format!("pool {good}");
        cache(&name, &verifier, &Pools::token(good)).await;
        check_everywhere(&name, &verifier, &Pools::token(bad), Err(Kind::Forbidden), MISS).await;
    }
}

#[tokio::test]
async fn h097_cache_of_any_size_gives_the_same_results() {
    let tokens = [machine("a/b").sign(), issuer().user_token(CLIENT, "alice").sign()];
    let bad = machine("a/b").claim("client_id", "another").sign();
    for bytes in [1, 100, 1_024, 4_096, 1 << 20, usize::MAX] {
        let builder = Verifier::builder(rules()).token_cache_bytes(bytes);
        let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
        let (verdicts, hits) = counted(async {
            let mut verdicts = Vec::new();
            for _ in 0..3 {
                for token in tokens.iter().chain([&bad]) {
                    verdicts.push(Door::TryVerify.asks(&verifier, token).await);
                }
            }
            verdicts
        })
        .await;
        let [first, second] = [0, 1].map(|index| Ok(jti_in(&tokens[index])));
        let round = [first, second, Err(Kind::WrongClient)];
        assert_eq!(verdicts, [round.clone(), round.clone(), round].concat(), "{bytes}");
        match bytes {
            1 | 100 | 1_024 => assert_eq!(hits, 0, "{bytes}"),
            4_096 => assert!(hits <= 4, "{bytes}: {hits}"),
            _ => assert_eq!(hits, 4, "{bytes}"),
        }
    }
}

#[tokio::test]
async fn h098_rejected_token_is_not_cached() {
    let good = || machine("a/b").claim("aud", "https://a").claim("cognito:groups", ["g"]);
    let time = Time::new(EXP - 1_000);
    let is_revoked = Arc::new(AtomicBool::new(true));
    let revoked = Arc::clone(&is_revoked);
    let rules = rules().with_audience("https://a").with_groups(["g"]).with_check(move |token| {
        match token.scopes().contains("revoked/x") && revoked.load(Ordering::SeqCst) {
            true => Err(CheckError::Revoked),
            false => Ok(()),
        }
    });
    let builder = Verifier::builder(rules).clock(time.clock());
    let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
    let early = good().claim("nbf", EXP - 900).claim("exp", EXP).sign();
    let rejected = good().claim("scope", "revoked/x").claim("exp", EXP).sign();
    let late = good().claim("exp", EXP - 1_000).sign();
    let whole = good().claim("exp", EXP).sign();
    let other = good().claim("exp", EXP).sign();
    let lasting = |token: TokenBuilder| token.claim("exp", EXP).sign();
    for (expected, token) in [
        (Kind::NotYetValid, early.clone()),
        (Kind::Revoked, rejected.clone()),
        (Kind::Expired, late.clone()),
        (Kind::BadSignature, format!("{}.{}", whole.rsplit_once('.').unwrap().0, parts(&other)[2])),
        (Kind::Forbidden, lasting(good().claim("cognito:groups", ["x"]))),
        (Kind::InvalidClaim, lasting(good().without_claim("sub"))),
        (Kind::InvalidHeader, lasting(good().header("crit", ["x"]))),
        (Kind::SenderConstrained, lasting(good().claim("cnf", "x"))),
        (Kind::UnknownIssuer, lasting(good().claim("iss", "https://x"))),
        (Kind::UnknownKey, lasting(good().header("kid", "x"))),
        (Kind::WrongAudience, lasting(good().claim("aud", "https://b"))),
        (Kind::WrongClient, lasting(good().claim("client_id", "another"))),
        (Kind::WrongTokenUse, lasting(good().claim("token_use", "id"))),
    ] {
        let name = format!("{expected:?}");
        for _ in 0..2 {
            check_everywhere(&name, &verifier, &token, Err(expected), MISS).await;
        }
    }
    // A token that becomes valid is then verified as if it had never been presented.
    time.set(UNIX_EPOCH + s(EXP - 900));
    cache("its time has come", &verifier, &early).await;
    is_revoked.store(false, Ordering::SeqCst);
    cache("no longer revoked", &verifier, &rejected).await;
    time.set(UNIX_EPOCH + s(EXP - 1_001));
    cache("not expired yet", &verifier, &late).await;
}

#[tokio::test]
async fn h098_applications_check_runs_once_at_every_hit() {
    let (calls, answer) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(Ok(()))));
    let (counter, said) = (Arc::clone(&calls), Arc::clone(&answer));
    let rules = rules().with_check(move |token| {
        assert_eq!(token.client_id(), CLIENT);
        counter.fetch_add(1, Ordering::SeqCst);
        *said.lock().unwrap()
    });
    let verifier = verifier_of(rules);
    let token = machine("a/b").sign();
    cache("first", &verifier, &token).await;
    let mut expected = 1 + Door::ALL.len();
    for (name, says, verdict) in [
        ("forbidden", Err(CheckError::Forbidden), Err(Kind::Forbidden)),
        ("good", Ok(()), Ok(())),
        ("revoked", Err(CheckError::Revoked), Err(Kind::Revoked)),
        ("good again", Ok(()), Ok(())),
    ] {
        *answer.lock().unwrap() = says;
        check_everywhere(name, &verifier, &token, verdict, HIT).await;
        expected += Door::ALL.len();
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn h098_stale_keys_make_cached_tokens_unavailable() {
    for ahead in [0, 7_200] {
        let fake = Fake::new(old_set());
        let builder = || fake.builder().max_key_age(HOUR);
        let verifier = builder().connect().await.unwrap();
        let forgetful = builder().token_cache_bytes(0).connect().await.unwrap();
        let (token, name) = (&keys().old_token, format!("{ahead} s ahead"));
        cache(&name, &verifier, token).await;
        fake.answers(Reply::Status(503));
        if ahead == 0 {
            sleep(HOUR - s(1)).await;
            check_everywhere("a second before", &verifier, token, Ok(()), HIT).await;
            sleep(s(1)).await;
        } else {
            // As after the machine was suspended: only the time of day has advanced.
            fake.set_ahead(ahead);
        }
        check_everywhere(&name, &verifier, token, Err(Kind::KeysUnavailable), HIT).await;
        check_everywhere(&name, &forgetful, token, Err(Kind::KeysUnavailable), MISS).await;
        for verifier in [&verifier, &forgetful] {
            let pause = verifier.try_verify(token).unwrap_err().retry_after().unwrap();
            assert!((s(1)..=s(30)).contains(&pause), "{name}: {pause:?}");
        }
        // With the same keys again, the cached tokens are used again.
        fake.answers(old_set());
        verifier.refresh().await.unwrap();
        check_everywhere(&name, &verifier, token, Ok(()), HIT).await;
        // With other keys, they are not.
        fake.answers(new_set());
        verifier.refresh().await.unwrap();
        check_everywhere(&name, &verifier, token, Err(Kind::UnknownKey), MISS).await;
    }
}

#[tokio::test]
async fn h098_cache_that_is_off_caches_nothing() {
    let token = machine("a/b").sign();
    let builder = Verifier::builder(rules()).token_cache_bytes(0);
    let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
    for _ in 0..2 {
        check_everywhere("off", &verifier, &token, Ok(()), MISS).await;
        // A verifier that shares the keys has the same setting.
        let sharer = verifier.share_keys(rules()).unwrap();
        check_everywhere("off for others", &sharer, &token, Ok(()), MISS).await;
        check_everywhere("off for others", &sharer, &token, Ok(()), MISS).await;
    }
}

#[test]
fn h100_threads_get_the_claims_of_the_token_that_they_present() {
    const THREADS: u64 = 4;

    // Room for about half of them.
    let builder = Verifier::builder(rules()).token_cache_bytes(32 * 1_024);
    let verifier = builder.build_with_jwks(issuer().jwks()).unwrap();
    let good = (0..32).map(|number| {
        let subject = format!("subject {number}");
        let token = issuer().user_token(CLIENT, "alice").claim("sub", &subject).sign();
        (token.clone(), Ok((subject, jti_in(&token))))
    });
    let good = good.collect::<Vec<_>>();
    let bad = (0..8).map(|number: usize| {
        let ([header, payload, _], other) = (parts(&good[number].0), parts(&good[number + 8].0));
        (format!("{header}.{payload}.{}", other[2]), Err(Kind::BadSignature))
    });
    let tokens = bad.chain(good.iter().cloned()).collect::<Vec<_>>();
    let start = Barrier::new(usize::try_from(THREADS).unwrap());
    let hits = thread::scope(|scope| {
        let threads = (0..THREADS).map(|seed| {
            let (tokens, verifier, start) = (&tokens, &verifier, &start);
            scope.spawn(move || {
                let recorder = DebuggingRecorder::new();
                let metrics = recorder.snapshotter();
                metrics::with_local_recorder(&recorder, || {
                    let mut dice = Dice(seed);
                    start.wait();
                    for _ in 0..1_500 {
                        let index = usize::try_from(dice.below(40)).unwrap();
                        let (token, expected) = &tokens[index];
                        let said = verifier.try_verify(token);
                        let said = said.map(|token| (token.subject().to_owned(), jti(&token)));
                        assert_eq!(&said.map_err(|error| error.kind()), expected, "{index}");
                    }
                });
                hits(&metrics)
            })
        });
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    // Some tokens were cached, and some were evicted.
    assert!((100..4_500).contains(&hits), "{hits}");
}

/// Tells the threads of a test that it has ended, even if it has failed.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn h100_after_a_key_change_no_thread_gets_a_cached_token_accepted() {
    let (fake, verifier) = connected(both_sets()).await;
    let is_swapped = Arc::new(AtomicBool::new(false));
    let over = Over(Arc::default());
    let accepted = Arc::<AtomicUsize>::default();
    let threads = (0..3).map(|_| {
        let (verifier, is_swapped) = (verifier.clone(), Arc::clone(&is_swapped));
        let is_over = Arc::clone(&over.0);
        let accepted = Arc::clone(&accepted);
        spawn_blocking(move || {
            let mut after = 0;
            while after < 50 && !is_over.load(Ordering::SeqCst) {
                // Read before the token is presented, so that it is presented after the key change.
                let is_after = is_swapped.load(Ordering::SeqCst);
                match verifier.try_verify(&keys().old_token).map_err(|error| error.kind()) {
                    Err(Kind::UnknownKey) => {}
                    Ok(_) if !is_after => {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    other => panic!("after the swap: {is_after}, {other:?}"),
                }
                after += usize::from(is_after);
            }
        })
    });
    let threads = threads.collect::<Vec<_>>();
    for round in 0..40 {
        let before = accepted.load(Ordering::SeqCst);
        while round % 2 == 0 && accepted.load(Ordering::SeqCst) == before {
            assert!(!threads.iter().any(JoinHandle::is_finished), "one has failed");
            tokio::task::yield_now().await;
        }
        fake.answers(if round % 2 == 0 { new_set() } else { both_sets() });
        verifier.refresh().await.unwrap();
        let expected = if round % 2 == 0 { Err(Kind::UnknownKey) } else { Ok(()) };
        let verdict = verifier.try_verify(&keys().old_token).map(drop);
        assert_eq!(verdict.map_err(|error| error.kind()), expected, "round {round}");
    }
    fake.answers(new_set());
    verifier.refresh().await.unwrap();
    is_swapped.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.await.unwrap();
    }
    assert!(accepted.load(Ordering::SeqCst) >= 20);
}

// The header of the first token that a key set has verified is cached, and an identical one is not
// parsed again. Every other header must have the result that it would have without the cache.

/// Each vector of a category about headers is presented right after each one that caches its header.
#[test]
fn h093_each_header_has_the_same_result_after_every_cached_header() {
    let categories = ["alg", "duplicates", "header", "key confusion", "kid"];
    let cases = super::vectors::vectors().iter().filter(|vector| {
        categories.contains(&vector.category) && vector.setting == ("usual", "usual")
    });
    let cases = cases.collect::<Vec<_>>();
    assert!(cases.len() > 150, "{}", cases.len());
    for first in cases.iter().filter(|vector| vector.reason.is_none()) {
        let jwks = Jwks::from_json(&first.documents[0]).unwrap();
        let verifier = without_token_cache(jwks, first.rules[0].rules(), first.time);
        assert!(verifier.try_verify(&first.token).is_ok(), "{}", first.name);
        for vector in &cases {
            let kind = verifier.try_verify(&vector.token).err().map(|error| error.kind());
            let kind = kind.map(|kind| format!("{kind:?}"));
            assert_eq!(kind.as_deref(), vector.reason, "{} after {}", vector.name, first.name);
        }
    }
}

#[test]
fn h093_cached_header_with_another_signature_is_rejected() {
    let jwks = || Jwks::from_json(set(&[&keys().old, &keys().new])).unwrap();
    let verifier = || without_token_cache(jwks(), fake_issuer::rules(), UNIX_EPOCH + s(EXP));
    let tokens = [&keys().old_token, &keys().new_token];
    for first in tokens {
        let verifier = verifier();
        assert!(verifier.try_verify(first).is_ok());
        for token in tokens {
            let [header, payload, signature] = parts(token);
            assert!(verifier.try_verify(token).is_ok(), "a token of the other key");
            for other in tokens {
                let [other_header, other_payload, other_signature] = parts(other);
                for (name, forged) in [
                    ("header", format!("{other_header}.{payload}.{signature}")),
                    ("payload", format!("{header}.{other_payload}.{signature}")),
                    ("signature", format!("{header}.{payload}.{other_signature}")),
                ] {
                    let result = verifier.try_verify(&forged);
                    let expected = if other == token { Ok(()) } else { Err(Kind::BadSignature) };
                    let result = result.map(drop).map_err(|error| error.kind());
                    assert_eq!(result, expected, "the {name} of the other");
                }
            }
        }
    }
}

#[test]
fn h093_header_that_differs_in_one_character_is_not_a_hit() {
    let verifier = || without_token_cache(issuer().jwks(), rules(), SystemTime::now());
    let token = machine("a/b").sign();
    let (fresh, used) = (verifier(), verifier());
    assert!(used.try_verify(&token).is_ok());
    let [header, payload, signature] = parts(&token);
    let mut kinds = HashSet::new();
    let mut compare = |name: &str, header: &str| {
        let text = format!("{header}.{payload}.{signature}");
        // It accepts none of them, so it caches no header.
        let first = fresh.try_verify(&text).unwrap_err().kind();
        let later = used.try_verify(&text).unwrap_err().kind();
        assert_eq!(later, first, "{name}: {header}");
        kinds.insert(first);
    };
    for place in 0..header.len() {
        let (before, after) = (&header[..place], &header[place + 1..]);
        let now = header.as_bytes()[place];
        for byte in ALPHABET.iter().chain(b".=+/ ").filter(|byte| **byte != now) {
            compare("another character", &format!("{before}{}{after}", char::from(*byte)));
        }
        compare("one less", &format!("{before}{after}"));
        compare("one more", &format!("{before}A{}{after}", char::from(now)));
        compare("cut off", before);
        compare("its end", after);
    }
    for more in ["A", "AA", "AAA", "AAAA", "IA", "="] {
        compare("more", &format!("{header}{more}"));
    }
    for kind in [Kind::Malformed, Kind::UnsupportedAlgorithm, Kind::InvalidHeader, Kind::UnknownKey]
    {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

#[test]
fn h093_header_is_not_cached_before_its_signature_is_verified() {
    let verifier = without_token_cache(issuer().jwks(), rules(), SystemTime::now());
    let [one, two] = [machine("a/b").sign(), machine("a/b").sign()];
    let forged = format!("{}.{}", one.rsplit_once('.').unwrap().0, parts(&two)[2]);
    let mut verdict = None;
    let counted = measure(|| verdict = Some(verifier.try_verify(&forged)));
    assert_eq!(verdict.unwrap().unwrap_err().kind(), Kind::BadSignature);
    assert_eq!(counted.count_total, 0);
}

#[test]
fn h098_hit_allocates_nothing() {
    let time = Time::new(EXP - 1);
    let groups = (0..100).map(|number| format!("group {number}")).collect::<Vec<_>>();
    let rules =
        rules().with_leeway(s(1)).with_check(|token| match token.scopes().contains("revoked/x") {
            true => Err(CheckError::Revoked),
            false => Ok(()),
        });
    let user = || issuer().user_token(CLIENT, "alice").claim("cognito:groups", &groups);
    for (name, token) in [
        ("a machine's", machine("activity/*")),
        ("a user's", user()),
        ("slashes escaped", user().escaped_slashes()),
        ("of 5 KiB", machine("a/b").claim("x", "x".repeat(5_000))),
    ] {
        let token = token.claim("exp", EXP).sign();
        let verifier = Verifier::builder(rules.clone()).clock(time.clock());
        let verifier = verifier.build_with_jwks(issuer().jwks()).unwrap();
        time.set(UNIX_EPOCH + s(EXP - 1));
        let mut verdict = None;
        let mut allocations = || measure(|| verdict = Some(verifier.try_verify(&token).is_ok()));
        assert!(allocations().count_total >= 2, "{name}: the first is kept");
        for _ in 0..3 {
            assert_eq!(allocations().count_total, 0, "{name}");
        }
        time.set(UNIX_EPOCH + s(EXP + 1));
        allocations();
        assert_eq!(verdict, Some(false), "{name}, expired");
    }
}
