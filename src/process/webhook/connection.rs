//! One connection, from where its protocol is known: it is closed when nothing is asked on it, and after a while in any case.
//!
//! hyper bounds the head of a request over HTTP/1.1 and pings over HTTP/2. It does not bound the wait for HTTP/2's preface, nor
//! does a ping tell a client that asks from one that only holds the place.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::PATIENCE;
use crate::listen::drain::Watch;
use crate::proxy::exchange::OnThisThread;

/// How long nothing may be asked on a connection that was of use.
const IDLE: Duration = Duration::from_secs(60);
/// How long it is of use at most. An API server makes another one.
const AGE: Duration = Duration::from_secs(600);
/// The least that HTTP/2 allows: what a client sends ahead is kept for every connection.
const WINDOW: u32 = 65_535;
/// A head has no more; an API server's has some hundred bytes.
const HEAD: usize = 16 * 1024;

/// What was asked on a connection.
struct Asked {
    begun: Instant,
    last: Cell<Option<Instant>>,
    under_way: Cell<u32>,
}

impl Asked {
    fn nothing() -> Rc<Self> {
        Rc::new(Self { begun: Instant::now(), last: Cell::default(), under_way: Cell::default() })
    }

    fn one(self: &Rc<Self>) -> UnderWay {
        self.under_way.set(self.under_way.get() + 1);
        self.last.set(Some(Instant::now()));
        UnderWay(self.clone())
    }

    /// When it ends if nothing more is asked.
    fn ends(&self) -> Instant {
        let oldest = self.begun + AGE;
        match self.last.get() {
            None => self.begun + PATIENCE,
            Some(_) if self.under_way.get() > 0 => oldest,
            Some(last) => oldest.min(last + IDLE),
        }
    }
}

/// A request, until it is answered.
struct UnderWay(Rc<Asked>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
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
    let asked = Asked::nothing();
    let service = service_fn(|request: Request<Incoming>| {
        let (under_way, answer) = (asked.one(), answer(request));
        async move {
            let _under_way = under_way;
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
        let ends = asked.ends();
        tokio::select! {
            // What goes wrong on a connection, its other side sees.
            _ = connection.as_mut() => return,
            () = closing.as_mut() => break,
            () = sleep_until(ends) => {}
        }
        if asked.ends() <= Instant::now() {
            if asked.last.get().is_none() {
                return;
            }
            break;
        }
    }
    connection.as_mut().graceful_shutdown();
    // A review under way is answered within this as well.
    let _ = timeout(PATIENCE, connection).await;
}

fn builder(h2: bool) -> auto::Builder<OnThisThread> {
    let builder = auto::Builder::new(OnThisThread);
    // Not by its first bytes, which nothing would bound the wait for.
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
