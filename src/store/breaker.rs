//! The circuit breaker before Redis: after failures in a row, calls fail at once instead of each waiting for its deadline, until
//! a probe succeeds.
//!
//! `State` is the pure rule; `Breaker` is one per process, shared by all workers. `Store` probes: the worker that opened the
//! breaker probes with the real script, so that no request serves as a probe, and the breaker closes without traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::StoreError;

/// How many failures in a row open it. Calls that were in flight at the same time count as one failure: fifty requests on one
/// broken connection are one incident, after which it is reconnected within milliseconds.
const FAILURES: u32 = 3;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// When the breaker opens and closes; it has no clock of its own.
#[derive(Debug, Default)]
pub struct State {
    open: bool,
    failures: u32,
    last_failure: Option<Instant>,
}

impl State {
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Records a failed call. Returns whether that opens the breaker.
    pub fn failed(&mut self, began: Instant, now: Instant) -> bool {
        if self.open || self.last_failure.is_some_and(|last| began < last) {
            return false;
        }
        self.last_failure = Some(now);
        self.failures += 1;
        self.open = self.failures >= FAILURES;
        self.open
    }

    /// Records a call that succeeded. That does not close an open breaker, since the call was sent before it opened.
    pub fn succeeded(&mut self) {
        if !self.open {
            self.failures = 0;
        }
    }

    /// Records a probe that succeeded. Returns whether that closes the breaker.
    pub fn probed(&mut self) -> bool {
        self.failures = 0;
        std::mem::take(&mut self.open)
    }

    /// Half-opens a breaker whose prober has ended: calls pass, and the next failure opens it again.
    pub fn abandoned(&mut self) {
        if std::mem::take(&mut self.open) {
            self.failures = FAILURES - 1;
        }
    }
}

/// How long to wait before each probe: 100 ms, 200 ms, … up to a second.
pub fn pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_PAUSE), |pause| Some((*pause * 2).min(LONGEST_PAUSE)))
}

/// One per process; every method may be called from any worker.
#[derive(Debug, Default)]
pub struct Breaker {
    // Both mirror `state`, so that a call of a healthy store reads two words and takes no lock.
    open: AtomicBool,
    suspicious: AtomicBool,
    /// Held for a few comparisons.
    state: Mutex<State>,
}

impl Breaker {
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a call may be made.
    pub fn admit(&self) -> Result<(), StoreError> {
        if self.is_open() {
            return Err(StoreError::breaker_open());
        }
        Ok(())
    }

    /// Records how a call ended. `true`: that opened the breaker, and the caller has to probe.
    #[must_use]
    pub fn record(&self, began: Instant, error: Option<&StoreError>) -> bool {
        match error.filter(|error| error.is_of_the_whole_store()) {
            Some(error) => {
                let opened = self.change(|state| state.failed(began, Instant::now()));
                if opened {
                    tracing::warn!(%error, "store: breaker open, calls fail at once until a probe succeeds");
                }
                opened
            }
            None => {
                if self.suspicious.load(Ordering::Relaxed) {
                    self.change(State::succeeded);
                }
                false
            }
        }
    }

    /// Closes the breaker after a successful probe.
    pub fn close(&self) {
        if self.change(State::probed) {
            tracing::info!("store: breaker closed, a probe has succeeded");
        }
    }

    /// The prober has ended with its worker.
    pub fn abandon(&self) {
        self.change(State::abandoned);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        self.open.store(state.open, Ordering::Relaxed);
        self.suspicious.store(state.failures > 0, Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state is a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        // One base for all, so that the times can be compared.
        static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BASE.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_alone_closes_it() {
        let mut state = State::default();
        assert_eq!([0, 100, 200].map(|ms| state.failed(at(ms), at(ms + 100))), [false, false, true]);
        assert!(!state.failed(at(300), at(400)), "it opens once");
        state.succeeded();
        assert!(state.is_open());
        assert!(state.probed());
        assert!(!state.is_open() && !state.probed());
        assert!(!state.failed(at(500), at(600)), "the count starts anew");
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut state = State::default();
        for ms in 0..20 {
            assert!(!state.failed(at(ms * 10), at(ms * 10 + 5)));
            if ms % 2 == 1 {
                state.succeeded();
            }
        }
    }

    #[test]
    fn what_fails_at_the_same_time_is_one_failure() {
        let mut state = State::default();
        for _ in 0..50 {
            assert!(!state.failed(at(0), at(100)));
        }
        assert!(!state.failed(at(100), at(200)));
        assert!(!state.failed(at(150), at(250)), "it overlapped with the one before");
        assert!(state.failed(at(200), at(300)));
    }

    #[test]
    fn without_a_prober_calls_pass_and_the_next_failure_opens_it() {
        let mut state = State::default();
        for ms in 0..3 {
            state.failed(at(ms * 10), at(ms * 10 + 5));
        }
        state.abandoned();
        assert!(!state.is_open());
        assert!(state.failed(at(100), at(200)));
    }

    #[test]
    fn probes_are_spaced_out_up_to_a_second() {
        let ms: Vec<_> = pauses().take(7).map(|pause| pause.as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1000, 1000, 1000]);
    }

    #[test]
    fn only_what_tells_of_the_whole_store_counts() {
        let breaker = Breaker::default();
        for error in [
            StoreError::Broken("a document".to_owned()),
            StoreError::Refused("OOM command not allowed".to_owned()),
            StoreError::Refused("ERR something".to_owned()),
        ] {
            for _ in 0..10 {
                assert!(!breaker.record(Instant::now(), Some(&error)), "{error}");
            }
        }
        let loading = StoreError::Refused("LOADING Redis is loading the dataset in memory".to_owned());
        let opened: Vec<_> = (0..4).map(|_| breaker.record(Instant::now(), Some(&loading))).collect();
        assert_eq!(opened, [false, false, true, false]);
        assert!(matches!(breaker.admit(), Err(StoreError::Unreachable(_))));
        breaker.close();
        assert_eq!(breaker.admit(), Ok(()));
    }
}
