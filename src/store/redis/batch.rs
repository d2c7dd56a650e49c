//! Batches requests' questions: those that arrive while a call is in flight are queued and sent together as the next one.
//!
//! Where nothing is in flight a question is sent at once. Identical ones fold into one with `n` summed and are granted in order
//! of arrival (`limit::fold`); different ones stand in one call side by side, in order of arrival. A call belongs to a dispatcher,
//! a task of the worker, and never to a request: a request that is cancelled before its batch is sent is taken out of it;
//! afterwards what was spent for it stays spent, and nobody else notices. How a call is made is left to `slots`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, sleep};

use super::client::Client;
use super::pending::{self, PendingAnswers};
use super::slots;
use crate::limit::{Answer, Question, fold};
use crate::store::StoreError;
use crate::store::denial_cache::DenialCache;

/// Different questions in one call: a longer script holds up everybody, and where all connections wait for the same call, the
/// worker and Redis take turns instead of working at the same time. Requests fold into these without a bound of their own.
const MOST_QUESTIONS: usize = 16;

/// Calls in flight at once. All but the first are full batches, or are sent because Redis is far away.
const MOST_IN_FLIGHT: u32 = 4;

/// A round trip that is far: a request that had to wait for a call to return before its own could be sent would wait twice as
/// long, and perhaps past its deadline. Then calls are sent evenly spaced.
const FAR: Duration = Duration::from_millis(4);

/// Below so many cancelled requests it is not worth looking for them.
const SWEEP_FROM: usize = 64;

/// A worker's questions, and the calls that carry them.
#[derive(Debug)]
pub(super) struct Batcher {
    client: Client,
    denial_cache: Arc<DenialCache>,
    pending: Arc<PendingAnswers>,
    /// To a task that runs already: at low load, each request would spawn one for its only call.
    reused_task: mpsc::UnboundedSender<Dispatcher>,
    /// Only the worker's own thread comes here, so the lock is free; it is never held across an await.
    queue: Mutex<Queue>,
}

/// What has not been sent yet. Waiters belong to open requests, or to cancelled ones, of which at most as many again are kept: the
/// number of open requests bounds all of this.
#[derive(Debug, Default)]
struct Queue {
    /// In order of arrival; a new one is begun when the last is full.
    batches: VecDeque<Batch>,
    waiters: usize,
    /// Nobody waits any longer than this.
    latest_deadline: Option<Instant>,
    /// Requests cancelled since the last sweep, at least.
    cancelled: usize,
    /// All of them, those about to send, and those with a call in flight; the others are delayed.
    dispatchers: u32,
    ready: u32,
    in_flight: u32,
    /// How long calls take, smoothed.
    round_trip: Duration,
}

/// What one call asks, and the requests that wait for each of its questions.
#[derive(Debug, Default)]
struct Batch {
    questions: Vec<Question>,
    waiters: Vec<Waiters>,
}

/// Those of one question: where many different ones are asked, one each.
type Waiters = SmallVec<[Waiter; 1]>;

/// One request in a batch.
#[derive(Debug)]
struct Waiter {
    n: u32,
    deadline: Instant,
    sender: pending::AnswerSender,
}

impl Batcher {
    /// Must be called within the runtime that will use it.
    pub(super) fn new(client: Client, denial_cache: Arc<DenialCache>) -> Self {
        let (reused_task, mut dispatchers) = mpsc::unbounded_channel::<Dispatcher>();
        tokio::spawn(async move {
            while let Some(dispatcher) = dispatchers.recv().await {
                dispatcher.run(None).await;
            }
        });
        Self { client, denial_cache, pending: Arc::default(), reused_task, queue: Mutex::default() }
    }

    /// Adds the question to the next call, and waits for its answer until `deadline`.
    pub(super) async fn decide(self: &Arc<Self>, question: &Question, deadline: Instant) -> Result<Answer, StoreError> {
        let (sender, receiver) = self.pending.insert(deadline);
        if self.pending.timer_needed(deadline) {
            tokio::spawn(self.pending.clone().run_timer(deadline));
        }
        self.push(question, Waiter { n: question.n, deadline, sender });
        let mut guard = CancelOnDrop { batcher: self, answered: false };
        let answer = receiver.await;
        // A request that timed out may still be in a batch.
        guard.answered = !matches!(answer, Err(StoreError::Deadline));
        answer
    }

    /// Queues the request, and starts a dispatcher if one is needed. That sends after whatever else is ready to run now, so that
    /// what arrives together is sent together.
    fn push(self: &Arc<Self>, question: &Question, waiter: Waiter) {
        let mut queue = self.queue();
        queue.push(question, waiter);
        let Some(pause) = queue.dispatcher_needed() else { return };
        let dispatcher = Dispatcher::start(self, &mut queue, pause);
        // Then the last one has ended, and no call is in flight that this one should be spaced from.
        let is_alone = queue.dispatchers == 1;
        drop(queue);
        let dispatcher =
            if is_alone { self.reused_task.send(dispatcher).err().map(|unsent| unsent.0) } else { Some(dispatcher) };
        if let Some(dispatcher) = dispatcher {
            tokio::spawn(dispatcher.run(pause));
        }
    }

    /// Whether any request is queued.
    fn has_waiters(&self) -> bool {
        !self.queue().batches.is_empty()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as cancelled if it is dropped before it is answered.
struct CancelOnDrop<'a> {
    batcher: &'a Batcher,
    answered: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.batcher.queue().cancel();
        }
    }
}

impl Queue {
    fn push(&mut self, question: &Question, waiter: Waiter) {
        self.waiters += 1;
        self.latest_deadline = self.latest_deadline.max(Some(waiter.deadline));
        if let Some(last) = self.batches.back_mut() {
            if let Some(at) = last.questions.iter().position(|held| held.is_alike(question))
                && let Some(n) = last.questions[at].n.checked_add(waiter.n)
            {
                last.questions[at].n = n;
                last.waiters[at].push(waiter);
                return;
            }
            if !last.is_full() {
                last.add(question, waiter);
                return;
            }
        }
        let mut batch = Batch::default();
        batch.add(question, waiter);
        self.batches.push_back(batch);
    }

    /// Batches that need not wait for a call to return.
    fn full_batches(&self) -> usize {
        let has_room = self.batches.back().is_some_and(|last| !last.is_full());
        self.batches.len() - usize::from(has_room)
    }

    /// Whether a dispatcher is to be started, and after which pause.
    fn dispatcher_needed(&self) -> Option<Option<Duration>> {
        let delayed = self.dispatchers - self.ready - self.in_flight;
        match () {
            () if self.dispatchers == MOST_IN_FLIGHT => None,
            () if self.in_flight == 0 && self.ready == 0 => Some(None),
            () if self.full_batches() > self.ready as usize => Some(None),
            () if self.ready == 0 && delayed == 0 && self.is_far() => Some(Some(self.round_trip / MOST_IN_FLIGHT)),
            () => None,
        }
    }

    fn is_far(&self) -> bool {
        self.round_trip >= FAR
    }

    /// The batch that a ready dispatcher sends; `None` where nobody waits, or where those who do may wait for a call in flight.
    /// One that was `delayed` takes whatever is queued.
    fn take_batch(&mut self, delayed: bool) -> Option<Batch> {
        while delayed || self.in_flight == 0 || self.full_batches() > 0 {
            let batch = self.batches.pop_front()?;
            self.waiters -= batch.len();
            let batch = batch.without_cancelled();
            if !batch.questions.is_empty() {
                return Some(batch);
            }
        }
        None
    }

    /// A request was cancelled; its call may be in flight already. Sweeps when half of the waiters may be cancelled: constant work
    /// for each.
    fn cancel(&mut self) {
        self.cancelled += 1;
        if self.cancelled < SWEEP_FROM || self.cancelled * 2 < self.waiters {
            return;
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.batches = self.batches.drain(..).map(Batch::without_cancelled).collect();
        self.batches.retain(|batch| !batch.questions.is_empty());
        self.waiters = self.batches.iter().map(Batch::len).sum();
        self.cancelled = 0;
    }
}

impl Batch {
    fn add(&mut self, question: &Question, waiter: Waiter) {
        self.questions.push(question.clone());
        self.waiters.push(smallvec![waiter]);
    }

    fn is_full(&self) -> bool {
        self.questions.len() >= MOST_QUESTIONS
    }

    fn len(&self) -> usize {
        self.waiters.iter().map(SmallVec::len).sum()
    }

    /// Without the requests that were cancelled or timed out, and the questions that nobody asks any more. A request that still
    /// waits beyond its deadline does so because the worker is late, perhaps with this very batch.
    fn without_cancelled(mut self) -> Self {
        for (question, waiters) in self.questions.iter_mut().zip(&mut self.waiters) {
            waiters.retain(|waiter| !waiter.sender.is_cancelled());
            // No more than before, when it did not overflow.
            question.n = waiters.iter().map(|waiter| waiter.n).sum();
        }
        let mut waiters = self.waiters.iter();
        self.questions.retain(|_| waiters.next().is_some_and(|waiters| !waiters.is_empty()));
        self.waiters.retain(|waiters| !waiters.is_empty());
        self
    }

    /// The latest of all waiters'.
    fn deadline(&self) -> Option<Instant> {
        self.waiters.iter().flatten().map(|waiter| waiter.deadline).max()
    }
}

/// Sends one batch after the other until nobody waits, in a task of its own or in the reused one.
#[derive(Debug)]
struct Dispatcher {
    batcher: Arc<Batcher>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Delayed,
    Ready,
    InFlight,
    Ended,
}

impl Dispatcher {
    fn start(batcher: &Arc<Batcher>, queue: &mut Queue, pause: Option<Duration>) -> Self {
        let mut phase = Phase::Ended;
        queue.dispatchers += 1;
        phase.enter(queue, if pause.is_some() { Phase::Delayed } else { Phase::Ready });
        Self { batcher: batcher.clone(), phase }
    }

    async fn run(mut self, pause: Option<Duration>) {
        if let Some(pause) = pause {
            sleep(pause).await;
            self.phase.enter(&mut self.batcher.queue(), Phase::Ready);
        }
        let mut delayed = pause.is_some();
        while let Some(latest) = self.latest_deadline() {
            match self.batcher.client.ready(latest).await {
                Ok(()) => {
                    let Some(batch) = self.take_batch(delayed) else { return };
                    self.call(batch).await;
                    if self.batcher.has_waiters() {
                        // First those who were just answered, and whatever came in meanwhile: the next batch gets larger.
                        yield_now().await;
                    }
                    delayed = self.batcher.queue().is_far();
                }
                // Those who waited that long are about to time out, once they are polled; there may be others by now.
                Err(StoreError::Deadline) => yield_now().await,
                Err(error) => self.fail_all(&error),
            }
        }
    }

    /// Until when anybody waits for a call; ends the dispatcher where nobody does.
    fn latest_deadline(&mut self) -> Option<Instant> {
        let mut queue = self.batcher.queue();
        if queue.latest_deadline.is_some_and(|latest| latest <= Instant::now()) {
            queue.sweep();
        }
        let latest = queue.latest_deadline.filter(|_| !queue.batches.is_empty());
        if latest.is_none() {
            self.phase.end(&mut queue);
        }
        latest
    }

    fn take_batch(&mut self, delayed: bool) -> Option<Batch> {
        let mut queue = self.batcher.queue();
        let batch = queue.take_batch(delayed);
        match &batch {
            Some(_) => self.phase.enter(&mut queue, Phase::InFlight),
            None => self.phase.end(&mut queue),
        }
        batch
    }

    async fn call(&mut self, batch: Batch) {
        let Some(deadline) = batch.deadline() else { return };
        let started = Instant::now();
        let answers = slots::decide(&self.batcher.client, &batch.questions, batch.len(), started, deadline).await;
        let answered = Instant::now();
        self.finish_call(answered - started);
        let (started, answered) = (started.into_std(), answered.into_std());
        let denial_cache = &self.batcher.denial_cache;
        for ((question, waiters), answer) in batch.questions.iter().zip(batch.waiters).zip(answers) {
            match answer {
                Ok(answer) => {
                    denial_cache.record(question, &answer, started, answered);
                    distribute(question, answer, waiters);
                }
                Err(error) => {
                    denial_cache.forget(question, answered);
                    fail(waiters, &error);
                }
            }
        }
    }

    fn finish_call(&mut self, took: Duration) {
        let mut queue = self.batcher.queue();
        queue.round_trip = (queue.round_trip * 7 + took) / 8;
        self.phase.enter(&mut queue, Phase::Ready);
    }

    /// There is no connection, and none is about to be: all queued requests fail.
    fn fail_all(&mut self, error: &StoreError) {
        let failed = {
            let mut queue = self.batcher.queue();
            queue.waiters = 0;
            std::mem::take(&mut queue.batches)
        };
        failed.into_iter().flat_map(|batch| batch.waiters).for_each(|waiters| fail(waiters, error));
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.phase.end(&mut self.batcher.queue());
    }
}

impl Phase {
    fn enter(&mut self, queue: &mut Queue, next: Self) {
        match self {
            Self::Ready => queue.ready -= 1,
            Self::InFlight => queue.in_flight -= 1,
            Self::Delayed | Self::Ended => {}
        }
        match next {
            Self::Ready => queue.ready += 1,
            Self::InFlight => queue.in_flight += 1,
            Self::Delayed | Self::Ended => {}
        }
        *self = next;
    }

    /// Under the same lock as the finding that nobody waits, so that the next request starts a new dispatcher.
    fn end(&mut self, queue: &mut Queue) {
        if !matches!(self, Self::Ended) {
            self.enter(queue, Self::Ended);
            queue.dispatchers -= 1;
        }
    }
}

fn fail(waiters: Waiters, error: &StoreError) {
    for waiter in waiters {
        waiter.sender.send(Err(error.clone()));
    }
}

/// Each waiter's share of the answer, in order of arrival.
fn distribute(question: &Question, answer: Answer, waiters: Waiters) {
    let mut from = 0;
    let mut waiters = waiters.into_iter().peekable();
    while let Some(waiter) = waiters.next() {
        if from == 0 && waiters.peek().is_none() {
            waiter.sender.send(Ok(answer));
            return;
        }
        // A cancelled request needs no answer; its share stays spent.
        waiter.sender.send(Ok(fold::share(question, &answer, from, waiter.n)));
        from += waiter.n;
    }
}

#[cfg(test)]
mod tests;
