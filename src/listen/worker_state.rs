//! A worker's current context. A reload replaces it; each request holds the one that it began with, so that it sees one
//! configuration from its first byte to its answer.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode};

use super::heartbeat::Heartbeat;
use super::settings::Settings;
use super::tls::Acceptor;
use crate::proxy::Service;
use crate::proxy::open::OpenRequest;

/// What requests are served with.
pub struct Context {
    pub service: Service,
    pub settings: Arc<Settings>,
    pub tls: Option<Acceptor>,
}

/// One worker's state, shared by its connections on one thread, hence without a lock.
pub struct WorkerState {
    context: RefCell<Rc<Context>>,
    leaving: Cell<bool>,
    pub heartbeat: Heartbeat,
    /// Requests that this worker serves.
    pub in_flight: Rc<Cell<usize>>,
}

impl WorkerState {
    pub fn new(context: Context) -> Self {
        Self {
            context: RefCell::new(Rc::new(context)),
            leaving: Cell::new(false),
            heartbeat: Heartbeat::default(),
            in_flight: Rc::default(),
        }
    }

    /// The current context, to be held for one request or for a single step of a connection.
    pub fn now(&self) -> Rc<Context> {
        self.context.borrow().clone()
    }

    /// Replaces the context for all requests from the next one on, on open connections too.
    pub fn reload(&self, make: impl FnOnce(&Context) -> Context) {
        let renewed = Rc::new(make(&self.now()));
        // Dropped outside of the borrow, which its destructors might need.
        let former = self.context.replace(renewed);
        drop(former);
    }

    /// The process is to end: HTTP/1 answers close their connections, so that clients connect elsewhere.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// Draining has reached its deadline. Returns the requests that are closed with a gRPC status, each dropped once it is
    /// written.
    pub fn cut(&self) -> Vec<Weak<OpenRequest>> {
        self.now().service.open.shut_down()
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether the limit on requests in flight is reached.
    pub fn is_full(&self) -> bool {
        self.in_flight.get() >= self.context.borrow().settings.in_flight_each()
    }

    /// Sets `Connection: close` on an HTTP/1 answer (RFC 9112 §9.6) while the process is leaving. Not on a 101, whose
    /// `Connection` names the upgrade.
    pub fn end_connection_when_leaving<B>(&self, response: &mut Response<B>) {
        if self.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}
