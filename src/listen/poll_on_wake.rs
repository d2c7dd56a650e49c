//! Polls a future only when it has woken. Drains, timers and disconnects are rare, and a task that waits for them beside its work
//! would otherwise poll all of them whenever its work goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Remembers whether what was polled through it has woken since.
#[derive(Debug, Default)]
pub struct PollOnWake {
    /// The flag, and the waker that raises it.
    flag: Option<(Arc<WakeFlag>, Waker)>,
}

/// Wakes the task, and records that it was this future that woke it.
#[derive(Debug)]
struct WakeFlag {
    raised: AtomicBool,
    task: Waker,
}

impl PollOnWake {
    /// Polls if there was a wake-up since the last poll, else it is pending. After it was ready it is polled again the next time.
    pub fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let (flag, waker) = match &self.flag {
            Some((flag, waker)) if flag.task.will_wake(cx.waker()) => {
                if !flag.raised.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                (flag, waker)
            }
            _ => {
                let flag = Arc::new(WakeFlag { raised: AtomicBool::default(), task: cx.waker().clone() });
                let (flag, waker) = self.flag.insert((flag.clone(), flag.into()));
                (&*flag, &*waker)
            }
        };
        // Before the poll, so that a wake-up during it is not lost.
        flag.raised.swap(false, Ordering::AcqRel);
        let polled = poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            self.raise();
        }
        polled
    }

    /// Has it polled the next time even without a wake-up.
    pub fn raise(&self) {
        if let Some((flag, _)) = &self.flag {
            flag.raised.store(true, Ordering::Release);
        }
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raised.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_has_woken_is_polled_and_its_task_with_it() {
        let task = Arc::new(Woken::default());
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        let (mut on_wake, mut asked, mut its_own) = (PollOnWake::default(), 0, None);
        for _ in 0..3 {
            let polled: Poll<()> = on_wake.poll(&mut cx, |cx| {
                asked += 1;
                its_own = Some(cx.waker().clone());
                Poll::Pending
            });
            assert!(polled.is_pending());
        }
        assert_eq!(asked, 1);
        its_own.expect("it was polled").wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(on_wake.poll(&mut cx, |_| Poll::Ready(())).is_ready());
        assert!(on_wake.poll(&mut cx, |_| Poll::Ready(())).is_ready(), "what was ready is polled again");
        assert!(on_wake.poll(&mut cx, |_| Poll::<()>::Pending).is_pending());
        on_wake.raise();
        assert!(on_wake.poll(&mut cx, |_| Poll::Ready(())).is_ready());
    }

    #[test]
    fn another_task_is_woken_from_its_first_poll_on() {
        let tasks = [Arc::new(Woken::default()), Arc::new(Woken::default())];
        let (mut on_wake, mut its_own) = (PollOnWake::default(), None);
        for task in &tasks {
            let polled: Poll<()> = on_wake.poll(&mut Context::from_waker(&Waker::from(task.clone())), |cx| {
                its_own = Some(cx.waker().clone());
                Poll::Pending
            });
            assert!(polled.is_pending());
        }
        its_own.expect("it was polled").wake();
        assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
    }
}
