//! base64url as in a JWS ([RFC 7515 section 2]), with one text for each sequence of bytes: padding,
//! impossible lengths and non-zero trailing bits are rejected.
//!
//! [RFC 7515 section 2]: https://www.rfc-editor.org/rfc/rfc7515#section-2

use base64::Engine;

// Use the `base64` crate's SIMD engine (AVX2 or NEON), which is selected once at run time. Its fast
// loop leaves everything unusual to the plain engine. Every token passes through it, so the tests
// compare both engines.
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
use self::fast::ENGINE;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
use base64::engine::general_purpose::URL_SAFE_NO_PAD as ENGINE;

#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod fast {
    use std::sync::LazyLock;

    use base64::engine::Simd;
    use base64::engine::general_purpose::NO_PAD;

    pub(super) static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(NO_PAD));
}

/// Decodes into the front of the buffer and returns the number of bytes, or `None` if the text is not
/// canonical or the buffer is too short.
pub(crate) fn decode(text: &str, buffer: &mut [u8]) -> Option<usize> {
    ENGINE.decode_slice(text, buffer).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as PLAIN;

    use super::*;

    #[track_caller]
    fn check_same(text: &str) {
        let mut buffer = vec![0; text.len()];
        let decoded = decode(text, &mut buffer).map(|length| buffer[..length].to_vec());
        assert_eq!(decoded, PLAIN.decode(text).ok(), "{text:?}");
    }

    fn bytes(count: u32) -> Vec<u8> {
        (0..count).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    #[test]
    fn h019_every_length_and_ending_decodes_as_with_the_plain_engine() {
        let bytes = bytes(400);
        for length in 0..bytes.len() {
            let text = PLAIN.encode(&bytes[..length]);
            check_same(&text);
            for end in ["A", "B", "-", "_", "=", "==", "+", "/", "\n", "\0", "é"] {
                check_same(&format!("{text}{end}"));
            }
        }
    }

    #[test]
    fn h018_every_character_at_every_position_decodes_as_with_the_plain_engine() {
        // The text is long enough for the fast loop and its remainder.
        let text = PLAIN.encode(bytes(100));
        for place in 0..text.len() {
            let (before, after) = (&text[..place], &text[place + 1..]);
            for other in 0..=u8::MAX {
                check_same(&format!("{before}{}{after}", char::from(other)));
            }
        }
    }

    #[test]
    fn too_short_buffer_returns_none() {
        let text = PLAIN.encode(bytes(100));
        assert_eq!(decode(&text, &mut [0; 99]), None);
        assert_eq!(decode(&text, &mut [0; 100]), Some(100));
    }
}
