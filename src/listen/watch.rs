//! How long a client may take: looked at from time to time rather than timed, so that a request costs no timer.
//!
//! A look says what is waited for and how far that has come. When two looks differ, something has moved; when they do not,
//! the wait is as old as the first of them. A bound is met at most one tick late.

use std::time::Duration;

use tokio::time::Instant;

use super::http1_turns::Http1Turns;
use super::settings::Bounds;
use crate::proxy::request_body::{Progress, Waits};

/// How often a connection is looked at when nothing is about to happen.
const SLOWEST: Duration = Duration::from_secs(2);
const FASTEST: Duration = Duration::from_millis(25);

/// How long a client may pause, in what it sends or takes, while there is no room for others.
const PRESSED: Duration = Duration::from_secs(2);

/// What a connection or a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A request to begin.
    Request,
    /// A head that has begun.
    Head,
    /// The client to go on with its body.
    Body,
    /// The client to take what is written.
    Taking,
    /// An answer that has begun, to go on.
    Stream,
    /// The gate and what is behind it.
    Within,
    /// Streams, each watched for itself.
    Streams,
    /// The client to take its leave.
    Leave,
}

/// What was last seen, and since when.
#[derive(Debug)]
pub struct Observation {
    seen: (Wait, u32),
    since: Instant,
}

impl Observation {
    pub fn begin() -> Self {
        Self { seen: (Wait::Within, 0), since: Instant::now() }
    }

    /// How long it has been so.
    pub fn again(&mut self, now: Instant, wait: Wait, progress: u32) -> Duration {
        if self.seen != (wait, progress) {
            *self = Self { seen: (wait, progress), since: now };
        }
        now.saturating_duration_since(self.since)
    }
}

impl Wait {
    /// The bound on such a wait. `is_full`: others are refused meanwhile. Whoever pauses then makes room for them, or a few
    /// clients that take nothing could keep out all others for as long as they please.
    pub fn patience(self, bounds: &Bounds, is_full: bool) -> Duration {
        match self {
            Self::Body | Self::Taking if is_full => bounds.body_idle.min(PRESSED),
            Self::Request => bounds.idle,
            Self::Head => bounds.header_read,
            Self::Body | Self::Taking | Self::Leave => bounds.body_idle,
            Self::Stream => bounds.stream_idle,
            Self::Within | Self::Streams => Duration::MAX,
        }
    }

    /// What an exchange waits for, and how far that has come.
    pub fn of(progress: &Progress) -> (Self, u32) {
        let wait = match progress.waits() {
            Waits::Within => Self::Within,
            Waits::Body => Self::Body,
            Waits::Taking => Self::Taking,
            Waits::Either => Self::Stream,
        };
        (wait, progress.frames())
    }

    /// The same of an HTTP/1.1 connection, on which the bytes tell more: an answer's frame that was taken may still not have
    /// left the house.
    pub fn of_connection(turns: &Http1Turns) -> (Self, u32) {
        let (activity, progress) = (&turns.activity, turns.progress.borrow());
        let (busy, requests) = (turns.activity.is_busy(), turns.requests.get());
        if activity.is_closing() {
            return (Self::Leave, 0);
        }
        if activity.is_blocked() {
            return (Self::Taking, activity.written());
        }
        match Self::of(&progress) {
            // The answer is out, and the body it answers is still read.
            _ if !busy && !progress.has_arrived() => (Self::Body, activity.passed()),
            _ if !busy && activity.next_has_begun() => (Self::Head, requests),
            _ if !busy => (Self::Request, requests),
            (Self::Stream | Self::Taking, _) => (Self::Stream, activity.passed()),
            other => other,
        }
    }
}

/// How often to look, so that no bound is met much too late.
pub fn tick(bounds: &Bounds) -> Duration {
    let shortest = bounds.header_read.min(bounds.idle).min(bounds.body_idle).min(bounds.stream_idle);
    (shortest / 8).clamp(FASTEST, SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_as_old_as_the_first_look_that_saw_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut observation = Observation::begin();
        assert_eq!(observation.again(at(1), Wait::Body, 7), Duration::ZERO);
        assert_eq!(observation.again(at(3), Wait::Body, 7), Duration::from_secs(2));
        assert_eq!(observation.again(at(4), Wait::Body, 8), Duration::ZERO);
        assert_eq!(observation.again(at(9), Wait::Stream, 8), Duration::ZERO);
        assert_eq!(observation.again(at(10), Wait::Stream, 8), Duration::from_secs(1));
    }
}
