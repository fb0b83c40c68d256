//! Runs each example as a user would. `cargo test` builds them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post as post_to};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request};
use serde_json::Value;
use tower_cognito::test_issuer::TokenBuilder;

use super::support::{CLIENT, http_1, issuer, machine};

#[tokio::test]
async fn quickstart_serves_both_user_stories() {
    let mut quickstart = Quickstart::start(&[]);
    let lines = quickstart.lines_until_ready();
    let names = lines.iter().map(|line| line.split('=').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        names,
        [
            "CLIENT_ID",
            "CLIENT_SECRET",
            "TOKEN_ENDPOINT_URL",
            "API_URL",
            "ACTIVITY_URL",
            "EXPIRED_TOKEN",
            "ID_TOKEN",
            "OTHER_CLIENT_TOKEN",
            "ready"
        ]
    );
    let values: HashMap<_, _> = lines.iter().filter_map(|line| line.split_once('=')).collect();

    let credentials = format!("{}:{}", values["CLIENT_ID"], values["CLIENT_SECRET"]);
    let basic = format!("Basic {}", STANDARD.encode(credentials));
    let token = async |body: &str| {
        let request = post(values["TOKEN_ENDPOINT_URL"])
            .header("authorization", &basic)
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = http_1(address(values["TOKEN_ENDPOINT_URL"]), request, body).await;
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(
            (&answer["expires_in"], &answer["token_type"]),
            (&3600.into(), &"Bearer".into())
        );
        format!("Bearer {}", answer["access_token"].as_str().unwrap())
    };
    let full = token("grant_type=client_credentials").await;
    let read_only = token("grant_type=client_credentials&scope=activity%2Fread").await;

    // The lines to paste after `ready`.
    let help = quickstart.help();
    let exports = help.iter().filter(|line| line.starts_with("export ACCESS_TOKEN=$(curl "));
    assert_eq!(exports.count(), 1, "{help:?}");
    let commented = help.iter().filter_map(|line| line.strip_prefix("# ")?.split(':').next());
    assert_eq!(commented.collect::<Vec<_>>(), ["200", "200", "401", "403", "503"]);

    let call = async |name: &str, method: &str, authorization: &str, body: &str| {
        let url = values[name];
        let request = Request::builder().method(method).uri(path(url));
        let request = request.header("authorization", authorization);
        let response = http_1(address(url), request, body).await;
        (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
    };
    let api = values["API_URL"].strip_suffix("/item").unwrap();
    for (path, authorization, expected) in
        [("/admin", &*full, 403), ("/without-keys", &full, 503), ("/without-keys", &full, 503)]
    {
        let request = Request::get(path).header("authorization", authorization);
        let status = http_1(address(api), request, "").await.status();
        assert_eq!(status, expected, "{path}");
    }
    let hello = r#"{"message":"Hello"}"#;
    assert_eq!(call("ACTIVITY_URL", "POST", &full, hello).await, (200, hello.to_owned()));
    let items = (200, r#"[{"test": "hoge"}]"#.to_owned());
    assert_eq!(call("API_URL", "GET", &full, "").await, items);
    assert_eq!(call("ACTIVITY_URL", "POST", &read_only, hello).await.0, 403);
    for name in ["EXPIRED_TOKEN", "ID_TOKEN", "OTHER_CLIENT_TOKEN"] {
        let bad = format!("Bearer {}", values[name]);
        assert_eq!(call("ACTIVITY_URL", "POST", &bad, hello).await.0, 401, "{name}");
    }

    quickstart.terminate();
    let (code, log) = quickstart.ended();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("Hello").count(), 1, "each event is logged once: {log}");
}

#[test]
fn quickstart_names_invalid_settings() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (settings, texts) in [
        (vec![("QUICKSTART_API", &*taken)], vec!["QUICKSTART_API", &taken]),
        (vec![("QUICKSTART_ISSUER", &*taken)], vec!["QUICKSTART_ISSUER", &taken]),
        (vec![("COGNITO_USER_POOL_ID", "us-east-1_Example")], vec!["COGNITO_CLIENT_IDS"]),
        (vec![("COGNITO_CLIENT_IDS", "abc")], vec!["COGNITO_USER_POOL_ID"]),
        (
            vec![("COGNITO_USER_POOL_ID", "us-east-1"), ("COGNITO_CLIENT_IDS", "a,,b")],
            vec!["COGNITO_USER_POOL_ID", "COGNITO_CLIENT_IDS"],
        ),
        (
            vec![("COGNITO_ISSUER", "http://127.0.0.1@evil.example"), ("COGNITO_CLIENT_IDS", "a")],
            vec!["COGNITO_ISSUER", "user information"],
        ),
        (vec![("cognito_groups", "x")], vec!["cognito_groups", "COGNITO_GROUPS"]),
        (vec![("COGNITO_REQUIRED_SCOPE", "a/b")], vec!["did you mean `COGNITO_REQUIRED_SCOPES`?"]),
    ] {
        let (code, log) = Quickstart::start(&settings).ended();
        assert_eq!(code, Some(1), "{settings:?}: {log}");
        for text in texts {
            assert!(log.contains(text), "{settings:?}: {log}");
        }
    }
}

#[test]
fn quickstart_with_another_issuer_prints_only_two_urls() {
    let mut first = Quickstart::start(&[]);
    let lines = first.lines_until_ready();
    let token_url = lines.iter().find_map(|line| line.strip_prefix("TOKEN_ENDPOINT_URL=")).unwrap();
    let issuer = token_url.replace("/oauth2/token", "/us-east-1_TestIssuer");
    let settings = [("COGNITO_ISSUER", &*issuer), ("COGNITO_CLIENT_IDS", "abc, def")];
    let mut second = Quickstart::start(&settings);
    assert!(second.line().starts_with("API_URL=http://127.0.0.1:"));
    assert!(second.line().starts_with("ACTIVITY_URL=http://127.0.0.1:"));
    second.terminate();
    let rest = second.rest();
    assert_eq!(rest, "");
    assert_eq!(second.ended().0, Some(0));
}

#[tokio::test]
async fn client_caches_its_token_and_fetches_another_after_a_rejection() {
    let mut quickstart = Quickstart::start(&[]);
    let lines = quickstart.lines_until_ready();
    let settings = lines.iter().filter_map(|line| line.split_once('=')).collect::<Vec<_>>();
    let (code, output, log) = run("client", &[], &settings[..4], "");
    let items = r#"200 OK [{"test": "hoge"}]"#;
    assert_eq!(output, format!("a new token\n{items}\n{items}\n{items}\n"), "{log}");
    assert_eq!(code, Some(0));

    // An API that trusts another issuer rejects every token. Only the first is replaced.
    let mut other = Quickstart::start(&[]);
    let other_lines = other.lines_until_ready();
    let api = other_lines.iter().find_map(|line| line.strip_prefix("API_URL=")).unwrap();
    let mut settings = settings[..3].to_vec();
    settings.push(("API_URL", api));
    let (_, output, _) = run("client", &[], &settings, "");
    assert!(output.starts_with("a new token\na new token\n401 Unauthorized {"), "{output}");
    assert_eq!(output.matches("a new token").count(), 2, "{output}");
    assert_eq!(output.matches("401 Unauthorized").count(), 3, "{output}");

    let (code, _, log) = run("client", &[], &settings[..2], "");
    assert_eq!(
        (code, &*log),
        (Some(1), "error: not set, or not exported: TOKEN_ENDPOINT_URL, API_URL\n")
    );
}

#[test]
fn axum_example_prints_each_response() {
    let (code, output, log) = run("axum", &[], &[], "");
    let problem = |title, status, detail, error| {
        format!(
            r#"{status} {{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","error":"{error}"}}"#
        )
    };
    let scope = problem("Forbidden", 403, "A required scope is missing", "insufficient_scope");
    let none = problem("Unauthorized", 401, "A bearer access token is required", "unauthorized");
    let expected = [
        "anonymous GET /health -> 200 ok".to_owned(),
        format!("anonymous GET /item/7 -> {none}"),
        "reader    GET /item/7 -> 200 item 7".to_owned(),
        format!("reader    PUT /item/7 -> {scope}"),
        "writer    PUT /item/7 -> 200 item 7 was written by 5a1b2c3d4e5f6g7h8i9j0k1l2m".to_owned(),
        "reader    GET /whoami -> 200 5a1b2c3d4e5f6g7h8i9j0k1l2m of tenant blue".to_owned(),
        "writer    GET /whoami -> 403 ".to_owned(),
    ];
    let lines = output.lines().collect::<Vec<_>>();
    assert_eq!(lines[..7], expected, "{log}");
    assert!(lines[7].contains("403") && lines[7].contains("not allowed"), "{output}");
    assert_eq!((code, lines.len()), (Some(0), 8));
}

#[test]
fn tonic_example_prints_each_status() {
    let (code, output, log) = run("tonic", &[], &[], "");
    let missing = "Unauthenticated, missing bearer token";
    let denied = "PermissionDenied, a required scope is missing";
    let seen = "          the method sees client 5a1b2c3d4e5f6g7h8i9j0k1l2m";
    let layer = format!(
        "layer\nanonymous Check: {missing}\nanonymous Watch: {missing}\n{seen}\nreader    Check: ok\n\
         reader    Watch: {denied}\n{seen}\nwatcher   Check: ok\nwatcher   Watch: ok\n"
    );
    let interceptor = format!(
        "interceptor\nanonymous Check: {missing}\nanonymous Watch: {missing}\n{seen}\n\
         reader    Check: ok\nreader    Watch: ok\nwatcher   Check: {denied}\nwatcher   Watch: {denied}\n"
    );
    assert_eq!(output, layer + &interceptor, "{log}");
    assert_eq!(code, Some(0));
}

#[test]
fn verify_example_prints_one_line_for_each_token() {
    let issuer = issuer();
    let folder =
        std::env::temp_dir().join(format!("tower-cognito-examples-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, issuer.jwks_json()).unwrap();
    let jwks = jwks.to_str().unwrap();
    let valid = machine("activity/* a/b").issued_at(UNIX_EPOCH + Duration::from_secs(1_000));
    let valid = valid.claim("tenant", serde_json::json!({ "id": 7 })).sign();
    let usual = ["--jwks", jwks, "--issuer", issuer.issuer(), "--client-id", CLIENT];
    let with = |more: &[&'static str]| [&usual[..], more].concat();
    let verify = |args: &[&str], tokens: &str| {
        let (code, output, log) = run("verify", args, &[], tokens);
        (code.unwrap(), output, log)
    };

    let args = with(&["--scope", "x/y", "--scope", "a/b", "--now", "4599"]);
    let (code, output, log) = verify(&args, &format!("{valid}\r\n{valid}"));
    assert_eq!(code, 0, "{log}");
    let lines = output.lines().collect::<Vec<_>>();
    assert_eq!((lines.len(), lines[0]), (2, lines[1]));
    let claims: Value = serde_json::from_str(lines[0].strip_prefix("accept ").unwrap()).unwrap();
    assert_eq!(claims["tenant"]["id"], 7);

    let tokens = format!("{valid}\n\nabc\n{valid}x\n{valid}");
    let args = with(&["--now", "4600", "--leeway", "1"]);
    let (code, output, _) = verify(&args, &tokens);
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let verdicts = output.lines().map(words).collect::<Vec<_>>();
    assert_eq!(code, 1);
    assert!(verdicts[0].starts_with("accept {") && verdicts[4].starts_with("accept {"));
    assert_eq!(verdicts[1..4], ["refuse malformed", "refuse malformed", "refuse malformed"]);

    for (more, reason) in [
        (vec!["--now", "4600"], "expired `exp` has passed"),
        (vec!["--now", "9", "--scope", "c/d"], "insufficient_scope a required scope is missing"),
    ] {
        let expected = format!("refuse {reason}\n");
        assert_eq!(verify(&with(&more), &valid), (1, expected, String::new()), "{more:?}");
    }
    let any = ["--jwks", jwks, "--issuer", issuer.issuer(), "--any-client", "--now", "9"];
    assert_eq!(verify(&any, &valid).0, 0);

    let (code, output, log) = verify(&["--issuer", "x.example", "--leeway", "a", "-x"], "");
    assert_eq!((code, &*output), (2, ""));
    for option in ["--issuer: ", "--jwks: ", "--leeway: ", "-x: ", "--client-id or --any-client: "]
    {
        assert!(log.contains(option), "{option}: {log}");
    }
    let (code, _, log) = verify(&with(&["--leeway", "301"]), "");
    assert!(code == 2 && log.contains("leeway"), "{log}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn verify_example_checks_audience_groups_and_an_http_issuer() {
    let issuer = issuer();
    let folder = std::env::temp_dir().join(format!("tower-cognito-verify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, issuer.jwks_json()).unwrap();
    let usual = ["--jwks", jwks.to_str().unwrap(), "--any-client", "--now", "9"];
    // Nothing is fetched from the issuer, so it may be that of an emulator in a container.
    let http = "http://0.0.0.0:9229/local_1";
    let token = |issuer: &str| {
        issuer_token().claim("iss", issuer).claim("aud", "orders").claim("cognito:groups", ["b"])
    };
    let (cognitos, emulators) = (token(issuer.issuer()).sign(), token(http).sign());
    let machines = issuer_token().sign();
    for (iss, token, more, expected) in [
        (http, &emulators, &[][..], "accept"),
        (http, &cognitos, &[], "refuse unknown_issuer"),
        (issuer.issuer(), &emulators, &[], "refuse unknown_issuer"),
        (issuer.issuer(), &cognitos, &["--audience", "orders"], "accept"),
        (issuer.issuer(), &cognitos, &["--audience", "x", "--audience", "orders"], "accept"),
        (issuer.issuer(), &cognitos, &["--audience", "x"], "refuse wrong_audience"),
        (issuer.issuer(), &machines, &["--audience", "orders"], "refuse wrong_audience"),
        (issuer.issuer(), &cognitos, &["--group", "b"], "accept"),
        (issuer.issuer(), &cognitos, &["--group", "a", "--group", "b"], "accept"),
        (issuer.issuer(), &cognitos, &["--group", "a"], "refuse forbidden"),
        (issuer.issuer(), &machines, &["--group", "b"], "refuse forbidden"),
    ] {
        let args = [&usual[..], &["--issuer", iss], more].concat();
        let (code, output, log) = run("verify", &args, &[], token);
        assert!(output.starts_with(&format!("{expected} ")), "{more:?}: {output}{log}");
        assert_eq!(code, Some(i32::from(expected != "accept")), "{more:?}");
    }
    for option in ["--audience", "--group"] {
        let args = [&usual[..], &["--issuer", http, option, ""]].concat();
        let (code, output, log) = run("verify", &args, &[], &cognitos);
        assert_eq!((code, &*output), (Some(2), ""), "{option}");
        assert!(log.contains("empty"), "{option}: {log}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn issuer_token() -> TokenBuilder {
    machine("").issued_at(UNIX_EPOCH + Duration::from_secs(1_000))
}

#[tokio::test]
async fn issuer_executes_commands_and_serves_after_the_end_of_its_input() {
    let lines = [
        "client abc secret activity/* x/y",
        "validity abc 5",
        "validity abc",
        r#"token abc {"scope":"a/b"}"#,
        "rotate",
        "token abc",
        "withdraw",
        "fault slow 10",
        "fault none",
        "fetches",
        "fault slow",
        "token abc {",
        "sing",
    ];
    let mut process = command("issuer")
        .args(["client first secret x/y", "sing"])
        .env("ISSUER", "127.0.0.1:0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = BufReader::new(process.stdout.take().unwrap()).lines();
    let output = output.take(3 + 2 + lines.len()).map(Result::unwrap).collect::<Vec<_>>();
    let [issuer, jwks, token_endpoint, answers @ ..] = &*output else { panic!("{output:?}") };
    assert!(issuer.starts_with("COGNITO_ISSUER=http://127.0.0.1:"), "{issuer}");
    assert!(jwks.starts_with("COGNITO_JWKS_URL=http://127.0.0.1:"), "{jwks}");
    let token_url = token_endpoint.strip_prefix("TOKEN_ENDPOINT_URL=").unwrap();
    let error = "error: see the first lines of examples/issuer.rs";
    let printed = [0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14].map(|line| &*answers[line]);
    let expected =
        ["ok", error, "ok", "ok", error, "ok", "ok", "ok", "ok", "0", error, error, error];
    assert_eq!(printed, expected);
    let header = |line: usize| answers[line].split('.').next().unwrap();
    assert_ne!(header(5), header(7), "another key signs after a rotation");

    for client in ["first", "abc"] {
        let form = "application/x-www-form-urlencoded";
        let request = post(token_url).header("content-type", form);
        let body = format!("grant_type=client_credentials&client_id={client}&client_secret=secret");
        let status = http_1(address(token_url), request, &body).await.status();
        assert_eq!(status, 200, "{client}, after the end of the input");
    }
    process.kill().unwrap();
    process.wait().unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (code, _, log) = run("issuer", &[], &[("ISSUER", &taken)], "");
    assert!(code == Some(1) && log.contains("ISSUER") && log.contains(&taken), "{log}");
}

/// A token endpoint and an API, and what they received: the `Authorization` headers.
#[derive(Clone, Default)]
struct Endpoints {
    lifetime: u32,
    /// The number of calls that the API rejects.
    rejected: usize,
    grants: Arc<Mutex<Vec<String>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Endpoints {
    /// Runs the example `client` with these endpoints and this secret. Returns its output.
    async fn run_client(&self, secret: &str) -> String {
        let app = Router::new()
            .route("/oauth2/token", post_to(grant))
            .route("/item", get(item))
            .with_state(self.clone());
        let origin = format!("http://{}", super::support::serve(app).await);
        let secret = secret.to_owned();
        let client = move || {
            let token_endpoint = format!("{origin}/oauth2/token");
            let settings = [
                ("CLIENT_ID", CLIENT),
                ("CLIENT_SECRET", &secret),
                ("TOKEN_ENDPOINT_URL", &token_endpoint),
                ("API_URL", &format!("{origin}/item")),
            ];
            run("client", &[], &settings, "")
        };
        let (code, output, log) = tokio::task::spawn_blocking(client).await.unwrap();
        assert_eq!((code, &*log), (Some(0), ""));
        output
    }
}

/// Issues the tokens `token-1`, `token-2` and so on.
async fn grant(
    State(endpoints): State<Endpoints>,
    headers: HeaderMap,
    body: String,
) -> ([(&'static str, &'static str); 1], String) {
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(body, "grant_type=client_credentials");
    let mut grants = endpoints.grants.lock().unwrap();
    grants.push(headers["authorization"].to_str().unwrap().to_owned());
    let (number, lifetime) = (grants.len(), endpoints.lifetime);
    let token = format!(
        r#"{{"access_token":"token-{number}","expires_in":{lifetime},"token_type":"Bearer"}}"#
    );
    ([("content-type", "application/json")], token)
}

async fn item(State(endpoints): State<Endpoints>, headers: HeaderMap) -> http::StatusCode {
    let mut calls = endpoints.calls.lock().unwrap();
    calls.push(headers["authorization"].to_str().unwrap().to_owned());
    match calls.len() <= endpoints.rejected {
        true => http::StatusCode::UNAUTHORIZED,
        false => http::StatusCode::OK,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_sends_its_secret_unchanged_and_caches_the_token() {
    let endpoints = Endpoints { lifetime: 3600, ..Endpoints::default() };
    // Cognito allows these characters. Percent-encoded, `+` would be `%2B`.
    let secret = "a+secret_that+a_user_chose_1234567890";
    let output = endpoints.run_client(secret).await;
    assert_eq!(output, "a new token\n200 OK \n200 OK \n200 OK \n");
    let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{secret}")));
    assert_eq!(*endpoints.grants.lock().unwrap(), [basic]);
    assert_eq!(*endpoints.calls.lock().unwrap(), ["Bearer token-1"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_does_not_use_a_token_in_its_last_minute() {
    let endpoints = Endpoints { lifetime: 60, ..Endpoints::default() };
    endpoints.run_client("secret").await;
    let calls = ["Bearer token-1", "Bearer token-2", "Bearer token-3"];
    assert_eq!(*endpoints.calls.lock().unwrap(), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_fetches_one_new_token_after_a_rejection() {
    let endpoints = Endpoints { lifetime: 3600, rejected: 1, ..Endpoints::default() };
    let output = endpoints.run_client("secret").await;
    assert_eq!(output, "a new token\na new token\n200 OK \n200 OK \n200 OK \n");
    let second = "Bearer token-2";
    assert_eq!(*endpoints.calls.lock().unwrap(), ["Bearer token-1", second, second, second]);
}

/// Runs an example. Returns its exit code, output and log.
fn run(
    example: &str,
    args: &[&str],
    settings: &[(&str, &str)],
    input: &str,
) -> (Option<i32>, String, String) {
    let mut process = command(example)
        .args(args)
        .envs(settings.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may exit without reading its input.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let ended = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

fn command(example: &str) -> Command {
    let mut folder = std::env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    let program = folder.join("examples").join(example);
    assert!(program.exists(), "{program:?} is missing: `cargo build --examples` builds it");
    let mut command = Command::new(program);
    // Settings of the caller's shell must not affect the test.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["COGNITO_", "CLIENT_", "TOKEN_", "API_"].iter().any(|p| name_text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.env("NO_PROXY", "*");
    command
}

struct Quickstart {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Quickstart {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut process = command("quickstart")
            .env("QUICKSTART_API", "127.0.0.1:0")
            .env("QUICKSTART_ISSUER", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Returns the lines after `ready`.
    fn help(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != "Press Ctrl-C to stop it.") {
            lines.push(self.line());
        }
        lines
    }

    fn lines_until_ready(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "it exited or printed an empty line: {lines:?}");
            let is_ready = line == "ready";
            lines.push(line);
            if is_ready {
                return lines;
            }
        }
    }

    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }

    fn terminate(&self) {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
    }

    /// Returns the exit code and the log.
    fn ended(mut self) -> (Option<i32>, String) {
        self.rest();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap().code(), log)
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn post(url: &str) -> http::request::Builder {
    Request::builder().method("POST").uri(path(url))
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap()
}

fn path(url: &str) -> &str {
    &url[url.rfind(':').map(|at| at + url[at..].find('/').unwrap()).unwrap()..]
}
