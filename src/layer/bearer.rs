//! The `Authorization` header ([RFC 6750 section 2.1], [RFC 9110 section 11.4]). A token in a
//! query or a form is not looked for (RFC 9700 section 4.3.2).
//!
//! [RFC 6750 section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
//! [RFC 9110 section 11.4]: https://www.rfc-editor.org/rfc/rfc9110#section-11.4

use http::header::{AUTHORIZATION, HeaderMap};

/// What a request has to show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Credentials<'h> {
    /// A token, or what stands in its place: the verifier is the judge of its form.
    Bearer(&'h str),
    /// A header that no reading makes a bearer token of.
    Malformed,
    /// No header, or another scheme.
    None,
}

/// What has to stand before the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    /// `Bearer`, or nothing at all, as API Gateway has it.
    BearerOrNone,
}

pub(crate) fn credentials(headers: &HeaderMap, accepted: Scheme) -> Credentials<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Credentials::None;
    };
    // Of two lines, another party on the way may have judged the one that we would not.
    if values.next().is_some() {
        return Credentials::Malformed;
    }
    let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
        return Credentials::Malformed;
    };
    if !value.is_ascii() {
        return Credentials::Malformed;
    }
    let scheme_end = value.find([' ', '\t']).unwrap_or(value.len());
    let Some((scheme, rest)) = value.split_at_checked(scheme_end) else {
        return Credentials::Malformed;
    };
    if !scheme.eq_ignore_ascii_case("Bearer") {
        // A token has dots, and no scheme that is in use has.
        let is_bare = accepted == Scheme::BearerOrNone && rest.is_empty() && scheme.contains('.');
        return if is_bare { Credentials::Bearer(scheme) } else { Credentials::None };
    }
    // RFC 6750 asks for `1*SP`: one space or more, and no tab.
    let token = rest.trim_start_matches(' ');
    if token.is_empty() || rest.contains('\t') {
        return Credentials::Malformed;
    }
    Credentials::Bearer(token)
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
        let lenient = credentials(&headers, Scheme::BearerOrNone);
        match values {
            [b"a.b.c"] => assert_eq!(lenient, Credentials::Bearer("a.b.c")),
            _ => assert_eq!(lenient, expected, "{values:?}"),
        }
    }

    #[test]
    fn the_header_is_read_as_the_rfc_has_it() {
        use Credentials::{Bearer, Malformed, None};

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
        check(&[b"Bearer \ttok"], Malformed);
        check(&[b"Bearer t\xc3\xb6k"], Malformed);
        check(&[b"Bearer t\xffk"], Malformed);
        check(&[b"Bearer tok", b"Bearer tok"], Malformed);
        check(&[b"Basic abc", b"Bearer tok"], Malformed);
        check(&[b"Basic abc", b"Basic abc"], Malformed);
    }
}
