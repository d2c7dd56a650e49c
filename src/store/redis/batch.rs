//! Requests' questions on their way to Redis: those that arrive while a call is in the air gather, and go out together as the
//! next one.
//!
//! Where nothing is in the air a question leaves at once. Identical ones fold into one with `n` summed and are granted in order
//! of arrival (`limit::fold`); different ones ride side by side, in order of arrival. A call belongs to a *flight*, a task of
//! the worker, and never to a request: a request that goes away before departure gives up its seat; afterwards what was spent
//! for it stays spent, and nobody else notices. How a call is made is left to `slots`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, sleep};

use super::line::Line;
use super::places::{self, Places};
use super::slots;
use crate::limit::{Answer, Question, fold};
use crate::store::StoreError;
use crate::store::exhausted::Exhausted;

/// Different questions in one call: a longer script holds up everybody, and where all connections wait for the same call, the
/// worker and Redis take turns instead of working at the same time. Seats fold into these without a bound of their own.
const MOST_QUESTIONS: usize = 16;

/// Calls in the air at once. All but the first leave full, or where Redis is far away.
const MOST_FLIGHTS: u32 = 4;

/// From here on Redis is far away: who had to wait for a call to return before its own could leave would wait twice as long,
/// and perhaps past its deadline. Then calls leave evenly spaced.
const FAR: Duration = Duration::from_millis(4);

/// Below so many given-up seats it is not worth looking for them.
const SWEEP_FROM: usize = 64;

/// A worker's questions, and the flights that they leave with.
#[derive(Debug)]
pub(super) struct Batches {
    line: Line,
    exhausted: Arc<Exhausted>,
    places: Arc<Places>,
    /// To a task that is there already: where few ask, each request would begin one for its only call.
    lone_flights: mpsc::UnboundedSender<Flight>,
    /// Only the worker's own thread comes here, so the lock is free; it is never held across an await.
    waiting: Mutex<Waiting>,
}

/// What has not departed yet. Seats belong to requests in flight, or to ones that went away, of which at most as many again are
/// kept: the number of open requests bounds all of this.
#[derive(Debug, Default)]
struct Waiting {
    /// In order of arrival; a new one is begun when the last is full.
    batches: VecDeque<Batch>,
    seats: usize,
    /// Until then somebody may wait.
    latest: Option<Instant>,
    /// Seats given up since the last sweep, at least.
    given_up: usize,
    /// All, those about to depart, and those in the air; the rest lets some time pass first.
    flights: u32,
    boarding: u32,
    in_the_air: u32,
    /// How long calls take, smoothed.
    round_trip: Duration,
}

/// What one call asks, and who waits for each of its questions.
#[derive(Debug, Default)]
struct Batch {
    questions: Vec<Question>,
    seats: Vec<Seats>,
}

/// Those who ask the same. Where many different questions are asked it is one for each.
type Seats = SmallVec<[Seat; 1]>;

/// One request's place.
#[derive(Debug)]
struct Seat {
    n: u32,
    deadline: Instant,
    place: places::Seat,
}

impl Batches {
    /// Must be called within the runtime that will use it.
    pub(super) fn new(line: Line, exhausted: Arc<Exhausted>) -> Self {
        let (lone_flights, mut begun) = mpsc::unbounded_channel::<Flight>();
        tokio::spawn(async move {
            while let Some(flight) = begun.recv().await {
                flight.run(None).await;
            }
        });
        Self { line, exhausted, places: Arc::default(), lone_flights, waiting: Mutex::default() }
    }

    /// Asks with the next call that leaves, and waits for its answer until `deadline`.
    pub(super) async fn ask(self: &Arc<Self>, question: &Question, deadline: Instant) -> Result<Answer, StoreError> {
        let (place, waiter) = self.places.take(deadline);
        if self.places.look_needed(deadline) {
            tokio::spawn(self.places.clone().look(deadline));
        }
        self.seat(question, Seat { n: question.n, deadline, place });
        let mut asking = Asking { batches: self, answered: false };
        let answer = waiter.await;
        // Whose time is up may still have a seat.
        asking.answered = !matches!(answer, Err(StoreError::Deadline));
        answer
    }

    /// Takes a seat, and begins a flight if one is needed. It departs after whatever else is ready to run now, so that what
    /// arrives together leaves together.
    fn seat(self: &Arc<Self>, question: &Question, seat: Seat) {
        let mut waiting = self.waiting();
        waiting.seat(question, seat);
        let Some(pause) = waiting.flight_needed() else { return };
        let flight = Flight::begin(self, &mut waiting, pause);
        // Then the last one has ended, and nothing is in the air to keep a distance from.
        let is_alone = waiting.flights == 1;
        drop(waiting);
        let flight = if is_alone { self.lone_flights.send(flight).err().map(|unsent| unsent.0) } else { Some(flight) };
        if let Some(flight) = flight {
            tokio::spawn(flight.run(pause));
        }
    }

    /// Whether anybody has a seat in a call that has not departed.
    fn is_awaited(&self) -> bool {
        !self.waiting().batches.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics halfway through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits, until dropped.
struct Asking<'a> {
    batches: &'a Batches,
    answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.batches.waiting().give_up();
        }
    }
}

impl Waiting {
    fn seat(&mut self, question: &Question, seat: Seat) {
        self.seats += 1;
        self.latest = self.latest.max(Some(seat.deadline));
        if let Some(last) = self.batches.back_mut() {
            if let Some(at) = last.questions.iter().position(|held| held.is_alike(question))
                && let Some(n) = last.questions[at].n.checked_add(seat.n)
            {
                last.questions[at].n = n;
                last.seats[at].push(seat);
                return;
            }
            if !last.is_full() {
                last.add(question, seat);
                return;
            }
        }
        let mut batch = Batch::default();
        batch.add(question, seat);
        self.batches.push_back(batch);
    }

    /// Batches that need not wait for a call to return.
    fn full(&self) -> usize {
        let gathering = self.batches.back().is_some_and(|last| !last.is_full());
        self.batches.len() - usize::from(gathering)
    }

    /// Whether a flight is to begin, and after which pause.
    fn flight_needed(&self) -> Option<Option<Duration>> {
        let resting = self.flights - self.boarding - self.in_the_air;
        match () {
            () if self.flights == MOST_FLIGHTS => None,
            () if self.in_the_air == 0 && self.boarding == 0 => Some(None),
            () if self.full() > self.boarding as usize => Some(None),
            () if self.boarding == 0 && resting == 0 && self.is_far() => Some(Some(self.round_trip / MOST_FLIGHTS)),
            () => None,
        }
    }

    fn is_far(&self) -> bool {
        self.round_trip >= FAR
    }

    /// The batch that a boarding flight takes; `None` where nobody waits, or where those who do have a call in the air to
    /// wait for. One that has `rested` takes whoever is there.
    fn depart(&mut self, rested: bool) -> Option<Batch> {
        while rested || self.in_the_air == 0 || self.full() > 0 {
            let batch = self.batches.pop_front()?;
            self.seats -= batch.len();
            let batch = batch.occupied();
            if !batch.questions.is_empty() {
                return Some(batch);
            }
        }
        None
    }

    /// A seat is free, or its call was in the air already. Sweeps when half of the seats may be free: constant work for each.
    fn give_up(&mut self) {
        self.given_up += 1;
        if self.given_up < SWEEP_FROM || self.given_up * 2 < self.seats {
            return;
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.batches = self.batches.drain(..).map(Batch::occupied).collect();
        self.batches.retain(|batch| !batch.questions.is_empty());
        self.seats = self.batches.iter().map(Batch::len).sum();
        self.given_up = 0;
    }
}

impl Batch {
    fn add(&mut self, question: &Question, seat: Seat) {
        self.questions.push(question.clone());
        self.seats.push(smallvec![seat]);
    }

    fn is_full(&self) -> bool {
        self.questions.len() >= MOST_QUESTIONS
    }

    fn len(&self) -> usize {
        self.seats.iter().map(SmallVec::len).sum()
    }

    /// Without the seats of requests that went away or gave up, and the questions that nobody asks any more. Who still waits
    /// beyond the deadline does so because the worker is late, perhaps with this very departure.
    fn occupied(mut self) -> Self {
        for (question, seats) in self.questions.iter_mut().zip(&mut self.seats) {
            seats.retain(|seat| !seat.place.is_given_up());
            // No more than before, when it did not overflow.
            question.n = seats.iter().map(|seat| seat.n).sum();
        }
        let mut seats = self.seats.iter();
        self.questions.retain(|_| seats.next().is_some_and(|seats| !seats.is_empty()));
        self.seats.retain(|seats| !seats.is_empty());
        self
    }

    /// A call serves who waits longest.
    fn deadline(&self) -> Option<Instant> {
        self.seats.iter().flatten().map(|seat| seat.deadline).max()
    }
}

/// Makes calls one after the other until nobody waits for it, in a task of its own or in the one for lone flights.
#[derive(Debug)]
struct Flight {
    batches: Arc<Batches>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Resting,
    Boarding,
    InTheAir,
    Over,
}

impl Flight {
    fn begin(batches: &Arc<Batches>, waiting: &mut Waiting, pause: Option<Duration>) -> Self {
        let mut phase = Phase::Over;
        waiting.flights += 1;
        phase.turn(waiting, if pause.is_some() { Phase::Resting } else { Phase::Boarding });
        Self { batches: batches.clone(), phase }
    }

    async fn run(mut self, pause: Option<Duration>) {
        if let Some(pause) = pause {
            sleep(pause).await;
            self.phase.turn(&mut self.batches.waiting(), Phase::Boarding);
        }
        let mut rested = pause.is_some();
        while let Some(latest) = self.latest_deadline() {
            match self.batches.line.ready(latest).await {
                Ok(()) => {
                    let Some(batch) = self.depart(rested) else { return };
                    self.call(batch).await;
                    if self.batches.is_awaited() {
                        // Those who were just answered, and whatever came in meanwhile, first: more gather for the next call.
                        yield_now().await;
                    }
                    rested = self.batches.waiting().is_far();
                }
                // Those who waited that long are about to go, once they have their turn; there may be others by now.
                Err(StoreError::Deadline) => yield_now().await,
                Err(error) => self.strand(&error),
            }
        }
    }

    /// Until when anybody waits for a call; ends the flight where nobody does.
    fn latest_deadline(&mut self) -> Option<Instant> {
        let mut waiting = self.batches.waiting();
        if waiting.latest.is_some_and(|latest| latest <= Instant::now()) {
            waiting.sweep();
        }
        let latest = waiting.latest.filter(|_| !waiting.batches.is_empty());
        if latest.is_none() {
            self.phase.end(&mut waiting);
        }
        latest
    }

    fn depart(&mut self, rested: bool) -> Option<Batch> {
        let mut waiting = self.batches.waiting();
        let batch = waiting.depart(rested);
        match &batch {
            Some(_) => self.phase.turn(&mut waiting, Phase::InTheAir),
            None => self.phase.end(&mut waiting),
        }
        batch
    }

    async fn call(&mut self, batch: Batch) {
        let Some(deadline) = batch.deadline() else { return };
        let asked = Instant::now();
        let answers = slots::decide(&self.batches.line, &batch.questions, batch.len(), asked, deadline).await;
        let answered = Instant::now();
        self.land(answered - asked);
        let (asked, answered) = (asked.into_std(), answered.into_std());
        let exhausted = &self.batches.exhausted;
        for ((question, seats), answer) in batch.questions.iter().zip(batch.seats).zip(answers) {
            match answer {
                Ok(answer) => {
                    exhausted.learn(question, &answer, asked, answered);
                    hand_out(question, answer, seats);
                }
                Err(error) => {
                    exhausted.forget(question, answered);
                    refuse(seats, &error);
                }
            }
        }
    }

    fn land(&mut self, took: Duration) {
        let mut waiting = self.batches.waiting();
        waiting.round_trip = (waiting.round_trip * 7 + took) / 8;
        self.phase.turn(&mut waiting, Phase::Boarding);
    }

    /// There is no connection, and none is about to be: everybody who waits is told.
    fn strand(&mut self, error: &StoreError) {
        let stranded = {
            let mut waiting = self.batches.waiting();
            waiting.seats = 0;
            std::mem::take(&mut waiting.batches)
        };
        stranded.into_iter().flat_map(|batch| batch.seats).for_each(|seats| refuse(seats, error));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.phase.end(&mut self.batches.waiting());
    }
}

impl Phase {
    fn turn(&mut self, waiting: &mut Waiting, next: Self) {
        match self {
            Self::Boarding => waiting.boarding -= 1,
            Self::InTheAir => waiting.in_the_air -= 1,
            Self::Resting | Self::Over => {}
        }
        match next {
            Self::Boarding => waiting.boarding += 1,
            Self::InTheAir => waiting.in_the_air += 1,
            Self::Resting | Self::Over => {}
        }
        *self = next;
    }

    /// Under the same lock as the finding that nobody waits, so that whoever comes next begins a new flight.
    fn end(&mut self, waiting: &mut Waiting) {
        if !matches!(self, Self::Over) {
            self.turn(waiting, Self::Over);
            waiting.flights -= 1;
        }
    }
}

fn refuse(seats: Seats, error: &StoreError) {
    for seat in seats {
        seat.place.tell(Err(error.clone()));
    }
}

/// Each seat's own answer, in order of arrival.
fn hand_out(question: &Question, answer: Answer, seats: Seats) {
    let mut from = 0;
    let mut seats = seats.into_iter().peekable();
    while let Some(seat) = seats.next() {
        if from == 0 && seats.peek().is_none() {
            seat.place.tell(Ok(answer));
            return;
        }
        // Who went away needs no answer; its share stays spent.
        seat.place.tell(Ok(fold::share(question, &answer, from, seat.n)));
        from += seat.n;
    }
}

#[cfg(test)]
mod tests;
