//! base64url as a JWS has it ([RFC 7515 section 2]), with one text for each sequence of bytes:
//! padding, impossible lengths and non-zero trailing bits are refused.
//!
//! [RFC 7515 section 2]: https://www.rfc-editor.org/rfc/rfc7515#section-2

use base64::Engine;

// The instructions for many bytes at once that this processor has (AVX2, NEON), which is found out
// once. All that anybody sends goes through it; so it is an engine of the field's own crate, whose
// fast loop leaves what it does not know to the plain engine. The tests compare the two.
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

/// How many bytes are now at the front of the buffer; `None` where the text is not canonical, or
/// the buffer too short.
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
    fn h019_every_length_and_every_end_is_read_as_by_the_plain_engine() {
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
    fn h018_every_character_in_every_place_is_read_as_by_the_plain_engine() {
        // In the fast loop, and in what it leaves over.
        let text = PLAIN.encode(bytes(100));
        for place in 0..text.len() {
            let (before, after) = (&text[..place], &text[place + 1..]);
            for other in 0..=u8::MAX {
                check_same(&format!("{before}{}{after}", char::from(other)));
            }
        }
    }

    #[test]
    fn a_buffer_that_is_too_short_is_no_panic() {
        let text = PLAIN.encode(bytes(100));
        assert_eq!(decode(&text, &mut [0; 99]), None);
        assert_eq!(decode(&text, &mut [0; 100]), Some(100));
    }
}
