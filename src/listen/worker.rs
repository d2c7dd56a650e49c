//! Workers: one thread each, with a runtime, a gate, upstream pools and store connections of its own, so that a request takes no
//! contended lock and wakes no other thread.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::error;

use super::connection;
use super::drain::Watch;
use super::worker_state::{Context, WorkerState};
use crate::observe::metrics::Counted;

/// How long shutdown waits for clients to read the gRPC status that their streams close with.
const CLOSING: Duration = Duration::from_millis(250);
const CLOSING_TICK: Duration = Duration::from_millis(5);

/// A connection on its way to a worker. Bounded by the number of open connections, so the queue needs no bound of its own.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: IpAddr,
    pub counted: Counted,
}

/// A reload, run on the worker's thread: makes the new context from the former one.
pub type Reload = Box<dyn FnOnce(&Context) -> Context + Send>;

/// Commands to a worker, done in order.
enum Command {
    Serve(Accepted),
    Reload(Reload, oneshot::Sender<()>),
    /// A health check, answered at once by a worker that does not hang.
    Ping(oneshot::Sender<()>),
    /// No connection follows: the thread ends with the last open one.
    End,
}

/// A worker's handle, for the accept loop and the process.
pub struct Worker {
    commands: UnboundedSender<Command>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread and waits until it serves; `context` is made on it, since it is not `Send`.
    pub fn start<F>(index: usize, drain: Watch, context: F) -> io::Result<Self>
    where
        F: FnOnce() -> Context + Send + 'static,
    {
        let (commands, receiver) = unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let (sender, started) = mpsc::channel();
        let counter = open.clone();
        let run = move || {
            // Tasks of a local runtime need not be `Send`, and waking one of them wakes no driver (measured: half an eventfd
            // write a request less than with a `LocalSet`).
            match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Err(error) => drop(sender.send(Err(error))),
                Ok(runtime) => runtime.block_on(async move {
                    let worker_loop =
                        WorkerLoop { worker_state: Rc::new(WorkerState::new(context())), open: counter, drain };
                    let _ = sender.send(Ok(()));
                    worker_loop.run(receiver).await;
                }),
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended before it served")))?;
        Ok(Self { commands, open, thread })
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives the worker a connection, which counts at once, so that a burst is spread.
    pub fn give(&self, accepted: Accepted) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.commands.send(Command::Serve(accepted)).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            error!("a worker is gone; its connection was dropped");
        }
    }

    /// Every request that begins after this has resolved is served by the new context. An error: the worker has ended.
    pub fn reload(&self, make: Reload) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.commands.send(Command::Reload(make, done));
        when_done
    }

    /// Resolves once the worker has handled it. An error: the worker has ended.
    pub fn ping(&self) -> oneshot::Receiver<()> {
        let (pong, when_handled) = oneshot::channel();
        let _ = self.commands.send(Command::Ping(pong));
        when_handled
    }

    /// No connection will be given any more.
    pub fn end(&self) {
        let _ = self.commands.send(Command::End);
    }

    /// Whether the thread has ended, which it does only after draining.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The worker's own side.
struct WorkerLoop {
    worker_state: Rc<WorkerState>,
    open: Arc<AtomicUsize>,
    drain: Watch,
}

impl WorkerLoop {
    /// Handles commands until no connection follows and none is left, or until draining cuts off what is left, which ends with
    /// the runtime.
    async fn run(self, mut commands: UnboundedReceiver<Command>) {
        let mut connections = JoinSet::new();
        let (mut leaving, mut ending) = (self.drain.clone(), self.drain.clone());
        let (mut more, mut has_sender) = (true, true);
        while more || !connections.is_empty() {
            let order = tokio::select! {
                command = commands.recv(), if has_sender => command,
                () = leaving.leaving(), if !self.worker_state.is_leaving() => {
                    self.worker_state.leave();
                    continue;
                }
                () = ending.cut() => return self.cut().await,
                Some(_) = connections.join_next() => continue,
            };
            match order {
                Some(Command::Serve(accepted)) => self.serve(accepted, &mut connections),
                Some(Command::Reload(make, done)) => {
                    self.worker_state.reload(make);
                    let _ = done.send(());
                }
                Some(Command::Ping(pong)) => drop(pong.send(())),
                Some(Command::End) => more = false,
                None => (more, has_sender) = (false, false),
            }
        }
    }

    /// Ends what is open: waits until gRPC statuses are written; the rest is dropped with the runtime.
    async fn cut(&self) {
        let closing = self.worker_state.cut();
        if closing.is_empty() {
            return;
        }
        let closed = async {
            while closing.iter().any(|request| request.strong_count() > 0) {
                sleep(CLOSING_TICK).await;
            }
            // The connection's task writes it after that.
            sleep(CLOSING_TICK).await;
        };
        let _ = timeout(CLOSING, closed).await;
    }

    fn serve(&self, Accepted { stream, peer, counted }: Accepted, connections: &mut JoinSet<()>) {
        let guard = OpenConnection(self.open.clone());
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
        let (worker_state, drain) = (self.worker_state.clone(), self.drain.clone());
        connections.spawn_local(async move {
            connection::serve(worker_state, stream, peer, drain).await;
            drop((guard, counted));
        });
    }
}

/// Counts one of a worker's open connections, until dropped.
struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
