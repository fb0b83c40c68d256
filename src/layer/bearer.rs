//! The `Authorization` header ([RFC 6750 section 2.1], [RFC 9110 section 11.4]). Tokens in the
//! query or in a form are ignored (RFC 9700 section 4.3.2).
//!
//! [RFC 6750 section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
//! [RFC 9110 section 11.4]: https://www.rfc-editor.org/rfc/rfc9110#section-11.4

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

/// The credentials that a request presents.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Credentials<'h> {
    /// The header has the scheme `Bearer` and a credential, or only a token if that is accepted.
    Bearer(RawToken<'h>),
    /// The header is malformed.
    Malformed,
    /// There is no header, or it has another scheme.
    None,
}

/// The credential after the scheme, not yet parsed: a lookup of a cached token compares the bytes
/// as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct RawToken<'h>(pub(crate) &'h [u8]);

impl<'h> RawToken<'h> {
    /// Returns the credential as text for the verifier, which checks its format. Returns `None` if
    /// it is not ASCII or contains a tab.
    pub(crate) fn text(self) -> Option<&'h str> {
        let text = std::str::from_utf8(self.0).ok()?;
        (text.is_ascii() && !self.0.contains(&b'\t')).then_some(text)
    }
}

/// The schemes that are accepted before a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    /// `Bearer`, or no scheme, which API Gateway also accepts.
    BearerOrBare,
}

/// Returns the credentials of a request, without parsing the token.
pub(crate) fn credentials(headers: &HeaderMap, accepted: Scheme) -> Credentials<'_> {
    credentials_of(headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes), accepted)
}

/// Returns the credentials in the lines of an `Authorization` header.
#[inline]
pub(super) fn credentials_of<'h>(
    lines: impl IntoIterator<Item = &'h [u8]>,
    accepted: Scheme,
) -> Credentials<'h> {
    match only(lines) {
        Ok(Some(value)) => credentials_of_line(value, accepted),
        Ok(None) => Credentials::None,
        Err(Repeated) => Credentials::Malformed,
    }
}

/// There is more than one value.
pub(super) struct Repeated;

/// Returns the only value, if there is one. Returns an error for several values: a proxy may have
/// checked the one that we would ignore.
#[inline]
pub(super) fn only<'h>(
    values: impl IntoIterator<Item = &'h [u8]>,
) -> Result<Option<&'h [u8]>, Repeated> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Repeated),
    }
}

/// Returns the credentials in the only line of an `Authorization` header.
#[inline]
fn credentials_of_line(value: &[u8], accepted: Scheme) -> Credentials<'_> {
    const BEARER: &[u8] = b"Bearer";

    match value.split_at_checked(BEARER.len()) {
        // Nearly every client writes `Bearer`, and an exact comparison is faster.
        Some((scheme, rest)) if scheme == BEARER || scheme.eq_ignore_ascii_case(BEARER) => {
            match rest {
                [] => Credentials::Malformed,
                // RFC 6750 requires `1*SP`: one space or more.
                [b' ', ..] => match without_spaces(rest) {
                    [] => Credentials::Malformed,
                    token => Credentials::Bearer(RawToken(token)),
                },
                [b'\t', ..] => Credentials::Malformed,
                _ => without_scheme(value, accepted),
            }
        }
        _ => without_scheme(value, accepted),
    }
}

fn without_spaces(mut rest: &[u8]) -> &[u8] {
    while let [b' ', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// Returns the credentials of a value that does not begin with `Bearer`: it has another scheme, or
/// it is a token without a scheme.
fn without_scheme(value: &[u8], accepted: Scheme) -> Credentials<'_> {
    if !value.is_ascii() {
        return Credentials::Malformed;
    }
    // A token contains dots. No registered scheme does.
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
    fn credentials_are_read_as_rfc_6750_requires() {
        use Credentials::{Malformed, None};
        #[expect(non_snake_case, reason = "it looks like the variant")]
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
