//! The executor for hyper's tasks: connections stay on the worker that made them.

use hyper::rt::Executor;

/// Spawns the tasks of a connection and its streams on the current thread.
#[derive(Debug, Clone, Copy)]
pub struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
