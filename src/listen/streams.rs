//! The streams of one HTTP/2 connection: each a task on its worker's thread, ended when its client stalls; and how many of
//! them the client gave up before their answers began, which tells a browser that navigates away from an attack.
//!
//! Such a stream leaves room for the next one while work is still done for it. One that is given up later has held its place for
//! as long as that took, as if it were served: event streams and gRPC's watches end in no other way.

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

/// What a client may owe before its connection is closed (rapid reset, CVE-2023-44487): two hundred streams that it gave up.
const MOST_OWED: u64 = 200 * GIVEN_UP;
/// What it owes for each. Whoever is served by what is behind the gate, and takes all of it, has paid as much: it was no cheaper
/// than what was given up. The gate's own answers may be, and pay nothing.
const GIVEN_UP: u64 = 1000;
/// What is let off in a millisecond: ten streams a second, which clients may give up for ever whose calls have short deadlines.
const LET_OFF: u64 = 10;
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
    /// For streams given up, less what was paid and let off.
    owed: Cell<u64>,
    looked: Cell<Option<Instant>>,
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
                    self.progress.end_idle();
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

    /// The client has given one up before its answer.
    pub fn given_up(&self) {
        self.0.owed.set(self.0.owed.get() + GIVEN_UP);
    }

    /// One was served by what is behind the gate, to its end.
    pub fn served(&self) {
        self.pay(GIVEN_UP);
    }

    /// What has gone by since the last time lets it off something.
    fn let_off(&self, now: Instant) {
        if let Some(looked) = self.0.looked.replace(Some(now)) {
            let passed = u64::try_from(now.saturating_duration_since(looked).as_millis()).unwrap_or(u64::MAX);
            self.pay(passed.saturating_mul(LET_OFF));
        }
    }

    fn owes_too_much(&self) -> bool {
        self.0.owed.get() > MOST_OWED
    }

    fn pay(&self, paid: u64) {
        self.0.owed.set(self.0.owed.get().saturating_sub(paid));
    }

    /// Resolves once the client has given up too many. Polled whenever the connection is, which every new stream wakes.
    pub async fn abused(&self) {
        poll_fn(|_| if self.owes_too_much() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// What the connection as a whole waits for.
    pub fn wait(&self) -> (Wait, u32) {
        let open = self.0.tasks.borrow().iter().any(|stream| !stream.task.is_finished());
        (if open { Wait::Streams } else { Wait::Request }, self.0.opened.get())
    }

    /// Looks at each stream, and ends those whose client has stalled for too long.
    pub fn check(&self, now: Instant, bounds: &Bounds, is_full: bool) {
        self.sweep();
        self.let_off(now);
        for stream in self.0.tasks.borrow_mut().iter_mut() {
            let (wait, progress) = Wait::of(&stream.progress);
            if stream.observation.again(now, wait, progress) >= wait.patience(bounds, is_full) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_given_up_is_owed_until_it_is_paid_or_let_off() {
        let (streams, start) = (Streams::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        streams.let_off(start);
        (0..200).for_each(|_| streams.given_up());
        assert!(!streams.owes_too_much());
        streams.given_up();
        assert!(streams.owes_too_much());
        streams.served();
        assert!(!streams.owes_too_much(), "one served pays for one");
        streams.given_up();
        streams.let_off(at(99));
        assert!(streams.owes_too_much());
        streams.let_off(at(100));
        assert!(!streams.owes_too_much(), "a tenth of a second lets one off");
        streams.let_off(at(3_600_000));
        (0..200).for_each(|_| streams.given_up());
        assert!(!streams.owes_too_much());
        streams.given_up();
        assert!(streams.owes_too_much(), "nothing is saved up");
    }
}
