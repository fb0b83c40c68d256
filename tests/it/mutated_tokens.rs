//! Every text that is one edit away from a valid token is rejected: by the plain function, by a
//! verifier that has cached the valid token, and at some positions by the layer.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_cognito::{RequireToken, verify};

use super::support::EmptyBody;
use super::vectors::{Setting, Vector, vectors};

fn valid() -> &'static Vector {
    let is_good =
        |vector: &&Vector| (vector.category, vector.name) == ("compact form", "three parts");
    vectors().iter().find(is_good).unwrap()
}

/// Prints how many there were.
async fn each_is_rejected(texts: impl Iterator<Item = String>) -> usize {
    let valid = valid();
    let setting = Setting::of(valid).await;
    let (rules, keys) = &setting.pools[0];
    let is_good = |text: &str| {
        let verdict = verify(text, keys, rules, valid.time);
        let cached = setting.with_cache.try_verify(text);
        assert_eq!(verdict.is_ok(), cached.is_ok(), "{text}");
        verdict.is_ok()
    };
    assert!(is_good(&valid.token));
    let mut count = 0;
    for text in texts {
        assert!(!is_good(&text), "{text}");
        count += 1;
    }
    assert!(is_good(&valid.token));
    count
}

/// Returns the token with another text in place of the bytes from `from` to `to`.
fn edited(from: usize, to: usize, text: &str) -> String {
    let token = &valid().token;
    format!("{}{text}{}", &token[..from], &token[to..])
}

fn ascii() -> impl Iterator<Item = char> {
    (0..128_u8).map(char::from)
}

/// Characters of two, three and four bytes. A careless cast turns the second into a dot.
const WIDE: [char; 6] = ['\u{80}', '\u{12e}', '\u{7ff}', '\u{ff0e}', '\u{feff}', '\u{1f600}'];

#[tokio::test]
async fn h052_every_replaced_ascii_byte_is_rejected() {
    let token = &valid().token;
    let others = token.char_indices().flat_map(|(at, own)| {
        let others = ascii().filter(move |other| *other != own);
        others.map(move |other| edited(at, at + 1, other.encode_utf8(&mut [0; 4])))
    });
    // This includes every flipped bit that leaves the text valid UTF-8.
    assert_eq!(each_is_rejected(others).await, token.len() * 127);
}

#[tokio::test]
async fn h052_every_truncation_at_either_end_is_rejected() {
    let token = &valid().token;
    let ends = (0..token.len()).map(|at| token[..at].to_owned());
    let starts = (1..=token.len()).map(|at| token[at..].to_owned());
    assert_eq!(each_is_rejected(ends.chain(starts)).await, 2 * token.len());
}

#[tokio::test]
async fn h052_every_inserted_ascii_byte_is_rejected() {
    let token = &valid().token;
    let places = 0..=token.len();
    let longer =
        places.flat_map(|at| ascii().map(move |one| edited(at, at, one.encode_utf8(&mut [0; 4]))));
    assert_eq!(each_is_rejected(longer).await, (token.len() + 1) * 128);
}

#[tokio::test]
async fn h052_every_inserted_non_ascii_character_is_rejected() {
    let token = &valid().token;
    let places = 0..=token.len();
    let longer =
        places.flat_map(|at| WIDE.map(move |one| edited(at, at, one.encode_utf8(&mut [0; 4]))));
    assert_eq!(each_is_rejected(longer).await, (token.len() + 1) * WIDE.len());
}

#[tokio::test]
async fn h052_every_deleted_repeated_or_swapped_character_is_rejected() {
    let token = &valid().token;
    let deleted = (0..token.len()).map(|at| edited(at, at + 1, ""));
    assert_eq!(each_is_rejected(deleted).await, token.len());
    let twice = (0..token.len()).map(|at| edited(at, at, &token[at..=at]));
    assert_eq!(each_is_rejected(twice).await, token.len());
    let exchanged = (1..token.len())
        .filter(|at| token[at - 1..*at] != token[*at..=*at])
        .map(|at| edited(at - 1, at + 1, &format!("{}{}", &token[at..=at], &token[at - 1..at])));
    let count = each_is_rejected(exchanged).await;
    assert!(count > token.len() * 9 / 10, "{count}");
}

#[tokio::test]
async fn h052_every_byte_that_a_header_allows_is_rejected_by_the_layer() {
    let valid = valid();
    let verifier = Setting::of(valid).await.with_cache;
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let service = RequireToken::new(verifier).layer(service_fn(move |_: Request<EmptyBody>| {
        count.fetch_add(1, Ordering::SeqCst);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    }));
    let status = async |token: &[u8]| {
        let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
        let mut request = Request::new(EmptyBody::new());
        request.headers_mut().insert(AUTHORIZATION, value);
        Some(service.clone().oneshot(request).await.unwrap().status().as_u16())
    };

    let token = valid.token.as_bytes();
    assert_eq!(status(token).await, Some(200));
    assert_eq!(reached.swap(0, Ordering::SeqCst), 1);
    let dots = valid.token.match_indices('.').flat_map(|(at, _)| [at, at + 1]);
    let places = dots.chain([0, 1, 7, token.len() / 3, token.len() / 2, token.len()]);
    let mut count = 0;
    for at in places.collect::<Vec<_>>() {
        for byte in 0..=u8::MAX {
            let (before, after) = token.split_at(at);
            let inserted = [before, &[byte], after].concat();
            let replaced = [before, &[byte], after.get(1..).unwrap_or_default()].concat();
            for text in [inserted, replaced] {
                // RFC 6750 section 2.1: there may be several spaces before the token.
                if text == token || text == [b" ", token].concat() {
                    continue;
                }
                let expected = match byte {
                    b'\t' | 0x80.. => Some(400),
                    0..0x20 | 0x7f => None,
                    _ => Some(401),
                };
                assert_eq!(status(&text).await, expected, "{byte:#04x} at {at}");
                count += usize::from(expected.is_some());
            }
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert!(count > 4_000, "{count}");
}
