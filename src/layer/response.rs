//! The response of both layers: the inner service's response, or a rejection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::protocol::Protocol;
use crate::rejection::{Rejection, RejectionKind};
use crate::scope::Requirement;
use crate::telemetry::AllRejected;

/// A rejection, and the protocol of its request. Response futures box it, so that it does not
/// enlarge the futures of requests that pass.
#[derive(Debug)]
pub(crate) struct RejectedResponse {
    rejection: Rejection,
    protocol: Protocol,
    /// Whether the response says that the connection will be closed.
    closes: bool,
}

impl RejectedResponse {
    pub(super) fn new<B>(request: &Request<B>, rejection: Rejection) -> Self {
        let protocol = match Protocol::from_request(request) {
            Protocol::Grpc(_) if rejection.is_http_rejections_only() => Protocol::Http,
            protocol => protocol,
        };
        Self { rejection, protocol, closes: false }
    }

    /// Announces that the connection will be closed. HTTP/2 has no such header.
    pub(super) fn closing(mut self: Box<Self>, is_http_1: bool) -> Box<Self> {
        self.closes = is_http_1;
        self
    }

    fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let mut response = response(self.rejection, self.protocol);
        if self.closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|bytes| ResponseBody {
            kind: Kind::Rejection { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) },
        })
    }
}

/// Converts a rejection to a response. No other function does.
pub(crate) fn response(rejection: Rejection, protocol: Protocol) -> Response<Bytes> {
    let mut response = match protocol {
        Protocol::Grpc(content_type) => grpc(&rejection, content_type),
        Protocol::Http => rejection.to_response(),
        // The response has the headers of GET, but no body: hyper would send one, and HTTP/2
        // clients treat a body in the response to HEAD as a protocol error.
        Protocol::HttpHead => rejection.to_response().map(|_| Bytes::new()),
    };
    response.extensions_mut().insert(rejection);
    response
}

/// Builds a "Trailers-Only" response: a gRPC status in the headers, and no body. gRPC clients
/// ignore the HTTP status if there is a gRPC status, and the specification requires 200. It is 500
/// here if no `RequireToken` ran, because nothing could have set `http_rejections_only`, and a
/// gateway in front of this service would read 200 as permission.
fn grpc(rejection: &Rejection, content_type: &'static str) -> Response<Bytes> {
    let (code, message, metadata) = rejection.grpc();
    let mut response = Response::new(Bytes::new());
    if rejection.kind() == RejectionKind::Internal {
        *response.status_mut() = rejection.status();
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
    // gRPC percent-encodes messages. None of these has a character that needs it.
    headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
    headers.extend(metadata);
    response
}

pin_project! {
    /// Holds the response body of the layers: the inner service's body, or that of a rejection.
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

// An empty body, without a bound on `B`: tower-http's CORS layer requires `Default`.
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
    /// Resolves to the response of [`RequireToken`](crate::RequireToken),
    /// [`RequireScope`](crate::RequireScope) or [`RequireGroup`](crate::RequireGroup).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Inner { #[pin] future: F, required: Required },
        // The first requests of a verifier.
        Watched { #[pin] future: F, watch: Box<Watch> },
        Rejected { response: Option<Box<RejectedResponse>> },
        Draining { drained: Pin<Box<dyn Future<Output = Box<RejectedResponse>> + Send>> },
        Waiting {
            admitted: Pin<Box<dyn Future<Output = Admitted<F>> + Send>>,
        },
    }
}

/// The requirement of a layer that let a request through. The rejections of the layers and handlers
/// inside also name it.
pub(super) type Required = Option<&'static Requirement>;

/// Records whether the service inside accepts a request.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) required: Required,
    pub(super) all_rejected: Arc<AllRejected>,
}

impl Watch {
    fn completed<B, E>(&self, response: &mut Result<Response<B>, E>) {
        match rejection_in(response) {
            Some(rejection) => {
                self.all_rejected.rejected(rejection);
                add_required(self.required, response);
            }
            None => self.all_rejected.accepted(),
        }
    }
}

#[inline]
fn rejection_in<B, E>(response: &Result<Response<B>, E>) -> Option<&Rejection> {
    response.as_ref().ok()?.extensions().get()
}

/// Adds the requirement of a layer to the rejection of the service inside, and to its challenge: a
/// client that requested only the scopes of the layer inside would be rejected by this layer next.
#[cold]
fn add_required<B, E>(required: Required, response: &mut Result<Response<B>, E>) {
    let Ok(response) = response else { return };
    let Some(rejection) = response.extensions().get::<Rejection>() else { return };
    let complete = rejection.clone().requiring(required);
    // Leave a challenge that the application has changed.
    if let Some(challenge) = complete.challenge()
        && response.headers().get(WWW_AUTHENTICATE) == rejection.challenge().as_ref()
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response.extensions_mut().insert(complete);
}

/// The response of a request that had to wait for the verification: its future, or a rejection.
type Admitted<F> = Result<ResponseFuture<F>, Box<RejectedResponse>>;

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn inner(future: F, required: Required) -> Self {
        Self { state: State::Inner { future, required } }
    }

    pub(super) fn watched(future: F, watch: Box<Watch>) -> Self {
        Self { state: State::Watched { future, watch } }
    }

    pub(super) fn rejected(response: Box<RejectedResponse>) -> Self {
        Self { state: State::Rejected { response: Some(response) } }
    }

    /// Creates a future that reads the rest of a rejected request's body first.
    pub(super) fn draining(
        drained: impl Future<Output = Box<RejectedResponse>> + Send + 'static,
    ) -> Self {
        Self { state: State::Draining { drained: Box::pin(drained) } }
    }

    /// Creates a future that first waits for the verification. It is boxed, because its type cannot
    /// be named, and only requests that wait for a key need it.
    pub(super) fn waiting(admitted: impl Future<Output = Admitted<F>> + Send + 'static) -> Self {
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

    // Each layer polls one such future per request. Inlining saves up to 5 % of the cost of the
    // layers, depending on the surrounding program.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            if let StateProj::Inner { future, required } = this.state.project() {
                let mut response = future.poll(cx);
                // Look at the response by reference, so that it is moved only once. A second move costs
                // more than everything else here.
                if let Poll::Ready(response) = &mut response
                    && rejection_in(response).is_some()
                {
                    add_required(*required, response);
                }
                return response
                    .map(|response| response.map(|response| response.map(ResponseBody::inner)));
            }
            if let Some(response) = ready!(self.as_mut().poll_other(cx)) {
                return Poll::Ready(response);
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    /// Polls any state but `Inner`. Returns `None` if the state has changed.
    #[cold]
    #[expect(clippy::expect_used, reason = "polling a completed future is a bug in the caller")]
    fn poll_other<B, E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Response<ResponseBody<B>>, E>>>
    where
        F: Future<Output = Result<Response<B>, E>>,
    {
        let mut state = self.project().state;
        let response = match state.as_mut().project() {
            StateProj::Inner { .. } => return Poll::Ready(None),
            StateProj::Watched { future, watch } => {
                let mut response = ready!(future.poll(cx));
                watch.completed(&mut response);
                let response = response.map(|response| response.map(ResponseBody::inner));
                return Poll::Ready(Some(response));
            }
            StateProj::Rejected { response } => {
                response.take().expect("`ResponseFuture` polled after completion")
            }
            StateProj::Draining { drained } => ready!(drained.as_mut().poll(cx)),
            StateProj::Waiting { admitted } => match ready!(admitted.as_mut().poll(cx)) {
                Ok(future) => {
                    state.set(future.state);
                    return Poll::Ready(None);
                }
                Err(response) => response,
            },
        };
        Poll::Ready(Some(Ok(response.into_response())))
    }
}
