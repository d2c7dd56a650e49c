//! Where hyper's tasks run: connections belong to the worker that made them.

use hyper::rt::Executor;

/// What hyper starts for a connection and its streams stays on the thread that it was made on.
#[derive(Debug, Clone, Copy)]
pub struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
