//! What a worker serves by right now. A reload puts another context in its place; each request takes hold of the one that it
//! began with, so that a request sees one configuration from its first byte to its answer.

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

/// What requests are served by.
pub struct Context {
    pub service: Service,
    pub settings: Arc<Settings>,
    pub tls: Option<Acceptor>,
}

/// One worker's, shared by its connections and touched by its thread alone: no lock.
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

    /// To be held for one request, or for what a connection does once.
    pub fn now(&self) -> Rc<Context> {
        self.context.borrow().clone()
    }

    /// From the next request on, also on connections that are open.
    pub fn reload(&self, make: impl FnOnce(&Context) -> Context) {
        let renewed = Rc::new(make(&self.now()));
        // The former one is dropped outside of the borrow, by whoever holds it last.
        let former = self.context.replace(renewed);
        drop(former);
    }

    /// The process is to end: answers on HTTP/1 tell their clients to connect elsewhere.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// The worker ends, with all that it serves; whichever configuration that began under, it is told so. What is given is
    /// gone once its client was told a status.
    pub fn cut(&self) -> Vec<Weak<OpenRequest>> {
        self.now().service.open.shut_down()
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether as many requests are served as may be.
    pub fn is_full(&self) -> bool {
        self.in_flight.get() >= self.context.borrow().settings.in_flight_each()
    }

    /// For an answer on HTTP/1, whose connection ends with it (RFC 9112 §9.6) while the process is leaving. One that switched
    /// protocols has no connection to end.
    pub fn end_connection_when_leaving<B>(&self, response: &mut Response<B>) {
        if self.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}
