//! One worker's connections to one upstream. HTTP/1.1: the last one used is used next (LIFO), so that surplus ones time out.
//! HTTP/2: few, each with as many streams as it takes.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use http::uri::Scheme;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::failure::chain;
use super::{h1, h2};
use crate::proxy::connector::{Connected, Connector};
use crate::proxy::resolve::Resolver;
use crate::proxy::settings::{Protocol, Target, Upstream};

/// How often unused connections are checked; while there are none, no task runs.
const SWEEP: Duration = Duration::from_secs(5);

pub struct Pool {
    connector: Connector,
    /// `None`: a unix socket.
    resolver: Option<Rc<Resolver>>,
    scheme: Scheme,
    connect_timeout: Duration,
    idle_timeout: Duration,
    h2_streams: usize,
    protocol: Cell<KnownProtocol>,
    /// The oldest first.
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<h2::Connection>>,
    /// The connection attempt in flight, which all requests that need one wait for.
    opening: RefCell<Option<watch::Receiver<Option<Opened>>>>,
    sweeping: Cell<bool>,
}

/// The protocol of an upstream. Over TLS it is known after the first handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownProtocol {
    Unknown,
    H1,
    H2,
}

struct Idle {
    connection: Box<h1::Connection>,
    since: Instant,
}

/// A connection for one request.
pub enum PooledConnection {
    H1(Box<h1::Connection>),
    H2(h2::Exchange),
}

/// Cloned for all who wait, hence text instead of an error.
type Opened = Result<(), String>;

impl Pool {
    pub fn new(settings: &Upstream, connector: Connector) -> Self {
        let (scheme, protocol) = match &settings.target {
            Target::Unix(_) | Target::Tcp { protocol: Protocol::Http, .. } => (Scheme::HTTP, KnownProtocol::H1),
            Target::Tcp { protocol: Protocol::H2c, .. } => (Scheme::HTTP, KnownProtocol::H2),
            Target::Tcp { protocol: Protocol::Https, .. } => (Scheme::HTTPS, KnownProtocol::Unknown),
        };
        let resolver = match &settings.target {
            Target::Unix(_) => None,
            Target::Tcp { host, port, .. } => Some(Rc::new(Resolver::new(host, *port))),
        };
        Self {
            connector,
            resolver,
            scheme,
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle,
            h2_streams: settings.h2_streams,
            protocol: Cell::new(protocol),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            sweeping: Cell::new(false),
        }
    }

    /// An idle connection, or a new one. `fresh`: no reused HTTP/1.1 connection.
    pub async fn checkout(self: &Rc<Self>, fresh: bool) -> Result<PooledConnection, String> {
        loop {
            if !fresh && let Some(connection) = self.take_idle(Instant::now()) {
                return Ok(PooledConnection::H1(connection));
            }
            if let Some(stream) = self.take_stream() {
                return Ok(PooledConnection::H2(stream));
            }
            if self.protocol.get() == KnownProtocol::H1 {
                if let Some(connection) = Box::pin(self.open()).await.map_err(text)? {
                    return Ok(PooledConnection::H1(connection));
                }
            } else {
                Box::pin(self.open_shared()).await?;
            }
            // Others may have taken the opened connection meanwhile, or it speaks another version than the last.
        }
    }

    /// Returns a connection whose exchange has ended; it is closed if it cannot be reused.
    pub fn give_back(self: &Rc<Self>, connection: Box<h1::Connection>) {
        let Some(connection) = connection.into_idle() else { return };
        if self.is_current(connection.peer()) {
            let since = connection.last_read.unwrap_or_else(Instant::now);
            self.idle.borrow_mut().push(Idle { connection, since });
            self.sweep();
        }
    }

    /// The last one used, if it can take another request.
    pub fn take_idle(&self, now: Instant) -> Option<Box<h1::Connection>> {
        loop {
            let Idle { mut connection, since } = self.idle.borrow_mut().pop()?;
            if now.saturating_duration_since(since) < self.idle_timeout && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn take_stream(&self) -> Option<h2::Exchange> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            return None;
        }
        shared.retain(|connection| !connection.is_closed());
        shared.iter().find_map(h2::Connection::stream)
    }

    /// Waits for the connection attempt in flight, or a new one. It belongs to no request, so that one that is cancelled does not
    /// cancel it for the others.
    async fn open_shared(self: &Rc<Self>) -> Opened {
        let waiting = self.opening.borrow().clone();
        let mut opened = waiting.unwrap_or_else(|| self.start_opening());
        let result = opened.wait_for(Option::is_some).await.map(|result| result.clone());
        result.ok().flatten().unwrap_or_else(|| Err("the connection was given up".to_owned()))
    }

    fn start_opening(self: &Rc<Self>) -> watch::Receiver<Option<Opened>> {
        let (sender, receiver) = watch::channel(None);
        *self.opening.borrow_mut() = Some(receiver.clone());
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let opened = pool.open().await.map(|connection| {
                if let Some(connection) = connection {
                    pool.give_back(connection);
                }
            });
            *pool.opening.borrow_mut() = None;
            // Nobody may be waiting any more.
            let _ = sender.send(Some(opened.map_err(text)));
        });
        receiver
    }

    /// Connects. An HTTP/1.1 connection is returned; an HTTP/2 one joins the shared ones.
    async fn open(self: &Rc<Self>) -> io::Result<Option<Box<h1::Connection>>> {
        let opening = async {
            let Connected { stream, peer, h2 } =
                self.connector.connect(self.resolver.as_ref(), self.connect_timeout).await?;
            self.protocol.set(if h2 { KnownProtocol::H2 } else { KnownProtocol::H1 });
            if h2 {
                let (scheme, streams) = (self.scheme.clone(), self.h2_streams);
                let connection = h2::Connection::open(stream, scheme, streams, peer).await?;
                self.shared.borrow_mut().push(connection);
                self.sweep();
                return Ok(None);
            }
            Ok(Some(h1::Connection::open(stream, peer)))
        };
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was not made in time"));
        timeout(self.connect_timeout, opening).await.unwrap_or_else(late)
    }

    /// Whether the upstream's name still resolves to this address.
    fn is_current(&self, peer: Option<&std::net::SocketAddr>) -> bool {
        match (&self.resolver, peer) {
            (Some(resolver), Some(peer)) => resolver.names(peer),
            _ => true,
        }
    }

    /// Checks unused connections until none is left.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let (pool, pause) = (Rc::downgrade(self), SWEEP.min(self.idle_timeout));
        tokio::task::spawn_local(async move {
            loop {
                sleep(pause).await;
                let Some(pool) = Weak::upgrade(&pool) else { return };
                if !pool.drop_unwanted() {
                    pool.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Closes connections that are idle for too long, were closed by the upstream, or lead to an address that its name no longer
    /// resolves to. Whether any is left.
    fn drop_unwanted(&self) -> bool {
        if let Some(resolver) = &self.resolver {
            resolver.keep_fresh();
        }
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|Idle { connection, since }| {
            since.elapsed() < self.idle_timeout && self.is_current(connection.peer()) && connection.is_ready()
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| {
            !connection.is_closed() && self.is_current(connection.peer()) && !connection.is_idle(self.idle_timeout)
        });
        !idle.is_empty() || !shared.is_empty()
    }
}

fn text(error: io::Error) -> String {
    chain(&error)
}
