//! What both layers answer with: the inner service's response, or a response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::protocol::Protocol;
use crate::rejection::{Rejection, RejectionBody, RejectionKind};
use crate::telemetry;

/// A response, and the form that its request asks for. Boxed by its users, so that a request that
/// passes does not carry its size along.
#[derive(Debug)]
pub(crate) struct RejectedResponse {
    rejection: Rejection,
    form: Protocol,
}

impl RejectedResponse {
    pub(super) fn new<B>(request: &Request<B>, rejection: Rejection) -> Self {
        telemetry::rejected(rejection.reason());
        let form = match Protocol::of(request) {
            Protocol::Grpc(_) if rejection.is_http_rejections_only() => Protocol::Http,
            form => form,
        };
        Self { rejection, form }
    }

    fn into_response<B>(self) -> Response<ResponseBody<B>> {
        response(self.rejection, self.form).map(|bytes| ResponseBody {
            kind: Kind::Rejection { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) },
        })
    }
}

/// The one place where a rejection becomes a response.
pub(crate) fn response(rejection: Rejection, form: Protocol) -> Response<Bytes> {
    let mut response = match form {
        Protocol::Grpc(content_type) => grpc(&rejection, content_type),
        Protocol::Http => http(&rejection),
        // With the headers of GET: hyper sends what it is given, and to a body in the answer to
        // HEAD an HTTP/2 client says that it is a protocol error.
        Protocol::HttpHead => http(&rejection).map(|_| Bytes::new()),
    };
    response.extensions_mut().insert(rejection);
    response
}

fn http(rejection: &Rejection) -> Response<Bytes> {
    let RejectionBody { content_type, bytes } = rejection.body();
    let length = bytes.len();
    let mut response = Response::new(bytes);
    *response.status_mut() = rejection.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = rejection.challenge() {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(delay) = rejection.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(delay.as_secs()));
    }
    response
}

/// "Trailers-only": a status in the headers, and no body. gRPC clients look at no HTTP status
/// where there is one of gRPC's, and it is 200; but where no `RequireToken` ran, nobody can have
/// said that a gateway asks, so that this is no 200 either.
fn grpc(rejection: &Rejection, content_type: &'static str) -> Response<Bytes> {
    let (code, message, metadata) = rejection.grpc();
    let mut response = Response::new(Bytes::new());
    if rejection.kind() == RejectionKind::Internal {
        *response.status_mut() = rejection.status();
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
    // As gRPC spells it: no message of ours has a character that it would have percent-encoded.
    headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
    headers.extend(metadata);
    response
}

pin_project! {
    /// The response body of the layers: the inner service's, or that of a response.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Rejection { bytes: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }
}

// An empty body, with no bound on `B`: tower-http's CORS layer asks for it.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self { kind: Kind::Rejection { bytes: None } }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Rejection { bytes } => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Rejection { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Rejection { bytes } => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
        }
    }
}

pin_project! {
    /// The response future of both layers.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Inner { #[pin] future: F },
        Rejected { response: Option<Box<RejectedResponse>> },
        Waiting { admitted: Pin<Box<dyn Future<Output = Result<F, RejectedResponse>> + Send>> },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn inner(future: F) -> Self {
        Self { state: State::Inner { future } }
    }

    pub(super) fn rejected(response: RejectedResponse) -> Self {
        Self { state: State::Rejected { response: Some(Box::new(response)) } }
    }

    /// Waits for a verdict first. The only branch that is boxed.
    pub(super) fn waiting(
        admitted: impl Future<Output = Result<F, RejectedResponse>> + Send + 'static,
    ) -> Self {
        Self { state: State::Waiting { admitted: Box::pin(admitted) } }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    // Every request comes here once for each layer. What this is worth varies with the program
    // around it: from nothing to a twentieth of what the layers add.
    #[inline(always)]
    #[expect(clippy::expect_used, reason = "polling a finished future is its caller's mistake")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Inner { future } => {
                    let response = ready!(future.poll(cx));
                    return Poll::Ready(response.map(|response| response.map(ResponseBody::inner)));
                }
                StateProj::Rejected { response } => {
                    let response =
                        response.take().expect("`ResponseFuture` polled after completion");
                    return Poll::Ready(Ok(response.into_response()));
                }
                StateProj::Waiting { admitted } => {
                    let next = match ready!(admitted.as_mut().poll(cx)) {
                        Ok(future) => State::Inner { future },
                        Err(response) => State::Rejected { response: Some(Box::new(response)) },
                    };
                    state.set(next);
                }
            }
        }
    }
}
