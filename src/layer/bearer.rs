//! The `Authorization` header ([RFC 6750 section 2.1], [RFC 9110 section 11.4]). A token in a
//! query or a form is not looked for (RFC 9700 section 4.3.2).
//!
//! [RFC 6750 section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
//! [RFC 9110 section 11.4]: https://www.rfc-editor.org/rfc/rfc9110#section-11.4

use http::header::{AUTHORIZATION, HeaderMap};

/// What a request has to show.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Credentials<'h> {
    /// A token, or what stands in its place.
    Bearer(RawToken<'h>),
    /// A header that no reading makes a bearer token of.
    Malformed,
    /// No header, or another scheme.
    None,
}

/// What stands where a token should, not looked at yet: for a token that was verified before, one
/// comparison of all of it is enough.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct RawToken<'h>(pub(crate) &'h [u8]);

impl<'h> RawToken<'h> {
    /// As a text, of whose form the verifier is the judge; `None` where it is not ASCII, or has a
    /// tab.
    pub(crate) fn text(self) -> Option<&'h str> {
        let text = std::str::from_utf8(self.0).ok()?;
        (text.is_ascii() && !self.0.contains(&b'\t')).then_some(text)
    }
}

/// What has to stand before the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    /// `Bearer`, or nothing at all, as API Gateway has it.
    BearerOrBare,
}

pub(crate) fn credentials(headers: &HeaderMap, accepted: Scheme) -> Credentials<'_> {
    const BEARER: &[u8] = b"Bearer";

    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Credentials::None;
    };
    // Of two lines, another party on the way may have judged the one that we would not.
    if values.next().is_some() {
        return Credentials::Malformed;
    }
    match value.as_bytes().split_at_checked(BEARER.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => match rest {
            [] => Credentials::Malformed,
            // RFC 6750 asks for `1*SP`: one space or more.
            [b' ', ..] => match without_spaces(rest) {
                [] => Credentials::Malformed,
                token => Credentials::Bearer(RawToken(token)),
            },
            [b'\t', ..] => Credentials::Malformed,
            _ => without_scheme(value.as_bytes(), accepted),
        },
        _ => without_scheme(value.as_bytes(), accepted),
    }
}

fn without_spaces(mut rest: &[u8]) -> &[u8] {
    while let [b' ', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// Another scheme; or, where that is accepted, a token alone.
fn without_scheme(value: &[u8], accepted: Scheme) -> Credentials<'_> {
    if !value.is_ascii() {
        return Credentials::Malformed;
    }
    // A token has dots, and no scheme that is in use has.
    let is_bare = value.contains(&b'.') && !value.iter().any(u8::is_ascii_whitespace);
    if is_bare && accepted == Scheme::BearerOrBare {
        Credentials::Bearer(RawToken(value))
    } else {
        Credentials::None
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(values: &[&[u8]], expected: Credentials<'_>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(credentials(&headers, Scheme::Bearer), expected, "{values:?}");
        let lenient = credentials(&headers, Scheme::BearerOrBare);
        match values {
            [b"a.b.c"] => assert_eq!(lenient, Credentials::Bearer(RawToken(b"a.b.c"))),
            _ => assert_eq!(lenient, expected, "{values:?}"),
        }
    }

    #[test]
    fn the_header_is_read_as_the_rfc_has_it() {
        use Credentials::{Malformed, None};
        #[expect(non_snake_case, reason = "it reads as the variant")]
        let Bearer = |token: &'static str| Credentials::Bearer(RawToken(token.as_bytes()));

        check(&[], None);
        check(&[b""], None);
        check(&[b"Basic abc"], None);
        check(&[b"DPoP abc"], None);
        check(&[b"xBearer tok"], None);
        check(&[b"Basic xBearer tok"], None);
        check(&[b"Bearertok"], None);
        check(&[b"a.b.c"], None);
        check(&[b"a.b.c d"], None);
        check(&[b"Negotiate"], None);
        check(&[b"Bearer tok"], Bearer("tok"));
        check(&[b"bearer tok"], Bearer("tok"));
        check(&[b"BeArEr tok"], Bearer("tok"));
        check(&[b"Bearer  tok"], Bearer("tok"));
        check(&[b"Bearer tok extra"], Bearer("tok extra"));
        check(&[b"Bearer tok,Bearer tok2"], Bearer("tok,Bearer tok2"));
        check(&[b"Bearer"], Malformed);
        check(&[b"Bearer "], Malformed);
        check(&[b"Bearer\ttok"], Malformed);
        check(&[b"Bearer \ttok"], Bearer("\ttok"));
        check(&[b"Basic t\xffk"], Malformed);
        assert_eq!(RawToken(b"t\xc3\xb6k").text(), Option::None);
        assert_eq!(RawToken(b"t\xffk").text(), Option::None);
        assert_eq!(RawToken(b"\ttok").text(), Option::None);
        assert_eq!(RawToken(b"tok").text(), Some("tok"));
        check(&[b"Bearer tok", b"Bearer tok"], Malformed);
        check(&[b"Basic abc", b"Bearer tok"], Malformed);
        check(&[b"Basic abc", b"Basic abc"], Malformed);
    }
}
