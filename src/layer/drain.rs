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
//! | belongs to a gRPC call over HTTP/2 | is sent at once, because a stream may never end | the same |
//! | ends in an error | is sent at once, with `Connection: close` over HTTP/1 | nothing is read |
//! | is announced by `Expect: 100-continue` over HTTP/1.1 | is sent at once, with `Connection: close` | nothing is read: hyper would send `100 Continue` |
//! | is a tunnel: `CONNECT`, or an upgrade without a body of its own | is sent at once | nothing is read |
//!
//! Nothing that is read is kept.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body;

use super::protocol::Protocol;
use super::response::{RejectedResponse, ResponseFuture};
use crate::background::Home;
use crate::rejection::Rejection;
use crate::telemetry;

/// The maximum number of bytes that are read after the response was returned.
const LIMIT_AFTER_RESPONSE: u64 = 32 * 1024 * 1024;

/// The maximum time to read before the response, and again after it.
const TIME: Duration = Duration::from_secs(2);

/// The maximum number of bodies that one layer reads at a time.
const MAX_DRAINS: usize = 256;

/// After this many frames, the future yields, so that other tasks of the thread run.
const FRAMES_PER_POLL: usize = 64;

/// Counts the bodies of one layer that are being read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains(Arc<AtomicUsize>);

impl Drains {
    fn begin(&self) -> Option<Draining> {
        let draining = Draining(Arc::clone(&self.0));
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // If there are too many, `draining` is dropped here, which decrements the count again.
        Some(draining).filter(|_| before < MAX_DRAINS)
    }
}

/// One body that is being read. It is counted in [`Drains`] until it is dropped.
struct Draining(Arc<AtomicUsize>);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rejects a request, and reads its body if that helps the client.
#[cold]
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

/// Returns an error with the response if it is to be sent at once. Otherwise returns the future that
/// reads the body first.
pub(super) fn drain<B>(
    request: Request<B>,
    rejection: Rejection,
    drains: &Drains,
) -> Result<impl Future<Output = Box<RejectedResponse>> + Send + use<B>, Box<RejectedResponse>>
where
    B: Body + Send + 'static,
{
    // The layers reject every request here, so each rejection is logged exactly once.
    telemetry::rejected(&rejection);
    let limit = rejection.drain_limit();
    let response = Box::new(RejectedResponse::new(&request, rejection));
    let is_http_1 = request.version() <= Version::HTTP_11;
    let waits = match plan(&request, limit) {
        Plan::Respond => return Err(response),
        Plan::RespondAndClose => return Err(response.closing(is_http_1)),
        Plan::ReadAfterResponse => false,
        Plan::ReadBeforeResponse => true,
    };
    let Some(draining) = drains.begin() else {
        return Err(response.closing(is_http_1));
    };
    Ok(async move {
        let mut body = Box::pin(request.into_body());
        // Most bodies have arrived already, and need neither a timer nor a task.
        let end = {
            let mut read = pin!(read_until(body.as_mut(), limit));
            match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
                Poll::Ready(end) => end,
                Poll::Pending if !waits => End::Limit,
                Poll::Pending => match Home::of_new_task() {
                    Ok(home) => home.timeout(TIME, read).await.unwrap_or(End::Limit),
                    Err(_) => End::Limit,
                },
            }
        };
        match end {
            End::Body => return response,
            End::Error => return response.closing(is_http_1),
            End::Limit => {}
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
    /// The body may not be read, and the client may be about to send it.
    RespondAndClose,
    /// Only what has already arrived is read before the response.
    ReadAfterResponse,
    ReadBeforeResponse,
}

fn plan<B: Body>(request: &Request<B>, limit: u64) -> Plan {
    let headers = request.headers();
    // A body with its own end is sent before the protocol changes (RFC 9110 section 7.8). Java's
    // `HttpClient` offers `Upgrade: h2c` with the first request of every connection.
    let has_framing =
        headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    let is_tunnel =
        request.method() == Method::CONNECT || (headers.contains_key(UPGRADE) && !has_framing);
    if request.body().is_end_stream() || is_tunnel || limit == 0 {
        return Plan::Respond;
    }
    let expects_continue = headers
        .get_all(EXPECT)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects_continue && request.version() == Version::HTTP_11 {
        return Plan::RespondAndClose;
    }
    let is_grpc_call = request.version() >= Version::HTTP_2
        && Protocol::from_request(request) == Protocol::Grpc("application/grpc");
    if is_grpc_call || announced_length(request) > limit {
        return Plan::ReadAfterResponse;
    }
    Plan::ReadBeforeResponse
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
            // Trailers do not count, so that they may follow exactly `limit` bytes. Empty data
            // counts, so that no sender can keep this loop busy for nothing.
            let length = frame.data_ref().map_or(0, |data| data.remaining().max(1));
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::Ready;
    use std::task::Context;

    use bytes::Bytes;
    use http::header::{CONNECTION, CONTENT_TYPE};
    use http::{HeaderMap, HeaderValue, Response};
    use http_body::Frame;
    use http_body_util::Empty;
    use tokio::time::{Instant, Interval, interval_at, sleep};

    use super::*;
    use crate::rejection::RejectionConfig;

    type Inner = Ready<Result<Response<Empty<Bytes>>, Infallible>>;

    /// Yields these frames, and then waits without end if there is no `None`.
    #[derive(Default)]
    struct Script(VecDeque<Option<Result<Frame<Bytes>, &'static str>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
        }
    }

    fn data(length: usize) -> Option<Result<Frame<Bytes>, &'static str>> {
        Some(Ok(Frame::data(vec![b'x'; length].into())))
    }

    /// One byte a second, without end.
    struct Drip(Interval);

    impl Drip {
        fn new() -> Self {
            let second = Duration::from_secs(1);
            Self(interval_at(Instant::now() + second, second))
        }
    }

    impl Body for Drip {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    /// A body that must not be polled.
    struct Untouched;

    impl Body for Untouched {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("the body was polled");
        }
    }

    fn post<B>(body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        request
    }

    fn rejection(limit: u64) -> Rejection {
        let mut config = RejectionConfig::default();
        config.set_drain_limit(limit);
        Rejection::missing_token(Arc::new(config))
    }

    /// Returns the value of `Connection`.
    async fn response<B: Body + Send + 'static>(
        request: Request<B>,
        limit: u64,
        drains: &Drains,
    ) -> Option<HeaderValue> {
        let future: ResponseFuture<Inner> = reject(request, rejection(limit), drains);
        let response = future.await.unwrap();
        assert_eq!(response.status(), 401);
        response.headers().get(CONNECTION).cloned()
    }

    fn running(drains: &Drains) -> usize {
        drains.0.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_body_has_a_place_for_four_seconds() {
        let drains = Drains::default();
        let began = Instant::now();
        let closes = response(post(Drip::new()), 100, &drains).await;
        assert_eq!(began.elapsed().as_millis(), 2_000);
        assert!(closes.is_some());
        assert_eq!(running(&drains), 1, "it is read on");
        sleep(TIME - Duration::from_millis(1)).await;
        assert_eq!(running(&drains), 1);
        sleep(Duration::from_millis(2)).await;
        assert_eq!(running(&drains), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn longer_body_gives_its_place_back_when_it_ends() {
        let drains = Drains::default();
        let script = Script([data(101), data(1_000), None].into());
        assert!(response(post(script), 100, &drains).await.is_some());
        assert_eq!(running(&drains), 1);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(running(&drains), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn second_limit_is_32_mib() {
        let drains = Drains::default();
        let script = Script([data(101), data(1 << 25), data(1)].into());
        assert!(response(post(script), 100, &drains).await.is_some());
        sleep(Duration::from_millis(1)).await;
        assert_eq!(running(&drains), 0, "the body, which has no end, was dropped");

        let script = Script([data(101), data(1 << 25)].into());
        assert!(response(post(script), 100, &drains).await.is_some());
        sleep(Duration::from_millis(1)).await;
        assert_eq!(running(&drains), 1);
    }

    #[tokio::test]
    async fn limit_counts_data_and_not_trailers() {
        let trailers = || Some(Ok(Frame::trailers(HeaderMap::new())));
        for (frames, closes) in [
            (vec![None], false),
            (vec![data(100), None], false),
            (vec![data(60), data(40), trailers(), None], false),
            (vec![data(101), None], true),
            (vec![data(100), data(0), None], true),
            (vec![data(5), Some(Err("reset"))], true),
        ] {
            let name = format!("{frames:?}");
            let closed = response(post(Script(frames.into())), 100, &Drains::default()).await;
            assert_eq!(closed.is_some(), closes, "{name}");
        }
    }

    #[tokio::test]
    async fn endless_empty_frames_end_at_the_limit_and_let_others_run() {
        let mut body = Box::pin(Script((0..2_000).map(|_| data(0)).collect()));
        let mut turns = 0;
        let mut read = pin!(read_until(body.as_mut(), 1_000));
        let end = poll_fn(|cx| {
            turns += 1;
            read.as_mut().poll(cx)
        })
        .await;
        assert_eq!((end, turns), (End::Limit, 16), "1,001 frames, 64 in a turn");
    }

    #[tokio::test(start_paused = true)]
    async fn request_above_256_is_answered_at_once() {
        let drains = Drains::default();
        let begin = || drain(post(Script::default()), rejection(100), &drains);
        let mut waiting = (0..MAX_DRAINS).map(|_| begin().ok().unwrap()).collect::<Vec<_>>();
        assert!(begin().is_err());
        assert!(response(post(Untouched), 100, &drains).await.is_some());
        assert_eq!(running(&drains), MAX_DRAINS);
        // A client that hangs up drops its future.
        waiting.pop();
        waiting.push(begin().ok().unwrap());
        assert!(begin().is_err());
        drop(waiting);
        assert_eq!(running(&drains), 0);
    }

    #[tokio::test]
    async fn bodies_that_may_not_be_read_are_not_polled() {
        let expect = |value| {
            let mut request = post(Untouched);
            request.headers_mut().insert(EXPECT, HeaderValue::from_static(value));
            request
        };
        let drains = Drains::default();
        assert!(response(expect("100-continue"), 100, &drains).await.is_some());
        assert!(response(expect("100-CONTINUE"), 100, &drains).await.is_some());
        assert!(response(post(Untouched), 0, &drains).await.is_none());
        let mut connect = post(Untouched);
        *connect.method_mut() = Method::CONNECT;
        assert!(response(connect, 100, &drains).await.is_none());
        let mut upgrade = post(Untouched);
        upgrade.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(response(upgrade, 100, &drains).await.is_none());
        assert_eq!(running(&drains), 0);
    }

    #[test]
    fn plan_depends_on_version_and_headers() {
        use Version as V;

        let grpc = ("content-type", "application/grpc");
        let web = ("content-type", "application/grpc-web");
        let expect = ("expect", "100-continue");
        let upgrade = ("upgrade", "h2c");
        let (before, after) = (Plan::ReadBeforeResponse, Plan::ReadAfterResponse);
        for (version, headers, expected) in [
            (V::HTTP_11, &[][..], &before),
            (V::HTTP_2, &[], &before),
            (V::HTTP_3, &[], &before),
            (V::HTTP_11, &[("content-length", "100")], &before),
            (V::HTTP_11, &[("content-length", "101")], &after),
            (V::HTTP_2, &[("content-length", "101")], &after),
            (V::HTTP_10, &[expect], &before),
            (V::HTTP_11, &[expect], &Plan::RespondAndClose),
            (V::HTTP_11, &[("expect", "x"), expect], &Plan::RespondAndClose),
            (V::HTTP_11, &[expect, ("content-length", "101")], &Plan::RespondAndClose),
            (V::HTTP_2, &[expect], &before),
            (V::HTTP_11, &[upgrade], &Plan::Respond),
            (V::HTTP_11, &[upgrade, ("content-length", "100")], &before),
            (V::HTTP_11, &[upgrade, ("transfer-encoding", "chunked")], &before),
            (V::HTTP_11, &[grpc], &before),
            (V::HTTP_2, &[grpc], &after),
            (V::HTTP_3, &[grpc], &after),
            (V::HTTP_2, &[web], &before),
        ] {
            let mut request = post(Untouched);
            *request.version_mut() = version;
            for &(name, value) in headers {
                request.headers_mut().append(name, HeaderValue::from_static(value));
            }
            assert_eq!(&plan(&request, 100), expected, "{version:?} {headers:?}");
        }
        assert_eq!(plan(&post(Empty::<Bytes>::new()), 100), Plan::Respond, "no body");
    }

    #[tokio::test(start_paused = true)]
    async fn grpc_call_is_answered_at_once_and_read_on() {
        let drains = Drains::default();
        let began = Instant::now();
        let mut call = post(Drip::new());
        *call.version_mut() = Version::HTTP_2;
        call.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let future: ResponseFuture<Inner> = reject(call, rejection(100), &drains);
        assert_eq!(future.await.unwrap().headers()["grpc-status"], "16");
        assert_eq!((began.elapsed(), running(&drains)), (Duration::ZERO, 1));
        sleep(TIME + Duration::from_millis(1)).await;
        assert_eq!(running(&drains), 0);
    }
}
