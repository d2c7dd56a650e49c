//! A deadline that the store missed, told from one that the worker missed.
//!
//! A worker is one thread. When a thousand connections open at once, everything waits its turn on it: a question its departure,
//! Redis's answer, which has long been there, somebody who reads it. Each of these turns may take tens of milliseconds, so that
//! the deadline passes though the store was quick. Then a request would be refused, and the store thought ill of, for what is
//! the worker's own doing. So when a deadline has passed, the wait goes on until the worker has demonstrably been on time for a
//! moment: whatever had come by then would have been seen. On a worker that has little to do this is one short nap.

use std::future::Future;
use std::pin::{Pin, pin};

use tokio::time::{Duration, Instant, timeout_at};

/// So long the worker is watched at a time.
const NAP: Duration = Duration::from_millis(4);

/// Timers are exact to a millisecond. Who wakes later than this had to wait for others.
const TOLERANCE: Duration = Duration::from_millis(2);

/// So long all naps have to end on time after one that did not: a question may have left in its last moment, and in a burst,
/// Redis waits for a processor as well.
const AFTER_LATENESS: Duration = Duration::from_millis(25);

/// However busy the worker is, no longer than this beyond the deadline: it may be busy for ever, and the store away.
const LONGEST: Duration = Duration::from_secs(1);

/// Waits until `deadline`, and beyond it only while it may be the worker that is late. `None`: it was the store.
pub(super) async fn until<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    match timeout_at(deadline, &mut answer).await {
        Ok(answer) => Some(answer),
        // Boxed: it is rare, and would take room in every request.
        Err(_) => Box::pin(beyond(deadline, answer)).await,
    }
}

async fn beyond<T>(deadline: Instant, mut answer: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut now = Instant::now();
    let mut watch = Watch::default();
    watch.woke(deadline, now);
    while !watch.is_over(deadline, now) {
        let due = Watch::next(now);
        if let Ok(answer) = timeout_at(due, &mut answer).await {
            return Some(answer);
        }
        now = Instant::now();
        watch.woke(due, now);
    }
    None
}

/// How punctual the worker is, as far as anybody has looked.
#[derive(Debug, Default)]
pub(super) struct Watch {
    late: Option<Instant>,
}

impl Watch {
    /// Who was to wake at `due` woke at `now`.
    pub(super) fn woke(&mut self, due: Instant, now: Instant) {
        if now > due + TOLERANCE {
            self.late = Some(now);
        }
    }

    /// Whether by `now` it is the store that has missed the deadline. Somebody must have looked at the deadline, and at every
    /// `next` time since.
    pub(super) fn is_over(&self, deadline: Instant, now: Instant) -> bool {
        let is_punctual = self.late.is_none_or(|late| now >= late + AFTER_LATENESS);
        now >= deadline + LONGEST || (is_punctual && now >= deadline + NAP)
    }

    /// When to look again, as long as a deadline has passed and is not over.
    pub(super) fn next(now: Instant) -> Instant {
        now + NAP
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

    /// How many naps there are when the deadline is noticed so late, and then each nap's end.
    fn naps(noticed: Duration, woke: impl Fn(usize) -> Duration) -> (usize, Duration) {
        let deadline = Instant::now();
        let mut now = deadline + noticed;
        let mut watch = Watch::default();
        watch.woke(deadline, now);
        for nap in 0.. {
            if watch.is_over(deadline, now) {
                return (nap, now - deadline);
            }
            let due = Watch::next(now);
            now = due + woke(nap);
            watch.woke(due, now);
        }
        unreachable!("there is always a last nap")
    }

    #[test]
    fn a_worker_that_is_on_time_takes_one_nap_and_one_that_was_late_has_to_be_on_time_for_a_while() {
        assert_eq!(naps(ON_TIME, |_| ON_TIME), (1, Duration::from_millis(6)));
        assert_eq!(naps(LATE, |_| ON_TIME).0, 5);
        assert_eq!(naps(ON_TIME, |nap| if nap == 0 { LATE } else { ON_TIME }).0, 6);
        assert_eq!(naps(LATE, |nap| if nap == 3 { LATE } else { ON_TIME }).0, 9);
    }

    #[test]
    fn a_worker_that_is_never_on_time_waits_for_the_store_no_longer_than_a_second() {
        let (_, waited) = naps(LATE, |_| LATE);
        assert!(waited >= LONGEST && waited < LONGEST + 4 * LATE, "{waited:?}");
    }

    /// An answer that needs several turns of a worker, each of which takes longer than the deadline.
    async fn answer_of_a_busy_worker() -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        tokio::spawn(async {
            for _ in 0..5 {
                std::thread::sleep(LATE);
                yield_now().await;
            }
            tell.send(())
        });
        told
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
