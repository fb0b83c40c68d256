//! Which scopes meet which requirement, tested through the layers. A number in a test name is that of
//! a row in `tests/hostile_inputs.tsv`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use serde_json::json;
use tower::{ServiceExt, service_fn};
use tower_cognito::test_issuer::TokenBuilder;
use tower_cognito::{
    Rejection, RejectionKind, RequireScope, RequireToken, Scope, Scopes, Verifier, verify,
};
use tower_layer::Layer;

use super::support::{issuer, machine, rules};

type Body = Empty<Bytes>;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// Sends a request with this token through both layers, and returns the status and the rejection.
async fn send(layer: &RequireScope, token: &TokenBuilder) -> (StatusCode, Option<RejectionKind>) {
    let verifier = Verifier::builder(rules()).clock(now).build_with_jwks(issuer().jwks()).unwrap();
    let inner =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::new())) });
    let service = RequireToken::new(verifier).layer(layer.layer(inner));
    let token = token.clone().issued_at(now()).sign();
    let request =
        Request::builder().header(AUTHORIZATION, format!("Bearer {token}")).body(Body::new());
    let response = service.oneshot(request.unwrap()).await.unwrap();
    let rejection = response.extensions().get::<Rejection>().map(Rejection::kind);
    (response.status(), rejection)
}

#[track_caller]
fn check_token(layer: &RequireScope, token: &TokenBuilder, is_met: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expected = if is_met {
        (StatusCode::OK, None)
    } else {
        (StatusCode::FORBIDDEN, Some(RejectionKind::InsufficientScope))
    };
    let payload = token.payload_json();
    assert_eq!(runtime.block_on(send(layer, token)), expected, "{layer:?}, {payload}");
}

/// Checks whether a token with this `scope` claim is accepted.
#[track_caller]
fn check(layer: &RequireScope, granted: &str, is_met: bool) {
    check_token(layer, &machine(granted), is_met);
}

#[test]
fn star_is_an_ordinary_scope_name() {
    let star = RequireScope::new("activity/*");
    check(&star, "activity/*", true);
    check(&star, "activity/read activity/*", true);
    check(&star, "activity/read", false);
    check(&star, "activity/", false);
    check(&star, "activity", false);
    check(&star, "*", false);
    check(&star, "activity/**", false);
    check(&star, "other/*", false);

    // A granted star does not expand either.
    let read = RequireScope::new("activity/read");
    check(&read, "activity/read", true);
    check(&read, "activity/*", false);
    check(&read, "*", false);
    check(&read, "*/*", false);
    check(&read, "*/read", false);
}

#[test]
fn scopes_are_case_sensitive() {
    let layer = RequireScope::new("activity/Read");
    check(&layer, "activity/Read", true);
    check(&layer, "activity/read", false);
    check(&layer, "Activity/Read", false);
    check(&layer, "ACTIVITY/READ", false);
}

#[test]
fn h043_scopes_are_compared_whole() {
    let layer = RequireScope::new("a/read");
    check(&layer, "a/read", true);
    check(&layer, "b/write a/read c/x", true);
    check(&layer, "a/readwrite", false);
    check(&layer, "a/rea", false);
    check(&layer, "aa/read", false);
    check(&layer, "/a/read", false);
    check(&layer, "a/read/", false);
    check(&layer, "x/a/read", false);
    check(&layer, "a /read", false);
    check(&layer, "a/ read", false);
    check(&layer, "a/read,b/write", false);
    check(&layer, "\"a/read\"", false);
    check(&RequireScope::new("a/readwrite"), "a/read", false);
    // Scopes are not percent-decoded.
    check(&layer, "a%2Fread", false);
}

#[test]
fn h043_only_spaces_separate_scopes() {
    let layer = RequireScope::new("a/read");
    check(&layer, "a/read a/read", true);
    check(&layer, " a/read", true);
    check(&layer, "a/read ", true);
    check(&layer, "   b/x    a/read   ", true);
    for separator in ["\t", "\n", "\r\n", "\0", "\u{a0}", "\u{2003}", "\u{b}", ",", ";", "+"] {
        check(&layer, &format!("b/x{separator}a/read"), false);
        check(&layer, &format!("a/read{separator}"), false);
        check(&layer, &format!("b/x{separator} a/read"), true);
    }
}

#[test]
fn h043_token_without_scopes_meets_no_requirement() {
    let layers = [
        RequireScope::new("a/read"),
        RequireScope::any_of(["a/read", "a/write"]),
        RequireScope::all_of(["a/read", "a/write"]),
        RequireScope::any_of_resource_server("a"),
    ];
    for layer in layers {
        check(&layer, "a/read a/write", true);
        check_token(&layer, &machine("a/read").without_claim("scope"), false);
        check(&layer, "", false);
        check(&layer, "   ", false);
        check(&layer, "\t", false);
    }
}

#[tokio::test]
async fn h043_rejects_scope_claims_of_the_wrong_type_as_invalid_tokens() {
    let layer = RequireScope::new("a/read");
    assert_eq!(send(&layer, &machine("a/read")).await.0, StatusCode::OK);
    let rejected = (StatusCode::UNAUTHORIZED, Some(RejectionKind::InvalidToken));
    for wrong in [json!(["a/read"]), json!({ "a/read": true }), json!(null), json!(1)] {
        let token = machine("").claim("scope", &wrong);
        assert_eq!(send(&layer, &token).await, rejected, "{wrong}");
    }
}

#[test]
fn any_of_requires_one_of_the_scopes() {
    let layer = RequireScope::any_of(["a/read", "a/write"]);
    check(&layer, "a/read", true);
    check(&layer, "a/write", true);
    check(&layer, "a/write a/read", true);
    check(&layer, "b/x a/write", true);
    check(&layer, "a/readwrite", false);
    check(&layer, "b/x", false);
    check(&RequireScope::any_of(["a/read"]), "a/read", true);
    check(&RequireScope::any_of(["a/read"]), "a/write", false);
}

#[test]
fn all_of_requires_every_scope() {
    let layer = RequireScope::all_of(["a/read", "a/write"]);
    check(&layer, "a/read a/write", true);
    check(&layer, "a/write b/x a/read", true);
    check(&layer, "a/read", false);
    check(&layer, "a/write", false);
    check(&layer, "a/read a/read", false);
    check(&layer, "a/*", false);
    check(&RequireScope::all_of(["a/read", "a/read"]), "a/read", true);
}

#[test]
fn any_of_resource_server_requires_a_scope_of_that_server() {
    let layer = RequireScope::any_of_resource_server("activity");
    check(&layer, "activity/read", true);
    check(&layer, "activity/*", true);
    check(&layer, "openid activity/write", true);
    check(&layer, "activity", false);
    check(&layer, "other/read", false);
    check(&layer, "Activity/read", false);
    check(&layer, "activity2/read", false);
    check(&layer, "my-activity/read", false);
    check(&layer, "read/activity", false);
    check(&layer, "openid", false);
    check(&layer, "*/read", false);
    check(&layer, "activity.read", false);
}

#[test]
fn any_of_resource_server_splits_scopes_at_the_last_slash() {
    let layer = RequireScope::any_of_resource_server("activity");
    check(&layer, "activity/admin/read", false);
    check(&layer, "x/activity/read", false);
    let layer = RequireScope::any_of_resource_server("activity/admin");
    check(&layer, "activity/admin/read", true);
    check(&layer, "activity/admin", false);
    check(&layer, "activity/read", false);
    check(&layer, "activity/admin/x/read", false);
    let layer = RequireScope::any_of_resource_server("https://api.example.com/v1");
    check(&layer, "https://api.example.com/v1/read", true);
    check(&layer, "https://api.example.com/v1", false);
    check(&layer, "https://api.example.com/v1/x/read", false);
    check(&layer, "https://api.example.com/read", false);
    check(&layer, "https://api.example.com/v11/read", false);
}

#[test]
fn any_of_resource_server_requires_a_scope_name() {
    let layer = RequireScope::any_of_resource_server("activity");
    check(&layer, "activity/read", true);
    check(&layer, "activity/", false);
    check(&layer, "activity//", false);
    check(&layer, "/", false);
    check(&layer, "/activity", false);
    check(&layer, "activity/ read", false);
}

#[test]
fn scope_parses_only_a_single_valid_scope() {
    #[track_caller]
    fn check_valid(text: &str) {
        let scope: Scope = text.parse().unwrap();
        assert_eq!(scope.as_str(), text);
        assert_eq!(scope.to_string(), text);
    }
    #[track_caller]
    fn check_invalid(text: &str, problem: &str) {
        let expected = format!("invalid scope: {problem}; expected a scope such as `activity/*`");
        assert_eq!(text.parse::<Scope>().unwrap_err().to_string(), expected, "{text:?}");
    }

    for text in ["activity/*", "openid", "*", "/", "!", "#", "[", "]", "~", "a/b/c", "a,b", "'"] {
        check_valid(text);
    }
    check_valid("https://api.example.com/read?x=1&y=%20");
    for byte in 0x21..=0x7e_u8 {
        let text = char::from(byte).to_string();
        assert_eq!(text.parse::<Scope>().is_ok(), !matches!(byte, b'"' | b'\\'), "{text:?}");
    }

    const CHARACTER: &str =
        "it contains a quote, a backslash, a control character or a non-ASCII character";
    const SPACE: &str = "it contains a space, so it is more than one scope";
    check_invalid("", "it is empty");
    for text in [" ", "a b", " a", "a ", "a\t b"] {
        check_invalid(text, SPACE);
    }
    for text in
        ["\"", "a\"b", "a\\b", "\t", "a\n", "a\0", "\u{7f}", "\u{e9}", "a\u{a0}b", "\u{ff0f}"]
    {
        check_invalid(text, CHARACTER);
    }
}

thread_local! {
    /// Where this thread panicked, while `panic_of` runs.
    static PANIC: RefCell<Option<Vec<(String, u32)>>> = const { RefCell::new(None) };
}

/// Returns the text and the place of the panic of `f`. The hook belongs to the process, so it calls
/// the old hook for the panics of other threads.
fn panic_of(f: impl FnOnce()) -> (String, String, u32) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_caught = PANIC.with_borrow_mut(|panics| match (panics, info.location()) {
                (Some(panics), Some(at)) => {
                    panics.push((at.file().to_owned(), at.line()));
                    true
                }
                _ => false,
            });
            if !is_caught {
                default(info);
            }
        }));
    });

    PANIC.set(Some(Vec::new()));
    let payload = panic::catch_unwind(AssertUnwindSafe(f)).unwrap_err();
    let [(file, line)] = PANIC.take().unwrap().try_into().unwrap();
    let text = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
    };
    (text, file, line)
}

#[test]
fn malformed_requirement_panics_at_the_line_of_the_caller() {
    #[track_caller]
    fn check(problem: &str, build: impl FnOnce() -> (RequireScope, u32), line: u32) {
        let (text, file, at) = panic_of(|| drop(build()));
        assert!(text.contains(problem), "{text}");
        assert_eq!((&*file, at), (file!(), line), "{text}");
    }
    /// Expands to one line, so that `line!()` is the same for the call and for the expectation.
    macro_rules! panics {
        ($problem:expr, $requirement:expr) => {
            check($problem, || ($requirement, line!()), line!())
        };
    }

    panics!("it is empty", RequireScope::new(""));
    panics!("it contains a space", RequireScope::new("a/read a/write"));
    panics!("it contains a quote", RequireScope::new("a/\"read\""));
    panics!("it contains a quote", RequireScope::new("a\\b"));
    panics!("non-ASCII", RequireScope::new("\u{e9}"));
    panics!("the list of scopes is empty", RequireScope::any_of([]));
    panics!("the list of scopes is empty", RequireScope::all_of([]));
    panics!("it is empty", RequireScope::any_of(["a/read", ""]));
    panics!("it is empty", RequireScope::all_of(["a/read", ""]));
    panics!("it contains a space", RequireScope::any_of(["a/read a/write"]));
    panics!("it contains a space", RequireScope::all_of(["a/read a/write"]));
    panics!("it is empty", RequireScope::any_of_resource_server(""));
    panics!("it contains a space", RequireScope::any_of_resource_server("a b"));
    panics!("it contains a quote", RequireScope::any_of_resource_server("a\"b"));
}

#[test]
fn scopes_debug_output_is_a_list() {
    let text = machine("activity/*  item/read").issued_at(now()).sign();
    let token = verify(&text, &issuer().jwks(), &rules(), now()).unwrap();
    assert_eq!(format!("{:?}", token.scopes()), r#"["activity/*", "item/read"]"#);
}

#[test]
fn scopes_can_be_iterated_and_compared() {
    fn check(granted: &str, f: impl FnOnce(Scopes<'_>)) {
        let text = machine(granted).issued_at(now()).sign();
        f(verify(&text, &issuer().jwks(), &rules(), now()).unwrap().scopes());
    }

    check(" a/x  b/y a/x ", |scopes| {
        let expected = ["a/x", "b/y", "a/x"];
        assert_eq!(scopes.iter().collect::<Vec<_>>(), expected);
        assert_eq!((&scopes).into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(scopes.into_iter().collect::<Vec<_>>(), expected);
        // The iterator does not show the scopes that remain.
        assert_eq!(format!("{:?}", scopes.iter()), "ScopesIter { .. }");

        check("a/x b/y a/x", |same| assert_eq!(scopes, same));
        for other in ["", "a/x", "a/x b/y", "b/y a/x a/x", "a/x b/y a/X"] {
            check(other, |other| assert_ne!(scopes, other));
        }
    });
    check("", |none| {
        assert_eq!(none.iter().next(), None);
        check("   ", |spaces| assert_eq!(none, spaces));
    });
}
