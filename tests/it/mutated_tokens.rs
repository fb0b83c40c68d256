//! Every text that is one edit away from a good token is refused: by the plain function and by a
//! verifier that remembers the good token, and at some places by the layer.

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

use super::vectors::{Setting, Vector, vectors};

fn good() -> &'static Vector {
    let is_good =
        |vector: &&Vector| (vector.category, vector.name) == ("compact form", "three parts");
    vectors().iter().find(is_good).unwrap()
}

/// Says how many there were.
async fn each_is_refused(texts: impl Iterator<Item = String>) -> usize {
    let good = good();
    let setting = Setting::of(good).await;
    let (rules, keys) = &setting.pools[0];
    let is_good = |text: &str| {
        let verdict = verify(text, keys, rules, good.time);
        let remembered = setting.with_cache.try_verify(text);
        assert_eq!(verdict.is_ok(), remembered.is_ok(), "{text}");
        verdict.is_ok()
    };
    assert!(is_good(&good.token));
    let mut count = 0;
    for text in texts {
        assert!(!is_good(&text), "{text}");
        count += 1;
    }
    assert!(is_good(&good.token));
    count
}

/// The token with another text for the bytes from `from` to `to`.
fn edited(from: usize, to: usize, text: &str) -> String {
    let token = &good().token;
    format!("{}{text}{}", &token[..from], &token[to..])
}

fn ascii() -> impl Iterator<Item = char> {
    (0..128_u8).map(char::from)
}

/// Characters of two, three and four bytes. To a careless cast the second is a dot.
const WIDE: [char; 6] = ['\u{80}', '\u{12e}', '\u{7ff}', '\u{ff0e}', '\u{feff}', '\u{1f600}'];

#[tokio::test]
async fn h052_every_other_ascii_byte_at_every_place_is_refused() {
    let token = &good().token;
    let others = token.char_indices().flat_map(|(at, own)| {
        let others = ascii().filter(move |other| *other != own);
        others.map(move |other| edited(at, at + 1, other.encode_utf8(&mut [0; 4])))
    });
    // Every single-bit flip that leaves a text is among them.
    assert_eq!(each_is_refused(others).await, token.len() * 127);
}

#[tokio::test]
async fn h052_every_cut_from_either_end_is_refused() {
    let token = &good().token;
    let ends = (0..token.len()).map(|at| token[..at].to_owned());
    let starts = (1..=token.len()).map(|at| token[at..].to_owned());
    assert_eq!(each_is_refused(ends.chain(starts)).await, 2 * token.len());
}

#[tokio::test]
async fn h052_every_insertion_of_an_ascii_byte_is_refused() {
    let token = &good().token;
    let places = 0..=token.len();
    let longer =
        places.flat_map(|at| ascii().map(move |one| edited(at, at, one.encode_utf8(&mut [0; 4]))));
    assert_eq!(each_is_refused(longer).await, (token.len() + 1) * 128);
}

#[tokio::test]
async fn h052_every_insertion_of_a_wide_character_is_refused() {
    let token = &good().token;
    let places = 0..=token.len();
    let longer =
        places.flat_map(|at| WIDE.map(move |one| edited(at, at, one.encode_utf8(&mut [0; 4]))));
    assert_eq!(each_is_refused(longer).await, (token.len() + 1) * WIDE.len());
}

#[tokio::test]
async fn h052_every_deletion_repetition_and_exchange_of_characters_is_refused() {
    let token = &good().token;
    let deleted = (0..token.len()).map(|at| edited(at, at + 1, ""));
    assert_eq!(each_is_refused(deleted).await, token.len());
    let twice = (0..token.len()).map(|at| edited(at, at, &token[at..=at]));
    assert_eq!(each_is_refused(twice).await, token.len());
    let exchanged = (1..token.len())
        .filter(|at| token[at - 1..*at] != token[*at..=*at])
        .map(|at| edited(at - 1, at + 1, &format!("{}{}", &token[at..=at], &token[at - 1..at])));
    let count = each_is_refused(exchanged).await;
    assert!(count > token.len() * 9 / 10, "{count}");
}

#[tokio::test]
async fn h052_every_byte_that_a_header_can_hold_is_refused_at_the_layer() {
    let good = good();
    let verifier = Setting::of(good).await.with_cache;
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let service = RequireToken::new(verifier).layer(service_fn(move |_: Request<()>| {
        count.fetch_add(1, Ordering::SeqCst);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    }));
    let status = async |token: &[u8]| {
        let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
        let mut request = Request::new(());
        request.headers_mut().insert(AUTHORIZATION, value);
        Some(service.clone().oneshot(request).await.unwrap().status().as_u16())
    };

    let token = good.token.as_bytes();
    assert_eq!(status(token).await, Some(200));
    assert_eq!(reached.swap(0, Ordering::SeqCst), 1);
    let dots = good.token.match_indices('.').flat_map(|(at, _)| [at, at + 1]);
    let places = dots.chain([0, 1, 7, token.len() / 3, token.len() / 2, token.len()]);
    let mut count = 0;
    for at in places.collect::<Vec<_>>() {
        for byte in 0..=u8::MAX {
            let (before, after) = token.split_at(at);
            let inserted = [before, &[byte], after].concat();
            let replaced = [before, &[byte], after.get(1..).unwrap_or_default()].concat();
            for text in [inserted, replaced] {
                // RFC 6750 section 2.1: before the token there may be more than one space.
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
