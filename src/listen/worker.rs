//! Workers: one thread each, with a runtime, a gate, upstream pools and a store connection of its own, so that a request
//! meets no lock and wakes no other thread on its way.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tracing::error;

use super::connection::{self, Context};
use super::drain::Watch;
use crate::observe::metrics::Counted;

/// A connection on its way to a worker. Bounded by the number of open connections, so the queue needs no bound of its own.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: IpAddr,
    pub counted: Counted,
}

/// A thread that serves, as the accept loop sees it.
pub struct Worker {
    queue: UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread and waits until it serves; `context` is made on it, since what it holds stays there.
    pub fn start<F>(index: usize, drain: Watch, context: F) -> io::Result<Self>
    where
        F: FnOnce() -> Context + Send + 'static,
    {
        let (queue, accepted) = unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let (tell, told) = mpsc::channel();
        let counter = open.clone();
        let run = move || {
            // Tasks of a local runtime need not be `Send`, and waking one of them wakes no driver (measured: half an eventfd
            // write a request less than with a `LocalSet`).
            match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Err(error) => drop(tell.send(Err(error))),
                Ok(runtime) => runtime.block_on(async move {
                    let context = Rc::new(context());
                    let _ = tell.send(Ok(()));
                    serve(context, accepted, &counter, drain).await;
                }),
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended before it served")))?;
        Ok(Self { queue, open, thread })
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives the worker a connection; it counts at once, so that a burst spreads.
    pub fn give(&self, accepted: Accepted) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.queue.send(accepted).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            error!("a worker is gone; its connection was dropped");
        }
    }

    /// Whether the thread has ended, which it does only after draining.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Takes connections until draining closes, then waits for those that are open.
async fn serve(context: Rc<Context>, mut accepted: UnboundedReceiver<Accepted>, open: &Arc<AtomicUsize>, drain: Watch) {
    let mut connections = JoinSet::new();
    let mut closing = drain.clone();
    loop {
        let next = tokio::select! {
            next = accepted.recv() => next,
            () = closing.closing() => None,
            Some(_) = connections.join_next() => continue,
        };
        let Some(Accepted { stream, peer, counted }) = next else { break };
        let one = Open(open.clone());
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { continue };
        let (context, drain) = (context.clone(), drain.clone());
        connections.spawn_local(async move {
            connection::serve(context, stream, peer, drain).await;
            drop((one, counted));
        });
    }
    while connections.join_next().await.is_some() {}
}

/// One of a worker's open connections, until dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
