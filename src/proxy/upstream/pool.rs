//! One worker's connections to one upstream. HTTP/1.1: the last one used is the next one used, so that those that are not
//! needed grow old. HTTP/2: few, each with as many streams as it takes.

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

/// How often unused connections are looked after; while there are none, nothing runs.
const SWEEP: Duration = Duration::from_secs(5);

pub struct Pool {
    connector: Connector,
    /// `None`: a unix socket.
    resolver: Option<Rc<Resolver>>,
    scheme: Scheme,
    connect_timeout: Duration,
    keep: Duration,
    h2_streams: usize,
    protocol: Cell<KnownProtocol>,
    /// The oldest first.
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<h2::Connection>>,
    /// A connection that is being opened for all who wait for it.
    opening: RefCell<Option<watch::Receiver<Option<Opened>>>>,
    sweeping: Cell<bool>,
}

/// What an upstream speaks. Over TLS it is known once it has been asked.
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

/// Where a request goes out.
pub enum PooledConnection {
    H1(Box<h1::Connection>),
    H2(h2::Exchange),
}

/// Cloned for everyone who waits, hence the words instead of the error.
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
            keep: settings.idle,
            h2_streams: settings.h2_streams,
            protocol: Cell::new(protocol),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            sweeping: Cell::new(false),
        }
    }

    /// Any connection that is there by now, or a new one. `fresh`: no HTTP/1.1 connection that has served before.
    pub async fn checkout(self: &Rc<Self>, fresh: bool) -> Result<PooledConnection, String> {
        loop {
            if !fresh && let Some(connection) = self.take_idle(Instant::now()) {
                return Ok(PooledConnection::H1(connection));
            }
            if let Some(stream) = self.take_stream() {
                return Ok(PooledConnection::H2(stream));
            }
            if self.protocol.get() == KnownProtocol::H1 {
                if let Some(connection) = Box::pin(self.open()).await.map_err(told)? {
                    return Ok(PooledConnection::H1(connection));
                }
            } else {
                Box::pin(self.opened()).await?;
            }
            // What was opened may have been taken by others meanwhile, or speak another version than the last.
        }
    }

    /// Takes a connection back whose exchange is over; one that cannot serve another is closed.
    pub fn give_back(self: &Rc<Self>, connection: Box<h1::Connection>) {
        let Some(connection) = connection.rested() else { return };
        if self.is_current(connection.peer()) {
            let since = connection.heard_at.unwrap_or_else(Instant::now);
            self.idle.borrow_mut().push(Idle { connection, since });
            self.sweep();
        }
    }

    /// The last one used, if it can take another request.
    pub fn take_idle(&self, now: Instant) -> Option<Box<h1::Connection>> {
        loop {
            let Idle { mut connection, since } = self.idle.borrow_mut().pop()?;
            if now.saturating_duration_since(since) < self.keep && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    /// HTTP/2 connections that are open, of which some may have ended without a word to the pool.
    pub fn shared(&self) -> usize {
        self.shared.borrow().len()
    }

    fn take_stream(&self) -> Option<h2::Exchange> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            return None;
        }
        shared.retain(|connection| !connection.is_closed());
        shared.iter().find_map(h2::Connection::stream)
    }

    /// Waits for one connection that is opened for everyone who asks meanwhile. It is no request's own: one that is
    /// abandoned leaves nobody hanging.
    async fn opened(self: &Rc<Self>) -> Opened {
        let waiting = self.opening.borrow().clone();
        let mut told = waiting.unwrap_or_else(|| self.start_opening());
        let result = told.wait_for(Option::is_some).await.map(|result| result.clone());
        result.ok().flatten().unwrap_or_else(|| Err("the connection was given up".to_owned()))
    }

    fn start_opening(self: &Rc<Self>) -> watch::Receiver<Option<Opened>> {
        let (tell, told_by) = watch::channel(None);
        *self.opening.borrow_mut() = Some(told_by.clone());
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let opened = pool.open().await.map(|connection| {
                if let Some(connection) = connection {
                    pool.give_back(connection);
                }
            });
            *pool.opening.borrow_mut() = None;
            // Nobody may be left who waits.
            let _ = tell.send(Some(opened.map_err(told)));
        });
        told_by
    }

    /// Connects. An HTTP/1.1 connection is the caller's; an HTTP/2 one joins those that are shared.
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

    /// Whether the upstream's name still means this address.
    fn is_current(&self, peer: Option<&std::net::SocketAddr>) -> bool {
        match (&self.resolver, peer) {
            (Some(resolver), Some(peer)) => resolver.names(peer),
            _ => true,
        }
    }

    /// Looks after unused connections until none is left.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let (pool, pause) = (Rc::downgrade(self), SWEEP.min(self.keep));
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

    /// Closes what is too old, was closed by the other side, or leads to an address that the upstream has left. Whether
    /// anything is still to be looked after.
    fn drop_unwanted(&self) -> bool {
        if let Some(resolver) = &self.resolver {
            resolver.keep_fresh();
        }
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|Idle { connection, since }| {
            since.elapsed() < self.keep && self.is_current(connection.peer()) && connection.is_ready()
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| {
            !connection.is_closed() && self.is_current(connection.peer()) && !connection.is_idle(self.keep)
        });
        !idle.is_empty() || !shared.is_empty()
    }
}

fn told(error: io::Error) -> String {
    chain(&error)
}
