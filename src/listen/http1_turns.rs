//! One request after the other on an HTTP/1.1 connection: what the connection and its requests know of each other. `connection`
//! and `watch` read it, `serving` tells it when a request begins and ends. Over HTTP/2 there is `streams` instead.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::monitored::Activity;
use crate::proxy::request_body::Progress;
use crate::proxy::tunnel::Upgraded;

/// What an HTTP/1.1 connection and the requests on it know of each other.
pub struct Http1Turns {
    pub activity: Arc<Activity>,
    /// Of the request that is served, or was served last.
    pub progress: RefCell<Rc<Progress>>,
    pub requests: Cell<u32>,
    pub upgraded: Upgraded,
}

impl Http1Turns {
    /// `requests`: so many were served before.
    pub fn new(activity: Arc<Activity>, requests: u32) -> Self {
        Self {
            progress: RefCell::new(Rc::new(Progress::of(activity.request_read.clone()))),
            activity,
            requests: Cell::new(requests),
            upgraded: Upgraded::default(),
        }
    }

    pub(super) fn begin(&self) -> Rc<Progress> {
        self.activity.exchange_began();
        self.requests.set(self.requests.get().wrapping_add(1));
        let mut progress = self.progress.borrow_mut();
        if Rc::get_mut(&mut progress).is_none() {
            // Somebody still holds the last request's body, and must not speak for this one's.
            *progress = Rc::new(Progress::of(self.activity.request_read.clone()));
        }
        progress.clone()
    }

    pub(super) fn end(&self, progress: &Progress) {
        if !progress.is_request_read() {
            self.activity.more_to_come();
        }
        self.activity.exchange_ended();
    }
}
