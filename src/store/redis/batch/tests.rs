//! Who rides with whom, and when: without a Redis.

use std::time::Duration;

use super::super::places::Waiter;
use super::*;
use crate::limit::Ask;

fn question(slot: usize) -> Question {
    Question { asks: [Ask { slot: format!("b:{slot}").into(), ..Ask::default() }].into(), cost: 1, n: 1 }
}

/// Somebody asks, with so much time left.
fn arrive(waiting: &mut Waiting, slot: usize, left: Duration) -> Waiter {
    let deadline = Instant::now() + left;
    let (place, waiter) = Arc::<Places>::default().take(deadline);
    waiting.seat(&question(slot), Seat { n: 1, deadline, place });
    waiter
}

fn begin(waiting: &mut Waiting) -> Phase {
    let mut phase = Phase::Over;
    waiting.flights += 1;
    phase.turn(waiting, Phase::Boarding);
    phase
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn identical_questions_fold_and_different_ones_ride_in_order_of_arrival() {
    let mut waiting = Waiting::default();
    let _answered: Vec<_> = [7, 3, 7, 5, 3, 7].map(|slot| arrive(&mut waiting, slot, LONG)).into();
    let batch = waiting.depart(false).expect("nothing is in the air");
    let asked: Vec<_> = batch.questions.iter().map(|asked| (asked.asks[0].slot.as_str(), asked.n)).collect();
    assert_eq!(asked, [("b:7", 3), ("b:3", 2), ("b:5", 1)]);
    assert_eq!(waiting.seats, 0);
}

#[test]
fn one_flight_is_in_the_air_while_others_gather_until_they_fill_a_batch() {
    let mut waiting = Waiting::default();
    let mut answered = vec![arrive(&mut waiting, 0, LONG)];
    assert_eq!(waiting.flight_needed(), Some(None), "nothing waits where nothing is in the air");
    let mut first = begin(&mut waiting);
    assert_eq!(waiting.flight_needed(), None);
    assert!(waiting.depart(false).is_some());
    first.turn(&mut waiting, Phase::InTheAir);
    for slot in 0..MOST_QUESTIONS - 1 {
        answered.push(arrive(&mut waiting, slot, LONG));
        assert_eq!(waiting.flight_needed(), None, "{slot} gather");
    }
    assert!(waiting.depart(false).is_none());
    answered.push(arrive(&mut waiting, MOST_QUESTIONS, LONG));
    assert_eq!(waiting.flight_needed(), Some(None), "a full batch leaves at once");
    let mut second = begin(&mut waiting);
    answered.push(arrive(&mut waiting, 99, LONG));
    assert_eq!(waiting.flight_needed(), None);
    let batch = waiting.depart(false).expect("it is full");
    assert_eq!(batch.questions.len(), MOST_QUESTIONS);
    second.turn(&mut waiting, Phase::InTheAir);
    assert_eq!(waiting.flight_needed(), None);
    second.turn(&mut waiting, Phase::Boarding);
    assert!(waiting.depart(false).is_none(), "the first one is still in the air");
    second.end(&mut waiting);
    first.turn(&mut waiting, Phase::Boarding);
    assert!(waiting.depart(false).is_some());
}

#[test]
fn no_more_than_a_few_flights_are_out_however_many_wait() {
    let mut waiting = Waiting::default();
    let mut flights = Vec::new();
    let _answered: Vec<_> = (0..1000)
        .map(|slot| {
            let answered = arrive(&mut waiting, slot, LONG);
            if waiting.flight_needed().is_some() {
                flights.push(begin(&mut waiting));
            }
            answered
        })
        .collect();
    assert_eq!(flights.len(), MOST_FLIGHTS as usize);
}

#[test]
fn who_went_away_gives_up_its_seat_and_who_still_waits_keeps_it() {
    let mut waiting = Waiting::default();
    let stays = arrive(&mut waiting, 1, LONG);
    drop(arrive(&mut waiting, 1, LONG));
    drop(arrive(&mut waiting, 2, LONG));
    // The worker is late with the departure, or with telling it that its time is up.
    let late = arrive(&mut waiting, 1, Duration::ZERO);
    let batch = waiting.depart(false).expect("two stay");
    assert_eq!((batch.questions.len(), batch.questions[0].n, batch.len()), (1, 2, 2));
    drop((stays, late));
    drop(arrive(&mut waiting, 1, LONG));
    assert!(waiting.depart(false).is_none(), "nobody is left");
}

#[test]
fn seats_that_were_given_up_do_not_pile_up() {
    let mut waiting = Waiting::default();
    let _stay: Vec<_> = (0..10).map(|slot| arrive(&mut waiting, slot, LONG)).collect();
    for slot in 0..100_000 {
        drop(arrive(&mut waiting, slot, LONG));
        waiting.give_up();
        assert!(waiting.seats <= 10 + SWEEP_FROM);
    }
    assert_eq!(waiting.batches.iter().map(Batch::len).sum::<usize>(), waiting.seats);
}

#[test]
fn calls_to_a_redis_far_away_leave_evenly_spaced() {
    let mut waiting = Waiting { round_trip: Duration::from_millis(60), ..Waiting::default() };
    let _first = arrive(&mut waiting, 0, LONG);
    let mut flight = begin(&mut waiting);
    assert!(waiting.depart(false).is_some());
    flight.turn(&mut waiting, Phase::InTheAir);
    let _second = arrive(&mut waiting, 0, LONG);
    let pause = Duration::from_millis(15);
    assert_eq!(waiting.flight_needed(), Some(Some(pause)));
    let mut rested = Phase::Over;
    waiting.flights += 1;
    rested.turn(&mut waiting, Phase::Resting);
    assert_eq!(waiting.flight_needed(), None, "one is enough for all that come meanwhile");
    rested.turn(&mut waiting, Phase::Boarding);
    assert!(waiting.depart(true).is_some());
}
