//! Serves one connection of a listener that is open to any client: it is closed when it is idle, when its
//! answers are not read, and after a while in any case. Used by the operators' listeners and the webhook's; how many there may
//! be is left to `connection_limit`.
//!
//! hyper bounds the head of a request over HTTP/1.1 and pings over HTTP/2. It does not bound the wait for HTTP/2's preface, nor
//! for a client that sends requests and does not read, nor does a ping tell an active client from one that only holds the slot.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use crate::listen::drain::Watch;
use crate::listen::monitored::{Activity, MonitoredStream};
use crate::proxy::on_this_thread::OnThisThread;

/// How long a client may take to send its first request, to send a head, to read its answers, and to close.
/// A kubelet, a Prometheus and an API server give up before that, unless they were told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be idle after its first request.
const IDLE: Duration = Duration::from_secs(60);
/// How long it is kept at most. An API server opens another one.
const AGE: Duration = Duration::from_secs(600);
/// The least that HTTP/2 allows: what a client sends ahead is buffered for every connection.
const WINDOW: u32 = 65_535;
/// The largest head; an API server's has some hundred bytes.
const HEAD: usize = 16 * 1024;

/// How a connection is used.
struct ConnectionUse {
    begun: Instant,
    activity: Arc<Activity>,
    last: Cell<Option<Instant>>,
    in_flight: Cell<u32>,
}

impl ConnectionUse {
    fn new(activity: Arc<Activity>) -> Rc<Self> {
        Rc::new(Self { begun: Instant::now(), activity, last: Cell::default(), in_flight: Cell::default() })
    }

    fn one(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.last.set(Some(Instant::now()));
        InFlight(self.clone())
    }

    /// When it ends without another request.
    fn ends(&self) -> Instant {
        let oldest = self.begun + AGE;
        match self.last.get() {
            None => self.begun + PATIENCE,
            Some(last) if self.activity.is_blocked() => oldest.min(last + PATIENCE),
            Some(_) if self.in_flight.get() > 0 => oldest,
            Some(last) => oldest.min(last + IDLE),
        }
    }
}

/// A request, until it is answered.
struct InFlight(Rc<ConnectionUse>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.last.set(Some(Instant::now()));
    }
}

/// Serves it until it ends, draining closes (where there is a watch for that), or it has been idle or open for long.
pub async fn serve<A>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    h2: bool,
    drain: Option<Watch>,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let stream = MonitoredStream::new(stream);
    let usage = ConnectionUse::new(stream.activity.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (in_flight, answer) = (usage.one(), answer(request));
        async move {
            let _in_flight = in_flight;
            // One answer per poll, so that a client that pipelines many requests does not delay others.
            yield_now().await;
            Ok::<_, Infallible>(answer.await)
        }
    });
    let builder = builder(h2);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut closing = pin!(async {
        match drain {
            Some(mut drain) => drain.closing().await,
            None => std::future::pending().await,
        }
    });
    loop {
        // Nothing notifies when a client stops reading, so it is polled.
        let ends = usage.ends().min(Instant::now() + PATIENCE);
        tokio::select! {
            // An error concerns the client alone, which sees it.
            _ = connection.as_mut() => return,
            () = closing.as_mut() => break,
            () = sleep_until(ends) => {}
        }
        if usage.ends() <= Instant::now() {
            if usage.last.get().is_none() || usage.activity.is_blocked() {
                return;
            }
            break;
        }
    }
    connection.as_mut().graceful_shutdown();
    // Requests in flight are answered within this, too.
    let _ = timeout(PATIENCE, connection).await;
}

fn builder(h2: bool) -> auto::Builder<OnThisThread> {
    let builder = auto::Builder::new(OnThisThread);
    // Not by peeking at the first bytes: nothing would bound that wait.
    let mut builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PATIENCE)
        .max_concurrent_streams(100)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    builder
}
