//! Which requests share a call, and when it is sent: without a Redis.

use std::time::Duration;

use super::super::pending::AnswerReceiver;
use super::*;
use crate::limit::Ask;

fn question(slot: usize) -> Question {
    Question { asks: [Ask { slot: format!("b:{slot}").into(), ..Ask::default() }].into(), cost: 1, n: 1 }
}

/// A request arrives, with so much time left.
fn arrive(queue: &mut Queue, slot: usize, left: Duration) -> AnswerReceiver {
    let deadline = Instant::now() + left;
    let (sender, receiver) = Arc::<PendingAnswers>::default().insert(deadline);
    queue.push(&question(slot), Waiter { n: 1, deadline, sender });
    receiver
}

fn start(queue: &mut Queue) -> Phase {
    let mut phase = Phase::Ended;
    queue.dispatchers += 1;
    phase.enter(queue, Phase::Ready);
    phase
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn identical_questions_fold_and_different_ones_keep_the_order_of_arrival() {
    let mut queue = Queue::default();
    let _receivers: Vec<_> = [7, 3, 7, 5, 3, 7].map(|slot| arrive(&mut queue, slot, LONG)).into();
    let batch = queue.take_batch(false).expect("nothing is in flight");
    let asked: Vec<_> = batch.questions.iter().map(|question| (question.asks[0].slot.as_str(), question.n)).collect();
    assert_eq!(asked, [("b:7", 3), ("b:3", 2), ("b:5", 1)]);
    assert_eq!(queue.waiters, 0);
}

#[test]
fn one_call_is_in_flight_while_others_queue_until_they_fill_a_batch() {
    let mut queue = Queue::default();
    let mut receivers = vec![arrive(&mut queue, 0, LONG)];
    assert_eq!(queue.dispatcher_needed(), Some(None), "nothing waits where nothing is in flight");
    let mut first = start(&mut queue);
    assert_eq!(queue.dispatcher_needed(), None);
    assert!(queue.take_batch(false).is_some());
    first.enter(&mut queue, Phase::InFlight);
    for slot in 0..MOST_QUESTIONS - 1 {
        receivers.push(arrive(&mut queue, slot, LONG));
        assert_eq!(queue.dispatcher_needed(), None, "{slot} wait");
    }
    assert!(queue.take_batch(false).is_none());
    receivers.push(arrive(&mut queue, MOST_QUESTIONS, LONG));
    assert_eq!(queue.dispatcher_needed(), Some(None), "a full batch is sent at once");
    let mut second = start(&mut queue);
    receivers.push(arrive(&mut queue, 99, LONG));
    assert_eq!(queue.dispatcher_needed(), None);
    let batch = queue.take_batch(false).expect("it is full");
    assert_eq!(batch.questions.len(), MOST_QUESTIONS);
    second.enter(&mut queue, Phase::InFlight);
    assert_eq!(queue.dispatcher_needed(), None);
    second.enter(&mut queue, Phase::Ready);
    assert!(queue.take_batch(false).is_none(), "the first call is still in flight");
    second.end(&mut queue);
    first.enter(&mut queue, Phase::Ready);
    assert!(queue.take_batch(false).is_some());
}

#[test]
fn no_more_than_a_few_calls_are_in_flight_however_many_wait() {
    let mut queue = Queue::default();
    let mut dispatchers = Vec::new();
    let _receivers: Vec<_> = (0..1000)
        .map(|slot| {
            let receiver = arrive(&mut queue, slot, LONG);
            if queue.dispatcher_needed().is_some() {
                dispatchers.push(start(&mut queue));
            }
            receiver
        })
        .collect();
    assert_eq!(dispatchers.len(), MOST_IN_FLIGHT as usize);
}

#[test]
fn a_cancelled_request_leaves_its_batch_and_one_that_still_waits_stays() {
    let mut queue = Queue::default();
    let stays = arrive(&mut queue, 1, LONG);
    drop(arrive(&mut queue, 1, LONG));
    drop(arrive(&mut queue, 2, LONG));
    // The worker is late with the call, or with the timeout.
    let late = arrive(&mut queue, 1, Duration::ZERO);
    let batch = queue.take_batch(false).expect("two stay");
    assert_eq!((batch.questions.len(), batch.questions[0].n, batch.len()), (1, 2, 2));
    drop((stays, late));
    drop(arrive(&mut queue, 1, LONG));
    assert!(queue.take_batch(false).is_none(), "nobody is left");
}

#[test]
fn cancelled_requests_do_not_pile_up() {
    let mut queue = Queue::default();
    let _stay: Vec<_> = (0..10).map(|slot| arrive(&mut queue, slot, LONG)).collect();
    for slot in 0..100_000 {
        drop(arrive(&mut queue, slot, LONG));
        queue.cancel();
        assert!(queue.waiters <= 10 + SWEEP_FROM);
    }
    assert_eq!(queue.batches.iter().map(Batch::len).sum::<usize>(), queue.waiters);
}

#[test]
fn calls_to_a_redis_far_away_are_evenly_spaced() {
    let mut queue = Queue { round_trip: Duration::from_millis(60), ..Queue::default() };
    let _first = arrive(&mut queue, 0, LONG);
    let mut dispatcher = start(&mut queue);
    assert!(queue.take_batch(false).is_some());
    dispatcher.enter(&mut queue, Phase::InFlight);
    let _second = arrive(&mut queue, 0, LONG);
    let pause = Duration::from_millis(15);
    assert_eq!(queue.dispatcher_needed(), Some(Some(pause)));
    let mut delayed = Phase::Ended;
    queue.dispatchers += 1;
    delayed.enter(&mut queue, Phase::Delayed);
    assert_eq!(queue.dispatcher_needed(), None, "one is enough for all that come meanwhile");
    delayed.enter(&mut queue, Phase::Ready);
    assert!(queue.take_batch(true).is_some());
}
