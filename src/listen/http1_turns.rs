//! The state that an HTTP/1.1 connection shares with its requests, which are served one after the other. `connection` and `watch`
//! read it, `serving` begins and ends requests in it. The counterpart for HTTP/2 is `streams`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::monitored::Activity;
use crate::proxy::request_body::Progress;
use crate::proxy::tunnel::Upgraded;

/// The state that an HTTP/1.1 connection shares with its requests.
pub struct Http1Turns {
    pub activity: Arc<Activity>,
    /// Of the current request, or of the last one.
    pub progress: RefCell<Rc<Progress>>,
    pub requests: Cell<u32>,
    pub upgraded: Upgraded,
}

impl Http1Turns {
    /// `requests`: how many were served before the connection was parked.
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
            // The last request's body is still held somewhere, and must not update this request's progress.
            *progress = Rc::new(Progress::of(self.activity.request_read.clone()));
        }
        progress.clone()
    }

    pub(super) fn end(&self, progress: &Progress) {
        if !progress.is_request_read() {
            self.activity.set_unread();
        }
        self.activity.exchange_ended();
    }
}
