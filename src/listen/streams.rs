//! The streams of one HTTP/2 connection: each a task on its worker's thread, ended when its client stalls; and how many of them
//! the client cancelled before their answers began, which tells a browser that navigates away from an attack.
//!
//! A cancelled stream no longer counts against the concurrency limit while work is still done for it. One that is cancelled after
//! its answer began is not counted, since it has held its slot for as long: event streams and gRPC's watches end in no other way.

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

/// The debt at which the connection is closed (rapid reset, CVE-2023-44487): two hundred cancelled streams.
const MOST_DEBT: u64 = 200 * PER_CANCELLED;
/// The debt for each. A stream that an upstream served to its end pays as much back: it was no cheaper for the client than a
/// cancelled one. Local replies may be, and pay nothing.
const PER_CANCELLED: u64 = 1000;
/// What is forgiven per millisecond: ten streams a second, so that clients whose calls have short deadlines can go on for ever.
const FORGIVEN_PER_MS: u64 = 10;
/// Below this many streams a sweep is not worthwhile.
const FEW: usize = 16;

/// The streams of one connection; a clone is another handle to them.
#[derive(Clone, Default)]
pub struct Streams(Rc<Inner>);

#[derive(Default)]
struct Inner {
    /// The progress of the request that hyper has just begun; it spawns the request's task right after.
    next: RefCell<Option<Rc<Progress>>>,
    tasks: RefCell<Vec<Stream>>,
    opened: Cell<u32>,
    /// For cancelled streams, less what was paid back and forgiven.
    debt: Cell<u64>,
    last_check: Cell<Option<Instant>>,
    sweep_at: Cell<usize>,
}

struct Stream {
    progress: Rc<Progress>,
    observation: Observation,
    task: AbortHandle,
    /// Set where the stream can be closed with a gRPC status, until it was.
    open: Option<Weak<OpenRequest>>,
}

impl Stream {
    /// Ends it because nothing has passed: with a gRPC status where possible, else with a reset.
    fn end_idle(&mut self, wait: Wait) {
        let open = self.open.take().filter(|_| wait == Wait::Stream).and_then(|open| open.upgrade());
        match open {
            Some(open) => open.end(CloseReason::Idle),
            None => {
                if wait == Wait::Stream {
                    self.progress.end_idle();
                }
                self.task.abort();
            }
        }
    }
}

impl Streams {
    /// A request begins; hyper spawns its task next.
    pub fn open(&self, progress: Rc<Progress>) {
        self.0.opened.set(self.0.opened.get().wrapping_add(1));
        *self.0.next.borrow_mut() = Some(progress);
    }

    /// The stream's answer has begun, and can be closed with a gRPC status.
    pub fn closes_with_status(&self, progress: &Rc<Progress>, open: Weak<OpenRequest>) {
        let mut tasks = self.0.tasks.borrow_mut();
        // From the end, since answers mostly belong to the latest streams.
        if let Some(stream) = tasks.iter_mut().rfind(|stream| Rc::ptr_eq(&stream.progress, progress)) {
            stream.open = Some(open);
        }
    }

    /// The client has cancelled a stream before its answer.
    pub fn cancelled(&self) {
        self.0.debt.set(self.0.debt.get() + PER_CANCELLED);
    }

    /// An upstream has served a stream to its end.
    pub fn served(&self) {
        self.pay(PER_CANCELLED);
    }

    /// Forgives debt for the time since the last check.
    fn forgive(&self, now: Instant) {
        if let Some(last) = self.0.last_check.replace(Some(now)) {
            let passed = u64::try_from(now.saturating_duration_since(last).as_millis()).unwrap_or(u64::MAX);
            self.pay(passed.saturating_mul(FORGIVEN_PER_MS));
        }
    }

    fn has_too_much_debt(&self) -> bool {
        self.0.debt.get() > MOST_DEBT
    }

    fn pay(&self, paid: u64) {
        self.0.debt.set(self.0.debt.get().saturating_sub(paid));
    }

    /// Resolves once the client has cancelled too many. Without a waker: polled whenever the connection is, which every stream
    /// wakes.
    pub async fn abused(&self) {
        poll_fn(|_| if self.has_too_much_debt() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// What the connection as a whole waits for.
    pub fn wait(&self) -> (Wait, u32) {
        let open = self.0.tasks.borrow().iter().any(|stream| !stream.task.is_finished());
        (if open { Wait::Streams } else { Wait::Request }, self.0.opened.get())
    }

    /// Samples each stream, and ends those whose client has stalled for too long.
    pub fn check(&self, now: Instant, bounds: &Bounds, is_full: bool) {
        self.sweep();
        self.forgive(now);
        for stream in self.0.tasks.borrow_mut().iter_mut() {
            let (wait, progress) = Wait::of(&stream.progress);
            if stream.observation.update(now, wait, progress) >= wait.time_limit(bounds, is_full) {
                stream.end_idle(wait);
            }
        }
    }

    /// Ends all streams.
    pub fn end(&self) {
        self.0.tasks.borrow().iter().for_each(|stream| stream.task.abort());
    }

    /// Removes tasks that have ended.
    fn sweep(&self) {
        let mut tasks = self.0.tasks.borrow_mut();
        tasks.retain(|stream| !stream.task.is_finished());
        if tasks.is_empty() {
            tasks.shrink_to(FEW);
        }
        self.0.sweep_at.set((2 * tasks.len()).max(FEW));
    }
}

/// Streams stay on the connection's thread, so that a request needs no lock.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cancelled_streams_are_debt_until_it_is_paid_or_forgiven() {
        let (streams, start) = (Streams::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        streams.forgive(start);
        (0..200).for_each(|_| streams.cancelled());
        assert!(!streams.has_too_much_debt());
        streams.cancelled();
        assert!(streams.has_too_much_debt());
        streams.served();
        assert!(!streams.has_too_much_debt(), "one served pays for one");
        streams.cancelled();
        streams.forgive(at(99));
        assert!(streams.has_too_much_debt());
        streams.forgive(at(100));
        assert!(!streams.has_too_much_debt(), "a tenth of a second forgives one");
        streams.forgive(at(3_600_000));
        (0..200).for_each(|_| streams.cancelled());
        assert!(!streams.has_too_much_debt());
        streams.cancelled();
        assert!(streams.has_too_much_debt(), "nothing is saved up");
    }
}
