//! Signals to the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// To be taken at the start: until then a signal ends the process at once.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal, or an operator's request, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalled {
    /// SIGHUP.
    Reload,
    /// SIGTERM: drain with the delay, since load balancers have to notice first.
    Leave,
    /// `POST /drain`: the same, but the process runs on until it gets a signal.
    Drain,
    /// SIGINT, from a person: drain without the delay.
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

    /// Waits for another signal that asks for the end.
    pub async fn end_again(&mut self) {
        while self.next().await == Signalled::Reload {}
    }
}
