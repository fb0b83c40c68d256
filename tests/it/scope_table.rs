//! Scope tables: which row decides about a request, what the row requires, and that no spelling of a
//! request needs less than the route that axum calls for it.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter};
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_cognito::{
    Access, AccessToken, Rejection, RejectionKind, RequireScope, RequireToken, Scope, ScopeTable,
};

use super::fake_issuer::{Dice, Fake, keys, new_set, old_set};
use super::support::{CLIENT, EmptyBody, Plain, machine, verifier, without_keys};

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The service was called, with the token of this client if there was one.
    Reached(Option<String>),
    /// The layer answered with this status, and with these scopes in the challenge.
    Rejected(u16, Vec<String>),
}

use Outcome::{Reached, Rejected};

fn reached() -> Outcome {
    Reached(Some(CLIENT.to_owned()))
}

fn anonymous() -> Outcome {
    Reached(None)
}

fn rejected(status: u16) -> Outcome {
    Rejected(status, Vec::new())
}

fn insufficient(scopes: &[&str]) -> Outcome {
    Rejected(403, scopes.iter().map(|scope| (*scope).to_owned()).collect())
}

fn outcome_of<B>(response: &Response<B>) -> Outcome {
    match (response.extensions().get::<Rejection>(), response.extensions().get::<Found>()) {
        (Some(rejection), None) => {
            let scopes = rejection.required_scopes().iter().map(Scope::to_string).collect();
            Rejected(response.status().as_u16(), scopes)
        }
        (None, Some(Found(client))) => Reached(client.clone()),
        (rejection, found) => panic!("neither or both: {rejection:?} {found:?}"),
    }
}

#[derive(Clone, Debug)]
struct Found(Option<String>);

async fn send(layer: &RequireToken, request: Request<EmptyBody>) -> Response<()> {
    let service = service_fn(|request: Request<EmptyBody>| async move {
        let client = request.extensions().get::<AccessToken>().map(|t| t.client_id().to_owned());
        let mut response = Response::new(Full::<Bytes>::default());
        response.extensions_mut().insert(Found(client));
        Ok::<_, Infallible>(response)
    });
    layer.layer(service).oneshot(request).await.unwrap().map(drop)
}

fn request(method: &str, uri: &str, authorization: Option<&str>) -> Request<EmptyBody> {
    let mut request = super::support::request(authorization);
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"));
    request
}

async fn call(layer: &RequireToken, key: &str, authorization: Option<&str>) -> Outcome {
    let (method, uri) = key.split_once(' ').unwrap();
    outcome_of(&send(layer, request(method, uri, authorization)).await)
}

fn bearer(scope: &str) -> String {
    format!("Bearer {}", machine(scope).sign())
}

fn layer<'a>(rows: impl IntoIterator<Item = (&'a str, Access)>) -> RequireToken {
    RequireToken::new(verifier()).scope_table(ScopeTable::new(rows).unwrap())
}

/// The table of the documentation of `ScopeTable`.
fn service() -> RequireToken {
    layer([
        ("GET  /health", Access::public()),
        ("POST /activity", Access::scope("activity/*")),
        ("GET  /item", Access::any_of(["item/read", "item/write"])),
        ("GET  /item/{id}", Access::any_of(["item/read", "item/write"])),
        ("PUT  /item/{id}", Access::scope("item/write")),
        ("ANY  /admin/{*rest}", Access::all_of(["admin/use", "item/write"])),
        ("GET  /me", Access::authenticated()),
        ("GET  /report", Access::any_of_resource_server("report")),
        ("GRPC /grpc.health.v1.Health/{*method}", Access::public()),
        ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
    ])
}

#[tokio::test]
async fn each_row_requires_its_scopes() {
    let service = service();
    let both = ["item/read", "item/write"];
    let admin = ["admin/use", "item/write"];
    for (key, scopes, expected) in [
        ("POST /activity", "activity/*", reached()),
        ("POST /activity", "activity/read", insufficient(&["activity/*"])),
        ("POST /activity", "", insufficient(&["activity/*"])),
        ("GET /item", "item/read", reached()),
        ("GET /item", "item/write", reached()),
        ("GET /item", "activity/*", insufficient(&both)),
        ("GET /item/7", "item/write", reached()),
        ("GET /item/7", "", insufficient(&both)),
        ("PUT /item/7", "item/write", reached()),
        ("PUT /item/7", "item/read", insufficient(&["item/write"])),
        ("DELETE /admin/users", "item/write admin/use", reached()),
        ("GET /admin/users/7/x/", "admin/use item/write", reached()),
        ("GET /admin/users", "admin/use", insufficient(&admin)),
        ("GET /admin/users", "item/write", insufficient(&admin)),
        ("GET /me", "", reached()),
        ("GET /report", "report/x", reached()),
        ("GET /report", "report/x/y", rejected(403)),
        ("GET /report", "item/read", rejected(403)),
        ("POST /activity.v1.Feed/Post", "activity/*", reached()),
        ("POST /activity.v1.Feed/Post", "item/read", insufficient(&["activity/*"])),
        ("GET /item?id=/health", "item/read", reached()),
    ] {
        let name = format!("{key} with `{scopes}`");
        assert_eq!(call(&service, key, Some(&bearer(scopes))).await, expected, "{name}");
        assert_eq!(call(&service, key, None).await, rejected(401), "{name}, no token");
        assert_eq!(call(&service, key, Some("Bearer bad")).await, rejected(401), "{name}, invalid");
        assert_eq!(call(&service, key, Some("Bearer ")).await, rejected(400), "{name}, malformed");
    }
}

#[tokio::test]
async fn request_without_a_row_is_rejected_whatever_its_token() {
    let service = service();
    let all = bearer("activity/* item/read item/write admin/use report/x");
    for key in [
        "GET /",
        "GET /nowhere",
        "GET /activity",
        "PUT /activity",
        "POST /activity/",
        "POST /activity/7",
        "GET /item/",
        "GET /item/7/",
        "GET /item/7/8",
        "DELETE /item/7",
        "POST /item/7",
        "GET /admin",
        "GET /admin/",
        "GET /ITEM",
        "GET /item7",
        "POST /health",
        "GET /healthy",
        "GET /health/",
        "POST /grpc.health.v1.Health",
        "POST /grpc.health.v1.Health/",
        "GET /grpc.health.v1.Health/Check",
        "GRPC /grpc.health.v1.Health/Check",
        "GRPC /activity.v1.Feed/Post",
        "POST /activity.v1.Feed/Read",
        "POST /activity.v1.feed/Post",
        "OPTIONS /item",
        "get /item",
        "ANY /item",
    ] {
        assert_eq!(call(&service, key, None).await, rejected(401), "{key}");
        assert_eq!(call(&service, key, Some("Bearer bad")).await, rejected(401), "{key}");
        assert_eq!(call(&service, key, Some("Bearer")).await, rejected(400), "{key}");
        assert_eq!(call(&service, key, Some(&all)).await, rejected(403), "{key}");
    }
    assert_eq!(call(&service, "POST /grpc.health.v1.Health/Check", None).await, anonymous());
    let response = send(&service, request("GET", "/nowhere", Some(&all))).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Forbidden);
    let challenge = r#"Bearer realm="api""#;
    assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
}

#[tokio::test]
async fn empty_table_rejects_every_request() {
    let nothing = layer([]);
    let valid = bearer("activity/*");
    for key in ["GET /", "GET /item", "POST /a/b/c", "OPTIONS *"] {
        assert_eq!(call(&nothing, key, None).await, rejected(401), "{key}");
        assert_eq!(call(&nothing, key, Some(&valid)).await, rejected(403), "{key}");
    }
}

#[tokio::test]
async fn name_wins_over_parameter_wins_over_wildcard() {
    let rows = [
        "GET /{*all}",
        "GET /a/{*rest}",
        "GET /a/{x}",
        "GET /a/b",
        "GET /a/b/{*rest}",
        "GET /a/{x}/c",
        "GET /{x}/b/c",
        "GET /{x}/{y}",
        "GET /",
        "GET /z/{*rest}",
        "GET /z/{x}/{y}/w",
    ];
    let scopes = (0..rows.len()).map(|row| format!("row/{row}")).collect::<Vec<_>>();
    let table = rows.iter().zip(&scopes).map(|(key, scope)| (*key, Access::scope(scope)));
    let reversed = layer(table.clone().rev());
    let layer = layer(table);
    let none = bearer("");
    for (path, row) in [
        ("/", "GET /"),
        ("/x", "GET /{*all}"),
        ("/a/b", "GET /a/b"),
        ("/a/x", "GET /a/{x}"),
        ("/a/B", "GET /a/{x}"),
        ("/a/bb", "GET /a/{x}"),
        ("/a/x/", "GET /a/{*rest}"),
        ("/a/b/x", "GET /a/b/{*rest}"),
        // The leftmost difference decides, not the number of names.
        ("/a/b/c", "GET /a/b/{*rest}"),
        ("/a/x/c", "GET /a/{x}/c"),
        ("/a/x/d", "GET /a/{*rest}"),
        ("/y/b/c", "GET /{x}/b/c"),
        ("/y/b/d", "GET /{*all}"),
        ("/y/b", "GET /{x}/{y}"),
        ("/y/b/", "GET /{*all}"),
        ("/z/1/2/w", "GET /z/{x}/{y}/w"),
        ("/z/1/2/v", "GET /z/{*rest}"),
        ("/z/1/2/w/", "GET /z/{*rest}"),
    ] {
        let number = rows.iter().position(|key| *key == row).unwrap();
        let expected = insufficient(&[&scopes[number]]);
        let key = format!("GET {path}");
        assert_eq!(call(&layer, &key, Some(&none)).await, expected, "{path} is {row}");
        assert_eq!(call(&reversed, &key, Some(&none)).await, expected, "{path}, rows reversed");
    }
    // A wider wildcard does not match the root of another wildcard.
    for path in ["/a", "/a/", "/a/b/", "/z", "/z/"] {
        assert_eq!(
            call(&layer, &format!("GET {path}"), Some(&none)).await,
            rejected(403),
            "{path}"
        );
    }
}

/// axum's `nest_service` and tower-http's `ServeDir` also answer for the root of their paths.
#[tokio::test]
async fn wider_public_wildcard_does_not_match_the_root_of_a_protected_one() {
    let guarded = ["GET /admin/{*rest}", "GET /item", "GET /item/{*rest}", "GET /user/{id}"];
    let rows = guarded.map(|key| (key, Access::scope("admin/use")));
    let layer = layer(rows.into_iter().chain([("GET /{*rest}", Access::public())]));
    for path in
        ["/admin", "/admin/", "/admin/x", "/item", "/item/", "/user/7", "/admin?x", "/admin/?"]
    {
        assert_ne!(call(&layer, &format!("GET {path}"), None).await, anonymous(), "{path}");
    }
    for path in ["/adm", "/user", "/user/", "/user/7/x", "/other"] {
        assert_eq!(call(&layer, &format!("GET {path}"), None).await, anonymous(), "{path}");
    }
}

#[tokio::test]
async fn table_inside_a_path_rewriter_checks_the_rewritten_path() {
    use tower::Layer;

    let app = Router::new()
        .route("/health", axum::routing::get(async || "health"))
        .route("/{*rest}", axum::routing::get(async || "proxy"));
    let table = ScopeTable::new([
        ("GET /health", Access::public()),
        ("GET /{*rest}", Access::scope("proxy/use")),
    ]);
    let guard = RequireToken::new(verifier()).scope_table(table.unwrap());
    // The layer is around the whole service, and the rewriter around the layer.
    let app = tower::util::MapRequest::new(guard.layer(app), |mut request: Request<Body>| {
        let path = request.uri().path();
        let trimmed = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        *request.uri_mut() = trimmed.parse().unwrap();
        request
    });
    for (path, status) in [("/health", 200), ("/health/", 200), ("/x", 401), ("/x/", 401)] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status, "{path}");
    }
}

/// A name in another spelling is looked up once, and not compared with every name of the table.
#[test]
fn h012_cost_of_a_long_escaped_path_does_not_grow_with_the_table() {
    let long = format!("GET /{}", "%41".repeat(5_000));
    let cost = |names: usize| {
        let keys = (0..names).map(|name| format!("GET /name-{name}")).collect::<Vec<_>>();
        let rows = keys.iter().map(|key| (&**key, Access::public()));
        let layer = layer(rows);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let counted = allocation_counter::measure(|| {
            assert_eq!(runtime.block_on(call(&layer, &long, None)), rejected(401));
        });
        counted.bytes_total
    };
    cost(1);
    let (few, many) = (cost(2), cost(1_000));
    assert!(many < few + few / 10, "{few} and {many} bytes");
}

#[tokio::test]
async fn path_is_chosen_before_the_method_is_checked() {
    let layer = layer([
        ("GET /a", Access::scope("a/get")),
        ("ANY /{x}", Access::public()),
        ("ANY /{*rest}", Access::public()),
        ("GET /p/{x}", Access::scope("p/get")),
        ("ANY /p/{*rest}", Access::public()),
    ]);
    let valid = bearer("a/get p/get");
    for (key, expected) in [
        ("POST /a", rejected(403)),
        ("DELETE /p/7", rejected(403)),
        ("GET /a", reached()),
        ("POST /b", anonymous()),
        ("POST /p/7/", anonymous()),
    ] {
        assert_eq!(call(&layer, key, Some(&valid)).await, expected, "{key}");
    }
}

#[tokio::test]
async fn get_matches_head_and_any_matches_the_other_methods() {
    let layer = layer([
        ("GET /get", Access::scope("x/get")),
        ("GET /own", Access::scope("x/get")),
        ("HEAD /own", Access::scope("x/head")),
        ("ANY /own", Access::scope("x/any")),
        ("GET /both", Access::scope("x/get")),
        ("ANY /both", Access::scope("x/any")),
        ("HEAD /head", Access::scope("x/head")),
        ("ANY /any", Access::scope("x/any")),
        ("POST /post", Access::scope("x/post")),
        ("PURGE /purge", Access::scope("x/purge")),
    ]);
    let none = bearer("");
    for (key, scope) in [
        ("GET /get", Some("x/get")),
        ("HEAD /get", Some("x/get")),
        ("POST /get", None),
        ("get /get", None),
        ("GET /own", Some("x/get")),
        ("HEAD /own", Some("x/head")),
        ("POST /own", Some("x/any")),
        ("HEAD /both", Some("x/get")),
        ("OPTIONS /both", Some("x/any")),
        ("get /both", Some("x/any")),
        ("HEAD /head", Some("x/head")),
        ("GET /head", None),
        ("HEAD /any", Some("x/any")),
        ("CONNECT /any", Some("x/any")),
        ("TRACE /any", Some("x/any")),
        ("FOO /any", Some("x/any")),
        ("ANY /any", Some("x/any")),
        ("HEAD /post", None),
        ("PURGE /purge", Some("x/purge")),
        ("GET /purge", None),
    ] {
        let expected = scope.map_or(rejected(403), |scope| insufficient(&[scope]));
        assert_eq!(call(&layer, key, Some(&none)).await, expected, "{key}");
    }
}

/// Paths that other routers read differently than axum.
const AMBIGUOUS: [&str; 60] = [
    "//",
    "//admin",
    "/public//admin",
    "/admin//",
    "/.",
    "/..",
    "/./admin",
    "/public/./admin",
    "/public/../admin",
    "/public/..",
    "/public/.",
    "/admin/.",
    "/admin/../",
    "/public/%2e%2e/admin",
    "/public/%2E%2e/admin",
    "/public/.%2e/admin",
    "/public/%2E./admin",
    "/public/%2e",
    "/public/a%2Eb",
    "/public%2fadmin",
    "/public%2Fadmin",
    "/admin%2Fusers",
    "/admin%2fusers",
    "/public/%2f",
    "/public/..%2Fadmin",
    "/public/%5cadmin",
    "/public/%5C..%5Cadmin",
    "/public/x%5c",
    "/public\\admin",
    "/public/\\",
    "/public/..\\admin",
    "/public/%",
    "/public/%2",
    "/public/%zz",
    "/public/%2g",
    "/public/%+2",
    "/public/a%",
    "/public/%%41",
    "/public/..;/x",
    "/public/..;a=b",
    "/public/.;/x",
    "/public/x/..;",
    "/public/..%3B/admin",
    "/public/..%3b/admin",
    "/public/.%3B/admin",
    "/public/..%3Bx=y/admin",
    "/public/x/..%3B",
    "/public/x/..%3F",
    "/public/x/..%23",
    "/public/..%3Fx/admin",
    "/;/admin",
    "/;x=y/admin",
    "/%3B/admin",
    "/%3bx/admin",
    "/public/;/admin",
    "/public/%3B/admin",
    "/public/;",
    "/public/%00",
    "/public/a%0Ab",
    "/public/%7f",
];

#[tokio::test]
async fn ambiguous_path_is_rejected_even_if_every_row_is_public() {
    let public = layer([
        ("ANY /", Access::public()),
        ("ANY /{*rest}", Access::public()),
        ("ANY /public/{*rest}", Access::public()),
        ("ANY /public/{x}", Access::public()),
    ]);
    let all = bearer("admin/use");
    for path in AMBIGUOUS {
        let key = format!("GET {path}");
        assert_eq!(call(&public, &key, None).await, rejected(401), "{path}");
        assert_eq!(call(&public, &key, Some("Bearer bad")).await, rejected(401), "{path}");
        assert_eq!(call(&public, &key, Some(&all)).await, rejected(403), "{path}");
    }
    // These paths look similar, but are unambiguous.
    for path in [
        "/",
        "/...",
        "/.well-known",
        "/a.b",
        "/a..b",
        "/..a",
        "/public/a..",
        "/public/%20x",
        "/public/%41",
        "/public/%252e",
        "/public/a;b=c",
        "/public/a%3Bb=c",
        "/public/a;",
        "/public/a;/b",
        "/public/%23rust",
        "/public/%3Frust",
        "/public/...;x",
        "/public/..x;y",
        "/public/%253B",
        "/public/~x+y,z:@!$&'()*",
        "/public/x?y=//../%2e%2F\\%zz",
        "/?//",
    ] {
        assert_eq!(call(&public, &format!("GET {path}"), None).await, anonymous(), "{path}");
    }
}

#[tokio::test]
async fn segments_are_compared_raw_and_other_spellings_are_rejected() {
    let layer = layer([
        ("GET /admin", Access::scope("x/admin")),
        ("GET /caf%C3%A9", Access::scope("x/cafe")),
        ("GET /a%20b/c", Access::scope("x/space")),
        ("GET /{x}/secret", Access::scope("x/secret")),
        ("GET /{x}", Access::public()),
        ("GET /{*rest}", Access::public()),
    ]);
    let none = bearer("");
    for (path, expected) in [
        ("/admin", insufficient(&["x/admin"])),
        ("/%61dmin", rejected(403)),
        ("/%61%64%6d%69%6e", rejected(403)),
        ("/%61%64%6D%69%6E", rejected(403)),
        ("/admi%6E", rejected(403)),
        ("/%61dmin/x", rejected(403)),
        ("/caf%C3%A9", insufficient(&["x/cafe"])),
        ("/caf%c3%a9", rejected(403)),
        ("/caf%C3%a9", rejected(403)),
        ("/%63af%C3%A9", rejected(403)),
        ("/caf\u{e9}", rejected(403)),
        ("/a%20b/c", insufficient(&["x/space"])),
        ("/a%20b/%63", rejected(403)),
        ("/%61%20b/c", rejected(403)),
        ("/x/secret", insufficient(&["x/secret"])),
        ("/x/%73ecret", rejected(403)),
        ("/%78/secret", insufficient(&["x/secret"])),
        ("/admin/%73ecret", rejected(403)),
        // These decode to another text, so they are not other spellings.
        ("/Admin", anonymous()),
        ("/%41dmin", anonymous()),
        ("/a+b", anonymous()),
        ("/%2561dmin", anonymous()),
        ("/x/%53ecret", anonymous()),
        ("/x/y/%73ecret", anonymous()),
    ] {
        assert_eq!(call(&layer, &format!("GET {path}"), Some(&none)).await, expected, "{path}");
    }
}

/// Sends many spellings to a service whose `/admin` is protected and whose other paths are public. If
/// axum routes a request to a protected handler, then the table must require its scope.
#[tokio::test]
async fn no_spelling_of_a_request_needs_less_than_its_route() {
    let table = [
        ("GET /admin", Access::scope("admin/use")),
        ("ANY /admin/{*rest}", Access::scope("admin/use")),
        ("ANY /users/{id}", Access::scope("users/read")),
        ("GET /", Access::public()),
        ("ANY /{*rest}", Access::public()),
    ];
    let (secret, open) = (|| async { "secret" }, || async { "open" });
    let bare = Router::new()
        .route("/admin", axum::routing::get(secret))
        .route("/admin/{*rest}", axum::routing::any(secret))
        .route("/users/{id}", axum::routing::any(secret))
        .route("/", axum::routing::get(open))
        .route("/{*rest}", axum::routing::any(open));
    let guarded = bare.clone().layer(layer(table));
    let others = bearer("admin/read users/write");
    let body = async |app: &Router, method: &str, path: &str, authorization: Option<&str>| {
        let response = route(app, method, &path.parse().unwrap(), authorization).await;
        let status = response.status().as_u16();
        (status, axum::body::to_bytes(response.into_body(), 1_000).await.unwrap())
    };
    let more = [
        "/admin",
        "/%61dmin",
        "/admin/",
        "/admin/users",
        "/admin%2Fusers",
        "/ADMIN",
        "/admin?x=1",
        "/?/admin",
        "/admin?",
        "/admin/?",
        "/x?/../admin",
        "/users/",
        "/users/7",
        "/users//7",
        "/users/%37",
        "/users/%2F",
        "/users/..%2fadmin",
        "http://elsewhere/admin",
        "http://elsewhere//admin",
        "http://elsewhere/%61dmin",
        "http://elsewhere",
        "http://elsewhere?/admin",
        "/admin;x=1",
        "/admin%00",
        "/admin/%00",
        "/%00",
        "/admin%20",
        "/x/y/z",
        "/x",
        "/x/admin",
        "*",
    ];
    let methods =
        ["GET", "HEAD", "POST", "OPTIONS", "get", "Get", "FOO", "TRACE", "CONNECT", "ANY", "GRPC"];
    let (mut secrets, mut opened) = (0, 0);
    for (method, path) in
        methods.iter().flat_map(|method| AMBIGUOUS.iter().chain(&more).map(|path| (*method, *path)))
    {
        let name = format!("{method} {path}");
        let (status, text) = body(&bare, method, path, None).await;
        // A response to HEAD has no body, so look at the response to GET.
        let (_, text_of_get) =
            body(&bare, if method == "HEAD" { "GET" } else { method }, path, None).await;
        let (without, seen) = body(&guarded, method, path, None).await;
        let (with_others, _) = body(&guarded, method, path, Some(&others)).await;
        if status == 200 && text_of_get == "secret" {
            secrets += 1;
            assert_eq!((without, with_others), (401, 403), "{name}");
        } else if without == 200 {
            opened += 1;
            assert_eq!((status, with_others, &seen), (200, 200, &text), "{name}");
        } else {
            assert_eq!((without, with_others), (401, 403), "{name}");
        }
    }
    assert!(secrets > 80 && opened > 75, "{secrets} {opened}");
}

#[tokio::test]
async fn name_with_path_parameters_does_not_match_a_wider_row() {
    let layer = layer([
        ("GET /item/export", Access::scope("item/admin")),
        ("GET /item/a;b", Access::scope("item/read")),
        ("GET /item/{id}", Access::scope("item/read")),
        ("GET /{*rest}", Access::scope("item/read")),
    ]);
    let reader = bearer("item/read");
    for cut_off in [";", ";x", ";x=y", "%3Bx", "%3bx", "%3Fx", "%23x", ";/x"] {
        let path = format!("/item/export{cut_off}");
        assert_eq!(
            call(&layer, &format!("GET {path}"), Some(&reader)).await,
            rejected(403),
            "{path}"
        );
    }
    for path in ["/item/a;b", "/item/7;x", "/item/exports", "/item/%3Bexport", "/x;y", "/item;x"] {
        let is_named = ["/item;x", "/item/%3Bexport"].contains(&path);
        let expected = if is_named { rejected(403) } else { reached() };
        assert_eq!(call(&layer, &format!("GET {path}"), Some(&reader)).await, expected, "{path}");
    }
}

#[tokio::test]
async fn request_target_without_a_path_is_rejected() {
    let public = layer([("ANY /", Access::public()), ("ANY /{*rest}", Access::public())]);
    let valid = bearer("");
    let mut authority = request("CONNECT", "/", Some(&valid));
    *authority.uri_mut() = Uri::from_static("example.com:443");
    assert_eq!(authority.uri().path(), "");
    assert_eq!(outcome_of(&send(&public, authority).await), rejected(403));
    assert_eq!(call(&public, "OPTIONS *", Some(&valid)).await, rejected(403));
    assert_eq!(call(&public, "OPTIONS *", None).await, rejected(401));
}

#[tokio::test]
async fn public_row_ignores_the_authorization_header() {
    let layer = layer([("GET /health", Access::public())]);
    let down = without_keys();
    let table = ScopeTable::new([("GET /health", Access::public())]).unwrap();
    let without_keys = RequireToken::new(down).scope_table(table);
    let valid = bearer("activity/*");
    let forged = verifier().try_verify(valid.strip_prefix("Bearer ").unwrap()).unwrap();
    let unknown = format!("Bearer {}", machine("a/b").header("kid", "unknown").sign());
    for authorization in
        [None, Some("Bearer bad"), Some("Bearer"), Some("Basic x"), Some(&*valid), Some(&unknown)]
    {
        for layer in [&layer, &without_keys] {
            let mut request = request("GET", "/health", authorization);
            request.extensions_mut().insert(forged.clone());
            assert_eq!(outcome_of(&send(layer, request).await), anonymous(), "{authorization:?}");
        }
    }
    let mut request = request("GET", "/health", Some(&valid));
    request.headers_mut().append(AUTHORIZATION, valid.parse().unwrap());
    assert_eq!(outcome_of(&send(&layer, request).await), anonymous(), "two lines");
}

#[tokio::test]
async fn inserted_access_token_is_removed_on_every_row() {
    let layer = service();
    let token = machine("activity/* item/write admin/use").sign();
    let forged = verifier().try_verify(&token).unwrap();
    for key in ["POST /activity", "GET /me", "PUT /item/7", "GET /nowhere"] {
        let (method, path) = key.split_once(' ').unwrap();
        let mut request = request(method, path, None);
        request.extensions_mut().insert(forged.clone());
        assert_eq!(outcome_of(&send(&layer, request).await), rejected(401), "{key}");
    }
    // The row is checked against the verified token, and not against the inserted one.
    let mut request = request("POST", "/activity", Some(&bearer("activity/read")));
    request.extensions_mut().insert(forged);
    let outcome = outcome_of(&send(&layer, request).await);
    assert_eq!(outcome, insufficient(&["activity/*"]));
}

#[tokio::test]
async fn require_scope_inside_a_public_row_still_requires_a_token() {
    let table = ScopeTable::new([("GET /health", Access::public())]).unwrap();
    let layer = RequireToken::new(verifier()).scope_table(table).realm("orders");
    let service = layer.layer(RequireScope::new("a/b").layer(Plain));
    for authorization in [None, Some(bearer("a/b"))] {
        let request = request("GET", "/health", authorization.as_deref());
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 401);
        let challenge = r#"Bearer realm="orders", scope="a/b""#;
        assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
    }
}

#[tokio::test]
async fn allow_anonymous_makes_the_token_optional_only_on_public_rows() {
    let layer = service().allow_anonymous();
    let invalid = Some("Bearer bad".to_owned());
    for (key, authorization, expected) in [
        ("GET /health", None, anonymous()),
        ("GET /health", Some("Basic x".to_owned()), anonymous()),
        ("GET /health", Some(bearer("")), reached()),
        ("GET /health", invalid.clone(), rejected(401)),
        ("GET /health", Some("Bearer".to_owned()), rejected(400)),
        ("HEAD /health", None, anonymous()),
        ("POST /health", None, rejected(401)),
        ("POST /health", Some(bearer("")), rejected(403)),
        ("GET /me", None, rejected(401)),
        ("GET /me", Some("Basic x".to_owned()), rejected(401)),
        ("GET /me", Some(bearer("")), reached()),
        ("POST /activity", None, rejected(401)),
        ("POST /activity", invalid.clone(), rejected(401)),
        ("POST /activity", Some(bearer("activity/*")), reached()),
        ("GET /nowhere", None, rejected(401)),
        ("GET /nowhere", invalid, rejected(401)),
        ("GET /nowhere", Some(bearer("")), rejected(403)),
        ("GET //health", None, rejected(401)),
        ("GET /%68ealth", None, rejected(401)),
    ] {
        assert_eq!(call(&layer, key, authorization.as_deref()).await, expected, "{key}");
    }
    // The order of the two settings does not matter.
    let table = ScopeTable::new([("GET /me", Access::authenticated())]).unwrap();
    let reversed = RequireToken::new(verifier()).allow_anonymous().scope_table(table);
    assert_eq!(call(&reversed, "GET /me", None).await, rejected(401));
    assert_eq!(call(&reversed, "GET /nowhere", None).await, rejected(401));
}

#[tokio::test(start_paused = true)]
async fn table_also_applies_to_a_request_that_waited_for_its_key() {
    let token = |scope: &str| {
        let token = keys().issuer.machine_token(CLIENT).scope(scope);
        format!("Bearer {}", token.claim("exp", 9_999_999_999_u64).sign())
    };
    for (key, scope, fetches, expected) in [
        ("POST /activity", "activity/*", 2, reached()),
        ("POST /activity", "activity/read", 2, insufficient(&["activity/*"])),
        ("GET /item", "item/write", 2, insufficient(&["item/read"])),
        ("GET /item", "", 2, insufficient(&["item/read"])),
        ("GET /nowhere", "activity/*", 2, rejected(403)),
        ("POST //activity", "activity/*", 2, rejected(403)),
        ("GET /activity", "activity/*", 2, rejected(403)),
        ("GET /me", "", 2, reached()),
        // The token of a request for a public row is not verified, so no key is fetched for it.
        ("GET /health", "", 1, anonymous()),
    ] {
        let fake = Fake::new(old_set());
        let table = ScopeTable::new([
            ("GET /health", Access::public()),
            ("GET /me", Access::authenticated()),
            ("POST /activity", Access::scope("activity/*")),
            ("GET /item", Access::scope("item/read")),
        ]);
        let layer =
            RequireToken::new(fake.builder().connect().await.unwrap()).scope_table(table.unwrap());
        fake.answers(new_set());
        assert_eq!(call(&layer, key, Some(&token(scope))).await, expected, "{key} `{scope}`");
        assert_eq!(fake.requests(), fetches, "{key} `{scope}`");
    }
}

fn member(groups: &[&str], scopes: &str) -> String {
    let token = machine(scopes).claim("username", "alice").claim("cognito:groups", groups);
    format!("Bearer {}", token.sign())
}

#[tokio::test]
async fn row_requires_its_groups_and_its_scopes() {
    let layer = layer([
        ("GET /one", Access::group("admins")),
        ("GET /any", Access::any_of_groups(["admins", "sales"])),
        ("GET /both", Access::group("admins").with_group("tokyo")),
        ("GET /places", Access::group("admins").with_any_of_groups(["tokyo", "osaka"])),
        ("GET /scope", Access::scope("x/write").with_group("admins")),
        ("GET /scopes", Access::any_of(["x/a", "x/b"]).with_any_of_groups(["admins", "sales"])),
        ("GET /server", Access::any_of_resource_server("x").with_group("admins")),
        ("GET /open", Access::public()),
    ]);
    for (key, groups, scopes, expected) in [
        ("GET /one", &["admins"][..], "", reached()),
        ("GET /one", &["sales", "admins"], "", reached()),
        ("GET /one", &["sales"], "", rejected(403)),
        ("GET /one", &["Admins", "admins ", "admin", "adminss"], "", rejected(403)),
        ("GET /one", &[], "admins", rejected(403)),
        ("GET /any", &["sales"], "", reached()),
        ("GET /any", &["tokyo"], "", rejected(403)),
        ("GET /both", &["tokyo", "admins"], "", reached()),
        ("GET /both", &["admins"], "", rejected(403)),
        ("GET /both", &["tokyo"], "", rejected(403)),
        ("GET /places", &["admins", "osaka"], "", reached()),
        ("GET /places", &["tokyo", "osaka"], "", rejected(403)),
        ("GET /scope", &["admins"], "x/write", reached()),
        ("GET /scope", &["admins"], "x/read", insufficient(&["x/write"])),
        ("GET /scope", &["sales"], "x/write", rejected(403)),
        // Another scope would not help, so none is named.
        ("GET /scope", &["sales"], "x/read", rejected(403)),
        ("GET /scopes", &["sales"], "x/b", reached()),
        ("GET /scopes", &["sales"], "", insufficient(&["x/a", "x/b"])),
        ("GET /server", &["admins"], "x/y", reached()),
        ("GET /server", &["admins"], "y/y", rejected(403)),
        ("GET /open", &[], "", anonymous()),
    ] {
        let name = format!("{key}: {groups:?} `{scopes}`");
        let authorization = member(groups, scopes);
        assert_eq!(call(&layer, key, Some(&authorization)).await, expected, "{name}");
    }
    for key in ["GET /one", "GET /any", "GET /both", "GET /scope"] {
        let machines = bearer("x/write");
        assert_eq!(call(&layer, key, Some(&machines)).await, rejected(403), "{key}, no groups");
        assert_eq!(call(&layer, key, None).await, rejected(401), "{key}, no token");
        assert_eq!(call(&layer, key, Some("Bearer bad")).await, rejected(401), "{key}, invalid");
        let anonymous = layer.clone().allow_anonymous();
        assert_eq!(call(&anonymous, key, None).await, rejected(401), "{key}, anonymous");
    }
    let response = send(&layer, request("GET", "/scope", Some(&bearer("x/read")))).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Forbidden);
    let response = send(&layer, request("GET", "/scope", Some(&member(&["admins"], "")))).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::InsufficientScope);
}

#[test]
fn malformed_group_is_an_error_of_its_row() {
    for (access, expected) in [
        (Access::group(""), "a group is empty"),
        (Access::any_of_groups([]), "the list of groups is empty"),
        (Access::any_of_groups(["a", ""]), "a group is empty"),
        (Access::group("a").with_group(""), "a group is empty"),
        (Access::scope("a/b").with_any_of_groups([]), "the list of groups is empty"),
        (Access::public().with_group("a"), "a public row cannot require a group"),
        (
            Access::scope("a b").with_group("a"),
            "invalid scope: it contains a space, so it is more than one scope; expected a scope \
             such as `activity/*`",
        ),
    ] {
        problem("POST /activity", access, expected);
    }
    let table = [("GET /a", Access::group("Domain Admins")), ("GET /b", Access::group("\u{e9}/*"))];
    assert!(ScopeTable::new(table).is_ok(), "a trigger can set any text as a group");
}

#[track_caller]
fn problem(key: &str, access: Access, expected: &str) {
    let error = ScopeTable::new([("GET /other", Access::public()), (key, access)]).unwrap_err();
    let expected = format!("scope table, `{key}`: {expected}");
    assert_eq!(error.problems().collect::<Vec<_>>(), [&*expected], "{key}");
}

const NO_KEY: &str = "not a method and a path, such as `GET /item/{id}`";
const CAPITALS: &str = "the method is not in capital letters, such as `GET`";
const SLASH: &str = "the path does not begin with `/`";
const UNUSABLE: &str =
    "the path is ambiguous, or has a character that is not allowed in a URL path";
const PARAMETER: &str = "a parameter is not a segment of the form `{name}` or `{*name}`";
const AT_THE_END: &str = "`{*name}` is not at the end of the path";
const GRPC: &str = "not a gRPC path, such as `/package.Service/Method`";

#[test]
fn malformed_row_is_an_error_that_names_the_problem() {
    for (key, expected) in [
        ("", NO_KEY),
        ("GET", NO_KEY),
        ("/item", NO_KEY),
        ("GET /item x", NO_KEY),
        ("GET /a b", NO_KEY),
        ("get /item", CAPITALS),
        ("Get /item", CAPITALS),
        ("GET, /item", CAPITALS),
        ("* /item", CAPITALS),
        ("G\u{c9}T /item", CAPITALS),
        ("GET item", SLASH),
        ("GET http://host/item", SLASH),
        ("OPTIONS *", SLASH),
        ("GET /a?b=c", UNUSABLE),
        ("GET /a#b", UNUSABLE),
        ("GET /caf\u{e9}", UNUSABLE),
        ("GET /a\u{0}b", UNUSABLE),
        ("GET /a\"b", UNUSABLE),
        ("GET /a<b", UNUSABLE),
        ("GET /a^b", UNUSABLE),
        ("GET /a`b", UNUSABLE),
        ("GET /a|b", UNUSABLE),
        ("GET //", UNUSABLE),
        ("GET /a//b", UNUSABLE),
        ("GET /./a", UNUSABLE),
        ("GET /a/..", UNUSABLE),
        ("GET /a/..%3B", UNUSABLE),
        ("GET /;x", UNUSABLE),
        ("GET /a/%3B/{*rest}", UNUSABLE),
        ("GET /a\\b", UNUSABLE),
        ("GET /a%2fb", UNUSABLE),
        ("GET /a%2Fb", UNUSABLE),
        ("GET /%2e", UNUSABLE),
        ("GET /%5C", UNUSABLE),
        ("GET /a%", UNUSABLE),
        ("GET /a%4", UNUSABLE),
        ("GET /a%gg", UNUSABLE),
        ("GET /{}", PARAMETER),
        ("GET /{*}", PARAMETER),
        ("GET /{", PARAMETER),
        ("GET /}", PARAMETER),
        ("GET /{a", PARAMETER),
        ("GET /a}", PARAMETER),
        ("GET /{a}b", PARAMETER),
        ("GET /b{a}", PARAMETER),
        ("GET /{a}{b}", PARAMETER),
        ("GET /{a-b}", PARAMETER),
        ("GET /{**a}", PARAMETER),
        ("GET /{a*}", PARAMETER),
        ("GET /{{a}}", PARAMETER),
        ("GET /{a:[0-9]+}", PARAMETER),
        ("GET /:id", PARAMETER),
        ("GET /*rest", PARAMETER),
        ("GRPC /a.B/*", PARAMETER),
        ("GET /{*a}/b", AT_THE_END),
        ("GET /{*a}/", AT_THE_END),
        ("GET /{*a}/{*b}", AT_THE_END),
        ("GRPC /a", GRPC),
        ("GRPC /", GRPC),
        ("GRPC /a.B/C/D", GRPC),
        ("GRPC /{*rest}", GRPC),
        ("GRPC /{service}/C", GRPC),
        ("GRPC /a.B/{method}", GRPC),
        ("GRPC /a.B/C/{*rest}", GRPC),
        ("GRPC /a.B/", GRPC),
    ] {
        problem(key, Access::public(), expected);
    }
    // These are valid.
    for key in [
        "GET /",
        "  GET \t /a  ",
        "GET /a/",
        "GET /a%20b",
        "GET /{a_1}/{b}/{*c}",
        "GRPC /a.B/C",
        "GRPC /a.B/{*method}",
        "ANY /.well-known/x",
        "PROPFIND /a",
    ] {
        assert!(ScopeTable::new([(key, Access::public())]).is_ok(), "{key}");
    }
}

#[test]
fn malformed_scope_is_an_error_of_its_row() {
    let one = "; expected a scope such as `activity/*`";
    for (access, expected) in [
        (Access::scope(""), "invalid scope: it is empty"),
        (Access::scope("a b"), "invalid scope: it contains a space, so it is more than one scope"),
        (Access::any_of([]), "invalid scope: the list of scopes is empty"),
        (Access::all_of([]), "invalid scope: the list of scopes is empty"),
        (Access::any_of(["a/b", ""]), "invalid scope: it is empty"),
        (
            Access::all_of(["a/b", "c d"]),
            "invalid scope: it contains a space, so it is more than one scope",
        ),
        (
            Access::scope("a\"b"),
            "invalid scope: it contains a quote, a backslash, a control character or a non-ASCII character",
        ),
        (
            Access::any_of_resource_server("caf\u{e9}"),
            "invalid scope: it contains a quote, a backslash, a control character or a non-ASCII character",
        ),
        (Access::any_of_resource_server(""), "invalid scope: it is empty"),
    ] {
        problem("POST /activity", access, &format!("{expected}{one}"));
    }
}

#[test]
fn rows_that_match_the_same_requests_are_an_error() {
    for (first, second) in [
        ("GET /a", "GET /a"),
        ("GET /a", " GET   /a "),
        ("GET /", "GET /"),
        ("GET /{a}", "GET /{b}"),
        ("GET /a/{x}/b/{y}", "GET /a/{y}/b/{x}"),
        ("GET /{*a}", "GET /{*b}"),
        ("ANY /a/{*a}", "ANY /a/{*b}"),
        ("POST /a.B/C", "GRPC /a.B/C"),
        ("GRPC /a.B/C", "POST /a.B/C"),
        ("GRPC /a.B/{*m}", "POST /a.B/{*rest}"),
        ("GRPC /a.B/C", "GRPC /a.B/C"),
        ("HEAD /a", "HEAD /a"),
    ] {
        let error = ScopeTable::new([
            (first, Access::scope("a/b")),
            ("GET /other", Access::public()),
            (second, Access::public()),
        ]);
        let expected = format!("scope table, `{second}`: another row matches the same requests");
        let error = error.unwrap_err();
        assert_eq!(error.problems().collect::<Vec<_>>(), [&*expected], "{first} {second}");
    }
    let spellings = [("GET /c%20d", "GET /c%20d/x"), ("GET /a%62/x", "GET /ab/y")];
    for ((first, second), is_same) in spellings.into_iter().zip([true, false]) {
        let table = ScopeTable::new([(first, Access::public()), (second, Access::public())]);
        let expected = format!(
            "scope table, `{second}`: another row has the same segment with other percent-encoding"
        );
        let problems = table.err().map(|error| error.problems().collect::<Vec<_>>().join(""));
        assert_eq!(problems, (!is_same).then_some(expected), "{first} {second}");
    }
    for (first, second) in [
        ("GET /a", "HEAD /a"),
        ("GET /a", "ANY /a"),
        ("GET /a", "GET /a/"),
        ("GET /a", "GET /{a}"),
        ("GET /{a}", "GET /{*a}"),
        ("GET /a", "GET /A"),
        ("GRPC /a.B/C", "ANY /a.B/C"),
        ("GRPC /a.B/C", "GRPC /a.B/{*m}"),
        ("GET /{a}/b", "GET /{c}/d"),
    ] {
        let rows = [(first, Access::public()), (second, Access::authenticated())];
        assert!(ScopeTable::new(rows).is_ok(), "{first} {second}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = ScopeTable::new([
        ("get /a", Access::public()),
        ("GET /a", Access::public()),
        ("GET b", Access::public()),
        ("GET /{", Access::authenticated()),
        ("GET /c", Access::scope("x y")),
        ("GET /a", Access::scope("x/y")),
        ("GRPC /a", Access::scope("x/y")),
        ("GET /{x}", Access::public()),
        ("GET /{y}", Access::public()),
        ("POST /s.T/M", Access::public()),
        ("GRPC /s.T/M", Access::public()),
        ("GET /d//", Access::any_of([])),
    ])
    .unwrap_err();
    let keys = error.problems().map(|problem| problem.split('`').nth(1).unwrap());
    assert_eq!(
        keys.collect::<Vec<_>>(),
        [
            "get /a",
            "GET b",
            "GET /{",
            "GET /c",
            "GET /a",
            "GRPC /a",
            "GET /{y}",
            "GRPC /s.T/M",
            "GET /d//",
            "GET /d//",
        ]
    );
    assert!(
        error.to_string().starts_with("invalid configuration: scope table, `get /a`: "),
        "{error}"
    );
}

#[test]
fn row_with_two_problems_reports_both() {
    let error = ScopeTable::new([
        ("GET /a/../b", Access::scope("x y")),
        ("GET /c", Access::scope("x y")),
        ("GET /c", Access::public()),
    ]);
    let error = error.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(UNUSABLE), "the path besides the scope: {text}");
    assert!(
        text.contains("another row"),
        "the same requests as a row with a malformed scope: {text}"
    );
    assert_eq!(text.matches("invalid scope").count(), 2, "{text}");
}

/// A row of a table, for a simple model of the matching rules.
#[derive(Clone, Debug)]
struct Row {
    method: &'static str,
    path: String,
    requires: Requires,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requires {
    Nothing,
    Token,
    Scope,
}

impl Row {
    fn segments(&self) -> Vec<&str> {
        self.path[1..].split('/').collect()
    }

    /// Ranks how the row matches each segment of the request (0 is best), if it matches the path.
    fn ranks(&self, path: &str, same: fn(&str, &str) -> bool) -> Option<Vec<u8>> {
        let requested = path[1..].split('/').collect::<Vec<_>>();
        let mut ranks = Vec::new();
        for (at, segment) in self.segments().into_iter().enumerate() {
            let rest = requested.get(at..).filter(|rest| !rest.is_empty())?;
            if segment.starts_with("{*") {
                ranks.push(2);
                return (!rest.join("/").is_empty()).then_some(ranks);
            }
            match segment.starts_with('{') {
                true if !rest[0].is_empty() => ranks.push(1),
                false if same(segment, rest[0]) => ranks.push(0),
                _ => return None,
            }
        }
        (ranks.len() == requested.len()).then_some(ranks)
    }
}

fn is_raw(named: &str, segment: &str) -> bool {
    named == segment
}

fn is_decoded(named: &str, segment: &str) -> bool {
    unescaped(named) == unescaped(segment)
}

/// Compares as a servlet container does, or a server that parses the decoded path as a URL again.
fn is_decoded_and_stripped(named: &str, segment: &str) -> bool {
    let segment = unescaped(segment);
    segment.split(|byte| b";?#".contains(byte)).next() == Some(&unescaped(named))
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut found = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            found.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or(b'?'), bytes.next().unwrap_or(b'?')];
        let digits = std::str::from_utf8(&digits).unwrap_or_default();
        found.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
    }
    found
}

/// The rows of the path that matches the request best.
fn best<'t>(table: &'t [Row], path: &str, same: fn(&str, &str) -> bool) -> Vec<(usize, &'t Row)> {
    let ranked = table.iter().enumerate();
    let ranked = ranked.filter_map(|row| Some((row.1.ranks(path, same)?, row)));
    let ranked = ranked.collect::<Vec<_>>();
    let Some(best) = ranked.iter().map(|(ranks, _)| ranks).min().cloned() else {
        return Vec::new();
    };
    ranked.into_iter().filter(|(ranks, _)| *ranks == best).map(|(_, row)| row).collect()
}

fn by_method(rows: &[(usize, &Row)], method: &str) -> Option<usize> {
    let of = |method: &str| rows.iter().find(|(_, row)| row.method == method).map(|row| row.0);
    let get = of("GET").filter(|_| method == "HEAD");
    of(method).or(get).or_else(|| of("ANY"))
}

fn is_ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let is_dots = |segment: &[u8]| segment == b"." || segment == b"..";
    let is_escape = |(at, _): (usize, &str)| {
        let digits = path.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
    };
    ["//", "\\", "%2f", "%2e", "%5c"].iter().any(|odd| lower.contains(odd))
        || path.split('/').any(|segment| {
            let decoded = unescaped(segment);
            let end = decoded.iter().position(|byte| *byte == b';').unwrap_or(decoded.len());
            is_dots(&decoded[..end]) || end == 0 && !segment.is_empty()
        })
        || !path.match_indices('%').all(is_escape)
}

fn one_of<T: Copy>(dice: &mut Dice, items: &[T]) -> T {
    items[usize::try_from(dice.below(u64::try_from(items.len()).unwrap())).unwrap()]
}

/// Up to eight rows, no two of which match the same requests. With `for_axum`, a router of axum can
/// have all of them.
fn random_table(dice: &mut Dice, for_axum: bool) -> Vec<Row> {
    let mut table = Vec::<Row>::new();
    for _ in 0..=dice.below(8) {
        let mut path = String::new();
        let length = dice.below(4);
        for at in 0..=length {
            let segment = match dice.below(9) {
                0..5 => one_of(dice, &["a", "b", "ab", "c%20d", "%C3%A9"]),
                5 | 6 => "{x}",
                7 if at == length => "{*rest}",
                8 if at == length => "",
                _ => "a",
            };
            path.push('/');
            path.push_str(segment);
        }
        let method = one_of(dice, &["GET", "HEAD", "POST", "PUT", "ANY", "ANY"]);
        let requires =
            one_of(dice, &[Requires::Nothing, Requires::Token, Requires::Scope, Requires::Scope]);
        let is_free = |row: &Row| row.path != path || row.method != method;
        // matchit does not allow a wildcard and a parameter in the same place.
        let dynamic = |path: &str| -> Vec<(String, bool)> {
            path.match_indices('{')
                .map(|(at, _)| (path[..at].to_owned(), path[at..].starts_with("{*")))
                .collect()
        };
        let is_fit = |row: &Row| {
            dynamic(&row.path).iter().all(|(place, is_wildcard)| {
                dynamic(&path).iter().all(|(at, other)| place != at || is_wildcard == other)
            })
        };
        if table.iter().all(is_free) && (!for_axum || table.iter().all(is_fit)) {
            table.push(Row { method, path, requires });
        }
    }
    table
}

/// A path that often matches a row, or almost matches it.
fn random_path(dice: &mut Dice, table: &[Row]) -> String {
    let odd = [
        "%61", "%62", "a%62", "%61b", "c%20%64", "c%20d", "%c3%a9", "%C3%A9", "x", "", ".", "..",
        "%2e", "a%2Fb", "%5c", "%zz", "%", "a\\b", "A", "%41", "ab", "a;b", "%2561", ";", "..;",
        "..%3B", "%3Ba",
    ];
    let mut path = String::new();
    let row = &table[usize::try_from(dice.below(100)).unwrap() % table.len()];
    for segment in row.segments() {
        path.push('/');
        path.push_str(match (dice.below(12), segment.starts_with('{')) {
            (0, _) => one_of(dice, &odd),
            (1, _) => one_of(dice, &["a", "b", "ab", "é"]),
            (_, false) => segment,
            (2..5, true) => one_of(dice, &["x/a", "b/", "a/b/c", "x//y"]),
            (5..9, true) => one_of(dice, &["a", "b", "ab", "c%20d"]),
            (_, true) => one_of(dice, &odd),
        });
    }
    match dice.below(14) {
        0 => path.push('/'),
        1 => path.push_str("/a"),
        2 => path.insert(0, '/'),
        3 => path.push_str("?a=/b"),
        _ => {}
    }
    path
}

/// Whether a row covers everything below this path.
fn is_root_of_wildcard(rows: &[Row], path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments = path.split('/').skip(1).collect::<Vec<_>>();
    rows.iter().filter(|row| row.path.contains("{*")).any(|row| {
        let above = &row.segments()[..row.segments().len() - 1];
        let is_same = |(named, at): (&&str, &&str)| named == at || named.starts_with('{');
        above.len() == segments.len() && above.iter().zip(&segments).all(is_same)
    })
}

const METHODS: [&str; 9] = ["GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "get", "FOO", "ANY"];

fn scope_of(row: usize) -> String {
    format!("row/{row}")
}

fn table_of(rows: &[Row]) -> ScopeTable {
    let keys = rows.iter().map(|row| format!("{} {}", row.method, row.path)).collect::<Vec<_>>();
    let access = rows.iter().enumerate().map(|(number, row)| match row.requires {
        Requires::Nothing => Access::public(),
        Requires::Token => Access::authenticated(),
        Requires::Scope => Access::scope(&scope_of(number)),
    });
    ScopeTable::new(keys.iter().map(String::as_str).zip(access)).unwrap()
}

#[tokio::test]
async fn random_tables_agree_with_a_simple_model() {
    let verifier = verifier();
    let none = bearer("");
    let mut counts = [0; 4];
    for seed in 0..2_000 {
        let mut dice = Dice(seed);
        let rows = random_table(&mut dice, false);
        let layer = RequireToken::new(verifier.clone()).scope_table(table_of(&rows));
        for _ in 0..6 {
            let path = random_path(&mut dice, &rows);
            let method = one_of(&mut dice, &METHODS);
            let Ok(uri) = path.parse::<Uri>() else {
                continue;
            };
            let raw = by_method(&best(&rows, uri.path(), is_raw), method);
            let decoded = by_method(&best(&rows, uri.path(), is_decoded), method);
            let has_other_spelling = rows.iter().any(|row| {
                row.segments().iter().any(|named| {
                    let is_other = |at| is_decoded(named, at) || is_decoded_and_stripped(named, at);
                    uri.path().split('/').any(|at| at != *named && is_other(at))
                })
            });
            let expected = |row: Option<usize>| match row.map(|row| (row, rows[row].requires)) {
                None => rejected(403),
                Some((_, Requires::Nothing)) => anonymous(),
                Some((_, Requires::Token)) => reached(),
                Some((row, Requires::Scope)) => insufficient(&[&scope_of(row)]),
            };
            let name = format!("seed {seed}: {method} {path} of {rows:#?}");
            let outcome = call(&layer, &format!("{method} {path}"), Some(&none)).await;
            if is_ambiguous(uri.path()) || raw != decoded {
                counts[0] += 1;
                assert_eq!(outcome, rejected(403), "{name}");
            } else if has_other_spelling || is_root_of_wildcard(&rows, uri.path()) {
                counts[1] += 1;
                assert!(
                    outcome == rejected(403) || outcome == expected(raw),
                    "{name}: {outcome:?}"
                );
            } else {
                counts[if raw.is_some() { 2 } else { 3 }] += 1;
                assert_eq!(outcome, expected(raw), "{name}");
            }
        }
    }
    // Every branch was taken often.
    assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
}

#[derive(Clone, Copy, Debug)]
struct Called(usize);

fn router(rows: &[Row], serving: Serving) -> Router {
    let mut paths = rows.iter().map(|row| &*row.path).collect::<Vec<_>>();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().fold(Router::new(), |router, path| {
        let same = rows.iter().enumerate().filter(|(_, row)| row.path == path);
        let methods = same.fold(MethodRouter::new(), |methods, (number, row)| {
            let handler = move || async move {
                let mut response = ().into_response();
                response.extensions_mut().insert(Called(number));
                response
            };
            match row.method {
                "ANY" => methods.fallback(handler),
                name => {
                    let method = Method::from_bytes(name.as_bytes()).unwrap();
                    methods.on(MethodFilter::try_from(method).unwrap(), handler)
                }
            }
        });
        if path.contains("{*") {
            serving.add(router, path, rows, methods)
        } else {
            router.route(path, methods)
        }
    })
}

async fn route(
    app: &Router,
    method: &str,
    uri: &Uri,
    authorization: Option<&str>,
) -> Response<Body> {
    let mut request = request(method, "/", authorization).map(|_| Body::empty());
    *request.uri_mut() = uri.clone();
    app.clone().oneshot(request).await.unwrap()
}

fn called<B>(response: &Response<B>) -> Option<usize> {
    response.extensions().get::<Called>().map(|called| called.0)
}

#[tokio::test]
async fn random_requests_get_the_row_of_their_axum_route_or_are_rejected() {
    let verifier = verifier();
    let none = bearer("");
    let (mut chosen, mut rejections, mut unrouted) = (0, 0, 0);
    for seed in 0..1_500 {
        let mut dice = Dice(1_000_000 + seed);
        let mut rows = random_table(&mut dice, true);
        rows.iter_mut().for_each(|row| row.requires = Requires::Scope);
        let bare = router(&rows, Serving::Route);
        let layer = RequireToken::new(verifier.clone()).scope_table(table_of(&rows));
        let guarded = bare.clone().layer(layer);
        for _ in 0..6 {
            let path = random_path(&mut dice, &rows);
            let method = one_of(&mut dice, &METHODS);
            let Ok(uri) = path.parse::<Uri>() else {
                continue;
            };
            let name = format!("seed {seed}: {method} {path} of {rows:#?}");
            let routed = called(&route(&bare, method, &uri, None).await);
            let response = route(&guarded, method, &uri, Some(&none)).await;
            assert_eq!((response.status().as_u16(), called(&response)), (403, None), "{name}");
            let required = response.extensions().get::<Rejection>().unwrap().required_scopes();
            let required = required.first().map(Scope::to_string);
            match (routed, required) {
                (Some(row), Some(required)) => {
                    chosen += 1;
                    assert_eq!(required, scope_of(row), "{name}");
                }
                (Some(_), None) => {
                    rejections += 1;
                    let is_root = is_root_of_wildcard(&rows, uri.path());
                    let is_odd = is_ambiguous(uri.path()) || path.contains(['%', 'é', ';']);
                    assert!(is_odd || is_root, "{name}");
                }
                (None, required) => {
                    unrouted += 1;
                    assert_eq!(required, None, "{name}");
                }
            }
        }
    }
    assert!(
        chosen > 1_900 && rejections > 300 && unrouted > 500,
        "{chosen} {rejections} {unrouted}"
    );
}

/// How a wildcard row is served: by a wildcard route, or by a nested service that also serves its root.
#[derive(Clone, Copy, Debug)]
enum Serving {
    Route,
    Nest,
    NestService,
    NestInNest,
    NestServiceInNestService,
}

impl Serving {
    const ALL: [Self; 5] = [
        Self::Route,
        Self::Nest,
        Self::NestService,
        Self::NestInNest,
        Self::NestServiceInNestService,
    ];

    /// Adds the rows of this wildcard path. Falls back to a route if axum would panic because of
    /// another route at the same place.
    fn add(self, app: Router, path: &str, rows: &[Row], methods: MethodRouter) -> Router {
        let root = path.rsplit_once('/').map_or("", |(root, _)| root);
        let is_taken = |prefix: &str| {
            rows.iter().any(|row| row.path == prefix || row.path == format!("{prefix}/"))
        };
        let (outer, inner) = root.rmatch_indices('/').next().map_or(("", ""), |(at, _)| {
            let (outer, inner) = root.split_at(at);
            (outer, inner)
        });
        let is_only_child = !rows.iter().any(|row| row.path != path && row.path.starts_with(outer));
        let leaf = |methods: MethodRouter| {
            let leaf = Router::new().route("/{*rest}", methods.clone());
            if is_taken(root) { leaf } else { leaf.route("/", methods) }
        };
        match self {
            _ if root.is_empty() => app.route(path, methods),
            Self::Nest => app.nest(root, leaf(methods)),
            Self::NestInNest if !outer.is_empty() => {
                app.nest(outer, Router::new().nest(inner, leaf(methods)))
            }
            Self::NestService if !is_taken(root) => app.nest_service(root, methods),
            Self::NestServiceInNestService if !outer.is_empty() && is_only_child => {
                app.nest_service(outer, Router::new().nest_service(inner, methods))
            }
            _ => app.route(path, methods),
        }
    }
}

#[tokio::test]
async fn random_requests_to_nested_services_need_their_row_or_are_rejected() {
    let verifier = verifier();
    let none = bearer("");
    let (mut chosen, mut roots, mut nested) = (0, 0, [0; 5]);
    for seed in 0..3_000 {
        let mut dice = Dice(3_000_000 + seed);
        let mut rows = random_table(&mut dice, true);
        rows.iter_mut().for_each(|row| row.requires = Requires::Scope);
        let serving = Serving::ALL[usize::try_from(seed % 5).unwrap()];
        let bare = router(&rows, serving);
        let guarded =
            bare.clone().layer(RequireToken::new(verifier.clone()).scope_table(table_of(&rows)));
        for number in 0..6 {
            // Every other path is a root, because random paths seldom are.
            let wildcard = rows.iter().find(|row| row.path.contains("{*"));
            let path = match wildcard.map(|row| row.path.replace("/{*rest}", "")) {
                Some(root) if number % 2 == 0 && !root.is_empty() => root.replace("{x}", "b"),
                _ => random_path(&mut dice, &rows),
            };
            let method = one_of(&mut dice, &METHODS);
            let Ok(uri) = path.parse::<Uri>() else {
                continue;
            };
            let name = format!("seed {seed}: {method} {path} by {serving:?} of {rows:#?}");
            let routed = called(&route(&bare, method, &uri, None).await);
            let response = route(&guarded, method, &uri, Some(&none)).await;
            assert_eq!((response.status().as_u16(), called(&response)), (403, None), "{name}");
            let required = response.extensions().get::<Rejection>().unwrap().required_scopes();
            if let (Some(row), Some(required)) = (routed, required.first()) {
                chosen += 1;
                assert_eq!(required.to_string(), scope_of(row), "{name}");
            } else if let Some(row) = routed
                && rows[row].path.contains("{*")
                && is_root_of_wildcard(&rows[row..=row], uri.path())
            {
                roots += 1;
                nested[usize::try_from(seed % 5).unwrap()] += 1;
            }
        }
    }
    assert!(chosen > 1_500 && roots > 200, "{chosen} {roots}");
    assert!(nested[1..].iter().all(|count| *count > 20), "{nested:?}");
}

#[tokio::test]
async fn deep_table_answers_a_long_path_quickly() {
    // There is a name, a parameter and a wildcard at each level, so a search that tried every
    // combination would not end.
    let path = (0..200).map(|_| "/{x}").collect::<String>();
    let keys = (1..200).flat_map(|levels| {
        let start = &path[..levels * 4];
        let named = start.replace("{x}", "a");
        [
            format!("GET {start}/a/b"),
            format!("GET {named}/{{*rest}}"),
            format!("GET {named}/{{x}}/c"),
        ]
    });
    let keys = keys.collect::<Vec<_>>();
    let rows = keys.iter().map(|key| (&**key, Access::authenticated()));
    let layer = layer(rows);
    let key = format!("GET {}", "/a".repeat(5_000));
    assert_eq!(call(&layer, &key, Some(&bearer(""))).await, reached());
    let key = format!("GET {}/%61", "/x".repeat(150));
    assert_eq!(call(&layer, &key, Some(&bearer(""))).await, rejected(403));
}

#[tokio::test]
async fn allows_makes_the_decision_of_the_layer() {
    let verifier = verifier();
    let tokens = ["", "row/0 row/2 row/4"].map(|scope| machine(scope).sign());
    let mut counts = [0; 2];
    for seed in 0..500 {
        let mut dice = Dice(3_000_000 + seed);
        let rows = random_table(&mut dice, false);
        let table = table_of(&rows);
        let layer = RequireToken::new(verifier.clone()).scope_table(table.clone());
        for _ in 0..6 {
            let path = random_path(&mut dice, &rows);
            let method = one_of(&mut dice, &METHODS);
            let token = one_of(&mut dice, &[&tokens[0], &tokens[1]]);
            let Ok(uri) = path.parse::<Uri>() else {
                continue;
            };
            let (key, authorization) = (format!("{method} {path}"), format!("Bearer {token}"));
            let is_reached = matches!(call(&layer, &key, Some(&authorization)).await, Reached(_));
            let token = verifier.verify(token).await.unwrap();
            let name = format!("seed {seed}: {method} {path} of {rows:#?}");
            assert_eq!(table.allows(method, uri.path(), &token), is_reached, "{name}");
            counts[usize::from(is_reached)] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
}

#[tokio::test]
async fn paths_list_each_path_once_with_the_decision_of_its_rows() {
    let table = ScopeTable::new([
        ("GET /", Access::public()),
        ("GET /item", Access::scope("item/read")),
        ("PUT /item/{id}", Access::scope("item/write")),
        ("ANY /item/{name}", Access::scope("item/read")),
        ("GET /item/{id}/", Access::authenticated()),
        ("GET /c%20d/{*rest}", Access::group("support")),
        ("GRPC /a.B/C", Access::scope("item/write").with_group("support")),
    ])
    .unwrap();
    let user = machine("item/read").claim("cognito:groups", ["support"]).sign();
    let token = verifier().verify(&user).await.unwrap();
    let methods = ["GET", "HEAD", "PUT", "POST"];
    let allowed = table.paths().into_iter().map(|path| {
        let allowed = methods.into_iter().filter(|method| path.allows(method, &token));
        (path.as_str().to_owned(), allowed.collect::<Vec<_>>().join(" "))
    });
    let expected = [
        ("/", "GET HEAD"),
        ("/a.B/C", ""),
        ("/c%20d/{*}", "GET HEAD"),
        ("/item", "GET HEAD"),
        ("/item/{}", "GET HEAD POST"),
        ("/item/{}/", "GET HEAD"),
    ];
    assert_eq!(
        allowed.collect::<Vec<_>>(),
        expected.map(|(path, methods)| (path.to_owned(), methods.to_owned()))
    );
    let machine = verifier().verify(&machine("item/write").sign()).await.unwrap();
    assert!(!table.allows("POST", "/a.B/C", &machine), "it lacks the group");
    assert!(table.allows("PUT", "/item/7", &machine));
    assert!(!table.allows("PUT", "/item/%2e", &machine), "the path is ambiguous");
}
