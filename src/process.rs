//! One process of sidegate, from its settings to its exit: everything that can fail happens in `bind`, then `run` serves until
//! it is told to end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::config::Settings;
use crate::gate::{Commons, Gate, Guessing, KnownKeys};
use crate::listen::connection::Context;
use crate::listen::drain::{self, Signal, Watch};
use crate::listen::heartbeat::Heartbeat;
use crate::listen::tls::{Acceptor, TlsError};
use crate::listen::worker::Worker;
use crate::listen::{self, accept};
use crate::observe::{AccessLog, Metrics};
use crate::policy::Policy;
use crate::proxy::connector::{Connector, ConnectorError};
use crate::proxy::request_id::RequestIds;
use crate::proxy::{self, Service, Streams, Upstreams, upstream};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::file::FileStore;
use crate::store::health::StoreHealth;
use crate::store::redis::RedisStore;
use crate::store::settings::{Backend, KeysOutage, StoreSettings};
use crate::store::{self, Store, StoreError};

/// Why the process cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{address} cannot be listened on: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("listen.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("upstream: {0}")]
    Upstream(#[from] ConnectorError),
    #[error("{}: {error}", file.display())]
    Store { file: PathBuf, error: StoreError },
    #[error("store.tls: {0}")]
    RedisTls(#[from] crate::store::redis::tls::TlsError),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A process that has everything it needs.
pub struct Process {
    listener: TcpListener,
    admin: TcpListener,
    probes: Option<TcpListener>,
    tls: Option<Acceptor>,
    connectors: Arc<[Connector]>,
    store: StoreHandle,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    settings: Settings,
}

/// What every worker makes its own store from.
#[derive(Clone)]
enum StoreHandle {
    Redis { settings: Box<crate::store::redis::Settings>, shared: store::Shared },
    File { file: Arc<FileStore>, calls: Arc<Calls> },
}

impl Process {
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let store = StoreHandle::open(&settings.store)?;
        let tls = settings.listen.tls.as_ref().map(Acceptor::new).transpose()?;
        let connectors = upstream::connectors(&settings.proxy.upstreams)?.into();
        let access_log = Arc::new(AccessLog::start(&settings.observe)?);
        let metrics =
            Metrics::new(&settings.policy, &settings.hash, store.calls(), store.health(), access_log.dropped())?;
        Ok(Self {
            listener: bind(settings.listen.address)?,
            admin: bind(settings.admin.admin)?,
            probes: settings.admin.probes.map(bind).transpose()?,
            tls,
            connectors,
            store,
            metrics: Arc::new(metrics),
            access_log,
            settings,
        })
    }

    /// Where clients connect: the port that was given where the configuration says 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where operators look.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub fn run(self) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), StartError> {
        let (signal, watch) = drain::channel();
        let Self { listener, admin, probes, tls, connectors, store, metrics, access_log, settings } = self;
        let settings = Shared {
            commons: commons(&settings),
            listen: Arc::new(settings.listen),
            proxy: Arc::new(settings.proxy),
            policy: settings.policy,
            store_deadline: settings.store.deadline,
            admin: settings.admin,
            metrics: metrics.clone(),
            access_log,
            store,
            tls,
            connectors,
        };
        info!(address = %listener.local_addr()?, tls = settings.tls.is_some(), "listening");
        info!(address = %admin.local_addr()?, "operators listening");
        let needs_store = if settings.admin.ready_needs_store { settings.store.health() } else { None };
        let answers = Arc::new(Admin { metrics: metrics.clone(), needs_store, drain: watch.clone() });
        for listener in [Some(admin), probes].into_iter().flatten() {
            tokio::spawn(admin::serve(answers.clone(), listener));
        }
        drop(answers);
        let workers = settings.start_workers(&watch)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let most = settings.listen.bounds.connections;
        let accepting = tokio::spawn(accept::run(listener, workers.clone(), most, metrics, watch));
        wait_for_the_end(&signal, &settings.listen.drain).await?;
        // The listener closes with the accept loop, so that nothing comes in any more.
        let _ = accepting.await;
        end(&workers, &settings.listen.drain).await;
        Ok(())
    }
}

/// What all workers share.
struct Shared {
    policy: Arc<Policy>,
    listen: Arc<listen::settings::Settings>,
    proxy: Arc<proxy::settings::Settings>,
    admin: admin::settings::Settings,
    store: StoreHandle,
    store_deadline: std::time::Duration,
    commons: Commons,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    tls: Option<Acceptor>,
    connectors: Arc<[Connector]>,
}

impl Shared {
    fn start_workers(&self, drain: &Watch) -> io::Result<Arc<[Worker]>> {
        (0..self.listen.workers).map(|index| Worker::start(index, drain.clone(), self.context())).collect()
    }

    /// One worker's own, made on its thread: connections belong to the runtime that they start on.
    fn context(&self) -> impl FnOnce() -> Context + Send + use<> {
        let (policy, commons, store) = (self.policy.clone(), self.commons.clone(), self.store.clone());
        let (listen, settings, tls) = (self.listen.clone(), self.proxy.clone(), self.tls.clone());
        let connectors = self.connectors.clone();
        let (metrics, access_log) = (self.metrics.clone(), self.access_log.clone());
        let deadline = self.store_deadline;
        move || {
            let gate = Rc::new(Gate::new(policy, store.start(&commons.fallback), commons, deadline));
            Context {
                service: Service {
                    streams: Streams::new(gate.clone(), settings.streams),
                    gate,
                    upstreams: Upstreams::new(&settings.upstreams, &connectors),
                    settings,
                    metrics,
                    access_log,
                    ids: RequestIds::default(),
                },
                settings: listen,
                tls,
                heartbeat: Heartbeat::default(),
            }
        }
    }
}

/// What the workers' gates share.
fn commons(settings: &Settings) -> Commons {
    let known = match settings.store.keys_outage {
        KeysOutage::Deny => None,
        KeysOutage::KnownFor(duration) => Some(Arc::new(KnownKeys::new(duration))),
    };
    Commons {
        fallback: Arc::new(Fallback::new(settings.store.limits_outage)),
        known,
        guessing: settings.policy.credentials.guessing.clone().map(|windows| Arc::new(Guessing::new(windows))),
    }
}

impl StoreHandle {
    fn open(settings: &StoreSettings) -> Result<Self, StartError> {
        let shared = store::Shared::new(settings.deadline)?;
        Ok(match &settings.backend {
            Backend::Redis(redis) => {
                if let Some(tls) = &redis.tls {
                    // They are read for every connection; what is wrong from the start is said at the start.
                    crate::store::redis::tls::client_config(tls)?;
                }
                Self::Redis { settings: redis.clone(), shared }
            }
            Backend::File(file) => Self::File {
                file: FileStore::open(file).map_err(|error| StartError::Store { file: file.clone(), error })?,
                calls: shared.calls,
            },
        })
    }

    fn health(&self) -> Option<Arc<StoreHealth>> {
        match self {
            Self::Redis { shared, .. } => Some(shared.health.clone()),
            Self::File { .. } => None,
        }
    }

    fn calls(&self) -> &Calls {
        match self {
            Self::Redis { shared, .. } => &shared.calls,
            Self::File { calls, .. } => calls,
        }
    }

    fn start(self, fallback: &Arc<Fallback>) -> Store {
        match self {
            Self::Redis { settings, shared } => Store::Redis(RedisStore::start(*settings, shared, fallback.clone())),
            Self::File { file, calls } => Store::File { file, calls },
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| StartError::Bind { address, error })
}

/// SIGTERM drains with its delay, so that those who send requests learn of it; SIGINT, a person's, at once.
async fn wait_for_the_end(signal_end: &Signal, drain: &listen::settings::Drain) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {
            info!("leaving: not ready from now on, then draining");
            tokio::select! {
                () = signal_end.leave(drain) => {}
                _ = terminate.recv() => signal_end.close(),
                _ = interrupt.recv() => signal_end.close(),
            }
        }
        _ = interrupt.recv() => signal_end.close(),
    }
    Ok(())
}

/// Waits until the workers have nothing left in flight; a second signal or the deadline ends that.
async fn end(workers: &[Worker], drain: &listen::settings::Drain) {
    let ended = async {
        while !workers.iter().all(Worker::has_ended) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let again = async {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(drain.deadline) => warn!("the drain's deadline has passed; what is still open ends now"),
        () = again => {}
    }
}
