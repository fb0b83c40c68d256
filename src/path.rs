//! Which paths are ambiguous, so that two servers may read them as different paths.
//!
//! A scope table compares a path as it was sent. A router, a proxy or a handler behind it may
//! percent-decode the path, merge slashes, resolve dot segments, read `\` as `/`, or strip path
//! parameters (`;v=1`). If one of these changes which segments a path has, the table and that
//! server disagree about what is requested, and a request can pass the table as one path and be
//! served as another. Such paths are therefore rejected. CWE-22, CWE-41, CWE-180 and
//! [RFC 3986 section 6.2.2] describe the differences.
//!
//! Two rules are split between this file and `scope_table`: [`is_unambiguous`] needs only the path;
//! whether a segment is another spelling of a segment in a row needs the table, which looks it up
//! with [`percent_decode`] and [`strip_path_parameters`].
//!
//! [RFC 3986 section 6.2.2]: https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2

use std::borrow::Cow;

/// Returns `true` if percent-decoding the path once cannot change how it is split or routed.
///
/// Empty and dot segments and backslashes are rejected too if they are sent without an escape,
/// because servers differ in how they normalize them.
pub(crate) fn is_unambiguous(path: &str) -> bool {
    // Servers that strip path parameters do so before they resolve dot segments: `/..;x/` is `/../`
    // to them.
    let is_dot_segment = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if path.contains("//") || path.contains('\\') || path.split('/').any(is_dot_segment) {
        return false;
    }
    path.split('%').skip(1).all(|escape| match decode_escape(escape) {
        Some(byte) => !matches!(byte, b'/' | b'.' | b'\\') && !byte.is_ascii_control(),
        None => false,
    })
}

/// Returns the decoded segment up to the first `;`, `?` or `#`.
///
/// Servers that strip path parameters (servlet containers do) cut a segment at `;`. Servers that
/// parse a decoded path again as a URL cut it at `?` or `#`.
pub(crate) fn strip_path_parameters(decoded: &[u8]) -> &[u8] {
    decoded.split(|byte| b";?#".contains(byte)).next().unwrap_or_default()
}

/// Decodes every escape of a segment once. Borrows the segment if it has none.
///
/// The bytes that an invalid escape stands for are unspecified, because [`is_unambiguous`] rejects
/// its path.
pub(crate) fn percent_decode(segment: &str) -> Cow<'_, [u8]> {
    let mut pieces = segment.split('%');
    let first = pieces.next().unwrap_or_default();
    let mut bytes = Cow::Borrowed(first.as_bytes());
    for piece in pieces {
        bytes.to_mut().extend(decode_escape(piece));
        bytes.to_mut().extend(piece.as_bytes().iter().skip(2));
    }
    bytes
}

/// Decodes the two hexadecimal digits at the start of this text, which follows a `%`.
fn decode_escape(text: &str) -> Option<u8> {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, whether it is unambiguous, and why.
    const PATHS: [(&str, bool, &str); 44] = [
        ("/", true, "the root is one empty segment"),
        ("/item", true, "has neither an escape nor a special segment"),
        ("/item/", true, "only the last segment is empty"),
        ("//", false, "has an empty segment, and servers merge slashes"),
        ("/item//7", false, "has an empty segment in the middle"),
        ("/.", false, "is a dot segment"),
        ("/..", false, "is a dot segment"),
        ("/item/./7", false, "has a dot segment in the middle"),
        ("/item/../admin", false, "has a dot segment in the middle"),
        ("/item/..", false, "ends with a dot segment"),
        ("/...", true, "three dots are an ordinary name"),
        ("/.well-known", true, "a name may begin with a dot"),
        ("/a..b", true, "dots in a name are not a dot segment"),
        ("/..;x/admin", false, "is a dot segment once the path parameter is stripped"),
        ("/.;/admin", false, "is a dot segment once the empty path parameter is stripped"),
        ("/item;..", true, "dots in a path parameter are not a segment"),
        ("/item;v=1", true, "a path parameter does not add a segment"),
        ("/item\\admin", false, "servers on Windows read `\\` as `/`"),
        ("/item%20x", true, "decodes to a space"),
        ("/%41", true, "decodes to a letter"),
        ("/caf%C3%A9", true, "decodes to UTF-8"),
        ("/%FF", true, "decodes to a byte that is not a separator, although not UTF-8"),
        ("/item%2Fadmin", false, "decodes to `/`"),
        ("/item%2fadmin", false, "decodes to `/`; digits may be in lower case"),
        ("/%2e%2e/admin", false, "decodes to `..`"),
        ("/.%2E/admin", false, "decodes to `..`"),
        ("/a%2Eb", false, "decodes to `.`, rejected everywhere to keep the rule simple"),
        ("/item%5Cadmin", false, "decodes to `\\`"),
        ("/%00", false, "decodes to NUL, which ends a path in C"),
        ("/a%0Ab", false, "decodes to a line feed"),
        ("/a%0D%0Ab", false, "decodes to a line end"),
        ("/%7F", false, "decodes to DEL, a control character"),
        ("/%252e%252e", true, "decoded once, it is `%2e%2e`, which has no dot"),
        ("/%252F", true, "decoded once, it is `%2F`, which has no slash"),
        ("/%", false, "the escape has no digits"),
        ("/%2", false, "the escape has one digit"),
        ("/%/2", false, "the escape ends at the next segment"),
        ("/%zz", false, "the digits are not hexadecimal"),
        ("/%2g", false, "the second digit is not hexadecimal"),
        ("/%+2", false, "`from_str_radix` accepts a sign, an escape does not"),
        ("/%%41", false, "the first escape has no digits"),
        ("/%\u{e9}", false, "a character of two bytes is not two digits"),
        ("/\u{e9}", true, "a character outside ASCII is not a separator"),
        ("", true, "the empty path of `CONNECT`, which no row matches"),
    ];

    #[test]
    fn path_is_unambiguous_only_if_decoding_keeps_its_segments() {
        for (path, expected, why) in PATHS {
            assert_eq!(is_unambiguous(path), expected, "{path:?}: {why}");
        }
    }

    /// A segment, its bytes after one decoding, and these without path parameters.
    const SEGMENTS: [(&str, &[u8], &[u8]); 12] = [
        ("", b"", b""),
        ("item", b"item", b"item"),
        ("%69tem", b"item", b"item"),
        ("ite%6D", b"item", b"item"),
        ("%69%74%65%6d", b"item", b"item"),
        ("caf%C3%A9", "caf\u{e9}".as_bytes(), "caf\u{e9}".as_bytes()),
        ("%2569", b"%69", b"%69"),
        ("item;v=1", b"item;v=1", b"item"),
        ("item%3Bv=1", b"item;v=1", b"item"),
        ("item%3fx", b"item?x", b"item"),
        ("item%23x", b"item#x", b"item"),
        (";item", b";item", b""),
    ];

    #[test]
    fn segment_is_decoded_once_and_stripped_of_parameters() {
        for (segment, decoded, stripped) in SEGMENTS {
            assert_eq!(*percent_decode(segment), *decoded, "{segment:?}");
            assert_eq!(strip_path_parameters(decoded), stripped, "{segment:?}");
        }
        assert!(matches!(percent_decode("item"), Cow::Borrowed(_)));
    }
}
