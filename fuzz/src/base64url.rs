//! Base64url without padding (RFC 4648 section 5), which encodes each byte string in exactly one
//! way.

use std::array;
use std::sync::LazyLock;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

/// The value of each symbol.
static VALUES: LazyLock<[Option<u8>; 256]> = LazyLock::new(|| {
    array::from_fn(|symbol| {
        let value = ALPHABET.iter().position(|known| usize::from(*known) == symbol)?;
        u8::try_from(value).ok()
    })
});

/// Decodes a text. Returns `None` unless [`encode`] would produce it.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in text.bytes() {
        bits = bits << 6 | u32::from(VALUES[usize::from(symbol)]?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (encode(&bytes) == text).then_some(bytes)
}
