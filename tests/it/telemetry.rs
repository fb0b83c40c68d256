//! The names and values of metrics, log events and span fields, and that none of them contains a
//! part of a token.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::service::Interceptor;
use tower::{Layer, ServiceExt};
use tower_cognito::{
    Access, AccessToken, CheckError, RequireScope, RequireToken, ScopeTable, TokenInterceptor,
    Verifier, VerifyErrorKind,
};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::fake_issuer::{
    Fake, Reply, connected, keys, ms, new_set, old_set, paused_runtime, s, unknown,
};
use super::support::{
    CLIENT, EmptyBody, Log, Plain, grpc_call, issuer, machine, request, rules, verifier,
    verifier_of,
};

/// The metrics since the last call of `take`, by name and labels: the count of a counter, the value
/// of a gauge, and the number of samples of a histogram.
struct Metrics(Snapshotter);

impl Metrics {
    fn take(&self) -> BTreeMap<String, f64> {
        let values = self.0.snapshot().into_vec().into_iter();
        let values = values.map(|(key, _, _, value)| {
            let (_, key) = key.into_parts();
            let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
            let labels = labels.collect::<Vec<_>>().join(",");
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(samples) => {
                    assert!(samples.iter().all(|time| (0.0..60.0).contains(&time.into_inner())));
                    samples.len() as f64
                }
            };
            (format!("{}{{{labels}}}", key.name()), value)
        });
        values.collect()
    }

    /// Checks that exactly these counters and histograms have changed, and by these amounts.
    #[track_caller]
    fn moved(&self, expected: &[(&str, f64)]) {
        let moved = self
            .take()
            .into_iter()
            .filter(|(name, value)| *value != 0.0 && !name.starts_with(LAST_REFRESH));
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), *value));
        assert_eq!(moved.collect::<BTreeMap<_, _>>(), expected.collect());
    }
}

/// Runs the test on this thread, so that it records only its own measurements.
fn measured<F: Future>(test: impl FnOnce(Metrics) -> F) -> F::Output {
    let recorder = DebuggingRecorder::new();
    let metrics = Metrics(recorder.snapshotter());
    metrics::with_local_recorder(&recorder, || paused_runtime().block_on(test(metrics)))
}

const ACCEPTED: &str = "cognito_verifications_total{result=accepted,reason=none}";
const HITS: &str = "cognito_token_cache_hits_total{}";
const DURATION: &str = "cognito_verify_duration_seconds{}";
const LAST_REFRESH: &str = "cognito_jwks_last_refresh_timestamp_seconds";

fn rejected(reason: &str) -> String {
    let result = "refused";
    format!("cognito_verifications_total{{result={result},reason={reason}}}")
}

fn rejection(kind: &str) -> String {
    format!("cognito_rejections_total{{kind={kind}}}")
}

/// Returns the kind of rejection that an invalid token gets.
fn rejection_of(kind: VerifyErrorKind) -> String {
    rejection(match kind {
        VerifyErrorKind::Expired => "expired_token",
        VerifyErrorKind::Forbidden => "forbidden",
        VerifyErrorKind::KeysUnavailable => "unavailable",
        _ => "invalid_token",
    })
}

fn jwks_url() -> String {
    format!("{}/.well-known/jwks.json", keys().issuer.issuer())
}

fn refreshes(result: &str) -> String {
    format!("cognito_jwks_refreshes_total{{jwks_url={},result={result}}}", jwks_url())
}

fn on_demand(result: &str) -> String {
    format!("cognito_unknown_kid_fetches_total{{jwks_url={},result={result}}}", jwks_url())
}

fn last_refresh() -> String {
    format!("{LAST_REFRESH}{{jwks_url={}}}", jwks_url())
}

async fn send(layer: &RequireToken, request: Request<EmptyBody>) -> u16 {
    layer.layer(Plain).oneshot(request).await.unwrap().status().as_u16()
}

fn bearer(token: &str) -> Request<EmptyBody> {
    request(Some(&format!("Bearer {token}")))
}

fn call(interceptor: &mut TokenInterceptor, authorization: Option<&str>) -> bool {
    interceptor.call(grpc_call(authorization)).is_ok()
}

fn past() -> SystemTime {
    SystemTime::now() - Duration::from_secs(7200)
}

/// Returns a token for each reason that depends only on the token, for the rules of [`strict`].
fn rejectable() -> Vec<(VerifyErrorKind, String)> {
    use VerifyErrorKind as Kind;

    let valid = || machine("a/b").claim("aud", "https://a").claim("cognito:groups", ["g"]);
    let swapped = valid().sign();
    let (signed, _) = swapped.rsplit_once('.').unwrap();
    let other = valid().sign();
    let (_, signature) = other.rsplit_once('.').unwrap();
    vec![
        (Kind::BadSignature, format!("{signed}.{signature}")),
        (Kind::Expired, valid().issued_at(past()).sign()),
        (Kind::Forbidden, valid().claim("cognito:groups", ["x"]).sign()),
        (Kind::InvalidClaim, valid().without_claim("sub").sign()),
        (Kind::InvalidHeader, valid().header("crit", ["x"]).sign()),
        (Kind::Malformed, "abc.def.ghi".to_owned()),
        (Kind::NotYetValid, valid().claim("nbf", 9_999_999_999_u64).sign()),
        (Kind::Revoked, valid().claim("jti", "revoked").sign()),
        (Kind::SenderConstrained, valid().claim("cnf", BTreeMap::<String, u8>::new()).sign()),
        (Kind::TooLarge, "a".repeat(16 * 1024 + 1)),
        (Kind::UnknownIssuer, valid().claim("iss", "https://x").sign()),
        (Kind::UnknownKey, valid().header("kid", "attacker").sign()),
        (Kind::UnsupportedAlgorithm, valid().header("alg", "none").sign()),
        (Kind::WrongAudience, valid().claim("aud", "https://b").sign()),
        (Kind::WrongClient, valid().claim("client_id", "another").sign()),
        (Kind::WrongTokenUse, valid().claim("token_use", "id").sign()),
    ]
}

fn strict() -> Verifier {
    let rules =
        rules().with_audience("https://a").with_groups(["g"]).with_check(|token| {
            match token.jwt_id() {
                Some("revoked") => Err(CheckError::Revoked),
                _ => Ok(()),
            }
        });
    verifier_of(rules)
}

#[test]
fn each_verification_is_counted_and_timed_once() {
    measured(async |metrics| {
        let verifier = strict();
        let layer = RequireToken::new(verifier.clone());
        let mut interceptor = TokenInterceptor::new(verifier.clone());
        for (kind, token) in rejectable() {
            let expected = rejected(kind.as_str());
            assert_eq!(verifier.try_verify(&token).unwrap_err().kind(), kind);
            metrics.moved(&[(&expected, 1.0), (DURATION, 1.0)]);
            assert_eq!(verifier.verify(&token).await.unwrap_err().kind(), kind);
            metrics.moved(&[(&expected, 1.0), (DURATION, 1.0)]);
            // Only a request is rejected; the verifier itself knows no requests.
            let rejection = rejection_of(kind);
            assert_ne!(send(&layer, bearer(&token)).await, 200, "{kind:?}");
            metrics.moved(&[(&expected, 1.0), (DURATION, 1.0), (&rejection, 1.0)]);
            assert!(!call(&mut interceptor, Some(&format!("Bearer {token}"))), "{kind:?}");
            metrics.moved(&[(&expected, 1.0), (DURATION, 1.0), (&rejection, 1.0)]);
        }
        let valid = machine("a/b").claim("aud", "https://a").claim("cognito:groups", ["g"]).sign();
        assert!(verifier.try_verify(&valid).is_ok());
        metrics.moved(&[(ACCEPTED, 1.0), (DURATION, 1.0)]);
        // From here on the token is cached, and no duration is recorded.
        assert!(verifier.verify(&valid).await.is_ok());
        metrics.moved(&[(ACCEPTED, 1.0), (HITS, 1.0)]);
        assert_eq!(send(&layer, bearer(&valid)).await, 200);
        metrics.moved(&[(ACCEPTED, 1.0), (HITS, 1.0)]);
        assert!(call(&mut interceptor, Some(&format!("Bearer {valid}"))));
        metrics.moved(&[(ACCEPTED, 1.0), (HITS, 1.0)]);
        for _ in 0..10 {
            let _ = verifier.try_verify(&valid);
        }
        metrics.moved(&[(ACCEPTED, 10.0), (HITS, 10.0)]);
        // Without a token, nothing is verified.
        assert_eq!(send(&layer, request(None)).await, 401);
        assert_eq!(send(&layer, request(Some("Bearer"))).await, 400);
        assert!(!call(&mut interceptor, None));
        metrics.moved(&[(&rejection("missing_token"), 2.0), (&rejection("invalid_request"), 1.0)]);
    });
}

#[test]
fn each_rejection_is_counted_once_by_its_kind() {
    measured(async |metrics| {
        let verifier = verifier();
        let layer = RequireToken::new(verifier.clone());
        let token = machine("a/b").sign();
        // The verification counter says that the token is valid, and this one that it is not enough.
        assert!(verifier.try_verify(&token).is_ok());
        let _ = metrics.take();
        let rejected = |kind: &str, hits: f64| {
            metrics.moved(
                &[(&*rejection(kind), 1.0), (ACCEPTED, hits), (HITS, hits)]
                    .into_iter()
                    .filter(|(_, count)| *count > 0.0)
                    .collect::<Vec<_>>(),
            );
        };

        for (row, status, kind) in
            [("GET /", 403, "insufficient_scope"), ("POST /", 403, "forbidden")]
        {
            let table = ScopeTable::new([(row, Access::scope("c/d"))]).unwrap();
            let layer = layer.clone().scope_table(table);
            assert_eq!(send(&layer, bearer(&token)).await, status);
            rejected(kind, 1.0);
        }
        let scoped = RequireScope::new("c/d").layer(Plain);
        let status = layer.layer(scoped.clone()).oneshot(bearer(&token)).await.unwrap().status();
        assert_eq!(status, 403);
        rejected("insufficient_scope", 1.0);
        let anonymous = layer.clone().allow_anonymous();
        let status = anonymous.layer(scoped.clone()).oneshot(request(None)).await.unwrap().status();
        assert_eq!(status, 401);
        rejected("missing_token", 0.0);
        assert_eq!(scoped.oneshot(request(None)).await.unwrap().status(), 500);
        rejected("internal", 0.0);

        let app = axum::Router::new()
            .route("/", axum::routing::get(|_: AccessToken| async {}))
            .route("/maybe", axum::routing::get(|_: Option<AccessToken>| async {}));
        let get = |path: &str| Request::get(path).body(axum::body::Body::empty()).unwrap();
        let guarded = app.clone().layer(anonymous);
        assert_eq!(guarded.clone().oneshot(get("/")).await.unwrap().status(), 401);
        rejected("missing_token", 0.0);
        assert_eq!(guarded.oneshot(get("/maybe")).await.unwrap().status(), 200);
        metrics.moved(&[]);
        for path in ["/", "/maybe"] {
            assert_eq!(app.clone().oneshot(get(path)).await.unwrap().status(), 500);
            rejected("internal", 0.0);
        }

        let interceptor = TokenInterceptor::new(verifier);
        let mut interceptor = interceptor.require_scope(RequireScope::new("c/d"));
        assert!(!call(&mut interceptor, Some(&format!("Bearer {token}"))));
        rejected("insufficient_scope", 1.0);
        assert!(!call(&mut interceptor, Some("Bearer")));
        rejected("invalid_request", 0.0);
    });
}

#[test]
fn verification_without_keys_is_counted_as_keys_unavailable() {
    measured(async |metrics| {
        let fake = Fake::new(Reply::Hang);
        let verifier = fake.builder().connect_lazy().unwrap();
        assert_eq!(send(&RequireToken::new(verifier), bearer(&keys().old_token)).await, 503);
        metrics.moved(&[
            (&rejected("keys_unavailable"), 1.0),
            (DURATION, 1.0),
            (&rejection("unavailable"), 1.0),
        ]);
    });
}

#[test]
fn token_that_waits_is_counted_once() {
    measured(async |metrics| {
        let (fake, verifier) = connected(old_set()).await;
        metrics.moved(&[(&refreshes("ok"), 1.0)]);
        fake.answers(new_set());
        assert_eq!(send(&RequireToken::new(verifier), bearer(&keys().new_token)).await, 200);
        metrics.moved(&[
            (ACCEPTED, 1.0),
            (DURATION, 1.0),
            (&refreshes("ok"), 1.0),
            (&on_demand("made"), 1.0),
        ]);
    });
}

#[test]
fn each_refresh_is_counted_by_its_result() {
    measured(async |metrics| {
        let (fake, verifier) = connected(old_set()).await;
        metrics.moved(&[(&refreshes("ok"), 1.0)]);
        for (reply, class) in [
            (Reply::Status(500), "status"),
            (Reply::Set("<html>".to_owned()), "document"),
            (Reply::Panic, "panicked"),
            (Reply::Hang, "timed_out"),
        ] {
            fake.answers(reply);
            assert_eq!(verifier.refresh().await.unwrap_err().kind().as_str(), class);
            metrics.moved(&[(&refreshes(class), 1.0)]);
        }
        fake.answers(new_set());
        verifier.refresh().await.unwrap();
        metrics.moved(&[(&refreshes("ok"), 1.0)]);
        sleep(s(301)).await;
        metrics.moved(&[(&refreshes("ok"), 1.0)]);
    });
    measured(async |metrics| {
        let verifier = Verifier::builder(super::fake_issuer::rules());
        let verifier = verifier
            .jwks_fetcher(async |_| Err(tower_cognito::RefreshError::transport("no route")));
        let verifier = verifier.connect_lazy().unwrap();
        assert!(verifier.refresh().await.is_err());
        let moved = metrics.take();
        assert!(moved[&refreshes("transport")] >= 1.0, "{moved:?}");
    });
}

#[test]
fn time_of_the_last_refresh_is_0_before_the_first_one() {
    measured(async |metrics| {
        let fake = Fake::new(Reply::Hang);
        let verifier = fake.builder().connect_lazy().unwrap();
        assert_eq!(metrics.take().get(&last_refresh()), Some(&0.0));
        fake.answers(Reply::Status(500));
        assert!(verifier.refresh().await.is_err());
        assert_eq!(metrics.take()[&last_refresh()], 0.0);
    });
}

#[test]
fn time_of_the_last_refresh_stays_if_a_refresh_fails() {
    const START: f64 = 2_000_000_000.0;

    measured(async |metrics| {
        let (fake, verifier) = connected(old_set()).await;
        let first = metrics.take()[&last_refresh()];
        assert!((START..START + 1.0).contains(&first), "{first}");
        fake.answers(Reply::Status(500));
        sleep(s(100)).await;
        assert!(verifier.refresh().await.is_err());
        assert_eq!(metrics.take()[&last_refresh()], first);
        sleep(s(1_000)).await;
        assert_eq!(metrics.take()[&last_refresh()], first);
        fake.answers(old_set());
        verifier.refresh().await.unwrap();
        let second = metrics.take()[&last_refresh()];
        assert!((START + 1_100.0..START + 1_101.0).contains(&second), "{second}");
    });
}

#[test]
fn time_of_the_last_refresh_is_that_of_the_initial_keys() {
    measured(async |metrics| {
        let fake = Fake::new(Reply::Hang);
        let fetched_at = SystemTime::UNIX_EPOCH + s(1_999_999_000);
        let pool = super::fake_issuer::rules().pool().clone();
        let pool = pool.with_initial_jwks(keys().issuer.jwks(), fetched_at);
        let rules = tower_cognito::Rules::new(pool, tower_cognito::ClientIds::any());
        let _verifier = fake.builder_for(rules).connect_lazy().unwrap();
        assert_eq!(metrics.take()[&last_refresh()], 1_999_999_000.0);
    });
}

/// Builds a verifier and sends requests under the exporter. Returns what Prometheus reads from it.
fn scraped(exporter: PrometheusBuilder) -> String {
    let recorder = exporter.build_recorder();
    metrics::with_local_recorder(&recorder, || {
        paused_runtime().block_on(async {
            let (_, verifier) = connected(old_set()).await;
            let layer = RequireToken::new(verifier.clone());
            assert_eq!(send(&layer, bearer(&keys().old_token)).await, 200);
            assert_eq!(send(&layer, bearer(&keys().old_token)).await, 200);
            assert_eq!(send(&layer, request(None)).await, 401);
            assert_eq!(send(&layer, bearer(&unknown(0))).await, 401);
        });
    });
    recorder.handle().render()
}

#[test]
fn prometheus_exporter_describes_every_metric_of_the_page() {
    let page = include_str!("../../src/docs/observability.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `cognito_"));
    let rows = rows.filter(|row| row.split(" | ").count() == 4).collect::<Vec<_>>();
    assert_eq!(rows.len(), 7);
    for naming in [false, true] {
        let scraped = scraped(PrometheusBuilder::new().with_recommended_naming(naming));
        for row in &rows {
            let mut cells = row.split(" | ");
            let name = format!("cognito_{}", cells.next().unwrap().trim_end_matches('`'));
            let kind = match cells.next().unwrap() {
                "histogram" => "summary",
                kind => kind,
            };
            let help = cells.nth(1).unwrap().trim_end_matches(" |");
            for line in [format!("# TYPE {name} {kind}"), format!("# HELP {name} {help}")] {
                let found = scraped.lines().filter(|found| **found == line).count();
                assert_eq!(found, 1, "{line}\n{scraped}");
            }
        }
        assert!(!scraped.contains("_seconds_seconds") && !scraped.contains("_total_total"));
    }
}

#[test]
fn fetches_for_unknown_keys_are_counted() {
    measured(async |metrics| {
        let (_, verifier) = connected(old_set()).await;
        let _ = metrics.take();
        // The budget allows two fetches, and no third.
        for number in 0..2 {
            assert!(verifier.verify(&unknown(number)).await.is_err());
            metrics.moved(&[
                (&rejected("unknown_key"), 1.0),
                (DURATION, 1.0),
                (&refreshes("ok"), 1.0),
                (&on_demand("made"), 1.0),
            ]);
        }
        for number in 2..10 {
            assert!(verifier.verify(&unknown(number)).await.is_err());
        }
        let moved = metrics.take();
        assert_eq!(moved.get(&on_demand("made")).copied().unwrap_or_default(), 0.0, "{moved:?}");
        assert_eq!(moved.get(&on_demand("denied")), Some(&8.0), "{moved:?}");
        sleep(s(31)).await;
        let _ = metrics.take();
        assert!(verifier.try_verify(&unknown(10)).is_err());
        sleep(ms(10)).await;
        assert_eq!(metrics.take()[&on_demand("made")], 1.0, "synchronous verification");
    });
}

#[test]
fn fetch_without_a_slot_is_counted_as_denied() {
    const POOLS: usize = 17;
    let issuer_of = |number: usize| format!("https://issuer.example/{number}");
    let rules_of = |number: usize| {
        let pool = tower_cognito::UserPool::from_issuer(&issuer_of(number)).unwrap();
        tower_cognito::Rules::new(pool, tower_cognito::ClientIds::any())
    };
    measured(async |metrics| {
        let fake = Fake::new(old_set());
        let builder = Verifier::builder(rules_of(0)).jwks_fetcher(fake.fetcher());
        let builder =
            (1..POOLS).fold(builder, |builder, number| builder.add_pool(rules_of(number)));
        let verifier = builder.connect().await.unwrap();
        let _ = metrics.take();
        fake.answers(Reply::Hang);
        let mut waiting = JoinSet::new();
        for number in 0..POOLS {
            let token = keys().issuer.machine_token(CLIENT).claim("iss", issuer_of(number));
            let token = token.header("kid", "unknown").sign();
            let verifier = verifier.clone();
            waiting.spawn(async move { verifier.verify(&token).await.is_err() });
        }
        assert!(waiting.join_all().await.into_iter().all(|is_rejected| is_rejected));
        sleep(ms(10)).await;
        let moved = metrics.take();
        let sum = |result: &str| {
            let end = format!(",result={result}}}");
            let of_result = moved.iter().filter(|(name, _)| {
                name.starts_with("cognito_unknown_kid_fetches_total") && name.ends_with(&end)
            });
            of_result.map(|(_, count)| count).sum::<f64>()
        };
        assert_eq!((sum("made"), sum("denied")), (16.0, 1.0), "{moved:?}");
    });
}

/// Returns the lines of a log that contain all of these words.
fn lines<'l>(log: &'l str, words: &[&str]) -> Vec<&'l str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

/// Returns a span as an application declares it.
fn span() -> Span {
    tracing::info_span!(
        "call",
        "cognito.client_id" = Empty,
        "cognito.sub" = Empty,
        "cognito.refused" = Empty
    )
}

/// Runs a future in a span, and returns the fields of the span as the last log line shows them.
async fn shown(run: impl Future) -> String {
    let log = Log::of_this_thread();
    let span = span();
    async {
        run.await;
        tracing::info!("the end");
    }
    .instrument(span)
    .await;
    let log = log.take();
    let last = log.lines().last().unwrap();
    let (_, fields) = last.split_once("call").unwrap();
    assert!(fields.ends_with("the end"), "{last}");
    fields.split(": ").next().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn span_of_a_request_records_the_caller_or_the_reason() {
    let user = issuer().user_token(CLIENT, "alice").claim("sub", "the-user").scope("a/b").sign();
    let admitted = format!(r#"{{cognito.client_id="{CLIENT}" cognito.sub="the-user"}}"#);
    let rejected = |reason: &str| format!(r#"{{cognito.refused="{reason}"}}"#);
    let layer = RequireToken::new(verifier());
    assert_eq!(shown(send(&layer, bearer(&user))).await, admitted);
    assert_eq!(shown(send(&layer, request(None))).await, rejected("missing_token"));
    assert_eq!(shown(send(&layer, request(Some("Bearer")))).await, rejected("invalid_request"));
    assert_eq!(shown(send(&layer, bearer("bad"))).await, rejected("malformed"));
    assert_eq!(shown(send(&layer.clone().allow_anonymous(), request(None))).await, "");

    let table = ScopeTable::new([("GET /", Access::scope("c/d"))]).unwrap();
    let with_table = layer.clone().scope_table(table);
    assert_eq!(shown(send(&with_table, bearer(&user))).await, rejected("insufficient_scope"));
    let table = ScopeTable::new([("GET /x", Access::public())]).unwrap();
    let with_table = layer.clone().scope_table(table);
    assert_eq!(shown(send(&with_table, bearer(&user))).await, rejected("not_in_scope_table"));

    // The caller is recorded even if a layer further in finds a missing scope.
    let service = layer.layer(RequireScope::new("c/d").layer(Plain));
    let fields = shown(service.oneshot(bearer(&user))).await;
    let both = format!(
        r#"{{cognito.client_id="{CLIENT}" cognito.sub="the-user" cognito.refused="insufficient_scope"}}"#
    );
    assert_eq!(fields, both);

    let interceptor = TokenInterceptor::new(verifier());
    let scoped = interceptor.clone().require_scope(RequireScope::new("c/d"));
    let valid = format!("Bearer {user}");
    for (interceptor, authorization, expected) in [
        (&interceptor, Some(&*valid), admitted),
        (&interceptor, None, rejected("missing_token")),
        (&interceptor, Some("Bearer"), rejected("invalid_request")),
        (&interceptor, Some("Bearer bad"), rejected("malformed")),
        (&scoped, Some(&*valid), rejected("insufficient_scope")),
    ] {
        let mut interceptor = interceptor.clone();
        let fields = shown(async { call(&mut interceptor, authorization) }).await;
        assert_eq!(fields, expected, "{authorization:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn span_of_a_request_that_waits_is_the_same() {
    let fake = Fake::new(old_set());
    let layer = RequireToken::new(fake.builder().connect().await.unwrap());
    fake.answers(new_set());
    let fields = shown(send(&layer, bearer(&keys().new_token))).await;
    assert_eq!(fields, format!(r#"{{cognito.client_id="{CLIENT}" cognito.sub="{CLIENT}"}}"#));
    let fields = shown(send(&layer, bearer(&unknown(0)))).await;
    assert_eq!(fields, r#"{cognito.refused="unknown_key"}"#);
    assert_eq!(fake.requests(), 3);
}

#[tokio::test]
async fn span_without_the_fields_is_unchanged() {
    let log = Log::of_this_thread();
    let layer = RequireToken::new(verifier());
    async {
        assert_eq!(send(&layer, bearer(&machine("a/b").sign())).await, 200);
        assert_eq!(send(&layer, request(None)).await, 401);
        tracing::info!("the end");
    }
    .instrument(tracing::info_span!("plain", own = 1))
    .await;
    let log = log.take();
    assert!(log.lines().last().unwrap().contains("plain{own=1}: "), "{log}");
}

/// Returns the only log line that gives the reason of a rejection.
async fn logged(run: impl Future) -> String {
    let log = Log::of_this_thread();
    run.await;
    let log = log.take();
    let [line] = lines(&log, &["request rejected"])[..] else { panic!("one line: {log}") };
    assert!(line.contains("DEBUG"), "{line}");
    line.to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_rejection_is_logged_once_with_its_reason() {
    let reason = |line: &str, reason: &str| {
        let client = if reason == "wrong_client" { r#" client_id="another""# } else { "" };
        let end = format!(r#"request rejected reason="{reason}"{client}"#);
        assert!(line.ends_with(&end), "{line}");
    };
    let verifier = strict();
    let layer = RequireToken::new(verifier.clone());
    let interceptor = TokenInterceptor::new(verifier);
    for (kind, token) in rejectable() {
        let line = logged(send(&layer, bearer(&token))).await;
        reason(&line, kind.as_str());
        let mut interceptor = interceptor.clone();
        let authorization = format!("Bearer {token}");
        let line = logged(async { call(&mut interceptor, Some(&authorization)) }).await;
        reason(&line, kind.as_str());
    }
    reason(&logged(send(&layer, request(None))).await, "missing_token");
    reason(&logged(send(&layer, request(Some("Basic x")))).await, "missing_token");
    reason(&logged(send(&layer, request(Some("Bearer ")))).await, "invalid_request");

    let valid = machine("a/b").sign();
    let layer = RequireToken::new(super::support::verifier());
    for (key, expected) in [("POST /", "not_in_scope_table"), ("GET /", "insufficient_scope")] {
        let table = ScopeTable::new([(key, Access::scope("c/d"))]).unwrap();
        let layer = layer.clone().scope_table(table);
        reason(&logged(send(&layer, bearer(&valid))).await, expected);
    }
    let inside = RequireScope::new("c/d").layer(Plain);
    let guarded = layer.layer(inside.clone());
    reason(&logged(guarded.oneshot(bearer(&valid))).await, "insufficient_scope");
    let anonymous = layer.clone().allow_anonymous().layer(inside.clone());
    reason(&logged(anonymous.oneshot(request(None))).await, "missing_token");
    reason(&logged(inside.oneshot(bearer(&valid))).await, "no_require_token");

    let mut grpc = request(None);
    *grpc.method_mut() = http::Method::POST;
    grpc.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
    reason(&logged(send(&layer, grpc)).await, "missing_token");

    let down = Fake::new(Reply::Hang).builder().connect_lazy().unwrap();
    let layer = RequireToken::new(down);
    reason(&logged(send(&layer, bearer(&keys().old_token))).await, "keys_unavailable");
}

#[tokio::test]
async fn extractor_logs_its_rejection() {
    let app = axum::Router::new()
        .route("/", axum::routing::get(|_: AccessToken| async {}))
        .layer(RequireToken::new(verifier()).allow_anonymous());
    let request = Request::new(axum::body::Body::empty());
    let line = logged(async {
        assert_eq!(app.oneshot(request).await.unwrap().status(), 401);
    })
    .await;
    assert!(line.ends_with(r#"reason="missing_token""#), "{line}");
}

#[tokio::test]
async fn extractor_without_a_layer_logs_its_rejection() {
    let app = axum::Router::new().route("/", axum::routing::get(|_: Option<AccessToken>| async {}));
    let line = logged(async {
        let request = Request::new(axum::body::Body::empty());
        assert_eq!(app.oneshot(request).await.unwrap().status(), 500);
    })
    .await;
    assert!(line.ends_with(r#"reason="no_require_token""#), "{line}");
}

#[tokio::test]
async fn client_that_is_not_allowed_is_logged_only_if_the_signature_is_valid() {
    let layer = RequireToken::new(verifier());
    let mut interceptor = TokenInterceptor::new(verifier());
    let valid = machine("a/b").claim("client_id", "mallory\n\"x").sign();
    let line = logged(send(&layer, bearer(&valid))).await;
    let end = r#"request rejected reason="wrong_client" client_id="mallory\n\"x""#;
    assert!(line.ends_with(end), "{line}");
    let authorization = format!("Bearer {valid}");
    let line = logged(async { call(&mut interceptor, Some(&authorization)) }).await;
    assert!(line.ends_with(end), "{line}");

    let other = machine("a/b").sign();
    let (_, signature) = other.rsplit_once('.').unwrap();
    let (signed, _) = valid.rsplit_once('.').unwrap();
    for (forged, reason) in [
        (format!("{signed}.{signature}"), "bad_signature"),
        (machine("").claim("client_id", "mallory").header("kid", "x").sign(), "unknown_key"),
        (
            machine("").claim("client_id", "mallory").header("alg", "none").sign(),
            "unsupported_algorithm",
        ),
        (issuer().id_token("mallory", "alice").sign(), "wrong_token_use"),
    ] {
        let line = logged(send(&layer, bearer(&forged))).await;
        assert!(line.ends_with(&format!(r#"request rejected reason="{reason}""#)), "{line}");
        assert!(!line.contains("mallory"), "{line}");
    }
    let error = verifier().try_verify(&valid).unwrap_err();
    assert!(!error.to_string().contains("mallory"));
}

/// Returns the warnings that every request was rejected, without time, level and target.
fn warnings(log: &str) -> Vec<String> {
    let warnings = lines(log, &["WARN", "every request so far was rejected"]).into_iter();
    warnings.map(|line| line.split_once("telemetry: ").unwrap().1.to_owned()).collect()
}

fn warning(rejections: u32, reason: &str) -> String {
    format!(
        "every request so far was rejected rejections={rejections} reason=\"{reason}\" \
         page=\"tower_cognito::docs::errors\""
    )
}

fn warning_without_tokens(rejections: u32) -> String {
    warning(rejections, "missing_token")
        .replace("rejected rej", "rejected: none had a token in the configured place rej")
}

#[tokio::test]
async fn service_that_rejects_every_token_warns_after_20_rejections() {
    let log = Log::of_this_thread();
    let layer = RequireToken::new(verifier());
    let wrong = issuer().machine_token("another").sign();
    for number in 0..19 {
        // The requests without a token are probes, so they are not the reason.
        let request = if number < 15 { request(None) } else { bearer(&wrong) };
        assert_eq!(send(&layer, request).await, 401);
    }
    assert_eq!(warnings(&log.take()), [""; 0]);
    assert_eq!(send(&layer, bearer("bad")).await, 401);
    assert_eq!(warnings(&log.take()), [warning(20, "wrong_client")]);

    // Each warning takes twice as many rejections as the one before.
    for (rejections, expected) in [(39, vec![]), (1, vec![40]), (79, vec![]), (1, vec![80])] {
        for _ in 0..rejections {
            assert_eq!(send(&layer, bearer("bad")).await, 401);
        }
        let expected = expected.into_iter().map(|count| warning(count, "malformed"));
        assert_eq!(warnings(&log.take()), expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn service_that_gets_no_token_warns_after_200_rejections() {
    let log = Log::of_this_thread();
    let layer = RequireToken::new(verifier());
    for _ in 0..199 {
        assert_eq!(send(&layer, request(Some("Basic x"))).await, 401);
    }
    assert_eq!(warnings(&log.take()), [""; 0]);
    assert_eq!(send(&layer, request(None)).await, 401);
    assert_eq!(warnings(&log.take()), [warning_without_tokens(200)]);
}

#[tokio::test]
async fn interceptor_that_rejects_every_token_warns_after_20_rejections() {
    let log = Log::of_this_thread();
    let interceptor = TokenInterceptor::new(verifier());
    let scoped = interceptor.clone().require_scope(RequireScope::new("c/d"));
    let valid = format!("Bearer {}", machine("a/b").sign());
    for _ in 0..20 {
        assert_eq!(warnings(&log.take()), [""; 0]);
        // The server clones its interceptor.
        assert!(!call(&mut scoped.clone(), Some(&valid)));
    }
    assert_eq!(warnings(&log.take()), [warning(20, "insufficient_scope")]);
    assert!(call(&mut interceptor.clone(), Some(&valid)));
    for _ in 0..1_000 {
        assert!(!call(&mut scoped.clone(), Some(&valid)));
    }
    assert_eq!(warnings(&log.take()), [""; 0]);
}

#[tokio::test]
async fn service_whose_every_token_lacks_a_scope_warns_after_20_rejections() {
    let log = Log::of_this_thread();
    let handler = || axum::routing::get(|| async {});
    let app = axum::Router::new()
        .route("/scoped", handler().layer(RequireScope::new("c/d")))
        .route("/", handler())
        .layer(RequireToken::new(verifier()));
    let valid = machine("a/b").sign();
    let get = |path: &str| {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {valid}"));
        app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap())
    };
    for _ in 0..20 {
        assert_eq!(warnings(&log.take()), [""; 0]);
        assert_eq!(get("/scoped").await.unwrap().status(), 403);
    }
    assert_eq!(warnings(&log.take()), [warning(20, "insufficient_scope")]);
    assert_eq!(get("/").await.unwrap().status(), 200);
    for _ in 0..1_000 {
        assert_eq!(get("/scoped").await.unwrap().status(), 403);
    }
    assert_eq!(warnings(&log.take()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn service_that_accepted_a_token_does_not_warn() {
    let log = Log::of_this_thread();
    let fake = Fake::new(old_set());
    let waiting = fake.builder().connect().await.unwrap();
    fake.answers(new_set());
    for (verifier, token) in
        [(verifier(), machine("a/b").sign()), (waiting, keys().new_token.clone())]
    {
        let layer = RequireToken::new(verifier);
        for _ in 0..19 {
            assert_eq!(send(&layer, bearer("bad")).await, 401);
        }
        assert_eq!(send(&layer, bearer(&token)).await, 200);
        for _ in 0..1_000 {
            assert_eq!(send(&layer, bearer("bad")).await, 401);
            assert_eq!(send(&layer, request(None)).await, 401);
        }
    }
    assert_eq!(warnings(&log.take()), [""; 0]);
}

#[tokio::test]
async fn accepted_request_allocates_nothing_for_the_warning() {
    let layer = RequireToken::new(verifier());
    let token = machine("a/b").sign();
    let mut counts = Vec::new();
    for _ in 0..3 {
        let request = bearer(&token);
        let mut response = std::pin::pin!(layer.layer(Plain).oneshot(request));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        counts.push(allocation_counter::measure(|| {
            assert!(response.as_mut().poll(&mut context).is_ready());
        }));
    }
    let [_, second, third] = &counts[..] else { unreachable!() };
    assert_eq!(second.count_total, third.count_total);
    assert!(third.count_total <= 3, "{counts:?}");
}

#[tokio::test]
async fn valid_request_logs_nothing() {
    let log = Log::of_this_thread();
    let layer = RequireToken::new(verifier());
    assert_eq!(send(&layer, bearer(&machine("a/b").sign())).await, 200);
    assert!(call(
        &mut TokenInterceptor::new(verifier()),
        Some(&format!("Bearer {}", machine("").sign()))
    ));
    let log = log.take();
    let ours = lines(&log, &["tower_cognito"]);
    assert!(ours.is_empty(), "{ours:?}");
}

/// Presents valid, invalid and unknown tokens to the layer, the interceptor and the verifier, while
/// keys are added, removed and not available.
#[test]
fn no_part_of_a_token_is_in_a_log_or_a_label() {
    let log = Log::of_this_thread();
    let long_lived = |scope: &str| {
        let token = keys().issuer.machine_token(CLIENT).scope(scope);
        token.claim("exp", 9_999_999_999_u64)
    };
    let valid = long_lived("a/b").sign();
    let (signed, signature) = valid.rsplit_once('.').unwrap();
    let mut altered = signature.to_owned();
    altered.replace_range(..2, if signature.starts_with("AA") { "BB" } else { "AA" });
    let tokens = [
        keys().old_token.clone(),
        valid.clone(),
        long_lived("c/d").sign(),
        long_lived("a/b").issued_at(SystemTime::UNIX_EPOCH).sign(),
        long_lived("a/b").claim("client_id", "someone-else").sign(),
        long_lived("a/b").claim("iss", "https://issuer.evil").sign(),
        long_lived("a/b").header("kid", "key-of-an-attacker").sign(),
        long_lived("a/b").header("alg", "alg-of-an-attacker").sign(),
        long_lived("a/b").claim("token_use", "use-of-an-attacker").sign(),
        unknown(0),
        format!("{signed}.{altered}"),
        valid[..valid.len() - 5].to_owned(),
        format!("{valid}.more"),
        valid.replace('.', ":"),
        format!("{valid}="),
    ];
    let labels = measured(async |metrics| {
        let fake = Fake::new(old_set());
        let verifier = fake.builder().max_key_age(s(3_600)).connect().await.unwrap();
        let layer = RequireToken::new(verifier.clone())
            .scope_table(ScopeTable::new([("GET /", Access::scope("a/b"))]).unwrap());
        let interceptor = TokenInterceptor::new(verifier.clone());
        let scoped = interceptor.clone().require_scope(RequireScope::new("a/b"));
        let replies = [
            old_set(),
            new_set(),
            Reply::Status(500),
            Reply::Set("<html>".to_owned()),
            Reply::Panic,
        ];
        for reply in replies {
            fake.answers(reply);
            for token in &tokens {
                let span = tracing::info_span!("call", "cognito.refused" = Empty);
                async {
                    let _ = verifier.try_verify(token);
                    let _ = verifier.verify(token).await;
                    let value = format!("Bearer {token}");
                    for value in [
                        value.clone(),
                        format!("{value} x"),
                        format!("Bearer\t{token}"),
                        token.clone(),
                    ] {
                        let _ = send(&layer, request(Some(&value))).await;
                        let _ =
                            send(&layer.clone().accept_bare_token(), request(Some(&value))).await;
                        let _ = call(&mut interceptor.clone(), Some(&value));
                        let _ = call(&mut scoped.clone(), Some(&value));
                    }
                }
                .instrument(span)
                .await;
            }
            let _ = verifier.refresh().await;
            sleep(s(60)).await;
        }
        sleep(s(3_600)).await;
        assert_eq!(send(&layer, bearer(&valid)).await, 503);
        metrics.take().into_keys().collect::<Vec<_>>().join("\n")
    });
    let log = log.take();
    for event in [
        "request rejected",
        r#"client_id="someone-else""#,
        "keys refreshed",
        "key refresh failed",
        "key added",
        "key removed",
        "the keys are too old",
        "the fetch budget is exhausted",
    ] {
        assert!(log.contains(event), "{event} was not logged");
    }
    for counted in ["result=accepted", "reason=expired", "reason=malformed", "reason=unknown_key"] {
        assert!(labels.contains(counted), "{counted} is not in {labels}");
    }
    for text in [&log, &labels] {
        for token in &tokens {
            for part in token.split(['.', ':', '=']).filter(|part| part.len() > 8) {
                // The whole part, and a piece from either end.
                for piece in
                    [part, &part[..part.len().min(20)], &part[part.len().saturating_sub(20)..]]
                {
                    assert!(!text.contains(piece), "a part of {token} is in the log");
                }
            }
        }
        for piece in ["eyJ", "attacker", "someone-else", "issuer.evil", "unknown-0"] {
            // The exception: the client of a token with a valid signature.
            let exception = r#"reason="wrong_client" client_id="someone-else""#;
            let line = text.lines().find(|line| line.replace(exception, "").contains(piece));
            assert_eq!(line, None, "{piece}");
        }
    }
}
