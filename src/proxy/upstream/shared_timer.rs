//! One timer for the response timeouts of all requests on a connection, one after the other: it is reset only when it fires
//! before the current deadline. To set and cancel a timer for each request costs as much as to write its head.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Set for a former request's deadline, perhaps a past one; `None` before its first use.
#[derive(Debug, Default)]
pub struct SharedTimer(Option<Pin<Box<Sleep>>>);

impl SharedTimer {
    /// Ready once the deadline has come.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let deadline = deadline.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It was set for an earlier request.
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_fires_at_each_requests_deadline_whatever_it_was_set_for_before() {
        let (mut timer, start) = (SharedTimer::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, fires) in [(20, false), (60_000, false), (30, false), (40, true), (10, true), (60, true), (50, true)] {
            if fires {
                poll_fn(|cx| timer.poll(cx, at(ms))).await;
                assert!(Instant::now() >= at(ms));
            } else {
                assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, at(ms)))).await.is_pending());
            }
        }
    }
}
