//! Reads the rest of a rejected request's body, so that the client sees the response.
//!
//! A layer rejects a request before its body was read. If the body is dropped then, hyper closes an
//! HTTP/1 connection, mostly without announcing it, and resets an HTTP/2 stream. Clients that are
//! still sending see a broken pipe, and gateways answer 502, instead of the response. Rejections in
//! great number also end an HTTP/2 connection for all its streams (`ENHANCE_YOUR_CALM`).
//!
//! | the rest of the body | the response | afterwards |
//! | --- | --- | --- |
//! | ends within the limit and 2 seconds | is sent then | the connection stays open |
//! | is longer, or takes longer | is sent at once, with `Connection: close` over HTTP/1 | up to 32 MiB are read for 2 more seconds, because hyper does not close while the body is read |
//! | ends in an error | is sent at once, with `Connection: close` over HTTP/1 | nothing is read |
//! | is announced by `Expect: 100-continue` over HTTP/1.1 | is sent at once, with `Connection: close` | nothing is read: hyper would send `100 Continue` |
//!
//! A gRPC call over HTTP/2 is answered at once: its clients lose nothing, and a stream may never end.
//! The same holds for `CONNECT` and upgrades, whose body is a tunnel. Nothing that is read is kept.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body;

use super::protocol::Protocol;
use super::response::{RejectedResponse, ResponseFuture};
use crate::background::Home;
use crate::rejection::Rejection;
use crate::telemetry;

/// This much is read while the response is on its way.
const LIMIT_AFTER_RESPONSE: u64 = 32 * 1024 * 1024;

/// The maximum time for each of the two.
const TIME: Duration = Duration::from_secs(2);

/// The bodies of so many requests of one layer are read at a time.
const MAX_DRAINS: usize = 256;

/// After so many frames, other tasks of the thread get a turn.
const FRAMES_PER_POLL: usize = 64;

/// Counts the bodies of one layer that are being read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains(Arc<AtomicUsize>);

impl Drains {
    fn begin(&self) -> Option<Draining> {
        let draining = Draining(Arc::clone(&self.0));
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // Dropped if there is no place, and so counted out again.
        Some(draining).filter(|_| before < MAX_DRAINS)
    }
}

/// A place among the [`Drains`].
struct Draining(Arc<AtomicUsize>);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rejects a request, and reads its body if that helps the client.
pub(super) fn reject<B, F>(
    request: Request<B>,
    rejection: Rejection,
    drains: &Drains,
) -> ResponseFuture<F>
where
    B: Body + Send + 'static,
{
    match drain(request, rejection, drains) {
        Ok(draining) => ResponseFuture::draining(draining),
        Err(response) => ResponseFuture::rejected(response),
    }
}

/// Returns the response if it is to be sent at once, or the future that reads the body before.
pub(super) fn drain<B>(
    request: Request<B>,
    rejection: Rejection,
    drains: &Drains,
) -> Result<impl Future<Output = RejectedResponse> + Send + use<B>, RejectedResponse>
where
    B: Body + Send + 'static,
{
    // The layers reject every request here, so each rejection is logged exactly once.
    telemetry::rejected(&rejection);
    let limit = rejection.drain_limit();
    let response = RejectedResponse::new(&request, rejection);
    let is_http_1 = request.version() <= Version::HTTP_11;
    match plan(&request, limit) {
        Plan::Respond => return Err(response),
        Plan::RespondAndClose => return Err(response.closing(is_http_1)),
        Plan::Drain => {}
    }
    let Some(draining) = drains.begin() else {
        return Err(response.closing(is_http_1));
    };
    let is_announced_longer = announced_length(&request) > limit;
    Ok(async move {
        let mut body = Box::pin(request.into_body());
        // Most bodies have arrived already, and need no timer.
        let arrived = if is_announced_longer {
            Poll::Ready(End::Limit)
        } else {
            let mut read = pin!(read_until(body.as_mut(), limit));
            match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
                Poll::Pending => match Home::of_new_task() {
                    Ok(home) => home.timeout(TIME, read).await.map_or(Poll::Pending, Poll::Ready),
                    Err(_) => Poll::Pending,
                },
                arrived => arrived,
            }
        };
        match arrived {
            Poll::Ready(End::Body) => return response,
            Poll::Ready(End::Error) => return response.closing(is_http_1),
            Poll::Ready(End::Limit) | Poll::Pending => {}
        }
        if let Ok(home) = Home::of_new_task() {
            let timers = home.clone();
            home.spawn(async move {
                let _draining = draining;
                timers.timeout(TIME, read_until(body.as_mut(), LIMIT_AFTER_RESPONSE)).await;
            });
        }
        response.closing(is_http_1)
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// There is nothing to read, or nothing may be read.
    Respond,
    /// The body cannot be read, and the client may be about to send it.
    RespondAndClose,
    Drain,
}

fn plan<B: Body>(request: &Request<B>, limit: u64) -> Plan {
    let is_tunnel = request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE);
    let is_grpc_call = request.version() == Version::HTTP_2
        && Protocol::from_request(request) == Protocol::Grpc("application/grpc");
    if request.body().is_end_stream() || is_tunnel || is_grpc_call || limit == 0 {
        return Plan::Respond;
    }
    let expects_continue = request
        .headers()
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects_continue && request.version() == Version::HTTP_11 {
        return Plan::RespondAndClose;
    }
    Plan::Drain
}

/// Returns the length of the body as far as it is known, or else 0.
fn announced_length<B: Body>(request: &Request<B>) -> u64 {
    let header = request.headers().get(CONTENT_LENGTH);
    let header = header.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    header.unwrap_or_default().max(request.body().size_hint().lower())
}

/// Why reading a body ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Body,
    Error,
    Limit,
}

/// Reads and drops the body until it ends, or until the limit.
async fn read_until<B: Body>(mut body: Pin<&mut B>, limit: u64) -> End {
    let mut left = limit;
    poll_fn(move |cx| {
        for _ in 0..FRAMES_PER_POLL {
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                None => return Poll::Ready(End::Body),
                Some(Err(_)) => return Poll::Ready(End::Error),
                Some(Ok(frame)) => frame,
            };
            // An empty frame counts too, so that no sender can keep this loop busy for nothing.
            let length = frame.data_ref().map_or(0, Buf::remaining).max(1);
            match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                Some(rest) => left = rest,
                None => return Poll::Ready(End::Limit),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
