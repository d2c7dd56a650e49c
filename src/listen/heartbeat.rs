//! A timer that is due before every other, while requests come in.
//!
//! When a timer becomes the next one due, tokio writes to an eventfd, so that a thread in `epoll_wait` recomputes how long to
//! sleep; it does so even when that very thread sets the timer. Every request sets some (its deadline at the store, the
//! upstream's response, the connection's next head). With one that is always due before them, none of them is the next one
//! (measured with one connection: 3 writes and 1.4 waits a request less).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Below every timeout that a request sets. Without requests the timer stops.
const EVERY: Duration = Duration::from_millis(40);

/// One worker's.
#[derive(Debug, Default)]
pub struct Heartbeat {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    beating: Cell<bool>,
    /// Whether a request came in since the last beat.
    wanted: Cell<bool>,
}

impl Heartbeat {
    /// Keeps the timer running for a while; called with every request, on the worker's own runtime.
    pub fn keep(&self) {
        self.state.wanted.set(true);
        if !self.state.beating.replace(true) {
            tokio::task::spawn_local(beat(self.state.clone()));
        }
    }
}

async fn beat(state: Rc<State>) {
    while state.wanted.replace(false) {
        tokio::time::sleep(EVERY).await;
    }
    state.beating.set(false);
}
