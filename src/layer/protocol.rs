//! The protocol in which a request is rejected: HTTP or gRPC.

use http::header::CONTENT_TYPE;
use http::{Method, Request};

/// The form of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP 200, with this content type and a gRPC status in the headers.
    Grpc(&'static str),
    /// An HTTP status and a body.
    Http,
    /// An HTTP status and no body: the response to HEAD.
    HttpHead,
}

impl Protocol {
    /// Returns the protocol of a request. Only a request that is certainly a gRPC call gets the
    /// gRPC form: any other client would read its HTTP 200 as success.
    pub(super) fn from_request<B>(request: &Request<B>) -> Self {
        match *request.method() {
            Method::HEAD => Self::HttpHead,
            Method::POST => grpc_content_type(request).map_or(Self::Http, Self::Grpc),
            _ => Self::Http,
        }
    }
}

/// Returns the content type of the response. For gRPC-Web it is the one that Envoy and tonic-web
/// send.
fn grpc_content_type<B>(request: &Request<B>) -> Option<&'static str> {
    let mut values = request.headers().get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let message_format = media_type.find('+').unwrap_or(media_type.len());
    match media_type.get(..message_format)? {
        "application/grpc" => Some("application/grpc"),
        "application/grpc-web" => Some("application/grpc-web+proto"),
        "application/grpc-web-text" => Some("application/grpc-web-text+proto"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, content_types: &[&str], expected: Protocol) {
        let mut request = Request::builder().method(method);
        for content_type in content_types {
            request = request.header(CONTENT_TYPE, *content_type);
        }
        assert_eq!(
            Protocol::from_request(&request.body(()).unwrap()),
            expected,
            "{content_types:?}"
        );
    }

    #[test]
    fn only_post_with_grpc_media_type_is_grpc() {
        use Protocol::{Grpc, Http, HttpHead};

        let web = Grpc("application/grpc-web+proto");
        let web_text = Grpc("application/grpc-web-text+proto");
        check(Method::POST, &["application/grpc"], Grpc("application/grpc"));
        check(Method::POST, &["application/grpc+proto"], Grpc("application/grpc"));
        check(Method::POST, &["Application/gRPC; charset=utf-8"], Grpc("application/grpc"));
        check(Method::POST, &["application/grpc-web"], web);
        check(Method::POST, &["application/grpc-web+json"], web);
        check(Method::POST, &["application/grpc-web-text"], web_text);
        check(Method::POST, &["application/grpc-web-text+proto"], web_text);

        check(Method::POST, &[], Http);
        check(Method::POST, &["application/json"], Http);
        check(Method::POST, &["application/grpcx"], Http);
        check(Method::POST, &["application/grpc-webx"], Http);
        check(Method::POST, &["application/grpc-"], Http);
        check(Method::POST, &["application/json, application/grpc"], Http);
        check(Method::POST, &["application/grpc", "application/grpc"], Http);
        check(Method::POST, &["text/plain; application/grpc"], Http);
        check(Method::GET, &["application/grpc"], Http);
        check(Method::PUT, &["application/grpc"], Http);
        check(Method::HEAD, &["application/grpc"], HttpHead);
    }
}
