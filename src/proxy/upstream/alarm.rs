//! How long an answer is waited for, by one timer for all the requests on a connection: each request says when it is to ring, and
//! it is set anew only once it rings. To set a timer for each request and to take it back costs as much as to write its head.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Set for some deadline that may be past, and for none before its first use.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
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
            // It was still set for an earlier request.
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
    async fn it_rings_when_each_request_wants_it_whatever_it_was_set_for_before() {
        let (mut alarm, start) = (Alarm::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, rings) in [(20, false), (60_000, false), (30, false), (40, true), (10, true), (60, true), (50, true)] {
            if rings {
                poll_fn(|cx| alarm.poll(cx, at(ms))).await;
                assert!(Instant::now() >= at(ms));
            } else {
                assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, at(ms)))).await.is_pending());
            }
        }
    }
}
