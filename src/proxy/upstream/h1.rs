//! One HTTP/1.1 connection to an upstream. It has no task of its own: whoever waits for the answer, or for more of its body,
//! drives it, so that a request wakes nobody else and an abandoned exchange closes its connection by being dropped.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;

use super::Unanswered;
use super::heard::{Heard, Listening};
use crate::proxy::upload::Forwarded;

/// What an answer's head may hold; hyper's own bound on the number of its fields is 100.
const HEAD_BYTES: usize = 64 * 1024;
/// Room for a head and for what is read at once of a body.
const BUFFER_BYTES: usize = 128 * 1024;

pub struct Connection {
    sender: http1::SendRequest<Forwarded>,
    driver: Driver,
    heard: Heard,
    /// None on a unix socket.
    peer: Option<SocketAddr>,
    reused: bool,
}

/// The connection itself; `None` once it has ended.
pub struct Driver(Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>);

impl Connection {
    pub async fn open<S>(stream: S, peer: Option<SocketAddr>) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, heard) = Listening::to(stream);
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_BYTES).max_buf_size(BUFFER_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let driver = Driver(Some(Box::pin(connection.with_upgrades())));
        Ok(Self { sender, driver, heard, peer, reused: false })
    }

    pub fn peer(&self) -> Option<&SocketAddr> {
        self.peer.as_ref()
    }

    /// Whether it can take a request, as far as can be known: this looks whether the other side has closed it.
    pub fn is_ready(&mut self) -> bool {
        self.driver.poll(&mut nobody()).is_pending() && self.sender.is_ready()
    }

    pub async fn exchange(&mut self, mut request: Request<Forwarded>) -> Result<Response<Incoming>, Unanswered> {
        to_origin_form(&mut request);
        self.heard.listen_anew();
        let reused = std::mem::replace(&mut self.reused, true);
        // Unconstrained: a task that has used up its turn is told so by its waker, and this is polled without one.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        let driver = &mut self.driver;
        let answered = std::future::poll_fn(|cx| {
            let _ = driver.poll(cx);
            // Only the driver answers, and it has just been polled: nobody needs to be woken for it.
            answer.as_mut().poll(&mut nobody())
        });
        answered.await.map_err(|failed: TrySendError<_>| self.unanswered(failed, reused))
    }

    fn unanswered(&self, mut failed: TrySendError<Request<Forwarded>>, reused: bool) -> Unanswered {
        let unsent = failed.take_message();
        Unanswered { unsent, refused: false, unheard: reused && !self.heard.anything(), error: failed.into_error() }
    }

    /// The connection without the way to use it again.
    pub fn into_driver(self) -> Driver {
        self.driver
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.poll(cx)
    }
}

impl Driver {
    /// Moves the connection on; ready when it has ended, which drops it, so that whatever waits for it learns of its end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = &mut self.0 else { return Poll::Ready(()) };
        // An error also reaches whoever waits for the answer or its body.
        let ended = connection.as_mut().poll(cx).map(|_| ());
        if ended.is_ready() {
            self.0 = None;
        }
        ended
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Driver::poll(self.get_mut(), cx)
    }
}

/// A context whose waker wakes nobody.
pub fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A request that was first meant for HTTP/2 carries its host in the URI.
fn to_origin_form(request: &mut Request<Forwarded>) {
    let Some(authority) = request.uri().authority() else { return };
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(target);
    }
}
