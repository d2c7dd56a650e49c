//! Tells a deadline that the store missed from one that the worker missed.
//!
//! A worker is one thread. When a thousand connections open at once, everything waits for it: questions to be sent, and answers
//! that have arrived to be read, each perhaps for tens of milliseconds, so that the deadline passes though the store was quick.
//! Then a request would be refused, and the store counted as failing, for the worker's own lag. So when a deadline has passed, the
//! wait goes on until the worker has been on time for a moment: whatever had arrived by then would have been read. On a worker
//! that has little to do this is one short check.

use std::future::Future;
use std::pin::{Pin, pin};

use tokio::time::{Duration, Instant, timeout_at};

/// How long after one check the next is due.
const CHECK_EVERY: Duration = Duration::from_millis(4);

/// Timers are exact to a millisecond. A task that wakes later than this had to wait for others.
const TOLERANCE: Duration = Duration::from_millis(2);

/// How long all checks have to be on time after one that was not: a question may have been sent just before, and in a burst Redis
/// waits for a processor as well.
const ON_TIME_FOR: Duration = Duration::from_millis(25);

/// However busy the worker is, no longer than this beyond the deadline: it may be busy for ever, and the store away.
const LONGEST_OVERRUN: Duration = Duration::from_secs(1);

/// Waits until `deadline`, and beyond it only while it may be the worker that is late. `None`: it was the store.
pub(super) async fn until<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    match timeout_at(deadline, &mut answer).await {
        Ok(answer) => Some(answer),
        // Boxed: it is rare, and would take room in every request.
        Err(_) => Box::pin(past_deadline(deadline, answer)).await,
    }
}

async fn past_deadline<T>(deadline: Instant, mut answer: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut now = Instant::now();
    let mut lag = LagMonitor::default();
    lag.woke(deadline, now);
    while !lag.is_missed(deadline, now) {
        let due = LagMonitor::next_check(now);
        if let Ok(answer) = timeout_at(due, &mut answer).await {
            return Some(answer);
        }
        now = Instant::now();
        lag.woke(due, now);
    }
    None
}

/// Knows when the worker was last late.
#[derive(Debug, Default)]
pub(super) struct LagMonitor {
    late_at: Option<Instant>,
}

impl LagMonitor {
    /// A task that was to wake at `due` woke at `now`.
    pub(super) fn woke(&mut self, due: Instant, now: Instant) {
        if now > due + TOLERANCE {
            self.late_at = Some(now);
        }
    }

    /// Whether by `now` it is the store that has missed the deadline. `woke` must have been called for the deadline, and for every
    /// `next_check` since.
    pub(super) fn is_missed(&self, deadline: Instant, now: Instant) -> bool {
        let is_on_time = self.late_at.is_none_or(|late_at| now >= late_at + ON_TIME_FOR);
        now >= deadline + LONGEST_OVERRUN || (is_on_time && now >= deadline + CHECK_EVERY)
    }

    /// When to check again, as long as a deadline has passed and is not missed.
    pub(super) fn next_check(now: Instant) -> Instant {
        now + CHECK_EVERY
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    const ON_TIME: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_millis(30);

    /// How many checks there are when the deadline is noticed so late, and then each check.
    fn checks(noticed: Duration, woke: impl Fn(usize) -> Duration) -> (usize, Duration) {
        let deadline = Instant::now();
        let mut now = deadline + noticed;
        let mut lag = LagMonitor::default();
        lag.woke(deadline, now);
        for check in 0.. {
            if lag.is_missed(deadline, now) {
                return (check, now - deadline);
            }
            let due = LagMonitor::next_check(now);
            now = due + woke(check);
            lag.woke(due, now);
        }
        unreachable!("there is always a last check")
    }

    #[test]
    fn a_worker_that_is_on_time_checks_once_and_one_that_was_late_has_to_be_on_time_for_a_while() {
        assert_eq!(checks(ON_TIME, |_| ON_TIME), (1, Duration::from_millis(6)));
        assert_eq!(checks(LATE, |_| ON_TIME).0, 5);
        assert_eq!(checks(ON_TIME, |check| if check == 0 { LATE } else { ON_TIME }).0, 6);
        assert_eq!(checks(LATE, |check| if check == 3 { LATE } else { ON_TIME }).0, 9);
    }

    #[test]
    fn a_worker_that_is_never_on_time_waits_for_the_store_no_longer_than_a_second() {
        let (_, waited) = checks(LATE, |_| LATE);
        assert!(waited >= LONGEST_OVERRUN && waited < LONGEST_OVERRUN + 4 * LATE, "{waited:?}");
    }

    /// An answer that needs several polls, each of which takes longer than the deadline.
    async fn answer_of_a_busy_worker() -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async {
            for _ in 0..5 {
                std::thread::sleep(LATE);
                yield_now().await;
            }
            sender.send(())
        });
        receiver
    }

    #[test]
    fn an_answer_that_a_busy_worker_has_yet_to_take_in_counts() {
        let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
        runtime.block_on(async {
            let deadline = || Instant::now() + ON_TIME;
            let by_the_clock = timeout_at(deadline(), answer_of_a_busy_worker().await).await;
            assert!(by_the_clock.is_err(), "by the clock alone the store would be blamed");
            assert_eq!(until(deadline(), answer_of_a_busy_worker().await).await, Some(Ok(())));
        });
    }

    #[test]
    fn silence_is_told_from_lateness() {
        let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
        runtime.block_on(async {
            let deadline = Instant::now() + ON_TIME;
            assert_eq!(until(deadline, std::future::pending::<()>()).await, None);
            assert!(Instant::now() > deadline);
        });
    }
}
