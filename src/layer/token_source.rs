//! The part of a request that holds the token.

use http::header::{
    AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Method, Request, Version};

use super::bearer::{Credentials, RawToken, Repeated, Scheme, credentials, credentials_of, only};

/// The prefix of the subprotocol that holds the token.
const SUBPROTOCOL: &[u8] = b"bearer.";

/// The part of a request that holds the token. Only this part is read.
///
/// The default is the `Authorization` header. A token in the URI is never read, because URIs are
/// logged, cached and sent on in `Referer` (RFC 6750 section 2.3). A token in a cookie is never read
/// either, because a browser adds cookies to requests that other sites cause, and then the service
/// would need a defense against cross-site request forgery.
///
/// ```
/// use http::HeaderName;
/// use tower_cognito::{RequireToken, TokenSource};
///
/// # fn example(verifier: tower_cognito::Verifier) -> RequireToken {
/// let header = HeaderName::from_static("x-amzn-oidc-accesstoken");
/// RequireToken::new(verifier).token_source(TokenSource::header(header))
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSource(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Authorization,
    Header(HeaderName),
    WebSocketProtocol,
}

impl TokenSource {
    /// Reads the token from the `Authorization` header, with the scheme `Bearer`.
    ///
    /// ```
    /// use tower_cognito::TokenSource;
    ///
    /// assert_ne!(TokenSource::authorization(), TokenSource::websocket_protocol());
    /// ```
    pub fn authorization() -> Self {
        Self(Source::Authorization)
    }

    /// Reads the token from this header, without a scheme.
    ///
    /// An Application Load Balancer that signs users in sends their access token in
    /// `x-amzn-oidc-accesstoken` ([AWS]).
    ///
    /// **Only the proxy may be able to set the header.** It must remove or replace the client's header,
    /// and clients must not be able to reach the service without passing the proxy. Otherwise a client
    /// can present another valid token than the one that the proxy has checked.
    ///
    /// * *Two lines, an empty value, a tab or a character that is not ASCII*: status 400.
    /// * *No such header*: the request has no token.
    ///
    /// # Panics
    ///
    /// Panics if the header is `Authorization`, `Cookie` or `Sec-WebSocket-Protocol`.
    ///
    /// [AWS]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/listener-authenticate-users.html
    #[track_caller]
    pub fn header(name: HeaderName) -> Self {
        assert!(
            ![AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL].contains(&name),
            "this header is not a token without a scheme"
        );
        Self(Source::Header(name))
    }

    /// Reads the token from the subprotocol `bearer.TOKEN` of a WebSocket handshake, because a
    /// browser cannot set the headers of one.
    ///
    /// The client offers it next to a subprotocol of the application, which the service must accept:
    ///
    /// ```js
    /// new WebSocket("wss://api.example.com/ws", ["chat.v1", `bearer.${token}`])
    /// ```
    ///
    /// * *Handshake*: `GET` with `Upgrade: websocket`, or the extended `CONNECT` of HTTP/2 with
    ///   `:protocol` (RFC 8441). Every other request has no token.
    /// * *Two such subprotocols*: status 400.
    /// * *The service inside*: it does not see the token, because the layer removes it from
    ///   `Sec-WebSocket-Protocol`.
    ///
    /// Proxies may log the header, so use tokens that expire soon.
    pub fn websocket_protocol() -> Self {
        Self(Source::WebSocketProtocol)
    }

    /// Returns `true` if it is the `Authorization` header.
    pub(super) fn is_authorization(&self) -> bool {
        self.0 == Source::Authorization
    }

    /// Returns the descriptions of a missing token and of a malformed header, if the token is not in
    /// the `Authorization` header.
    pub(super) fn descriptions(&self) -> Option<[String; 2]> {
        let (place, name) = match &self.0 {
            Source::Authorization => return None,
            Source::Header(name) => (format!("the header {name}"), name),
            Source::WebSocketProtocol => {
                ("the WebSocket subprotocol bearer.TOKEN".to_owned(), &SEC_WEBSOCKET_PROTOCOL)
            }
        };
        let missing = format!("An access token in {place} is required");
        Some([missing, format!("The header {name} is malformed")])
    }

    /// Returns the credentials of a request, and marks the value that holds them as sensitive.
    ///
    /// One lookup in the headers does both. The subprotocols of a WebSocket do not change here:
    /// [`remove_token`](Self::remove_token) removes the token from them.
    #[inline]
    pub(super) fn of_request<'r, B>(
        &self,
        request: &'r mut Request<B>,
        accepted: Scheme,
    ) -> Credentials<'r> {
        let name = match &self.0 {
            Source::Authorization => &AUTHORIZATION,
            Source::Header(name) => name,
            Source::WebSocketProtocol if !is_websocket_handshake(request) => {
                return Credentials::None;
            }
            Source::WebSocketProtocol => return self.of_lines(request.headers(), accepted),
        };
        let headers = request.headers_mut();
        // Usually no header has several values. Then this one is not looked up twice.
        if headers.len() != headers.keys_len() {
            _ = concealed(headers, name);
            return self.of_lines(headers, accepted);
        }
        let value = concealed(headers, name).map(HeaderValue::as_bytes);
        self.of_values(value, accepted)
    }

    /// Returns the credentials in the headers of a request whose method is not known.
    pub(super) fn of_headers<'h>(
        &self,
        headers: &'h HeaderMap,
        accepted: Scheme,
    ) -> Credentials<'h> {
        match &self.0 {
            Source::WebSocketProtocol if !upgrades_to_websocket(headers) => Credentials::None,
            _ => self.of_lines(headers, accepted),
        }
    }

    fn of_lines<'h>(&self, headers: &'h HeaderMap, accepted: Scheme) -> Credentials<'h> {
        let name = match &self.0 {
            Source::Authorization => return credentials(headers, accepted),
            Source::Header(name) => name,
            Source::WebSocketProtocol => &SEC_WEBSOCKET_PROTOCOL,
        };
        self.of_values(headers.get_all(name).iter().map(HeaderValue::as_bytes), accepted)
    }

    /// Returns the credentials in the values of the header.
    #[inline]
    pub(super) fn of_values<'h>(
        &self,
        values: impl IntoIterator<Item = &'h [u8]>,
        accepted: Scheme,
    ) -> Credentials<'h> {
        match &self.0 {
            Source::Authorization => credentials_of(values, accepted),
            Source::Header(_) => only_token(values),
            Source::WebSocketProtocol => {
                let protocols = values.into_iter().flat_map(subprotocols);
                only_token(protocols.filter_map(|protocol| protocol.strip_prefix(SUBPROTOCOL)))
            }
        }
    }

    /// Marks the value that would hold the token as sensitive, or removes the token from a list of
    /// subprotocols, for a request whose credentials were not read.
    pub(super) fn conceal(&self, headers: &mut HeaderMap) {
        match &self.0 {
            Source::Authorization => _ = concealed(headers, &AUTHORIZATION),
            Source::Header(name) => _ = concealed(headers, name),
            Source::WebSocketProtocol => remove_tokens(headers),
        }
    }

    /// Removes the token from the subprotocols of a WebSocket. The values of other sources are
    /// already marked by [`of_request`](Self::of_request).
    #[inline]
    pub(super) fn remove_token(&self, headers: &mut HeaderMap) {
        if matches!(self.0, Source::WebSocketProtocol) {
            remove_tokens(headers);
        }
    }
}

/// Marks the first value of a header as sensitive, and returns it.
#[inline]
fn concealed<'h>(headers: &'h mut HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let value = headers.get_mut(name)?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns the only value as the token.
fn only_token<'h>(values: impl IntoIterator<Item = &'h [u8]>) -> Credentials<'h> {
    match only(values) {
        Ok(None) => Credentials::None,
        Ok(Some([])) | Err(Repeated) => Credentials::Malformed,
        Ok(Some(token)) => Credentials::Bearer(RawToken(token)),
    }
}

fn subprotocols(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn remove_tokens(headers: &mut HeaderMap) {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let all = lines.flat_map(|line| subprotocols(line.as_bytes()));
    let (tokens, others) = all.partition::<Vec<_>, _>(|one| one.starts_with(SUBPROTOCOL));
    if tokens.is_empty() {
        return;
    }
    let others = HeaderValue::from_bytes(&others.join(&b", "[..]));
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(others) = others.ok().filter(|value| !value.is_empty()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
}

/// Returns `true` for a WebSocket handshake (RFC 6455 section 4.1, RFC 8441 section 4).
fn is_websocket_handshake<B>(request: &Request<B>) -> bool {
    match *request.method() {
        Method::GET => upgrades_to_websocket(request.headers()),
        // Only a `CONNECT` request with `:protocol` has a path.
        Method::CONNECT => {
            request.version() >= Version::HTTP_2 && request.uri().path_and_query().is_some()
        }
        _ => false,
    }
}

fn upgrades_to_websocket(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(UPGRADE).iter();
    let mut protocols = lines.flat_map(|line| subprotocols(line.as_bytes()));
    protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}
