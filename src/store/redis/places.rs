//! Where requests wait for their answers: a place for each in one piece of memory, and one timer for all of them.
//!
//! Who asks holds a `Waiter`, who will answer the `Seat` beside it; either may go first, and the place is free when both have.
//! Deadlines mostly come in the order of arrival and long after the answers, so that a single look now and then finds whose
//! time is up; a channel and a timer for each request cost several times as much. Who rides with whom is left to `batch`.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::time::{Instant, sleep_until};

use super::lateness::Watch;
use crate::limit::Answer;
use crate::store::StoreError;

/// A worker's places.
#[derive(Debug, Default)]
pub(super) struct Places {
    // Only the worker's own thread comes here, so the lock is free; it is never held across an await.
    held: Mutex<Held>,
}

/// Where the answer goes. Dropped without one, it says that there will be none.
#[derive(Debug)]
pub(super) struct Seat {
    places: Arc<Places>,
    number: usize,
    told: bool,
}

/// Where the answer comes from, at the deadline at the latest. Dropped, it gives the seat up.
#[derive(Debug)]
pub(super) struct Waiter {
    places: Arc<Places>,
    number: usize,
    answered: bool,
}

#[derive(Debug, Default)]
struct Held {
    places: Slab<Place>,
    watch: Watch,
    /// When somebody looks whose time is up, if anybody does.
    next_look: Option<Instant>,
}

#[derive(Debug)]
enum Place {
    Waiting {
        deadline: Instant,
        waker: Option<Waker>,
    },
    /// The deadline has passed; the answer may still come before the waiter has its turn.
    Overdue,
    /// The seat has gone.
    RequestInfo(Result<Answer, StoreError>),
    /// The waiter has gone.
    GivenUp,
}

impl Places {
    /// A seat, and who waits for its answer until `deadline`. Somebody has to look then: see `look_needed`.
    pub(super) fn take(self: &Arc<Self>, deadline: Instant) -> (Seat, Waiter) {
        let number = self.held().places.insert(Place::Waiting { deadline, waker: None });
        let seat = Seat { places: self.clone(), number, told: false };
        (seat, Waiter { places: self.clone(), number, answered: false })
    }

    /// Whether `look` is to be spawned for a place that was just taken; nobody else does for this deadline from now on.
    pub(super) fn look_needed(&self, deadline: Instant) -> bool {
        let mut held = self.held();
        let needed = held.next_look.is_none_or(|next| deadline < next);
        if needed {
            held.next_look = Some(deadline);
        }
        needed
    }

    /// Looks at `due` whose time is up, and as long as anybody waits.
    pub(super) async fn look(self: Arc<Self>, mut due: Instant) {
        loop {
            sleep_until(due).await;
            match self.held().look(due, Instant::now()) {
                Some(next) => due = next,
                None => return,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing in here panics halfway through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Wakes those whose time is up; when to look again, unless nobody waits or somebody else looks before.
    fn look(&mut self, due: Instant, now: Instant) -> Option<Instant> {
        self.watch.woke(due, now);
        let mut next = None;
        for (_, place) in &mut self.places {
            let Place::Waiting { deadline, waker } = place else { continue };
            if self.watch.is_over(*deadline, now) {
                let waker = waker.take();
                *place = Place::Overdue;
                waker.into_iter().for_each(Waker::wake);
                continue;
            }
            let look_at = if *deadline > now { *deadline } else { Watch::next(now) };
            next = next.filter(|next| *next < look_at).or(Some(look_at));
        }
        let others = self.next_look.filter(|other| *other > now);
        if others.is_some_and(|other| next.is_none_or(|next| other <= next)) {
            return None;
        }
        self.next_look = next;
        next
    }
}

impl Seat {
    /// Who has gone away needs no answer.
    pub(super) fn tell(mut self, answer: Result<Answer, StoreError>) {
        self.told = true;
        self.settle(answer);
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.places.held().places[self.number], Place::GivenUp)
    }

    fn settle(&self, answer: Result<Answer, StoreError>) {
        let mut held = self.places.held();
        let place = &mut held.places[self.number];
        match place {
            Place::Waiting { waker, .. } => {
                let waker = waker.take();
                *place = Place::RequestInfo(answer);
                drop(held);
                waker.into_iter().for_each(Waker::wake);
            }
            Place::Overdue => *place = Place::RequestInfo(answer),
            Place::GivenUp | Place::RequestInfo(_) => drop(held.places.remove(self.number)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.told {
            self.settle(Err(StoreError::Unreachable("the worker is ending".to_owned())));
        }
    }
}

impl Future for Waiter {
    type Output = Result<Answer, StoreError>;

    /// Must not be polled again once it has said something.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { places, number, answered } = self.get_mut();
        let mut held = places.held();
        let place = &mut held.places[*number];
        if let Place::Waiting { waker, .. } = place {
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        *answered = true;
        let Place::RequestInfo(answer) = std::mem::replace(place, Place::GivenUp) else {
            return Poll::Ready(Err(StoreError::Deadline));
        };
        held.places.remove(*number);
        Poll::Ready(answer)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut held = self.places.held();
        match &mut held.places[self.number] {
            Place::RequestInfo(_) => drop(held.places.remove(self.number)),
            place => *place = Place::GivenUp,
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

    fn ask(waiter: &mut Waiter) -> Poll<Result<Answer, StoreError>> {
        pin!(waiter).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn count(places: &Places) -> usize {
        places.held().places.len()
    }

    #[test]
    fn each_is_told_its_own_answer_or_that_there_will_be_none() {
        let places: Arc<Places> = Arc::default();
        let ((first, mut early), (second, mut late)) = (places.take(Instant::now()), places.take(Instant::now()));
        assert!(ask(&mut early).is_pending());
        second.tell(Err(StoreError::Deadline));
        first.tell(Ok(ANSWER));
        assert_eq!(ask(&mut late), Poll::Ready(Err(StoreError::Deadline)));
        assert_eq!(ask(&mut early), Poll::Ready(Ok(ANSWER)));
        let (seat, mut waiter) = places.take(Instant::now());
        drop(seat);
        assert!(matches!(ask(&mut waiter), Poll::Ready(Err(StoreError::Unreachable(_)))));
    }

    #[test]
    fn a_place_is_free_when_both_have_gone_whoever_goes_first() {
        let places: Arc<Places> = Arc::default();
        let (seat, waiter) = places.take(Instant::now());
        drop(waiter);
        assert!(seat.is_given_up() && count(&places) == 1);
        seat.tell(Ok(ANSWER));
        assert_eq!(count(&places), 0);
        let (seat, waiter) = places.take(Instant::now());
        drop(seat);
        assert_eq!(count(&places), 1);
        drop(waiter);
        assert_eq!(count(&places), 0);
        let (seat, mut waiter) = places.take(Instant::now());
        places.held().look(Instant::now(), Instant::now() + Duration::from_secs(2));
        assert_eq!(ask(&mut waiter), Poll::Ready(Err(StoreError::Deadline)));
        assert!(seat.is_given_up());
        drop((waiter, seat));
        assert_eq!(count(&places), 0);
    }

    #[test]
    fn one_look_after_the_other_finds_whose_time_is_up() {
        let (places, start) = (Arc::<Places>::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut waiters: Vec<_> = [20, 30, 21].map(|ms| places.take(at(ms))).into();
        assert_eq!([20, 30, 21].map(|ms| places.look_needed(at(ms))), [true, false, false]);
        assert!(places.look_needed(at(10)), "whose time is up before the next look has one of its own");
        assert_eq!(places.held().look(at(10), at(10)), Some(at(20)));
        let (first, _) = waiters.remove(0);
        first.tell(Ok(ANSWER));
        assert_eq!(places.held().look(at(20), at(20)), Some(at(21)), "the other look finds the place left");
        assert_eq!(places.held().look(at(21), at(21)), Some(at(25)), "the worker might be late");
        assert!(ask(&mut waiters[1].1).is_pending());
        assert_eq!(places.held().look(at(25), at(25)), Some(at(30)));
        assert_eq!(ask(&mut waiters[1].1), Poll::Ready(Err(StoreError::Deadline)));
        assert_eq!(places.held().look(at(30), at(39)), Some(at(43)), "it is late");
        assert_eq!(places.held().look(at(63), at(64)), None, "and has been on time since");
        assert_eq!(ask(&mut waiters[0].1), Poll::Ready(Err(StoreError::Deadline)));
        assert!(places.look_needed(at(99)), "nobody looks any more");
    }

    #[test]
    fn of_two_looks_one_goes_on() {
        let (places, start) = (Arc::<Places>::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let _waiters = [20, 10].map(|ms| (places.take(at(ms)), places.look_needed(at(ms))));
        assert_eq!(places.held().look(at(10), at(10)), Some(at(14)));
        assert_eq!(places.held().look(at(14), at(15)), Some(at(20)));
        assert_eq!(places.held().look(at(20), at(20)), Some(at(24)), "the first comes upon its own time");
        assert_eq!(places.held().look(at(20), at(20)), None, "and the other leaves the rest to it");
    }
}
