//! The stages of a process's end, told to everything that serves: not ready, no more connections, then none left, or what is left
//! is cut.

use tokio::sync::watch;

use super::settings::Drain;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// Not ready, but what comes is still served: those who send it have yet to learn.
    Leaving,
    /// No new connection; each that is open ends after what is in flight on it.
    Closing,
    /// What has not ended by now is cut off.
    Cut,
}

/// Told by whoever ends the process.
#[derive(Debug, Clone)]
pub struct Signal(watch::Sender<Stage>);

/// Held by whoever serves.
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
        // Without a signal nobody is left who could want more of this process.
        let _ = self.0.wait_for(|stage| *stage >= Stage::Closing).await;
    }

    /// Resolves once what is open is to end as it stands.
    pub async fn cut(&mut self) {
        let _ = self.0.wait_for(|stage| *stage == Stage::Cut).await;
    }
}
