//! What operators and supervisors say to the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Taken from the start on: until a signal is taken, it ends the process at once.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalled {
    /// SIGHUP.
    Reload,
    /// SIGTERM: those who send requests have yet to learn that this process ends.
    Leave,
    /// `POST /drain`: the same, but the process stays until a signal asks for its end.
    Drain,
    /// SIGINT, a person's: nobody else has to learn of it.
    Close,
}

impl Signals {
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.hangup.recv() => Signalled::Reload,
            _ = self.terminate.recv() => Signalled::Leave,
            _ = self.interrupt.recv() => Signalled::Close,
        }
    }

    /// Somebody who has asked for the end asks once more.
    pub async fn end_again(&mut self) {
        while self.next().await == Signalled::Reload {}
    }
}
