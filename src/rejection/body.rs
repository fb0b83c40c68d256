//! The body of a rejection, which the application may choose.

use bytes::Bytes;
use http::HeaderValue;

use super::Rejection;

/// Holds the body of a rejection and its media type.
///
/// The body is the only part of a rejection that the application can replace, with
/// [`RequireToken::rejection_body`](crate::RequireToken::rejection_body).
#[derive(Clone, Debug)]
pub struct RejectionBody {
    pub(crate) content_type: HeaderValue,
    pub(crate) bytes: Bytes,
}

impl RejectionBody {
    /// Creates a body of these bytes, with this media type.
    pub fn new(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self { content_type, bytes: bytes.into() }
    }

    /// Creates the default body: `{"error":"…","error_description":"…"}`.
    pub fn json(rejection: &Rejection) -> Self {
        let (error, description) = (rejection.error_code(), rejection.error_description());
        let json = format!(r#"{{"error":"{error}","error_description":"{description}"}}"#);
        Self::new(HeaderValue::from_static("application/json"), json)
    }

    /// Creates a problem document ([RFC 9457]), with the OAuth error code in its member `error`.
    ///
    /// ```
    /// use tower_cognito::{RejectionBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).rejection_body(RejectionBody::problem)
    /// # }
    /// ```
    ///
    /// [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457
    pub fn problem(rejection: &Rejection) -> Self {
        let status = rejection.status();
        let title = status.canonical_reason().unwrap_or_default();
        let (error, detail) = (rejection.error_code(), rejection.error_description());
        let json = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{detail}","error":"{error}"}}"#,
            status.as_u16()
        );
        Self::new(HeaderValue::from_static("application/problem+json"), json)
    }

    /// Creates the body of an error of the [Connect protocol]: `{"code":"…","message":"…"}`.
    ///
    /// Its clients ignore the other bodies, and show an empty message. The code is that of the gRPC
    /// form of the rejection. It reaches unary calls. Clients of streaming calls read only the status,
    /// which they map to the same code, except for `400`.
    ///
    /// ```
    /// use tower_cognito::{RejectionBody, RequireToken};
    ///
    /// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
    /// RequireToken::new(verifier).rejection_body(RejectionBody::connect)
    /// # }
    /// ```
    ///
    /// [Connect protocol]: https://connectrpc.com/docs/protocol#error-end-stream
    pub fn connect(rejection: &Rejection) -> Self {
        let (code, message) = (rejection.connect_code(), rejection.error_description());
        let json = format!(r#"{{"code":"{code}","message":"{message}"}}"#);
        Self::new(HeaderValue::from_static("application/json"), json)
    }
}
