//! The stages of a graceful shutdown, signalled to everything that serves: not ready, no new connections, then what is left is
//! cut off.

use tokio::sync::watch;

use super::settings::Drain;

/// The stage of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// Not ready, but still accepting: load balancers take a while to notice.
    Leaving,
    /// No new connection; each that is open ends after what is in flight on it.
    Closing,
    /// The deadline has passed: open connections are dropped.
    Cut,
}

/// The sender, for the task that ends the process.
#[derive(Debug, Clone)]
pub struct Signal(watch::Sender<Stage>);

/// The receiver, for tasks that serve.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Stage>);

pub fn channel() -> (Signal, Watch) {
    let (sender, receiver) = watch::channel(Stage::Serving);
    (Signal(sender), Watch(receiver))
}

impl Signal {
    /// Waits out the delay, then closes.
    pub async fn leave(&self, drain: &Drain) {
        self.0.send_replace(Stage::Leaving);
        tokio::time::sleep(drain.delay).await;
        self.close();
    }

    pub fn close(&self) {
        self.0.send_replace(Stage::Closing);
    }

    pub fn cut(&self) {
        self.0.send_replace(Stage::Cut);
    }
}

impl Watch {
    pub fn is_serving(&self) -> bool {
        *self.0.borrow() == Stage::Serving
    }

    /// Resolves once the process is to end.
    pub async fn leaving(&mut self) {
        let _ = self.0.wait_for(|stage| *stage >= Stage::Leaving).await;
    }

    /// Resolves once no new work is to begin.
    pub async fn closing(&mut self) {
        // Also when the sender was dropped: the process ends then.
        let _ = self.0.wait_for(|stage| *stage >= Stage::Closing).await;
    }

    /// Resolves once open connections are to be dropped.
    pub async fn cut(&mut self) {
        let _ = self.0.wait_for(|stage| *stage == Stage::Cut).await;
    }
}
