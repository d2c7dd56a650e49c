//! Whether a connection is dead: one that owes a reply and has been silent for too long. One that owes nothing is asked for
//! something now and then. What follows from it is left to `connection`.

use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::jitter::jitter;
use super::pipeline::Pipeline;

/// How long a connection that owes a reply may send nothing at all. Longer than most forks and slow scripts hold a Redis up, and
/// short enough that a server that went away silently is replaced well within the 5 s that a failover may take.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// How often such a connection is checked for new bytes.
const STALL_CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long a connection may be without a reply before the server is asked for the time: otherwise an idle gate would notice a
/// server that hangs only at its next request.
const IDLE: Duration = Duration::from_secs(5);
/// How long that answer may take before the connection counts as one that owes a reply.
const LATE: Duration = Duration::from_secs(1);

/// Asks the server for the time whenever the connection has been idle for a while, and returns when no answer comes. Any answer
/// counts, an error too: the login may lack the command.
pub(super) async fn idle_and_silent(pipeline: &Pipeline) {
    let mut reads = pipeline.reads();
    loop {
        sleep(IDLE + jitter(IDLE)).await;
        let before = std::mem::replace(&mut reads, pipeline.reads());
        if reads != before {
            continue;
        }
        let time = cmd("TIME");
        if timeout(LATE, pipeline.query::<Value>(&time)).await.is_err() {
            return;
        }
        reads = pipeline.reads();
    }
}

/// Finds a connection that is dead: how much it had read when a deadline was missed (`Driver::read_progress`), and when that was.
#[derive(Debug, Default)]
pub(super) struct StallDetector(Option<(u32, Instant)>);

/// What is known of a connection since a deadline was missed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    Unknown,
    Alive,
    Stalled,
}

impl StallDetector {
    /// A reply did not come in time; where one is still owed, `progress` shows whether anything was read in between.
    pub(super) fn deadline_missed(&mut self, progress: Option<u32>, now: Instant) -> Liveness {
        if self.0.map(|(seen, _)| seen) != progress {
            self.0 = progress.map(|seen| (seen, now));
        }
        if self.0.is_none() { Liveness::Alive } else { Liveness::Unknown }
    }

    /// When to check whether anything was read.
    pub(super) async fn next_check(&self) {
        match self.0 {
            Some(_) => sleep(STALL_CHECK_EVERY).await,
            None => std::future::pending().await,
        }
    }

    /// Once something was read, the next missed deadline counts anew.
    pub(super) fn check(&mut self, progress: Option<u32>, now: Instant) -> Liveness {
        match self.0 {
            Some((seen, since)) if progress == Some(seen) && now.saturating_duration_since(since) < STALLED_AFTER => {
                Liveness::Unknown
            }
            Some((seen, _)) if progress == Some(seen) => Liveness::Stalled,
            Some(_) | None => {
                self.0 = None;
                Liveness::Alive
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_given_up_when_it_owes_an_answer_and_says_nothing() {
        let now = Instant::now();
        let mut stall = StallDetector::default();
        assert_eq!(stall.deadline_missed(None, now), Liveness::Alive, "the answer has come meanwhile");
        assert_eq!(stall.deadline_missed(Some(7), now), Liveness::Unknown);
        assert_eq!(stall.deadline_missed(Some(7), now + STALLED_AFTER / 2), Liveness::Unknown);
        assert_eq!(stall.check(Some(7), now + STALLED_AFTER / 2), Liveness::Unknown);
        assert_eq!(stall.check(Some(7), now + STALLED_AFTER), Liveness::Stalled, "since the first");
    }

    #[test]
    fn whatever_is_said_in_between_begins_the_wait_anew() {
        let (now, later) = (Instant::now(), Instant::now() + STALLED_AFTER / 2);
        let mut stall = StallDetector::default();
        stall.deadline_missed(Some(7), now);
        assert_eq!(stall.deadline_missed(Some(8), later), Liveness::Unknown);
        assert_eq!(stall.check(Some(8), now + STALLED_AFTER), Liveness::Unknown);
        for progress in [Some(9), None] {
            stall.deadline_missed(Some(8), later);
            assert_eq!(stall.check(progress, later + STALLED_AFTER), Liveness::Alive);
            assert_eq!(stall.0, None);
        }
    }
}
