//! Timeouts on clients by sampling, so that a request sets no timer.
//!
//! A sample says what is waited for, and a count of progress. When two samples differ, something has moved; when they do not, the
//! wait is as old as the first of them. A timeout is enforced at most one tick late.

use std::time::Duration;

use tokio::time::Instant;

use super::http1_turns::Http1Turns;
use super::settings::Bounds;
use crate::proxy::request_body::{Progress, Waits};

/// How often to peek again at a client that sends its first bytes one by one.
pub const TRICKLE: Duration = Duration::from_millis(5);

/// The bounds on the sampling interval.
const SLOWEST: Duration = Duration::from_secs(2);
const FASTEST: Duration = Duration::from_millis(25);

/// How long a client may pause in sending or reading while other requests are refused as overloaded.
const PAUSE_WHEN_FULL: Duration = Duration::from_secs(2);

/// What a connection or a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A request to begin.
    Request,
    /// A head that has begun.
    Head,
    /// More of the request's body.
    Body,
    /// The client to read what is written.
    ClientRead,
    /// An answer that has begun, to go on.
    Stream,
    /// The gate, the store or the upstream, which have deadlines of their own.
    Internal,
    /// HTTP/2 streams, each sampled itself.
    Streams,
    /// The client to close the connection.
    Close,
}

/// The last sample, and since when it is the same.
#[derive(Debug)]
pub struct Observation {
    seen: (Wait, u32),
    since: Instant,
}

impl Observation {
    pub fn begin() -> Self {
        Self { seen: (Wait::Internal, 0), since: Instant::now() }
    }

    /// How long the sample has been the same.
    pub fn update(&mut self, now: Instant, wait: Wait, progress: u32) -> Duration {
        if self.seen != (wait, progress) {
            *self = Self { seen: (wait, progress), since: now };
        }
        now.saturating_duration_since(self.since)
    }
}

impl Wait {
    /// The limit on such a wait. `is_full`: other requests are refused meanwhile. Pauses are cut short then, or a few clients
    /// that do not read could keep out all others for as long as they please.
    pub fn time_limit(self, bounds: &Bounds, is_full: bool) -> Duration {
        match self {
            Self::Body | Self::ClientRead if is_full => bounds.body_idle.min(PAUSE_WHEN_FULL),
            Self::Request => bounds.idle,
            Self::Head => bounds.header_read,
            Self::Body | Self::ClientRead | Self::Close => bounds.body_idle,
            Self::Stream => bounds.stream_idle,
            Self::Internal | Self::Streams => Duration::MAX,
        }
    }

    /// What an exchange waits for, and its progress.
    pub fn of(progress: &Progress) -> (Self, u32) {
        let wait = match progress.waits() {
            Waits::Internal => Self::Internal,
            Waits::RequestBody => Self::Body,
            Waits::ClientRead => Self::ClientRead,
            Waits::Stream => Self::Stream,
        };
        (wait, progress.frames())
    }

    /// The same for an HTTP/1.1 connection, where bytes count rather than frames: a frame that hyper has taken may not be written
    /// yet.
    pub fn of_connection(turns: &Http1Turns) -> (Self, u32) {
        let (activity, progress) = (&turns.activity, turns.progress.borrow());
        let (busy, requests) = (turns.activity.is_busy(), turns.requests.get());
        if activity.is_closing() {
            return (Self::Close, 0);
        }
        if activity.is_blocked() {
            return (Self::ClientRead, activity.written());
        }
        match Self::of(&progress) {
            // The answer has ended, and the rest of the request's body is drained.
            _ if !busy && !progress.is_request_read() => (Self::Body, activity.passed()),
            _ if !busy && activity.next_has_begun() => (Self::Head, requests),
            _ if !busy => (Self::Request, requests),
            (Self::Stream | Self::ClientRead, _) => (Self::Stream, activity.passed()),
            other => other,
        }
    }
}

/// The sampling interval, so that no timeout is enforced much too late.
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
        assert_eq!(observation.update(at(1), Wait::Body, 7), Duration::ZERO);
        assert_eq!(observation.update(at(3), Wait::Body, 7), Duration::from_secs(2));
        assert_eq!(observation.update(at(4), Wait::Body, 8), Duration::ZERO);
        assert_eq!(observation.update(at(9), Wait::Stream, 8), Duration::ZERO);
        assert_eq!(observation.update(at(10), Wait::Stream, 8), Duration::from_secs(1));
    }
}
