//! The streams of one HTTP/2 connection: each a task on its worker's thread, ended when its client stalls; and how many of
//! them the client itself gave up, which tells a browser that navigates away from an attack.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::task::Poll;

use hyper::rt::Executor;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::settings::Bounds;
use super::watch::{Observation, Wait};
use crate::proxy::close_reason::CloseReason;
use crate::proxy::open::OpenRequest;
use crate::proxy::request_body::Progress;

/// How many more streams a client may give up than it lets end, before its connection is closed (rapid reset,
/// CVE-2023-44487: each costs a decision, and nothing is ever taken).
const GIVEN_UP: i64 = 200;
/// How few streams are not worth a sweep.
const FEW: usize = 16;

/// The streams of one connection; a clone is another handle to them.
#[derive(Clone, Default)]
pub struct Streams(Rc<Inner>);

#[derive(Default)]
struct Inner {
    /// The progress of the request that was just handed over: hyper asks for its task right after.
    next: RefCell<Option<Rc<Progress>>>,
    tasks: RefCell<Vec<Stream>>,
    opened: Cell<u32>,
    /// Streams given up, less those that ended.
    given_up: Cell<i64>,
    sweep_at: Cell<usize>,
}

struct Stream {
    progress: Rc<Progress>,
    observation: Observation,
    task: AbortHandle,
    /// Set where its client takes a status, until it was told one.
    open: Option<Weak<OpenRequest>>,
}

impl Stream {
    /// Ends it because nothing has passed: with a status where that can be said, else with a reset.
    fn end_idle(&mut self, wait: Wait) {
        let open = self.open.take().filter(|_| wait == Wait::Stream).and_then(|open| open.upgrade());
        match open {
            Some(open) => open.end(CloseReason::Idle),
            None => {
                if wait == Wait::Stream {
                    self.progress.ends_idle();
                }
                self.task.abort();
            }
        }
    }
}

impl Streams {
    /// A request has come; its task is asked for next.
    pub fn opens(&self, progress: Rc<Progress>) {
        self.0.opened.set(self.0.opened.get().wrapping_add(1));
        *self.0.next.borrow_mut() = Some(progress);
    }

    /// The stream's answer has begun, and takes a status where it is ended.
    pub fn closes_with_status(&self, progress: &Rc<Progress>, open: Weak<OpenRequest>) {
        let mut tasks = self.0.tasks.borrow_mut();
        // Answers mostly belong to the streams that came last.
        if let Some(stream) = tasks.iter_mut().rfind(|stream| Rc::ptr_eq(&stream.progress, progress)) {
            stream.open = Some(open);
        }
    }

    pub fn ended(&self, given_up: bool) {
        let change = if given_up { 1 } else { -1 };
        self.0.given_up.set((self.0.given_up.get() + change).max(0));
    }

    /// Resolves once the client has given up too many. Polled whenever the connection is, which every new stream wakes.
    pub async fn abused(&self) {
        poll_fn(|_| if self.0.given_up.get() > GIVEN_UP { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// What the connection as a whole waits for.
    pub fn wait(&self) -> (Wait, u32) {
        let open = self.0.tasks.borrow().iter().any(|stream| !stream.task.is_finished());
        (if open { Wait::Streams } else { Wait::Request }, self.0.opened.get())
    }

    /// Looks at each stream, and ends those whose client has stalled for too long.
    pub fn check(&self, now: Instant, bounds: &Bounds) {
        self.sweep();
        for stream in self.0.tasks.borrow_mut().iter_mut() {
            let (wait, progress) = Wait::of(&stream.progress);
            if stream.observation.again(now, wait, progress) >= wait.patience(bounds) {
                stream.end_idle(wait);
            }
        }
    }

    /// Ends all that is still under way.
    pub fn end(&self) {
        self.0.tasks.borrow().iter().for_each(|stream| stream.task.abort());
    }

    /// Lets go of the tasks that have ended.
    fn sweep(&self) {
        let mut tasks = self.0.tasks.borrow_mut();
        tasks.retain(|stream| !stream.task.is_finished());
        if tasks.is_empty() {
            tasks.shrink_to(FEW);
        }
        self.0.sweep_at.set((2 * tasks.len()).max(FEW));
    }
}

/// Streams stay on the connection's worker, so that nothing on the way of a request needs a lock.
impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        let Some(progress) = self.0.next.borrow_mut().take() else { return };
        if self.0.tasks.borrow().len() >= self.0.sweep_at.get() {
            self.sweep();
        }
        self.0.tasks.borrow_mut().push(Stream { progress, observation: Observation::begin(), task, open: None });
    }
}
