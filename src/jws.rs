//! Splits and decodes a compact JWS ([RFC 7515 section 3.1]). Nothing in it is trusted yet.
//!
//! [RFC 7515 section 3.1]: https://www.rfc-editor.org/rfc/rfc7515#section-3.1

use std::borrow::Cow;

use crate::base64url;
use crate::error::VerifyErrorKind;
use crate::json::{self, Member};

pub(crate) const MAX_TOKEN_LEN: usize = 16 * 1024;
pub(crate) const MAX_KEY_ID_LEN: usize = 256;

/// The parts of a token. The payload and the signature were canonical base64url, so no other text
/// decodes to the same bytes. The header is not decoded yet: see [`Header`].
pub(crate) struct Jws<'t, 'b> {
    /// The text that was signed (RFC 7515 section 5.2 step 8).
    pub(crate) signing_input: &'t str,
    pub(crate) header: Header<'t, 'b>,
    pub(crate) payload: &'b str,
    pub(crate) signature: &'b [u8],
}

/// The JOSE header as it was sent, and a buffer to decode it into. [`key_id`](Self::key_id) decodes and
/// checks it, unless it equals a header that has passed this check before
/// ([`HeaderCache`](crate::jwks::HeaderCache)).
pub(crate) struct Header<'t, 'b> {
    pub(crate) encoded: &'t str,
    buffer: &'b mut [u8],
}

impl<'t, 'b> Jws<'t, 'b> {
    /// Decodes into the buffer, which must be as long as the token, so that a token without a valid
    /// signature costs no allocation.
    pub(crate) fn from_token(
        token: &'t str,
        buffer: &'b mut [u8],
    ) -> Result<Self, VerifyErrorKind> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(VerifyErrorKind::TooLarge);
        }
        // Split only at the first two dots: the decoder rejects any other dot, because it is not in
        // the alphabet. It also rejects every JSON serialization (RFC 8725 bis, "check the format").
        let (encoded, rest) = token.split_once('.').ok_or(VerifyErrorKind::Malformed)?;
        let (payload, signature) = rest.split_once('.').ok_or(VerifyErrorKind::Malformed)?;
        if encoded.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(VerifyErrorKind::Malformed);
        }
        let signed = encoded.len().saturating_add(1).saturating_add(payload.len());
        let signing_input = token.get(..signed).ok_or(VerifyErrorKind::Malformed)?;
        let (payload, buffer) = decode_text(payload, buffer)?;
        let (signature, buffer) = decode(signature, buffer)?;
        Ok(Self { signing_input, header: Header { encoded, buffer }, payload, signature })
    }
}

impl<'b> Header<'_, 'b> {
    /// Decodes and checks the header, and returns its key ID.
    pub(crate) fn key_id(self) -> Result<Cow<'b, str>, VerifyErrorKind> {
        let (header, _) = decode_text(self.encoded, self.buffer)?;
        key_id_of(header)
    }
}

/// Checks the JOSE header and returns its key ID.
///
/// `jku`, `x5u`, `jwk` and `x5c` are ignored: a key from the token itself proves nothing (RFC 8725
/// section 3.10).
fn key_id_of(header: &str) -> Result<Cow<'_, str>, VerifyErrorKind> {
    let Parameters { alg, kid, typ, crit, b64, zip, enc } =
        json::read_object(header, |parameters: &mut Parameters<'_>, name| {
            Some(match name {
                "alg" => &mut parameters.alg,
                "kid" => &mut parameters.kid,
                "typ" => &mut parameters.typ,
                "crit" => &mut parameters.crit,
                "b64" => &mut parameters.b64,
                "zip" => &mut parameters.zip,
                "enc" => &mut parameters.enc,
                _ => return None,
            })
        })
        .map_err(|_| VerifyErrorKind::Malformed)?;
    // RFC 8725 section 3.1: the verifier chooses the algorithm, and the token must agree.
    if alg.and_then(json::string).as_deref() != Some("RS256") {
        return Err(VerifyErrorKind::UnsupportedAlgorithm);
    }
    // RFC 7515 section 4.1.11: an extension that is not understood must be rejected, and no extension
    // is understood here. `b64` changes what is signed, and `zip` and `enc` belong to a JWE.
    if [crit, b64, zip, enc].iter().any(Option::is_some) {
        return Err(VerifyErrorKind::InvalidHeader);
    }
    // RFC 8725 section 3.11: a token of another type is not an access token.
    if typ.is_some_and(|typ| !json::string(typ).is_some_and(|typ| is_access_token_type(&typ))) {
        return Err(VerifyErrorKind::InvalidHeader);
    }
    kid.and_then(json::string)
        .filter(|id| !id.is_empty() && id.len() <= MAX_KEY_ID_LEN)
        .ok_or(VerifyErrorKind::InvalidHeader)
}

/// The header parameters (RFC 7515 section 4.1) that are read.
#[derive(Default)]
struct Parameters<'a> {
    alg: Member<'a>,
    kid: Member<'a>,
    typ: Member<'a>,
    crit: Member<'a>,
    b64: Member<'a>,
    zip: Member<'a>,
    enc: Member<'a>,
}

/// RFC 7515 section 4.1.9: a media type, whose prefix `application/` may be omitted.
fn is_access_token_type(media_type: &str) -> bool {
    const PREFIX: &str = "application/";

    let subtype = match media_type.split_at_checked(PREFIX.len()) {
        Some((prefix, subtype)) if prefix.eq_ignore_ascii_case(PREFIX) => subtype,
        _ => media_type,
    };
    subtype.eq_ignore_ascii_case("JWT") || subtype.eq_ignore_ascii_case("at+jwt")
}

/// Returns the part as UTF-8 text with unescaped slashes, and the rest of the buffer.
fn decode_text<'b>(
    part: &str,
    buffer: &'b mut [u8],
) -> Result<(&'b str, &'b mut [u8]), VerifyErrorKind> {
    let (text, rest) = decode(part, buffer)?;
    let length = json::unescape_slashes(text);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    Ok((text.ok_or(VerifyErrorKind::Malformed)?, rest))
}

/// Returns the bytes of the part, and the rest of the buffer.
fn decode<'b>(
    part: &str,
    buffer: &'b mut [u8],
) -> Result<(&'b mut [u8], &'b mut [u8]), VerifyErrorKind> {
    let length = base64url::decode(part, buffer).ok_or(VerifyErrorKind::Malformed)?;
    buffer.split_at_mut_checked(length).ok_or(VerifyErrorKind::Malformed)
}
