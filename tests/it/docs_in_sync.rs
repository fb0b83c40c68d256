//! The documentation and the source say the same, and both are in plain English.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    Access, ClientIds, RejectionBody, RequireScope, RequireToken, ResourceMetadata, Rules,
    ScopeTable, TokenSource,
};

use super::architecture::{files_below, is_rust, root};
use super::rejections::ROWS;
use super::support::{
    CLIENT, Log, issuer, machine, rules, serve, verifier, verifier_of, without_keys,
};

const API_GATEWAY: &str = include_str!("../../src/docs/api_gateway.md");
const ERRORS: &str = include_str!("../../src/docs/errors.md");
const RESPONSES: &str = include_str!("../../src/docs/responses.md");
const OBSERVABILITY: &str = include_str!("../../src/docs/observability.md");

#[test]
fn responses_page_has_the_rejection_table() {
    let mut grpc = Vec::new();
    for (heading, name, row) in ROWS {
        let status = StatusCode::from_u16(row.status).unwrap();
        let mut expected = format!("HTTP/1.1 {status}\ncontent-type: application/json\n");
        expected += &format!("content-length: {}\ncache-control: no-store\n", row.json.len());
        expected.extend(row.retry_after.map(|value| format!("retry-after: {value}\n")));
        expected.extend(row.challenge().map(|value| format!("www-authenticate: {value}\n")));
        expected += &format!("\n{}", row.json);
        assert_eq!(shown_response(heading), expected, "{heading}");

        let status = row.status.to_string();
        let http = if name.is_empty() { status } else { format!("{status}, {name}") };
        let code = match row.grpc_status {
            7 => "7 `PERMISSION_DENIED`",
            13 => "13 `INTERNAL`",
            14 => "14 `UNAVAILABLE`",
            16 => "16 `UNAUTHENTICATED`",
            other => panic!("{other}"),
        };
        let cells = [&*http, code, row.grpc_message];
        grpc.push(cells.map(str::to_owned).to_vec());
    }
    assert_eq!(table_rows(section(RESPONSES, "To gRPC clients")), grpc);

    let statuses = table_rows(RESPONSES.split("\n## ").next().unwrap());
    let statuses = statuses.iter().map(|cells| cells[0].parse().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(statuses, ROWS.iter().map(|(_, _, row)| row.status).collect());
}

/// Returns the cells of each row of the first table in this text, without its heading.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// Returns the response that the page shows under this heading.
fn shown_response(heading: &str) -> &'static str {
    let (_, shown) = section(RESPONSES, heading).split_once("```text\n").unwrap();
    shown.split_once("\n```").unwrap().0
}

#[tokio::test]
async fn responses_with_other_settings_are_as_shown_on_the_page() {
    let app = |layer: RequireToken| Router::new().route("/item", get(|| async {})).layer(layer);
    let layer = || RequireToken::new(verifier());
    let metadata = ResourceMetadata::new("https://api.example.com/mcp", [issuer().issuer()]);
    let table = ScopeTable::new([("GET /item", Access::scope("item/read"))]).unwrap();
    let alb = http::HeaderName::from_static("x-amzn-oidc-accesstoken");

    let bearer = |token: TokenBuilder| format!("Bearer {}", token.sign());
    let expired = bearer(machine("item/read").issued_at(std::time::UNIX_EPOCH));
    let examples = [
        ("With a problem document", layer().rejection_body(RejectionBody::problem), expired),
        (
            "The token is expected elsewhere",
            layer().token_source(TokenSource::header(alb)),
            bearer(machine("item/read")),
        ),
        (
            "A token is missing or invalid, and the scopes are known",
            layer().scope_table(table),
            String::new(),
        ),
        ("With resource metadata", layer().resource_metadata(&metadata.unwrap()), String::new()),
    ];
    assert_eq!(RESPONSES.matches("```text\nHTTP/").count(), ROWS.len() + examples.len());
    for (heading, layer, authorization) in examples {
        assert_eq!(curl_i(app(layer), &authorization).await, shown_response(heading), "{heading}");
    }
}

#[tokio::test]
async fn responses_to_requests_of_api_gateway_clients_are_as_shown_on_the_page() {
    let app = |layer: RequireToken| Router::new().route("/item", get(|| async {})).layer(layer);
    let usual = || app(RequireToken::new(verifier()));
    let scoped = |scope: RequireScope| {
        let route = get(|| async {}).layer(scope);
        Router::new().route("/item", route).layer(RequireToken::new(verifier()))
    };
    let with = |rules: Rules| app(RequireToken::new(verifier_of(rules)));
    let any_client = Rules::new(issuer().user_pool(), ClientIds::any());
    let without_keys = without_keys();

    let bearer = |token: &str| format!("Bearer {token}");
    let write = bearer(&machine("item/write").sign());
    let expired = bearer(&machine("").issued_at(std::time::UNIX_EPOCH).sign());
    let id_token = bearer(&issuer().id_token(CLIENT, "alice").sign());
    let another = bearer(&issuer().machine_token("another").sign());
    let for_another_api = bearer(&machine("").claim("aud", "https://api.example.com").sign());
    let both = RequireScope::any_of(["item/read", "item/write"]);
    let rows = [
        ("without a token", vec![(usual(), "")]),
        ("an invalid or expired token", vec![(usual(), &*expired)]),
        (
            "none of the required scopes",
            vec![(scoped(RequireScope::any_of(["item/read", "item/list"])), &*write)],
        ),
        ("one of several required scopes", vec![(scoped(both), &*write)]),
        ("an ID token, and no scope is required", vec![(usual(), &*id_token)]),
        ("an access token, and no scope is required", vec![(usual(), &*write)]),
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
        ("the keys cannot be fetched", vec![(app(RequireToken::new(without_keys)), &*write)]),
    ];
    assert_eq!(API_GATEWAY.lines().filter(|line| line.starts_with("| ")).count(), rows.len() + 2);
    for (row, requests) in rows {
        let line = API_GATEWAY.lines().find(|line| line.starts_with(&format!("| {row} | ")));
        let cell = line.unwrap_or_else(|| panic!("no row for {row}")).rsplit(" | ").next().unwrap();
        let words = cell.split([' ', ',', ';']);
        let shown =
            words.filter_map(|word| if word == "accepted" { Some(200) } else { word.parse().ok() });
        let mut statuses = Vec::new();
        for (app, authorization) in requests {
            let answer = curl_i(app, authorization).await;
            statuses.push(answer["HTTP/1.1 ".len()..][..3].parse::<u16>().unwrap());
        }
        assert_eq!(shown.collect::<Vec<_>>(), statuses, "{row}");
    }
}

#[test]
fn log_events_are_the_rows_of_the_page() {
    let telemetry = include_str!("../../src/telemetry.rs");
    let mut texts = Vec::new();
    for (at, _) in telemetry.match_indices("tracing::") {
        let call = &telemetry[at..];
        let (level, call) = call["tracing::".len()..].split_once('!').unwrap_or_default();
        if !["debug", "info", "warn", "error"].contains(&level) {
            continue;
        }
        let ends = [");", "),\n"].into_iter().filter_map(|end| call.find(end));
        let call = &call[..ends.min().unwrap()];
        let text = call.rsplit('"').nth(1).unwrap();
        texts.push((level, text));
    }
    assert_eq!(texts.len(), 17);
    for (level, text) in &texts {
        let row = OBSERVABILITY.lines().find(|line| line.contains(&format!(" | {text} | ")));
        let row = row.unwrap_or_else(|| panic!("no row for {text}"));
        assert!(row.starts_with(&format!("| {level} | ")), "{row}");
    }
    let rows = section(OBSERVABILITY, "Log events").lines().filter(|line| line.starts_with("| "));
    let texts = texts.into_iter().collect::<BTreeSet<_>>();
    // "request rejected" has two calls, for the two sets of its fields.
    assert_eq!(texts.len(), 16);
    assert_eq!(rows.count(), texts.len() + 2);
}

#[test]
fn metrics_are_the_rows_of_the_page() {
    let telemetry = include_str!("../../src/telemetry.rs");
    let names = telemetry.split('"').filter(|text| text.starts_with("cognito_"));
    let names = names.collect::<std::collections::BTreeSet<_>>();
    let shown = section(OBSERVABILITY, "Metrics");
    for name in &names {
        assert!(shown.contains(&format!("| `{name}` | ")), "{name}");
    }
    let rows = shown.lines().filter(|line| line.starts_with("| `cognito_"));
    assert_eq!(rows.count(), names.len());

    let (_, kinds) = telemetry.split_once("count! {\n").unwrap();
    let kinds = kinds.split_once('}').unwrap().0.split('"').skip(1).step_by(2);
    let kinds = kinds.map(|kind| format!("`{kind}`")).collect::<Vec<_>>();
    let (others, last) = kinds.split_at(kinds.len() - 1);
    let labels = format!("`kind`: {} or {}", others.join(", "), last[0]);
    assert!(shown.contains(&labels), "{labels}");
}

#[tokio::test]
async fn logged_reasons_are_on_the_page() {
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
        "missing_group",
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
fn error_texts_are_the_rows_of_the_page() {
    // Literals that are not error texts: of challenges, headers, serde's errors and lints.
    const OTHERS: [&str; 8] = [
        "GET, HEAD",
        "a name",
        "duplicate name",
        "a value has a lone surrogate or is nested too deeply",
        "an object",
        "it is the caller's source that is wrong",
        "polling a completed future is a bug in the caller",
        "a table of settings",
    ];

    let mut texts = BTreeSet::new();
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        let is_for_tests = path.components().any(|part| part.as_os_str() == "test_issuer")
            || path.ends_with("jwks/wycheproof.rs")
            || path.ends_with("jwks/wycheproof_files.rs");
        if !is_for_tests {
            texts.extend(literals(&fs::read_to_string(&path).unwrap()));
        }
    }
    let is_prose = |text: &String| text.trim().contains(' ') && text.contains(char::is_alphabetic);
    texts.retain(|text| is_prose(text) && !text.contains("=\""));
    assert!(OTHERS.iter().all(|other| texts.remove(*other)));
    assert!(texts.len() > 140, "{}", texts.len());

    // The log events and the descriptions of the metrics are on the other page.
    let others = ["Log events", "Metrics"].map(|heading| section(OBSERVABILITY, heading)).concat();
    let page = format!("{ERRORS}{others}");
    let page = with_gaps(&page.replace('\n', " "));
    let missing = texts.iter().filter(|text| !page.contains(&with_gaps(text)));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "not on the page");

    // Conversely, every text in the column of the page is in the source.
    let texts = with_gaps(&texts.into_iter().collect::<Vec<_>>().join("\n"));
    let mut column = None;
    let mut lines = ERRORS.lines().filter(|line| line.starts_with("| ")).peekable();
    while let Some(line) = lines.next() {
        let cells = line.split(" | ").map(|cell| cell.trim_start_matches("| ")).collect::<Vec<_>>();
        if lines.peek().is_some_and(|next| next.starts_with("| --- |")) {
            column = cells.iter().position(|cell| cell.trim_end_matches(" |") == "text");
        } else if let (Some(column), false) = (column, line.starts_with("| --- |")) {
            let text = with_gaps(cells[column].trim_start_matches("…: "));
            assert!(texts.contains(&text), "not in the source: {text}");
        }
    }
}

#[test]
fn readme_has_at_most_150_lines() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "{lines}");
}

/// Replaces placeholders by `…`.
fn with_gaps(text: &str) -> String {
    let mut pieces = text.split('{');
    let mut gapped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        gapped.push('…');
        gapped.push_str(piece.split_once('}').map_or(piece, |(_, after)| after));
    }
    gapped
}

/// Returns the unescaped string literals of a source, except those of its tests.
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

/// Returns the text from this heading to the next.
#[track_caller]
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let (_, rest) =
        page.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    rest.split("\n## ").next().unwrap()
}

/// Returns the output of `curl -i`, without the `date` header.
async fn curl_i(app: Router, authorization: &str) -> String {
    let mut socket = TcpStream::connect(serve(app).await).await.unwrap();
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

// ---- Hostile inputs --------------------------------------------------------------------------

const HOSTILE: &str = include_str!("../hostile_inputs.tsv");

/// The row that gives a reason instead of a test.
const WITHOUT_A_TEST: usize = 77;

/// Returns the cells of each row that has a number, by this number.
fn rows() -> Vec<(usize, Vec<&'static str>)> {
    let rows = HOSTILE.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter_map(|row| Some((row[0].parse().ok()?, row))).collect()
}

/// Returns the names of all tests, as the file writes them. The vectors have a table of tests.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let files = [files_below("tests/it"), files_below("src"), files_below("examples/mcp")].concat();
    let unified = root().join("tests/feature_unification/lib.rs");
    for path in files.into_iter().filter(|path| is_rust(path)).chain([unified]) {
        let module = path.strip_prefix(root()).unwrap().with_extension("");
        let module = module.to_str().unwrap().replace(['/', '\\'], "::");
        let module = module.strip_prefix("tests::it::").unwrap_or(&module);
        let module = module.strip_prefix("tests::").unwrap_or(module);
        let text = fs::read_to_string(&path).unwrap();
        let is_test = |line: &str| line.starts_with("#[test]") || line.contains("::test");
        let rows = text.split_once("\ncategories! {").and_then(|(_, rest)| rest.split_once("\n}"));
        let rows = rows.map_or("", |(rows, _)| rows).lines();
        let names = rows.filter_map(|row| row.split_once(": \""));
        tests.extend(names.map(|(name, _)| format!("{module}::{}", name.trim())));
        let mut is_next = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_next |= is_test(line);
                continue;
            }
            let function = line.split_once("fn ").filter(|_| is_next);
            if let Some((_, name)) = function {
                let name = name.split('(').next().unwrap();
                tests.insert(format!("{module}::{name}"));
            }
            is_next = false;
        }
    }
    assert!(tests.len() > 400, "the tests were not found: {}", tests.len());
    tests
}

/// Returns the numbers at the beginning of a test's name.
fn numbers(test: &str) -> Vec<usize> {
    let mut name = test.rsplit("::").next().unwrap();
    let mut numbers = Vec::new();
    while let Some((first, rest)) = name.split_once('_') {
        let Some(number) = first.strip_prefix('h').filter(|digits| digits.len() == 3) else {
            break;
        };
        let Ok(number) = number.parse() else { break };
        numbers.push(number);
        name = rest;
    }
    numbers
}

#[test]
fn hostile_inputs_have_one_row_each() {
    let numbers = rows().iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    for (number, row) in rows() {
        assert_eq!(row.len(), 6, "{number}");
        assert!(!row[1].is_empty() && !row[2].is_empty(), "{number}");
    }
}

#[test]
fn hostile_inputs_name_exactly_their_tests() {
    let tests = tests();
    let mut expected = BTreeMap::<_, BTreeSet<_>>::new();
    for test in &tests {
        for number in numbers(test) {
            expected.entry(number).or_default().insert(test.as_str());
        }
    }
    assert!(expected.keys().all(|number| (1..=100).contains(number)), "{:?}", expected.keys());
    for (number, row) in rows() {
        let named = row[5].split('`').skip(1).step_by(2).collect::<BTreeSet<_>>();
        for test in &named {
            assert!(!test.contains("::") || tests.contains(*test), "{number}: no test {test}");
        }
        let expected = expected.remove(&number).unwrap_or_default();
        if number == WITHOUT_A_TEST {
            assert!(row[5].starts_with("none: ") && expected.is_empty(), "{number}");
            continue;
        }
        assert!(!expected.is_empty(), "{number} has no test");
        assert_eq!(named, expected, "{number}");
    }
}

#[test]
fn hostile_inputs_cover_every_item_of_rfc_8725() {
    let cells = HOSTILE.lines().skip(1).map(|line| line.split('\t').nth(3).unwrap());
    let items = cells.flat_map(|cell| cell.split([',', ';'])).map(str::trim);
    let items = items.collect::<BTreeSet<_>>();
    for item in 1..=12 {
        let item = format!("3.{item}");
        assert!(items.contains(&*item), "{item}");
    }
}

// ---- Plain English ---------------------------------------------------------------------------

/// The files and folders whose text is checked.
const TEXTS: [&str; 10] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benches",
    "examples",
    "fuzz",
    "src",
    "tests",
    ".ci/run",
];

/// Folders below these that contain no text of this project.
const NOT_TEXTS: [&str; 5] =
    ["benches/results", "fuzz/artifacts", "fuzz/corpus", "fuzz/target", "tests/vectors"];

/// Texts that keep their spelling although they contain a word of the list: stable labels, fixed
/// output lines, names of rows in `benches/results`, and the texts of others.
const QUOTED: [&str; 11] = [
    "\"refuse ",
    "refuse wrong_client",
    r#""refuse""#,
    "\"refused: ",
    r#""refused""#,
    "ECONNREFUSED",
    "`refuse`",
    "`refused`",
    "cognito.refused",
    "connection refused",
    r#"seen before""#,
];

#[test]
fn text_is_plain_english() {
    let words = include_str!("plain_words.txt").lines().filter(|line| !line.starts_with('#'));
    let words = words.map(|line| line.split_once(": ").unwrap()).collect::<Vec<_>>();
    assert!(words.len() > 40, "the words were not found");
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in texts() {
        count += 1;
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (line, word, instead) in old_words(&text, &words) {
            wrong.push(format!("{file}:{line}: \"{word}\"; write {instead}"));
        }
    }
    assert!(count > 200, "the texts were not found: {count}");
    assert!(wrong.is_empty(), "see tests/it/plain_words.txt:\n{}", wrong.join("\n"));
}

/// Returns the paths of all files that are checked.
fn texts() -> Vec<PathBuf> {
    let mut texts = Vec::new();
    for name in TEXTS {
        let path = root().join(name);
        if path.is_dir() {
            texts.extend(files_below(name));
        } else {
            texts.push(path);
        }
    }
    texts.retain(|path| {
        let extension = path.extension().unwrap_or_default().to_str().unwrap_or_default();
        ["", "conf", "lua", "md", "py", "rs", "sh", "svg", "toml", "tsv", "yaml"]
            .contains(&extension)
            && !NOT_TEXTS.iter().any(|folder| path.starts_with(root().join(folder)))
    });
    texts.sort();
    texts
}

/// Returns the lines on which these words begin. A phrase may continue on the next line of a
/// comment.
fn old_words<'w>(text: &str, words: &[(&'w str, &'w str)]) -> Vec<(usize, &'w str, &'w str)> {
    let mut joined = String::from(" ");
    let mut lines = Vec::new();
    for line in text.lines() {
        lines.push(joined.len());
        let line = QUOTED.iter().fold(line.to_owned(), |line, quoted| line.replace(quoted, "…"));
        // A hyphen is part of a word, as in "stand-in"; an underscore separates the words of a
        // name.
        let line = line.to_lowercase().replace(|c: char| !c.is_alphanumeric() && c != '-', " ");
        for word in line.split_whitespace() {
            joined.push_str(word);
            joined.push(' ');
        }
    }
    let mut found = Vec::new();
    for (word, instead) in words {
        let spaced = format!(" {} ", word.replace('\'', " "));
        for (at, _) in joined.match_indices(&spaced) {
            found.push((lines.partition_point(|start| *start <= at + 1), *word, *instead));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn old_words_are_found_across_lines_and_in_names() {
    let words = [("too late", "late"), ("more", "plus"), ("fire brigade", "firefighters")];
    let found = |text: &str| old_words(text, &words).into_iter().map(|(line, ..)| line).collect();
    let lines: Vec<usize> = found("a\n/// It is too\n/// late.\nfn one_more_time() {}\n");
    assert_eq!(lines, [2, 4]);
    assert_eq!(found("not late, too; moreover a fire-brigade"), [0; 0]);
}

// ---- Length and links ------------------------------------------------------------------------

/// The pages whose words are counted, besides those in `src/docs`.
const TOP_PAGES: [&str; 3] = ["README.md", "SECURITY.md", "CONTRIBUTING.md"];

/// A page that a program writes begins with this.
const GENERATED: &str = "<!-- Generated by ";

/// Returns the pages in `src/docs`, by their names without the extension.
fn pages() -> BTreeMap<String, String> {
    let paths = files_below("src/docs");
    let paths = paths.into_iter().filter(|path| path.extension().is_some_and(|is| is == "md"));
    let pages = paths.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    let pages = pages.collect::<BTreeMap<_, _>>();
    assert!(pages.len() > 12, "the pages were not found: {:?}", pages.keys());
    pages
}

/// Returns the lines that count: text and tables that a person has written. Code does not count, and
/// neither do the lines between `<!-- NAME -->` and `<!-- end -->`, which a program writes.
fn counted_lines(page: &str) -> impl Iterator<Item = &str> {
    let (mut is_code, mut is_generated) = (false, false);
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        let is_mark = line.starts_with("<!-- ");
        if is_mark {
            is_generated = *line != "<!-- end -->";
        }
        !(is_code || is_fence || is_generated || is_mark)
    })
}

/// Returns the number of words. Bars and dashes are not words.
fn words(page: &str) -> usize {
    let words = counted_lines(page).flat_map(str::split_whitespace);
    words.filter(|word| word.contains(char::is_alphanumeric)).count()
}

#[test]
fn pages_have_at_most_18_000_words() {
    let mut counts = BTreeMap::new();
    for (name, page) in pages() {
        if !page.starts_with(GENERATED) {
            counts.insert(name, words(&page));
        }
    }
    for page in TOP_PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        counts.insert(page.to_owned(), words(&text));
    }
    let total = counts.values().sum::<usize>();
    assert!(total <= 18_000, "{total} words: {counts:#?}");
}

#[test]
fn code_and_generated_tables_are_not_counted() {
    let page = "# A title\n\n```\ncode();\n```\n| a | b |\n| --- | --- |\n\
        <!-- name -->\n| generated |\n<!-- end -->\n";
    assert_eq!(words(page), 4);
}

/// Returns the anchors of the headings of a page, as rustdoc and forges write them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let lines = page.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let anchor = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: char| c.is_alphanumeric() || [' ', '-', '_'].contains(&c);
        heading.chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")
    };
    lines.map(anchor).collect()
}

/// Returns the targets of the links of a page, both inline and defined by reference.
fn links(page: &str) -> Vec<&str> {
    let inline = page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let defined = page.lines().filter(|line| line.starts_with('['));
    let defined = defined.filter_map(|line| Some(line.split_once("]: ")?.1.trim()));
    inline.chain(defined).collect()
}

/// rustdoc checks the links to items, but not the anchors behind them.
#[test]
fn links_between_pages_lead_to_headings() {
    let pages = pages();
    let mut count = 0;
    for (name, page) in &pages {
        for link in links(page) {
            let target = match link.split_once('#') {
                Some(("", anchor)) => Some((name.as_str(), anchor)),
                Some((path, anchor)) => {
                    path.strip_prefix("crate::docs::").map(|page| (page, anchor))
                }
                None => None,
            };
            let Some((target, anchor)) = target else { continue };
            let page = pages.get(target).unwrap_or_else(|| panic!("{name}: {link}"));
            assert!(anchors(page).contains(anchor), "{name}: {link}");
            count += 1;
        }
    }
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("docs::").skip(1) {
            let end = link.find(|c: char| !c.is_alphanumeric() && !['#', '-', '_'].contains(&c));
            let Some((target, anchor)) = link[..end.unwrap_or(link.len())].split_once('#') else {
                continue;
            };
            let page = pages.get(target).unwrap_or_else(|| panic!("{}: {target}", path.display()));
            assert!(anchors(page).contains(anchor), "{}: {target}#{anchor}", path.display());
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

/// Links of Markdown files that forges show. Each leads to a file, and an anchor to a heading.
#[test]
fn links_of_markdown_files_lead_to_files() {
    let mut count = 0;
    for path in texts().into_iter().filter(|path| path.extension().is_some_and(|is| is == "md")) {
        if path.starts_with(root().join("src")) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            // The last is a link of a template, whose page rustdoc checks.
            if ["https://", "http://", "mailto:", "crate::"].iter().any(|is| link.starts_with(is)) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).contains(anchor), "{}: {link}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

/// Paths of this repository in the text of a page.
#[test]
fn paths_on_the_pages_exist() {
    let mut count = 0;
    let tops =
        TOP_PAGES.map(|name| (name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    for (name, page) in pages().into_iter().chain(tops) {
        for quoted in page.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = ["benches/", "examples/", "fuzz/", "src/", "tests/"]
                .iter()
                .any(|folder| quoted.starts_with(folder));
            if is_path && !quoted.contains([' ', '*', '…']) {
                assert!(root().join(quoted).exists(), "{name}: {quoted}");
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
}

// ---- Security and comparison -----------------------------------------------------------------

/// The numbers of hostile inputs and promises, and the names of tests, in the section "Promises".
#[test]
fn security_promises_name_tests_that_exist() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let shown = section(&page, "Promises");
    let tests = tests();
    let has_test = |prefix: &str| {
        let name = |test: &str| test.rsplit("::").next().unwrap().to_owned();
        tests.iter().any(|test| name(test).split('_').any(|part| part == prefix))
    };
    for promise in 1..=6 {
        let begin = format!("* **S{promise}.** ");
        let (_, promise) = shown.split_once(&begin).unwrap_or_else(|| panic!("{begin}"));
        let promise = promise.split("\n* ").next().unwrap().split("\n\n").next().unwrap();
        let evidence = promise.trim_end().trim_end_matches(')').rsplit('(').next().unwrap();
        let mut count = 0;
        for word in evidence.split([' ', ',', '\n']).filter(|word| !word.is_empty()) {
            if let Some(test) = word.strip_prefix('`').and_then(|word| word.strip_suffix('`')) {
                let begin = format!("{test}::");
                assert!(
                    tests.contains(test) || tests.iter().any(|name| name.starts_with(&begin)),
                    "{begin}: {test}"
                );
                count += 1;
            } else if word[1..].parse::<usize>().is_ok() {
                let prefix = match word.strip_prefix('P') {
                    Some(number) => format!("p{number:0>2}"),
                    None => word.to_owned(),
                };
                assert!(has_test(&prefix), "{begin}{word}");
                count += 1;
            }
        }
        assert!(count > 0, "{begin}has no test");
    }
}

#[test]
fn every_cell_of_the_comparison_has_evidence() {
    let page = &pages()["comparison"];
    let rows = include_str!("../comparison.tsv").lines().skip(1);
    let rows = rows.map(|line| line.split('\t').collect::<Vec<_>>()).collect::<Vec<_>>();
    assert!(rows.iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())));
    let has = |name: &str, subject: &str| {
        rows.iter().any(|row| row[0] == name && row[1].split("; ").any(|is| is == subject))
    };
    let mut lines = page.lines().skip_while(|line| !line.starts_with("| | tower-cognito"));
    let names = lines.next().unwrap().trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>();
    assert_eq!(names.len(), 6);
    let mut count = 0;
    for line in lines.skip(1).take_while(|line| line.starts_with("| ")) {
        let subject = line.trim_start_matches("| ").split([',', ':', ';', '|']).next().unwrap();
        for name in &names {
            assert!(has(name, subject.trim()), "{name}: {}", subject.trim());
        }
        count += 1;
    }
    assert_eq!(count, 8);

    // The cells of this crate name files of `src`, and words that are in them.
    for row in rows.iter().filter(|row| row[0].starts_with("tower-cognito ")) {
        let mut text = String::new();
        for quoted in row[2].split('`').skip(1).step_by(2) {
            let path = root().join("src").join(quoted);
            if path.is_file() {
                text = fs::read_to_string(&path).unwrap();
            } else if !path.is_dir() && !quoted.starts_with("cargo ") {
                assert!(text.contains(quoted), "{}: {quoted}", row[1]);
            }
        }
    }
}

// ---- The page on MCP -------------------------------------------------------------------------

const MCP: &str = include_str!("../../src/docs/mcp_and_grpc.md");

#[test]
fn checklist_of_the_mcp_specification_names_tests_that_exist() {
    let tests = tests();
    let mut named = 0;
    let page = fs::read_to_string(root().join("examples/mcp/README.md")).unwrap();
    for row in section(&page, "What the specification asks of a server").lines() {
        let Some((_, cells)) = row.split_once("| ") else { continue };
        let names =
            cells.split('`').skip(1).step_by(2).filter(|code| !code.contains(char::is_uppercase));
        for name in names.filter(|code| code.contains("::")) {
            let name = name.replace("mcp::", "examples::mcp::tests::");
            assert!(tests.contains(&name), "{name}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn tool_on_the_mcp_page_is_that_of_the_example() {
    let (_, code) = MCP.split_once("```text\nuse rmcp").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let example = fs::read_to_string(root().join("examples/mcp/main.rs")).unwrap();
    let lines = example.lines().map(str::trim).collect::<BTreeSet<_>>();
    for line in code.lines().skip(1) {
        assert!(lines.contains(line.trim()), "{line}");
    }
}
