//! Scopes as text and as values. Which scopes meet which requirement is in the vectors.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use tower_cognito::{RequireScope, Scope, Scopes, verify};

use super::support::{issuer, machine, now, rules};

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
