//! Workers: one thread each, with a runtime, a gate, upstream pools and a store connection of its own, so that a request
//! meets no lock and wakes no other thread on its way.

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
use super::live::{Context, Live};
use crate::observe::metrics::Counted;

/// How long the process's end waits for clients to take the status that their streams close with.
const CLOSING: Duration = Duration::from_millis(250);
const CLOSING_TICK: Duration = Duration::from_millis(5);

/// A connection on its way to a worker. Bounded by the number of open connections, so the queue needs no bound of its own.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: IpAddr,
    pub counted: Counted,
}

/// What is done on the worker's thread at a reload: what it serves by from now on, made of what it served by before.
pub type Renewal = Box<dyn FnOnce(&Context) -> Context + Send>;

/// What a worker is told; done in the order in which it was said.
enum Order {
    Serve(Accepted),
    Renew(Renewal, oneshot::Sender<()>),
    /// To be answered at once, by a worker that is well.
    Respond(oneshot::Sender<()>),
    /// No connection follows: the thread ends with the last one that is open.
    End,
}

/// A thread that serves, as the accept loop and the process see it.
pub struct Worker {
    orders: UnboundedSender<Order>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread and waits until it serves; `context` is made on it, since what it holds stays there.
    pub fn start<F>(index: usize, drain: Watch, context: F) -> io::Result<Self>
    where
        F: FnOnce() -> Context + Send + 'static,
    {
        let (orders, told_to) = unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let (tell, told) = mpsc::channel();
        let counter = open.clone();
        let run = move || {
            // Tasks of a local runtime need not be `Send`, and waking one of them wakes no driver (measured: half an eventfd
            // write a request less than with a `LocalSet`).
            match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Err(error) => drop(tell.send(Err(error))),
                Ok(runtime) => runtime.block_on(async move {
                    let serving = Serving { live: Rc::new(Live::new(context())), open: counter, drain };
                    let _ = tell.send(Ok(()));
                    serving.run(told_to).await;
                }),
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended before it served")))?;
        Ok(Self { orders, open, thread })
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives the worker a connection; it counts at once, so that a burst spreads.
    pub fn give(&self, accepted: Accepted) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.orders.send(Order::Serve(accepted)).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            error!("a worker is gone; its connection was dropped");
        }
    }

    /// Every request that begins after this has resolved is served by what `renewal` made. An error: the worker has ended.
    pub fn renew(&self, renewal: Renewal) -> oneshot::Receiver<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.orders.send(Order::Renew(renewal, done));
        when_done
    }

    /// Resolves when the worker comes round to it. An error: the worker has ended.
    pub fn responds(&self) -> oneshot::Receiver<()> {
        let (here, when_here) = oneshot::channel();
        let _ = self.orders.send(Order::Respond(here));
        when_here
    }

    /// No connection will be given any more.
    pub fn end(&self) {
        let _ = self.orders.send(Order::End);
    }

    /// Whether the thread has ended, which it does only after draining.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The worker's own side.
struct Serving {
    live: Rc<Live>,
    open: Arc<AtomicUsize>,
    drain: Watch,
}

impl Serving {
    /// Does what it is told until no connection follows and none is left, or what is left is cut: it ends with the runtime.
    async fn run(self, mut orders: UnboundedReceiver<Order>) {
        let mut connections = JoinSet::new();
        let (mut leaving, mut ending) = (self.drain.clone(), self.drain.clone());
        let (mut more, mut told) = (true, true);
        while more || !connections.is_empty() {
            let order = tokio::select! {
                order = orders.recv(), if told => order,
                () = leaving.leaving(), if !self.live.is_leaving() => {
                    self.live.leave();
                    continue;
                }
                () = ending.cut() => return self.cut().await,
                Some(_) = connections.join_next() => continue,
            };
            match order {
                Some(Order::Serve(accepted)) => self.serve(accepted, &mut connections),
                Some(Order::Renew(renewal, done)) => {
                    self.live.renew(renewal);
                    let _ = done.send(());
                }
                Some(Order::Respond(here)) => drop(here.send(())),
                Some(Order::End) => more = false,
                None => (more, told) = (false, false),
            }
        }
    }

    /// Ends all that is open. The runtime takes it down, once what closes with a status has been written.
    async fn cut(&self) {
        let closing = self.live.cut();
        if closing.is_empty() {
            return;
        }
        let closed = async {
            while closing.iter().any(|request| request.strong_count() > 0) {
                sleep(CLOSING_TICK).await;
            }
            // Its connection's own turn comes behind it.
            sleep(CLOSING_TICK).await;
        };
        let _ = timeout(CLOSING, closed).await;
    }

    fn serve(&self, Accepted { stream, peer, counted }: Accepted, connections: &mut JoinSet<()>) {
        let one = Open(self.open.clone());
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
        let (live, drain) = (self.live.clone(), self.drain.clone());
        connections.spawn_local(async move {
            connection::serve(live, stream, peer, drain).await;
            drop((one, counted));
        });
    }
}

/// One of a worker's open connections, until dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
