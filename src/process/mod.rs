//! One process of sidegate, from its settings to its exit: everything that can fail happens in `bind`, then `run` serves until
//! it is told to end.
//!
//! `shared` makes the workers' contexts, `reload` replaces them, `counting` flushes usage counts, `signals` receives signals,
//! `systemd` sends notifications. `webhook` is another kind of process: the admission webhook that injects gates.

mod counting;
mod reload;
mod shared;
mod signals;
mod start_error;
mod systemd;
pub mod webhook;

use std::future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use self::reload::{Running, publish};
use self::shared::{Prepared, Shared, StoreHandle};
use self::signals::{Signalled, Signals};
pub use self::start_error::StartError;
use crate::admin::{self, Admin, ListenerKind};
use crate::config::Settings;
use crate::gate::{SharedState, UnknownNames};
use crate::listen;
use crate::listen::accept::{self, Capacity};
use crate::listen::drain::{self, Signal};
use crate::listen::pulse::Pulse;
use crate::listen::settings::Drain;
use crate::listen::worker::Worker;
use crate::observe::{AccessLog, Metrics};
use crate::reload::Watch;

/// How long workers may take to drop open requests after the deadline.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// How long a worker may be silent before `/livez` fails, unless systemd's watchdog sets the time.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to check whether they have ended.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// A process that is ready to serve.
pub struct Process {
    listener: TcpListener,
    admin: TcpListener,
    probes: Option<TcpListener>,
    prepared: Prepared,
    store: StoreHandle,
    shared: SharedState,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
}

impl Process {
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let store = StoreHandle::open(&settings.store)?;
        let prepared = Prepared::new(settings, None, &store)?;
        let settings = &prepared.settings;
        let access_log = Arc::new(AccessLog::start(&settings.observe)?);
        let (policy, hash, health) = (&settings.policy, &settings.hash, store.health());
        let unknown = Arc::new(UnknownNames::new()?);
        let metrics = Metrics::new(policy, hash, store.calls(), &unknown, health, access_log.dropped())?;
        let (fallback, rules) = (store.fallback(settings.store.limits_outage), Arc::default());
        // `Shared::new` makes the rest from the settings, now and at each reload.
        let shared = SharedState { fallback, known: None, guessing: None, rules, unknown };
        Ok(Self {
            listener: bind("listen", settings.listen.address)?,
            admin: bind("admin", settings.admin.admin)?,
            probes: settings.admin.probes.map(|address| bind("probes", address)).transpose()?,
            prepared,
            store,
            shared,
            metrics: Arc::new(metrics),
            access_log,
        })
    }

    /// The listener's address, with the actual port if 0 is configured.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until SIGTERM or SIGINT, then drains. With a `watch` the configuration is read again on SIGHUP and when its
    /// content has changed.
    pub fn run(self, watch: Option<Watch>) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(self.serve(watch))
    }

    async fn serve(self, watch: Option<Watch>) -> Result<(), StartError> {
        let mut signals = Signals::take()?;
        let (signal, drain) = drain::channel();
        let Self { listener, admin, probes, prepared, store, shared, metrics, access_log } = self;
        let shared = Shared::new(&prepared, &shared, metrics.clone(), access_log.clone());
        let Prepared { settings, tls, .. } = prepared;
        info!(address = %listener.local_addr()?, tls = tls.is_some(), "listening");
        info!(address = %admin.local_addr()?, "operators listening");
        if let Some(probes) = &probes {
            info!(address = %probes.local_addr()?, "probes listening");
        }
        publish(&settings, tls.as_ref(), &metrics, &access_log);
        let needs_store = if settings.admin.ready_needs_store { store.health() } else { None };
        store.health().iter().for_each(|health| health.need(settings.policy.enforces()));
        let asked_to_drain = Arc::new(Notify::new());
        let pulse = Pulse::patient(systemd::watchdog_timeout().unwrap_or(PATIENCE));
        let answers = Admin {
            metrics: metrics.clone(),
            needs_store,
            drain: drain.clone(),
            asked_to_drain: asked_to_drain.clone(),
            app: settings.admin.app.clone(),
            pulse: pulse.clone(),
        };
        serve_operators(answers, admin, probes);
        let start = |index| Worker::start(index, drain.clone(), shared.clone().context(store.clone()));
        let workers: Arc<[Worker]> = (0..settings.listen.workers).map(start).collect::<io::Result<_>>()?;
        listen::descriptors::raise(&settings.listen);
        let capacity = Arc::new(Capacity::new(&settings.listen));
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = tokio::spawn(accept::run(listener, workers.clone(), capacity.clone(), metrics.clone(), drain));
        let accepts = accepting.abort_handle();
        tokio::spawn(systemd::watchdog(workers.clone()));
        tokio::task::spawn_local(pulse.watch(workers.clone(), metrics));
        systemd::ready();
        let mut counting = store.count();

        let mut running = Running { settings, shared, store, workers, capacity };
        let asked = serve_until_asked(&mut running, &mut signals, &asked_to_drain, watch).await;
        let limits = running.settings.listen.drain.clone();
        let deadline = Instant::now() + limits.delay + limits.deadline;
        let (may_end, told_to_end) = oneshot::channel();
        let ended = async {
            leave(asked, &signal, &limits, accepting, &running.workers).await;
            counting.finish(deadline).await;
            let _ = told_to_end.await;
        };
        let asked_again = async {
            if asked == Signalled::Drain {
                signals.end_again().await;
            }
            systemd::stopping();
            // An error: it has ended meanwhile.
            let _ = may_end.send(());
            signals.end_again().await;
        };
        tokio::select! {
            () = ended => {}
            () = asked_again => {
                warn!("asked to end a second time: what is still open ends now");
                accepts.abort();
                cut(&signal, &running.workers).await;
                counting.finish(Instant::now()).await;
            }
        }
        running.shared.access_log.flush();
        Ok(())
    }
}

/// Serves operators until the runtime ends, also while draining.
fn serve_operators(answers: Admin, admin: TcpListener, probes: Option<TcpListener>) {
    let answers = Rc::new(answers);
    for (kind, listener) in [(ListenerKind::Admin, Some(admin)), (ListenerKind::Probes, probes)] {
        let Some(listener) = listener else { continue };
        tokio::task::spawn_local(admin::serve(answers.clone(), kind, listener));
    }
}

/// Reloads when asked to, or when the configuration has changed, until asked to end.
async fn serve_until_asked(
    running: &mut Running,
    signals: &mut Signals,
    asked_to_drain: &Notify,
    mut watch: Option<Watch>,
) -> Signalled {
    loop {
        let changed = async {
            match &watch {
                Some(watch) => watch.changed().await,
                None => future::pending().await,
            }
        };
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = asked_to_drain.notified() => Signalled::Drain,
            () = changed => Signalled::Reload,
        };
        match (asked, &mut watch) {
            (Signalled::Reload, Some(watch)) => running.reload(watch).await,
            (Signalled::Reload, None) => info!("there is no file to reload"),
            (Signalled::Leave | Signalled::Drain | Signalled::Close, _) => return asked,
        }
    }
}

/// Drains: not ready at once, no new connections after the delay, done when nothing is in flight or at the deadline.
async fn leave(asked: Signalled, signal: &Signal, limits: &Drain, accepting: JoinHandle<()>, workers: &[Worker]) {
    match asked {
        Signalled::Leave | Signalled::Drain => {
            info!("draining: not ready from now on");
            signal.leave(limits).await;
        }
        Signalled::Close | Signalled::Reload => signal.close(),
    }
    // The accept loop has given the backlog's connections to workers when it ends.
    let _ = accepting.await;
    workers.iter().for_each(Worker::end);
    if timeout(limits.deadline, all_ended(workers)).await.is_err() {
        warn!("the drain's deadline has passed; what is still open ends now");
        cut(signal, workers).await;
    }
}

/// Ends what is still open, so that it is logged. A worker that hangs is not waited for.
async fn cut(signal: &Signal, workers: &[Worker]) {
    signal.cut();
    if timeout(LAST_MOMENT, all_ended(workers)).await.is_err() {
        warn!("a worker does not respond; what it served is not logged");
    }
}

async fn all_ended(workers: &[Worker]) {
    while !workers.iter().all(Worker::has_ended) {
        sleep(CHECK_EVERY).await;
    }
}

/// `field`: what says the address, for an error.
fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // The standard library sets a backlog of 128, too small for a burst while the gate is busy; listening again changes only
        // that.
        rustix::net::listen(&listener, accept::BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| StartError::Bind { field, address, error })
}
