//! The pages of `src/docs`, where they show what the crate does: they must be what it does.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_cognito::{
    CheckError, ClientIds, RefreshError, RejectionBody, RequireScope, RequireToken,
    ResourceMetadata, Rules, Verifier,
};

use super::support::{CLIENT, Log, issuer, machine, rules, verifier};
use super::tidy::{files_below, is_rust, root};

const API_GATEWAY: &str = include_str!("../../src/docs/api_gateway.md");
const ERRORS: &str = include_str!("../../src/docs/errors.md");
const REFUSALS: &str = include_str!("../../src/docs/responses.md");
const OBSERVABILITY: &str = include_str!("../../src/docs/observability.md");

#[tokio::test]
async fn what_clients_see_is_what_the_page_shows() {
    let scoped = || get(|| async { "ok" }).layer(RequireScope::new("item/read"));
    let app = |layer: RequireToken| Router::new().route("/item", scoped()).layer(layer);
    let usual = || app(RequireToken::new(verifier()));
    let checked = rules().with_check(|_| Err(CheckError::Forbidden));
    let forbidden = Verifier::builder(checked).build_with_jwks(issuer().jwks()).unwrap();
    let without_keys = Verifier::builder(rules())
        .jwks_fetcher(async |_| Err(RefreshError::transport("down")))
        .connect_lazy()
        .unwrap();
    let metadata = ResourceMetadata::new("https://api.example.com/mcp", [issuer().issuer()]);

    let expired = machine("item/read").issued_at(std::time::UNIX_EPOCH).sign();
    let other_scope = machine("item/write").sign();
    let good = machine("item/read").sign();
    let bearer = |token: &str| format!("Bearer {token}");
    for (heading, app, authorization) in [
        ("No token", usual(), String::new()),
        ("A header that is none", usual(), "Bearer".to_owned()),
        ("A token that is not good", usual(), bearer("abc")),
        ("A token that has expired", usual(), bearer(&expired)),
        ("A scope is missing", usual(), bearer(&other_scope)),
        (
            "Groups, a check of yours, or the scope table say no",
            app(RequireToken::new(forbidden)),
            bearer(&good),
        ),
        ("There are no keys", app(RequireToken::new(without_keys)), bearer(&good)),
        (
            "The layers are put together wrongly",
            Router::new().route("/item", scoped()),
            bearer(&good),
        ),
        (
            "With a problem document",
            app(RequireToken::new(verifier()).rejection_body(RejectionBody::problem)),
            bearer(&expired),
        ),
        (
            "With resource metadata",
            app(RequireToken::new(verifier()).resource_metadata(&metadata.unwrap())),
            String::new(),
        ),
    ] {
        let shown = section(REFUSALS, heading);
        let (_, shown) = shown.split_once("```text\n").unwrap();
        let (shown, _) = shown.split_once("\n```").unwrap();
        assert_eq!(curl_i(app, &authorization).await, shown, "{heading}");
    }
}

#[tokio::test]
async fn what_api_gateways_clients_see_here_is_on_the_page() {
    let app = |layer: RequireToken| Router::new().route("/item", get(|| async {})).layer(layer);
    let usual = || app(RequireToken::new(verifier()));
    let scoped = |scope: RequireScope| {
        let route = get(|| async {}).layer(scope);
        Router::new().route("/item", route).layer(RequireToken::new(verifier()))
    };
    let with = |rules: Rules| {
        let verifier = Verifier::builder(rules).build_with_jwks(issuer().jwks()).unwrap();
        app(RequireToken::new(verifier))
    };
    let any_client = Rules::new(issuer().user_pool(), ClientIds::any());
    let without_keys = Verifier::builder(rules())
        .jwks_fetcher(async |_| Err(RefreshError::transport("down")))
        .connect_lazy()
        .unwrap();

    let bearer = |token: &str| format!("Bearer {token}");
    let write = bearer(&machine("item/write").sign());
    let expired = bearer(&machine("").issued_at(std::time::UNIX_EPOCH).sign());
    let id_token = bearer(&issuer().id_token(CLIENT, "alice").sign());
    let another = bearer(&issuer().machine_token("another").sign());
    let for_another_api = bearer(&machine("").claim("aud", "https://api.example.com").sign());
    let both = RequireScope::any_of(["item/read", "item/write"]);
    let rows = [
        ("without a token", vec![(usual(), "")]),
        ("a token that is not good, or has expired", vec![(usual(), &*expired)]),
        (
            "none of the scopes that are asked for",
            vec![(scoped(RequireScope::any_of(["item/read", "item/list"])), &*write)],
        ),
        ("one of several scopes that are asked for", vec![(scoped(both), &*write)]),
        ("an ID token, and no scope is asked for", vec![(usual(), &*id_token)]),
        ("an access token, and no scope is asked for", vec![(usual(), &*write)]),
        (
            "another app client of the pool",
            vec![(usual(), &*another), (with(any_client), &another)],
        ),
        (
            "the token without `Bearer`",
            vec![
                (usual(), &write["Bearer ".len()..]),
                (app(RequireToken::new(verifier()).accept_bare_token()), &write["Bearer ".len()..]),
            ],
        ),
        (
            "an `aud`, and a `client_id` that is listed",
            vec![
                (usual(), &*for_another_api),
                (with(rules().with_audience("https://this.example.com")), &for_another_api),
            ],
        ),
        ("the keys can not be fetched", vec![(app(RequireToken::new(without_keys)), &*write)]),
    ];
    assert_eq!(API_GATEWAY.lines().filter(|line| line.starts_with("| ")).count(), rows.len() + 2);
    for (row, requests) in rows {
        let line = API_GATEWAY.lines().find(|line| line.starts_with(&format!("| {row} | ")));
        let cell = line.unwrap_or_else(|| panic!("no row for {row}")).rsplit(" | ").next().unwrap();
        let words = cell.split([' ', ',', ';']);
        let shown =
            words.filter_map(|word| if word == "taken" { Some(200) } else { word.parse().ok() });
        let mut statuses = Vec::new();
        for (app, authorization) in requests {
            let answer = curl_i(app, authorization).await;
            statuses.push(answer["HTTP/1.1 ".len()..][..3].parse::<u16>().unwrap());
        }
        assert_eq!(shown.collect::<Vec<_>>(), statuses, "{row}");
    }
}

#[test]
fn each_log_event_is_on_the_page_and_no_other() {
    let telemetry = include_str!("../../src/telemetry.rs");
    let mut texts = Vec::new();
    for (at, _) in telemetry.match_indices("tracing::") {
        let call = &telemetry[at..];
        let (level, call) = call["tracing::".len()..].split_once('!').unwrap_or_default();
        if !["debug", "info", "warn", "error"].contains(&level) {
            continue;
        }
        let call = &call[..call.find(");").unwrap()];
        let text = call.rsplit('"').nth(1).unwrap();
        texts.push((level, text));
    }
    assert_eq!(texts.len(), 12);
    for (level, text) in &texts {
        let row = OBSERVABILITY.lines().find(|line| line.contains(text));
        let row = row.unwrap_or_else(|| panic!("no row for {text}"));
        assert!(row.starts_with(&format!("| {level} | ")), "{row}");
    }
    let rows = section(OBSERVABILITY, "Log events").lines().filter(|line| line.starts_with("| "));
    assert_eq!(rows.count(), texts.len() + 2);
}

#[test]
fn each_metric_is_on_the_page() {
    let telemetry = include_str!("../../src/telemetry.rs");
    let names = telemetry.split('"').filter(|text| text.starts_with("cognito_"));
    let names = names.collect::<std::collections::BTreeSet<_>>();
    let shown = section(OBSERVABILITY, "Metrics");
    for name in &names {
        assert!(shown.contains(&format!("| `{name}` | ")), "{name}");
    }
    let rows = shown.lines().filter(|line| line.starts_with("| `cognito_"));
    assert_eq!(rows.count(), names.len());
}

#[tokio::test]
async fn the_logged_reasons_of_a_request_are_on_the_page() {
    let log = Log::of_this_thread();
    let app = Router::new().route("/item", get(|| async {})).layer(RequireToken::new(verifier()));
    curl_i(app, "").await;
    let log = log.take();
    assert!(
        log.contains("DEBUG") && log.contains(r#"request rejected reason="missing_token""#),
        "{log}"
    );
    let shown = section(OBSERVABILITY, "Reasons");
    for reason in [
        "missing_token",
        "invalid_request",
        "insufficient_scope",
        "not_in_scope_table",
        "no_require_token",
    ] {
        assert!(shown.contains(&format!("`{reason}`")), "{reason}");
    }
    let errors = include_str!("../../src/error.rs");
    let (_, names) = errors.split_once("fn as_str(self)").unwrap();
    let (names, _) = names.split_once("\n    }\n").unwrap();
    let names = names.split('"').skip(1).step_by(2).collect::<Vec<_>>();
    assert!(names.len() >= 17);
    for name in names {
        assert!(shown.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn each_text_is_on_the_page_of_errors_and_no_other() {
    // What is no error's: of challenges and headers, of serde's errors, and of lints.
    const OTHERS: [&str; 8] = [
        "GET, HEAD",
        "a name",
        "duplicate name",
        "a value has a lone surrogate or is nested too deeply",
        "an object",
        "it is the caller's source that is wrong",
        "polling a completed future is a bug in the caller",
        "settings by their names",
    ];

    let mut texts = BTreeSet::new();
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        let is_for_tests = path.components().any(|part| part.as_os_str() == "test_issuer")
            || path.ends_with("jwks/wycheproof.rs");
        if !is_for_tests {
            texts.extend(literals(&fs::read_to_string(&path).unwrap()));
        }
    }
    let is_prose = |text: &String| text.trim().contains(' ') && text.contains(char::is_alphabetic);
    texts.retain(|text| is_prose(text) && !text.contains("=\""));
    assert!(OTHERS.iter().all(|other| texts.remove(*other)));
    assert!(texts.len() > 140, "{}", texts.len());

    let page = with_gaps(&ERRORS.replace('\n', " "));
    let missing = texts.iter().filter(|text| !page.contains(&with_gaps(text)));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "not on the page");

    // The other way round, for what stands in the column of texts.
    let texts = with_gaps(&texts.into_iter().collect::<Vec<_>>().join("\n"));
    let mut column = 0;
    for line in ERRORS.lines().filter(|line| line.starts_with("| ")) {
        let cells = line.split(" | ").map(|cell| cell.trim_start_matches("| ")).collect::<Vec<_>>();
        match cells.iter().position(|cell| *cell == "text") {
            Some(at) => column = at,
            None => {
                let text = with_gaps(cells[column].trim_start_matches("…: "));
                assert!(text == "---" || texts.contains(&text), "not in the source: {text}");
            }
        }
    }
}

#[test]
fn each_path_of_where_it_runs_is_there() {
    let page = include_str!("../../src/docs/where.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let paths = named.filter(|name| name.starts_with("examples/") || name.starts_with("tests/"));
    let mut count = 0;
    for path in paths {
        assert!(root().join(path).exists(), "{path}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_readmes_comparison_is_that_of_the_page() {
    let table = |text: &str| {
        let (_, table) = text.split_once("\n| Cognito's access token as it is").unwrap();
        table.split_once("\n\n").unwrap().0.to_owned()
    };
    let page = include_str!("../../src/docs/comparison.md");
    assert_eq!(table(include_str!("../../README.md")), table(page));
}

#[test]
fn each_page_that_the_readme_names_is_there() {
    let pages = include_str!("../../src/docs.rs");
    let readme = include_str!("../../README.md");
    let mut count = 0;
    for named in readme.split("/tower_cognito/docs/").skip(1) {
        let (page, rest) = named.split_once('/').unwrap();
        assert!(pages.contains(&format!("pub mod {page} {{")), "{page}");
        assert!(rest.starts_with("index.html\n"), "{page}");
        assert!(readme.contains(&format!("][docs-{page}]")), "{page} is defined and not used");
        count += 1;
    }
    assert!(count > 8, "{count}");
    assert_eq!(readme.matches("\n[docs-").count(), count);
}

/// `…` instead of what is put in.
fn with_gaps(text: &str) -> String {
    let mut pieces = text.split('{');
    let mut gapped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        gapped.push('…');
        gapped.push_str(piece.split_once('}').map_or(piece, |(_, after)| after));
    }
    gapped
}

/// The string literals of a source, unescaped, without those of its tests.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\n").next().unwrap();
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, found) = rest.split_at(at);
        let is_bytes = before.ends_with('b');
        if found.starts_with("//") {
            rest = found.split_once('\n').map_or("", |(_, rest)| rest);
        } else if found.starts_with("'\"'") || found.starts_with("'\\\"'") {
            rest = &found[3..];
        } else if !found.starts_with('"') {
            rest = &found[1..];
        } else if before.ends_with(['#', 'r']) && before.trim_end_matches('#').ends_with('r') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let end = format!("\"{}", "#".repeat(hashes));
            let (literal, after) = found[1..].split_once(&end).unwrap();
            if !before.trim_end_matches('#').ends_with("br") {
                literals.push(literal.to_owned());
            }
            rest = after;
        } else {
            let mut literal = String::new();
            let mut chars = found[1..].char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (end, '"') => break end,
                    (_, '\\') => match chars.next().unwrap().1 {
                        '\n' => {
                            let rest = chars.as_str().trim_start();
                            let skipped = chars.as_str().len() - rest.len();
                            let _ = (skipped > 0).then(|| chars.nth(skipped - 1));
                        }
                        escaped => literal.push(escaped),
                    },
                    (_, other) => literal.push(other),
                }
            };
            if !is_bytes {
                literals.push(literal);
            }
            rest = &found[1 + end + 1..];
        }
    }
    literals
}

/// From this heading to the next.
#[track_caller]
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let (_, rest) =
        page.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    rest.split("\n## ").next().unwrap()
}

/// What `curl -i` prints, but for the date.
async fn curl_i(app: Router, authorization: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    let mut socket = TcpStream::connect(address).await.unwrap();
    let authorization = match authorization {
        "" => String::new(),
        value => format!("Authorization: {value}\r\n"),
    };
    let request =
        format!("GET /item HTTP/1.1\r\nHost: a\r\n{authorization}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    let lines = response
        .split("\r\n")
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("connection: "));
    lines.collect::<Vec<_>>().join("\n")
}
