//! Requests that wait for their answer: one slab for all of a worker's, and one timer.
//!
//! The request holds an `AnswerReceiver`, the batch the `AnswerSender`; either may be dropped first, and the entry is removed when
//! both are gone. A channel and a timer for each request cost several times as much: deadlines mostly come in the order of arrival
//! and long after the answers, so one timer that now and then looks through all entries is enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::time::{Instant, sleep_until};

use super::worker_lag::LagMonitor;
use crate::limit::Answer;
use crate::store::StoreError;

/// A worker's requests that wait.
#[derive(Debug, Default)]
pub(super) struct PendingAnswers {
    // Only the worker's own thread comes here, so the lock is free; it is never held across an await.
    table: Mutex<Table>,
}

/// Takes the answer. Dropped without one, it says that there will be none.
#[derive(Debug)]
pub(super) struct AnswerSender {
    pending: Arc<PendingAnswers>,
    key: usize,
    sent: bool,
}

/// Resolves to the answer, at the deadline at the latest. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct AnswerReceiver {
    pending: Arc<PendingAnswers>,
    key: usize,
    received: bool,
}

#[derive(Debug, Default)]
struct Table {
    entries: Slab<Entry>,
    lag: LagMonitor,
    /// When the timer looks for entries that are overdue, if it runs.
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
enum Entry {
    Waiting {
        deadline: Instant,
        waker: Option<Waker>,
    },
    /// The deadline has passed; the answer may still come before the receiver is polled.
    TimedOut,
    /// The sender is gone.
    Answered(Result<Answer, StoreError>),
    /// The receiver is gone.
    Cancelled,
}

impl PendingAnswers {
    /// Both ends of a request that waits until `deadline`. A timer has to run by then: see `timer_needed`.
    pub(super) fn insert(self: &Arc<Self>, deadline: Instant) -> (AnswerSender, AnswerReceiver) {
        let key = self.table().entries.insert(Entry::Waiting { deadline, waker: None });
        let sender = AnswerSender { pending: self.clone(), key, sent: false };
        (sender, AnswerReceiver { pending: self.clone(), key, received: false })
    }

    /// Whether `run_timer` is to be spawned for an entry that was just inserted; if so, it counts as running from now on.
    pub(super) fn timer_needed(&self, deadline: Instant) -> bool {
        let mut table = self.table();
        let needed = table.next_expiry.is_none_or(|next| deadline < next);
        if needed {
            table.next_expiry = Some(deadline);
        }
        needed
    }

    /// Expires entries from `due` on, as long as there are any that wait.
    pub(super) async fn run_timer(self: Arc<Self>, mut due: Instant) {
        loop {
            sleep_until(due).await;
            match self.table().expire(due, Instant::now()) {
                Some(next) => due = next,
                None => return,
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here panics halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Wakes the receivers that are overdue. Returns when to look again, unless nobody waits or another timer is due before.
    fn expire(&mut self, due: Instant, now: Instant) -> Option<Instant> {
        self.lag.woke(due, now);
        let mut next = None;
        for (_, entry) in &mut self.entries {
            let Entry::Waiting { deadline, waker } = entry else { continue };
            if self.lag.is_missed(*deadline, now) {
                let waker = waker.take();
                *entry = Entry::TimedOut;
                waker.into_iter().for_each(Waker::wake);
                continue;
            }
            let check_at = if *deadline > now { *deadline } else { LagMonitor::next_check(now) };
            next = next.filter(|next| *next < check_at).or(Some(check_at));
        }
        let others = self.next_expiry.filter(|other| *other > now);
        if others.is_some_and(|other| next.is_none_or(|next| other <= next)) {
            return None;
        }
        self.next_expiry = next;
        next
    }
}

impl AnswerSender {
    /// Has no effect if the request was cancelled.
    pub(super) fn send(mut self, answer: Result<Answer, StoreError>) {
        self.sent = true;
        self.complete(answer);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.pending.table().entries[self.key], Entry::Cancelled)
    }

    fn complete(&self, answer: Result<Answer, StoreError>) {
        let mut table = self.pending.table();
        let entry = &mut table.entries[self.key];
        match entry {
            Entry::Waiting { waker, .. } => {
                let waker = waker.take();
                *entry = Entry::Answered(answer);
                drop(table);
                waker.into_iter().for_each(Waker::wake);
            }
            Entry::TimedOut => *entry = Entry::Answered(answer),
            Entry::Cancelled | Entry::Answered(_) => drop(table.entries.remove(self.key)),
        }
    }
}

impl Drop for AnswerSender {
    fn drop(&mut self) {
        if !self.sent {
            self.complete(Err(StoreError::Unreachable("the worker is ending".to_owned())));
        }
    }
}

impl Future for AnswerReceiver {
    type Output = Result<Answer, StoreError>;

    /// Must not be polled again once it is ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pending, key, received } = self.get_mut();
        let mut table = pending.table();
        let entry = &mut table.entries[*key];
        if let Entry::Waiting { waker, .. } = entry {
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        *received = true;
        let Entry::Answered(answer) = std::mem::replace(entry, Entry::Cancelled) else {
            return Poll::Ready(Err(StoreError::Deadline));
        };
        table.entries.remove(*key);
        Poll::Ready(answer)
    }
}

impl Drop for AnswerReceiver {
    fn drop(&mut self) {
        if self.received {
            return;
        }
        let mut table = self.pending.table();
        match &mut table.entries[self.key] {
            Entry::Answered(_) => drop(table.entries.remove(self.key)),
            entry => *entry = Entry::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::limit::Outcome;

    const ANSWER: Answer = Answer { now_ms: 7, outcome: Outcome::Expired };

    fn poll(receiver: &mut AnswerReceiver) -> Poll<Result<Answer, StoreError>> {
        pin!(receiver).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn count(pending: &PendingAnswers) -> usize {
        pending.table().entries.len()
    }

    #[test]
    fn each_receives_its_own_answer_or_that_there_will_be_none() {
        let pending: Arc<PendingAnswers> = Arc::default();
        let ((first, mut early), (second, mut late)) = (pending.insert(Instant::now()), pending.insert(Instant::now()));
        assert!(poll(&mut early).is_pending());
        second.send(Err(StoreError::Deadline));
        first.send(Ok(ANSWER));
        assert_eq!(poll(&mut late), Poll::Ready(Err(StoreError::Deadline)));
        assert_eq!(poll(&mut early), Poll::Ready(Ok(ANSWER)));
        let (sender, mut receiver) = pending.insert(Instant::now());
        drop(sender);
        assert!(matches!(poll(&mut receiver), Poll::Ready(Err(StoreError::Unreachable(_)))));
    }

    #[test]
    fn an_entry_is_removed_when_both_ends_are_gone_in_either_order() {
        let pending: Arc<PendingAnswers> = Arc::default();
        let (sender, receiver) = pending.insert(Instant::now());
        drop(receiver);
        assert!(sender.is_cancelled() && count(&pending) == 1);
        sender.send(Ok(ANSWER));
        assert_eq!(count(&pending), 0);
        let (sender, receiver) = pending.insert(Instant::now());
        drop(sender);
        assert_eq!(count(&pending), 1);
        drop(receiver);
        assert_eq!(count(&pending), 0);
        let (sender, mut receiver) = pending.insert(Instant::now());
        pending.table().expire(Instant::now(), Instant::now() + Duration::from_secs(2));
        assert_eq!(poll(&mut receiver), Poll::Ready(Err(StoreError::Deadline)));
        assert!(sender.is_cancelled());
        drop((receiver, sender));
        assert_eq!(count(&pending), 0);
    }

    #[test]
    fn each_run_of_the_timer_expires_what_is_overdue() {
        let (pending, start) = (Arc::<PendingAnswers>::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut requests: Vec<_> = [20, 30, 21].map(|ms| pending.insert(at(ms))).into();
        assert_eq!([20, 30, 21].map(|ms| pending.timer_needed(at(ms))), [true, false, false]);
        assert!(pending.timer_needed(at(10)), "an earlier deadline needs a timer of its own");
        assert_eq!(pending.table().expire(at(10), at(10)), Some(at(20)));
        let (first, _) = requests.remove(0);
        first.send(Ok(ANSWER));
        assert_eq!(pending.table().expire(at(20), at(20)), Some(at(21)), "the second timer finds the one that is left");
        assert_eq!(pending.table().expire(at(21), at(21)), Some(at(25)), "the worker might be late");
        assert!(poll(&mut requests[1].1).is_pending());
        assert_eq!(pending.table().expire(at(25), at(25)), Some(at(30)));
        assert_eq!(poll(&mut requests[1].1), Poll::Ready(Err(StoreError::Deadline)));
        assert_eq!(pending.table().expire(at(30), at(39)), Some(at(43)), "it is late");
        assert_eq!(pending.table().expire(at(63), at(64)), None, "and has been on time since");
        assert_eq!(poll(&mut requests[0].1), Poll::Ready(Err(StoreError::Deadline)));
        assert!(pending.timer_needed(at(99)), "no timer runs any more");
    }

    #[test]
    fn of_two_timers_one_goes_on() {
        let (pending, start) = (Arc::<PendingAnswers>::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let _requests = [20, 10].map(|ms| (pending.insert(at(ms)), pending.timer_needed(at(ms))));
        assert_eq!(pending.table().expire(at(10), at(10)), Some(at(14)));
        assert_eq!(pending.table().expire(at(14), at(15)), Some(at(20)));
        assert_eq!(pending.table().expire(at(20), at(20)), Some(at(24)), "the first runs at its own time");
        assert_eq!(pending.table().expire(at(20), at(20)), None, "and the other leaves the rest to it");
    }
}
