//! The part of a rejection that the application configures on `RequireToken`.

use std::fmt;
use std::sync::Arc;

use super::{Rejection, RejectionBody};

/// By default, this much of a rejected request's body is read before the response is sent. Mail
/// services send batches of several hundred kilobytes.
const DEFAULT_DRAIN_LIMIT: u64 = 1024 * 1024;

/// How rejections look. It is set on `RequireToken`, and is the same for everything inside that
/// layer.
#[derive(Clone)]
pub(crate) struct RejectionConfig {
    pub(super) realm: Box<str>,
    pub(super) resource_metadata: Option<Box<str>>,
    pub(super) body: Option<Arc<BodyHook>>,
    /// The descriptions of a missing token and of a malformed header, if the token is expected
    /// elsewhere than in the `Authorization` header.
    pub(super) descriptions: Option<[String; 2]>,
    /// Whether gRPC requests are rejected in the HTTP form, too.
    pub(super) is_http_rejections_only: bool,
    /// How many bytes of a rejected request's body are read before the response is sent.
    pub(super) drain_limit: u64,
}

type BodyHook = dyn Fn(&Rejection) -> RejectionBody + Send + Sync;

impl RejectionConfig {
    /// Sets the realm.
    ///
    /// # Panics
    ///
    /// Panics if the realm is empty or has a character that would need an escape in a quoted
    /// string (RFC 9110 section 5.6.4).
    #[track_caller]
    pub(crate) fn set_realm(&mut self, realm: &str) {
        let is_plain = |byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(
            !realm.is_empty() && realm.bytes().all(is_plain),
            "invalid realm: empty, or contains a quote, a backslash, a control character or a \
             non-ASCII character"
        );
        self.realm = realm.into();
    }

    /// Sets the URL of the metadata document. `ResourceMetadata` has validated it, so it has no
    /// quote that would end the parameter of the challenge.
    pub(crate) fn set_resource_metadata(&mut self, url: &str) {
        self.resource_metadata = Some(url.into());
    }

    pub(crate) fn set_body(
        &mut self,
        body: impl Fn(&Rejection) -> RejectionBody + Send + Sync + 'static,
    ) {
        self.body = Some(Arc::new(body));
    }

    /// Sets the descriptions. They consist of fixed texts and the name of a header, so they have no
    /// character that would need an escape.
    pub(crate) fn set_descriptions(&mut self, descriptions: Option<[String; 2]>) {
        self.descriptions = descriptions;
    }

    pub(crate) fn set_drain_limit(&mut self, bytes: u64) {
        self.drain_limit = bytes;
    }

    pub(crate) fn set_http_rejections_only(&mut self) {
        self.is_http_rejections_only = true;
    }
}

impl Default for RejectionConfig {
    fn default() -> Self {
        Self {
            realm: "api".into(),
            resource_metadata: None,
            body: None,
            descriptions: None,
            is_http_rejections_only: false,
            drain_limit: DEFAULT_DRAIN_LIMIT,
        }
    }
}

impl fmt::Debug for RejectionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionConfig")
            .field("realm", &self.realm)
            .field("resource_metadata", &self.resource_metadata)
            .field("is_http_rejections_only", &self.is_http_rejections_only)
            .finish_non_exhaustive()
    }
}
