//! Tokens on both sides of each rule (`tests/vectors/vectors.json`), on every path. They were
//! signed without this crate's code, so that the test issuer and the verifier cannot share one
//! misunderstanding.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::value::RawValue;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_cognito::{
    AccessToken, ClientIds, Jwks, JwksDocument, RefreshError, Rejection, RequireScope,
    RequireToken, Rules, TokenInterceptor, UserPool, Verifier, VerifyErrorKind, verify,
};

use super::support::{EmptyBody, bearer_value};

const FILE: &str = include_str!("../vectors/vectors.json");

#[derive(Deserialize)]
struct File {
    now: u64,
    texts: Vec<String>,
    key_sets: BTreeMap<String, Vec<Box<RawValue>>>,
    rules: BTreeMap<String, Vec<PoolRules>>,
    categories: BTreeMap<String, Vec<Row>>,
}

#[derive(Clone, Deserialize)]
pub(super) struct PoolRules {
    pool: Option<String>,
    issuer: Option<String>,
    pub(super) clients: Option<Vec<String>>,
    pub(super) audience: Option<String>,
    pub(super) groups: Option<Vec<String>>,
    #[serde(default)]
    leeway: u64,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    token: Vec<Piece>,
    keys: Option<String>,
    rules: Option<String>,
    time: Option<Time>,
    requires: Option<String>,
    verdict: String,
    reason: Option<String>,
    /// `None` if no header can contain the token.
    status: Option<String>,
    reads: Option<Reads>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    Run(String, usize),
    Shared(usize),
    Text(String),
}

/// Seconds since the epoch, as a number or with nine decimals.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Exact(String),
    Seconds(u64),
}

#[derive(Deserialize)]
struct Reads {
    subject: Option<String>,
    client_id: Option<String>,
    username: Option<String>,
    scopes: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    expires_at: Option<u64>,
}

/// One token, and its expected result.
pub(super) struct Vector {
    pub(super) category: &'static str,
    pub(super) name: &'static str,
    pub(super) token: String,
    /// Of each pool.
    pub(super) documents: Vec<String>,
    pub(super) rules: &'static [PoolRules],
    /// The kind of the error, if the token is rejected.
    pub(super) reason: Option<&'static str>,
    /// The names of the key sets and of the rules.
    pub(super) setting: (&'static str, &'static str),
    pub(super) time: SystemTime,
    requires: Option<&'static str>,
    /// `None` if no header can contain the token.
    status: Option<u16>,
    reads: Option<&'static Reads>,
}

pub(super) fn vectors() -> &'static [Vector] {
    static FILED: LazyLock<File> = LazyLock::new(|| serde_json::from_str(FILE).unwrap());
    static VECTORS: LazyLock<Vec<Vector>> = LazyLock::new(|| {
        let file = &*FILED;
        let rows = file
            .categories
            .iter()
            .flat_map(|(category, rows)| rows.iter().map(move |row| (&**category, row)));
        rows.map(|(category, row)| vector(file, category, row)).collect()
    });
    &VECTORS
}

fn vector(file: &'static File, category: &'static str, row: &'static Row) -> Vector {
    let keys = row.keys.as_deref().unwrap_or("usual");
    let rules = row.rules.as_deref().unwrap_or("usual");
    let reason = row.reason.as_deref();
    assert_eq!(row.verdict, if reason.is_some() { "refuse" } else { "accept" }, "{}", row.name);
    let pieces = row.token.iter().map(|piece| match piece {
        Piece::Run(text, times) => text.repeat(*times),
        Piece::Shared(index) => file.texts[*index].clone(),
        Piece::Text(text) => text.clone(),
    });
    let time = match &row.time {
        None => Duration::from_secs(file.now),
        Some(Time::Seconds(seconds)) => Duration::from_secs(*seconds),
        Some(Time::Exact(text)) => {
            let (seconds, nanoseconds) = text.split_once('.').unwrap();
            assert_eq!(nanoseconds.len(), 9, "{text}");
            Duration::new(seconds.parse().unwrap(), nanoseconds.parse().unwrap())
        }
    };
    let status = match (&row.status, reason) {
        (Some(status), _) => status.parse().ok(),
        (None, None) => Some(200),
        (None, Some("Forbidden")) => Some(403),
        (None, Some(_)) => Some(401),
    };
    Vector {
        category,
        name: &row.name,
        token: pieces.collect(),
        documents: file.key_sets[keys].iter().map(|keys| format!("{{\"keys\":{keys}}}")).collect(),
        rules: &file.rules[rules],
        reason,
        setting: (keys, rules),
        time: UNIX_EPOCH + time,
        requires: row.requires.as_deref(),
        status,
        reads: row.reads.as_ref(),
    }
}

impl PoolRules {
    pub(super) fn user_pool(&self) -> UserPool {
        match (&self.pool, &self.issuer) {
            (Some(id), None) => UserPool::new(id).unwrap(),
            (None, Some(issuer)) => UserPool::from_issuer(issuer).unwrap(),
            _ => panic!("a pool has an ID or an issuer"),
        }
    }

    /// Each issuer that is trusted.
    pub(super) fn issuers(&self) -> Vec<String> {
        let original = self.user_pool().issuer().to_owned();
        let updated = original.replace("//cognito-idp", "//issuer-cognito-idp");
        if self.pool.is_some() { vec![original, updated] } else { vec![original] }
    }

    pub(super) fn rules(&self) -> Rules {
        let clients = self.clients.clone().map_or_else(ClientIds::any, ClientIds::only);
        let mut rules = Rules::new(self.user_pool(), clients);
        if let Some(audience) = &self.audience {
            rules = rules.with_audience(audience);
        }
        if let Some(groups) = &self.groups {
            rules = rules.with_groups(groups);
        }
        rules.with_leeway(Duration::from_secs(self.leeway))
    }
}

/// The verifiers for a vector. Vectors with the same keys and rules share them, including the cache.
pub(super) struct Setting {
    pub(super) pools: Vec<(Rules, Jwks)>,
    clock: Arc<Mutex<SystemTime>>,
    without_cache: Verifier,
    pub(super) with_cache: Verifier,
}

impl Setting {
    pub(super) async fn of(vector: &Vector) -> Self {
        let clock = Arc::new(Mutex::new(vector.time));
        let pools = vector.rules.iter().zip(&vector.documents);
        Self {
            pools: pools
                .map(|(rules, keys)| (rules.rules(), Jwks::from_json(keys).unwrap()))
                .collect(),
            without_cache: verifier(vector, &clock, 0).await,
            with_cache: verifier(vector, &clock, 1 << 20).await,
            clock,
        }
    }

    /// The plain function has one pool, so this uses the pool whose issuer the token names.
    fn verify(&self, vector: &Vector) -> Result<AccessToken, VerifyErrorKind> {
        let verdicts = self.pools.iter().map(|(rules, keys)| {
            verify(&vector.token, keys, rules, vector.time).map_err(|error| error.kind())
        });
        let unknown =
            |verdict: &Result<_, _>| matches!(verdict, Err(VerifyErrorKind::UnknownIssuer));
        let mut known = verdicts.filter(|verdict| !unknown(verdict));
        known.next().unwrap_or(Err(VerifyErrorKind::UnknownIssuer))
    }
}

async fn verifier(vector: &Vector, clock: &Arc<Mutex<SystemTime>>, cache: usize) -> Verifier {
    let clock = Arc::clone(clock);
    let mut rules = vector.rules.iter().map(PoolRules::rules);
    let builder = Verifier::builder(rules.next().unwrap())
        .clock(move || *clock.lock().unwrap())
        .token_cache_bytes(cache);
    match &*vector.documents {
        [document] => builder.build_with_jwks(Jwks::from_json(document).unwrap()).unwrap(),
        documents => {
            let issuers = vector.rules.iter().map(|rules| rules.user_pool().issuer().to_owned());
            let keys = issuers.zip(documents.iter().cloned()).collect::<Vec<_>>();
            let fetch = move |url: String| {
                let found = keys.iter().find(|(issuer, _)| url.starts_with(issuer)).unwrap();
                let document = JwksDocument::new(found.1.clone());
                async { Ok::<_, RefreshError>(document) }
            };
            rules
                .fold(builder, |builder, rules| builder.add_pool(rules))
                .jwks_fetcher(fetch)
                .connect()
                .await
                .unwrap()
        }
    }
}

/// Returns the response to a request with the token, and whether the inner service was called.
struct Answer {
    status: u16,
    challenge: Option<String>,
    reason: Option<VerifyErrorKind>,
    reached: usize,
}

/// Returns `None` if no header can contain the token.
async fn request(vector: &Vector, verifier: &Verifier) -> Option<Answer> {
    let value = bearer_value(&vector.token)?;
    let mut request = Request::new(EmptyBody::new());
    request.headers_mut().insert(AUTHORIZATION, value);

    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let service = service_fn(move |request: Request<EmptyBody>| {
        assert!(request.extensions().get::<AccessToken>().is_some());
        count.fetch_add(1, Ordering::SeqCst);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let token = RequireToken::new(verifier.clone());
    let response = match vector.requires {
        Some(scopes) => answer(token.layer(require_scope(scopes).layer(service)), request).await,
        None => answer(token.layer(service), request).await,
    };
    let rejection = response.extensions().get::<Rejection>();
    let challenge = response.headers().get(WWW_AUTHENTICATE);
    Some(Answer {
        status: response.status().as_u16(),
        challenge: challenge.map(|challenge| challenge.to_str().unwrap().to_owned()),
        reason: rejection.and_then(|rejection| Some(rejection.verify_error()?.kind())),
        reached: reached.load(Ordering::SeqCst),
    })
}

/// Returns the code of the interceptor's result, or `None` if no header can contain the token.
fn intercept(vector: &Vector, verifier: &Verifier) -> Option<Code> {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer_value(&vector.token)?)]);
    let metadata = MetadataMap::from_headers(headers);
    let mut interceptor = TokenInterceptor::new(verifier.clone());
    if let Some(scopes) = vector.requires {
        interceptor = interceptor.require_scope(require_scope(scopes));
    }
    match interceptor.call(tonic::Request::from_parts(metadata, Default::default(), ())) {
        Ok(request) => request.extensions().get::<AccessToken>().map(|_| Code::Ok),
        Err(status) => Some(status.code()),
    }
}

async fn answer<S, B>(service: S, request: Request<EmptyBody>) -> Response<()>
where
    S: Service<Request<EmptyBody>, Response = Response<B>, Error = Infallible>,
{
    service.oneshot(request).await.unwrap().map(drop)
}

fn require_scope(text: &str) -> RequireScope {
    let (how, scopes) = text.split_once(' ').unwrap();
    match how {
        "new" => RequireScope::new(scopes),
        "any_of" => RequireScope::any_of(scopes.split(' ')),
        "all_of" => RequireScope::all_of(scopes.split(' ')),
        "any_of_resource_server" => RequireScope::any_of_resource_server(scopes),
        other => panic!("{other} is not a way to require scopes"),
    }
}

fn is_as_stated(vector: &Vector, verdict: &Result<AccessToken, VerifyErrorKind>) -> bool {
    match (verdict, vector.reason) {
        (Ok(token), None) => vector.reads.is_none_or(|reads| is_read(token, reads)),
        (Err(kind), Some(reason)) => format!("{kind:?}") == reason,
        _ => false,
    }
}

fn is_read(token: &AccessToken, reads: &Reads) -> bool {
    let is =
        |stated: &Option<String>, read| stated.as_deref().is_none_or(|text| read == Some(text));
    let scopes = token.scopes().iter().collect::<Vec<_>>();
    let groups = token.groups().collect::<Vec<_>>();
    let expires_at = token.expires_at().duration_since(UNIX_EPOCH).unwrap().as_secs();
    is(&reads.subject, Some(token.subject()))
        && is(&reads.client_id, Some(token.client_id()))
        && is(&reads.username, token.username())
        && reads.scopes.as_ref().is_none_or(|stated| *stated == scopes)
        && reads.groups.as_ref().is_none_or(|stated| *stated == groups)
        && reads.expires_at.is_none_or(|stated| stated == expires_at)
}

fn is_answered_as_stated(vector: &Vector, answer: Option<&Answer>) -> bool {
    let Some(answer) = answer else { return vector.status.is_none() };
    let error = match answer.status {
        200 => None,
        400 => Some("invalid_request"),
        401 => Some("invalid_token"),
        // Another token would not help.
        _ if vector.reason == Some("Forbidden") => None,
        _ => Some("insufficient_scope"),
    };
    let named = answer.challenge.as_deref().and_then(|challenge| {
        challenge.split_once("error=\"").and_then(|(_, rest)| Some(rest.split_once('"')?.0))
    });
    // There is no verification error if no token was parsed, or if only a scope is missing.
    let has_reason = answer.status == 401 || vector.reason == Some("Forbidden");
    let reason = answer.reason.map(|kind| format!("{kind:?}"));
    let stated = if has_reason { vector.reason.map(str::to_owned) } else { None };
    vector.status == Some(answer.status)
        && answer.reached == usize::from(answer.status == 200)
        && named == error
        && reason == stated
}

/// Checks the vectors of a category with the plain function, verifiers with and without a cache, the
/// layers and the interceptor.
async fn check(category: &str) {
    let mut settings = HashMap::new();
    let mut wrong = Vec::new();
    for vector in vectors().iter().filter(|vector| vector.category == category) {
        let setting = match settings.entry(vector.setting) {
            Entry::Occupied(setting) => setting.into_mut(),
            Entry::Vacant(place) => place.insert(Setting::of(vector).await),
        };
        *setting.clock.lock().unwrap() = vector.time;
        let Vector { name, reason, status, .. } = vector;
        let mut verdicts = vec![("verify", setting.verify(vector))];
        for (path, verifier) in
            [("without a cache", &setting.without_cache), ("with a cache", &setting.with_cache)]
        {
            let verdict = verifier.verify(&vector.token).await;
            verdicts.push((path, verdict.map_err(|error| error.kind())));
            let again = verifier.try_verify(&vector.token);
            verdicts.push((path, again.map_err(|error| error.kind())));
            let answer = request(vector, verifier).await;
            if !is_answered_as_stated(vector, answer.as_ref()) {
                let answer = answer.map(|it| (it.status, it.challenge, it.reason, it.reached));
                wrong.push(format!("{name}, layer {path}: {status:?}, not {answer:?}"));
            }
            let code = intercept(vector, verifier);
            let expected = vector.status.map(|status| match status {
                200 => Code::Ok,
                403 => Code::PermissionDenied,
                _ => Code::Unauthenticated,
            });
            if code != expected {
                wrong.push(format!("{name}, interceptor {path}: {expected:?}, not {code:?}"));
            }
        }
        for (path, verdict) in verdicts {
            if !is_as_stated(vector, &verdict) {
                wrong.push(format!("{name}, {path}: {reason:?}, not {verdict:?}"));
            }
        }
    }
    assert!(!settings.is_empty(), "{category} has no vectors");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Makes a test for each category of the file.
macro_rules! categories {
    ($($test:ident: $category:literal,)+) => {
        const CATEGORIES: &[&str] = &[$($category),+];
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                check($category).await;
            }
        )+
    };
}

categories! {
    h016_h017_vectors_of_the_compact_form: "compact form",
    h018_h019_vectors_of_base64: "base64",
    h011_vectors_of_the_size: "size",
    h021_h023_vectors_of_alg: "alg",
    h022_h027_h028_vectors_of_key_confusion: "key confusion",
    h023_h039_vectors_of_key_sets: "key sets",
    h026_vectors_of_kid: "kid",
    h029_h030_h031_h033_h034_vectors_of_the_header: "header",
    h020_h053_vectors_of_the_signature: "signature",
    h035_vectors_of_the_payload: "payload",
    h032_h045_vectors_of_duplicate_names: "duplicates",
    h034_h035_vectors_of_escapes: "escapes",
    h046_vectors_of_the_depth: "depth",
    h046_vectors_of_unread_numbers: "numbers",
    h039_vectors_of_the_issuer: "issuer",
    h040_h042_vectors_of_token_use: "token_use",
    h041_vectors_of_client_id: "client_id",
    h036_h044_vectors_of_claim_types: "claim types",
    h036_h037_vectors_of_dates: "dates",
    h037_h038_vectors_of_the_time: "time",
    vectors_of_the_audience: "audience",
    h047_vectors_of_sender_constraints: "binding",
    h044_vectors_of_groups: "groups",
    vectors_of_the_order_of_errors: "order",
    h043_vectors_of_scopes: "scope",
    vectors_of_tokens_as_cognito_writes_them: "cognito shapes",
}

#[test]
fn every_category_has_accepted_and_rejected_vectors() {
    let vectors = vectors();
    assert!(vectors.len() >= 1100, "{}", vectors.len());
    let accepted = vectors.iter().filter(|vector| vector.reason.is_none()).count();
    assert!(accepted >= 200 && vectors.len() - accepted >= 700, "{accepted} are accepted");
    for category in CATEGORIES {
        let (good, bad) = vectors
            .iter()
            .filter(|vector| vector.category == *category)
            .partition::<Vec<_>, _>(|vector| vector.status == Some(200));
        assert!(!good.is_empty() && bad.len() >= 5, "{category}: {}, {}", good.len(), bad.len());
    }
    let categories = vectors.iter().map(|vector| vector.category).collect::<BTreeSet<_>>();
    assert_eq!(categories, CATEGORIES.iter().copied().collect());
    // Every error that a token can cause; `Revoked` needs the application's check.
    let reasons = vectors.iter().filter_map(|vector| vector.reason).collect::<BTreeSet<_>>();
    let kinds = "BadSignature Expired Forbidden InvalidClaim InvalidHeader Malformed NotYetValid \
                 SenderConstrained TooLarge UnknownIssuer UnknownKey UnsupportedAlgorithm \
                 WrongAudience WrongClient WrongTokenUse";
    assert_eq!(reasons, kinds.split(' ').collect());
}
