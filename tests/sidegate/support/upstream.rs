//! The service behind the gate: records each request as it arrived, and answers as the test tells it to.

use std::{
    convert::Infallible,
    future,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    certificate::{Authority, Certificate},
    until,
};

/// A request as the upstream saw it. The body grows while it arrives; `complete` says that it has ended.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub complete: bool,
}

/// How the upstream answers from now on.
#[derive(Clone)]
enum Manner {
    /// 200, with the request as JSON.
    Echo,
    Fixed {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
    },
    /// It reads, and never answers.
    Silent,
    /// The next answer's body is whatever the test sends, frame by frame.
    Stream(Arc<Mutex<Option<Frames>>>),
}

struct State {
    seen: Mutex<Vec<Arc<Mutex<Recorded>>>>,
    manner: Mutex<Manner>,
    /// Who is signed in: a cookie or an `Authorization`, and the session that it stands for.
    sessions: Mutex<Vec<(String, Value)>>,
    connections: Mutex<Vec<AbortHandle>>,
}

pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
    /// Dropped with the upstream, which ends the thread that serves it.
    _stop: oneshot::Sender<()>,
}

impl Upstream {
    /// Listens on a thread and runtime of its own, so that a test that blocks does not hold it up.
    pub fn start() -> Self {
        Self::over(None)
    }

    /// As `start`, over TLS with this certificate.
    pub fn start_tls(certificate: &Certificate) -> Self {
        Self::over(Some(certificate.acceptor()))
    }

    /// As `start_tls`, by one of these protocols (ALPN).
    pub fn start_tls_by(certificate: &Certificate, protocols: &[&[u8]]) -> Self {
        Self::over(Some(certificate.acceptor_by(protocols)))
    }

    /// As `start_tls`, for clients with a certificate of this authority alone.
    pub fn start_mutual(certificate: &Certificate, clients: &Authority) -> Self {
        Self::over(Some(certificate.acceptor_for(clients)))
    }

    fn over(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a TCP listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            seen: Mutex::default(),
            manner: Mutex::new(Manner::Echo),
            sessions: Mutex::default(),
            connections: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let served = state.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime needs no privilege").block_on(async {
                tokio::select! { () = serve(listener, tls, served) => {}, _ = stopped => {} }
            });
        });
        Self { address, state, _stop: stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn respond_with(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        *lock(&self.state.manner) = Manner::Fixed { status, headers, body: body.into() };
    }

    pub fn echo(&self) {
        *lock(&self.state.manner) = Manner::Echo;
    }

    /// From now on whoever shows this cookie or `Authorization` has this session: asked at `/session`, it is told.
    pub fn sign_in(&self, shown: &str, session: Value) {
        lock(&self.state.sessions).push((shown.to_owned(), session));
    }

    /// Forgets all sessions.
    pub fn sign_all_out(&self) {
        lock(&self.state.sessions).clear();
    }

    pub fn fall_silent(&self) {
        *lock(&self.state.manner) = Manner::Silent;
    }

    /// The next answer's head is sent at once; its body is what goes into this channel, until it is dropped.
    pub fn stream(&self) -> FrameSender {
        let (sender, frames) = frames();
        *lock(&self.state.manner) = Manner::Stream(Arc::new(Mutex::new(Some(frames))));
        sender
    }

    /// Closes every connection and waits until they are closed; new ones are accepted.
    pub fn hang_up(&self) {
        let connections = std::mem::take(&mut *lock(&self.state.connections));
        assert!(!connections.is_empty(), "nobody is connected");
        connections.iter().for_each(AbortHandle::abort);
        until("the connections to close", || connections.iter().all(AbortHandle::is_finished).then_some(()));
    }

    pub fn seen(&self) -> Vec<Recorded> {
        lock(&self.state.seen).iter().map(|recorded| lock(recorded).clone()).collect()
    }

    /// Forgets what it saw, and returns it.
    pub fn take(&self) -> Vec<Recorded> {
        let seen = self.seen();
        lock(&self.state.seen).clear();
        seen
    }

    /// The one request that it saw since the last time.
    pub fn only(&self) -> Recorded {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "the upstream saw {seen:#?}");
        seen.remove(0)
    }

    /// Waits until the latest request looks so.
    pub fn until(&self, what: &str, holds: impl Fn(&Recorded) -> bool) -> Recorded {
        until(what, || self.seen().pop().filter(&holds))
    }
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// An upstream that answers every connection with these very bytes and closes it.
pub fn that_says(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    // Detached: it waits for connections until the test program ends.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 65536]);
            let _ = stream.write_all(bytes);
        }
    });
    address
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let served = state.clone();
        let tls = tls.clone();
        let connection = tokio::spawn(async move {
            match tls {
                None => connected(stream, served).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connected(stream, served).await;
                    }
                }
            }
        });
        lock(&state.connections).push(connection.abort_handle());
    }
}

async fn connected(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| answer(state.clone(), request));
    // A connection that breaks is the gate's doing; what it broke shows in the test.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Answered>, Infallible> {
    let manner = lock(&state.manner).clone();
    let (recorded, body) = record_head(&state, request);
    let read = record_body(recorded.clone(), body);
    if let Manner::Stream(frames) = manner {
        tokio::spawn(read);
        let frames = lock(&frames).take().expect("a stream answers one request");
        return Ok(Response::new(Either::Right(frames)));
    }
    read.await;
    let (status, headers, body) = match manner {
        Manner::Fixed { status, headers, body } => (status, headers, body),
        Manner::Silent => future::pending().await,
        Manner::Echo if lock(&recorded).target == SESSION => {
            let json = ("content-type".to_owned(), "application/json".to_owned());
            match session(&state, &lock(&recorded)) {
                Some(session) => (200, vec![json], session.to_string().into()),
                None => (401, vec![json], Bytes::from_static(b"{}")),
            }
        }
        Manner::Echo | Manner::Stream(_) => {
            let json = ("content-type".to_owned(), "application/json".to_owned());
            (200, vec![json], echo(&lock(&recorded)))
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Either::Left(Full::new(body))).expect("the test gave valid headers"))
}

/// Where sessions are told.
const SESSION: &str = "/session";

fn session(state: &State, request: &Recorded) -> Option<Value> {
    let shown = [request.header("cookie"), request.header("authorization")];
    let sessions = lock(&state.sessions);
    sessions.iter().find(|(known, _)| shown.contains(&Some(known))).map(|(_, session)| session.clone())
}

type Answered = Either<Full<Bytes>, Frames>;

fn record_head(state: &State, request: Request<Incoming>) -> (Arc<Mutex<Recorded>>, Incoming) {
    let (head, body) = request.into_parts();
    let recorded = Recorded {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        version: format!("{:?}", head.version),
        headers: listed(&head.headers),
        ..Recorded::default()
    };
    let recorded = Arc::new(Mutex::new(recorded));
    lock(&state.seen).push(recorded.clone());
    (recorded, body)
}

async fn record_body(recorded: Arc<Mutex<Recorded>>, mut body: Incoming) {
    while let Some(frame) = body.frame().await {
        // One that breaks off is never complete.
        let Ok(frame) = frame else { return };
        match frame.into_data() {
            Ok(data) => lock(&recorded).body.extend_from_slice(&data),
            Err(frame) => lock(&recorded).trailers = frame.trailers_ref().map(listed).unwrap_or_default(),
        }
    }
    lock(&recorded).complete = true;
}

fn echo(request: &Recorded) -> Bytes {
    json!({
        "method": request.method, "path": request.target, "headers": request.headers,
        "body": String::from_utf8_lossy(&request.body),
    })
    .to_string()
    .into()
}

fn listed(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body, and what sends it frame by frame; it ends when the sender is dropped.
pub fn frames() -> (FrameSender, Frames) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (FrameSender(sender), Frames(receiver))
}

pub struct FrameSender(mpsc::UnboundedSender<Frame<Bytes>>);

impl FrameSender {
    pub fn send(&self, data: &'static str) {
        self.send_bytes(Bytes::from(data));
    }

    pub fn send_bytes(&self, data: Bytes) {
        self.0.send(Frame::data(data)).expect("the body is still wanted");
    }

    /// Whether whoever read it has left.
    pub fn is_unwanted(&self) -> bool {
        self.0.is_closed()
    }
}

pub struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
