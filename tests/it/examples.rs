//! Each example, run as a user would run it. `cargo test` has built them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::Value;

use super::support::http_1;

#[tokio::test]
async fn the_quickstart_plays_both_stories() {
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

    let call = async |name: &str, method: &str, authorization: &str, body: &str| {
        let url = values[name];
        let request = Request::builder().method(method).uri(path(url));
        let request = request.header("authorization", authorization);
        let response = http_1(address(url), request, body).await;
        (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
    };
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
    assert_eq!(log.matches("Hello").count(), 1, "each event is logged, once: {log}");
}

#[test]
fn the_quickstart_says_what_is_wrong_with_its_settings() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (settings, said) in [
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
    ] {
        let (code, log) = Quickstart::start(&settings).ended();
        assert_eq!(code, Some(1), "{settings:?}: {log}");
        for said in said {
            assert!(log.contains(said), "{settings:?}: {log}");
        }
    }
}

#[test]
fn with_an_issuer_of_someone_elses_the_quickstart_prints_two_urls_alone() {
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

struct Quickstart {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Quickstart {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut folder = std::env::current_exe().unwrap();
        folder.pop();
        folder.pop();
        let program = folder.join("examples").join("quickstart");
        let mut command = Command::new(&program);
        for name in ["USER_POOL_ID", "CLIENT_IDS", "ISSUER", "JWKS_URL"] {
            command.env_remove(format!("COGNITO_{name}"));
        }
        let mut process = command
            .env("QUICKSTART_API", "127.0.0.1:0")
            .env("QUICKSTART_ISSUER", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program:?}: {e}; `cargo build --examples` makes it"));
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn lines_until_ready(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "it ended, or printed something else: {lines:?}");
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

    /// Its exit code and what it logged.
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
