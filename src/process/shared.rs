//! The parts that all workers share, and each worker's context made from them.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::counting::Counting;
use super::start_error::StartError;
use crate::clock;
use crate::config::Settings;
use crate::gate::records::Records;
use crate::gate::{Gate, Guessing, KnownKeys, SharedState};
use crate::listen;
use crate::listen::tls::Acceptor;
use crate::listen::worker::Reload;
use crate::listen::worker_state::Context;
use crate::manage;
use crate::manage::api::ApiParts;
use crate::observe::{AccessLog, Counts, Metrics};
use crate::policy::Policy;
use crate::proxy::connector::Connector;
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::UpstreamTls;
use crate::proxy::{self, ManagementQueue, OpenRequests, Service, Upstreams, upstream};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::file::FileStore;
use crate::store::health::StoreHealth;
use crate::store::outage::{KeysOutage, LimitsOutage};
use crate::store::redis::RedisStore;
use crate::store::settings::{Backend, StoreSettings};
use crate::store::usage::ledger::Ledger;
use crate::store::usage::tally::Tally;
use crate::store::{self, Store};

/// What is made from settings and can fail: all of it is made before any of it takes effect.
pub struct Prepared {
    pub settings: Settings,
    pub tls: Option<Acceptor>,
    /// By `UpstreamId`.
    pub connectors: Arc<[Connector]>,
    /// The queue of the management thread, which ends when all its queues are dropped.
    pub management: Option<ManagementQueue>,
}

impl Prepared {
    /// Reads every file that the settings name; `former`: the listener's TLS before a reload.
    pub fn new(settings: Settings, former: Option<&Acceptor>, store: &StoreHandle) -> Result<Self, StartError> {
        let acceptor = |tls| match former {
            Some(former) => former.renewed(tls, clock::now_ms()),
            None => Acceptor::new(tls),
        };
        let tls = settings.listen.tls.as_ref().map(acceptor).transpose()?;
        let connectors = upstream::connectors(&settings.proxy.upstreams)?.into();
        if let Backend::Redis(redis) = &settings.store.backend
            && let Some(tls) = &redis.tls
        {
            // The files are read for every connection; here only to report errors at once.
            store::redis::tls::client_config(tls)?;
        }
        let management = settings
            .management
            .as_ref()
            .map(|management| management_queue(&settings, management, store))
            .transpose()?;
        Ok(Self { settings, tls, connectors, management })
    }
}

/// Starts the management thread, which has its own connections to the store.
fn management_queue(
    settings: &Settings,
    management: &manage::settings::Settings,
    store: &StoreHandle,
) -> Result<ManagementQueue, StartError> {
    let session = Connector::to(&management.session.target, &UpstreamTls::default());
    let parts = ApiParts {
        session: session.map_err(StartError::Session)?,
        settings: management.clone(),
        policy: settings.policy.clone(),
        rules: settings.keys.clone(),
        store: settings.store.clone(),
    };
    let (store, fallback) = (store.clone(), store.fallback(settings.store.limits_outage));
    Ok(manage::open(parts, move || store.start(&fallback))?)
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    pub policy: Arc<Policy>,
    pub listen: Arc<listen::settings::Settings>,
    pub proxy: Arc<proxy::settings::Settings>,
    pub store_deadline: Duration,
    pub shared: SharedState,
    pub metrics: Arc<Metrics>,
    pub access_log: Arc<AccessLog>,
    pub tls: Option<Acceptor>,
    pub connectors: Arc<[Connector]>,
    pub management: Option<ManagementQueue>,
}

impl Shared {
    /// `former`: the gates' shared state so far.
    pub fn new(prepared: &Prepared, former: &SharedState, metrics: Arc<Metrics>, access_log: Arc<AccessLog>) -> Self {
        let Prepared { settings, tls, connectors, management } = prepared;
        Self {
            shared: shared(settings, former),
            listen: Arc::new(settings.listen.clone()),
            proxy: Arc::new(settings.proxy.clone()),
            policy: settings.policy.clone(),
            store_deadline: settings.store.deadline,
            metrics,
            access_log,
            tls: tls.clone(),
            connectors: connectors.clone(),
            management: management.clone(),
        }
    }

    /// The same after a reload.
    pub fn renewed(&self, prepared: &Prepared) -> Self {
        self.shared.fallback.reconfigure(prepared.settings.store.limits_outage);
        Self::new(prepared, &self.shared, self.metrics.clone(), self.access_log.clone())
    }

    /// A worker's context, made on its thread: connections belong to the runtime that they are opened on.
    pub fn context(self, store: StoreHandle) -> impl FnOnce() -> Context + Send {
        move || {
            let tally = store.ledger().map(Tally::start);
            let store = store.start(&self.shared.fallback);
            let gate = Gate::new(self.policy.clone(), store, self.shared.clone(), self.store_deadline);
            let gate = Rc::new(gate.counting(tally).remembering(Rc::new(Records::of_one_in(self.listen.workers))));
            let upstreams = self.upstreams();
            let open = OpenRequests::new(gate.clone(), self.proxy.streams, self.metrics.clone());
            self.with(gate, upstreams, open)
        }
    }

    /// The same at a reload, with the worker's store connections, cached keys, and unchanged pools.
    pub fn into_reload(self) -> Reload {
        Box::new(move |former| {
            let (policy, shared) = (self.policy.clone(), self.shared.clone());
            let gate = Rc::new(former.service.gate.renewed(policy, shared, self.store_deadline));
            let upstreams = self.upstreams().keeping(&former.service.upstreams);
            let open = former.service.open.clone();
            open.reconfigure(gate.clone(), self.proxy.streams);
            self.with(gate, upstreams, open)
        })
    }

    fn upstreams(&self) -> Upstreams {
        Upstreams::new(&self.proxy.upstreams, &self.connectors)
    }

    fn with(self, gate: Rc<Gate>, upstreams: Upstreams, open: Rc<OpenRequests>) -> Context {
        Context {
            service: Service {
                gate,
                upstreams,
                management: self.management,
                open,
                settings: self.proxy,
                counts: Counts::new(self.metrics),
                access_log: self.access_log,
                ids: RequestIds::default(),
            },
            settings: self.listen,
            tls: self.tls,
        }
    }
}

/// The gates' shared state. Parts whose settings are unchanged are kept, with their contents.
fn shared(settings: &Settings, former: &SharedState) -> SharedState {
    let known = match settings.store.keys_outage {
        KeysOutage::Deny => None,
        KeysOutage::KnownFor(duration) => {
            let same = former.known.clone().filter(|known| known.known_for() == duration);
            Some(same.unwrap_or_else(|| Arc::new(KnownKeys::new(duration))))
        }
    };
    let guessing = settings.policy.credentials.guessing.clone().map(|windows| {
        let same = former.guessing.clone().filter(|guessing| guessing.counts(&windows));
        same.unwrap_or_else(|| Arc::new(Guessing::new(windows)))
    });
    let (fallback, unknown) = (former.fallback.clone(), former.unknown.clone());
    SharedState { fallback, known, guessing, rules: Arc::new(settings.keys.clone()), unknown }
}

/// The process's store, from which every worker makes its own.
#[derive(Clone)]
pub enum StoreHandle {
    Redis { settings: Box<store::redis::Settings>, shared: store::Shared },
    File { file: Arc<FileStore>, calls: Arc<Calls> },
}

impl StoreHandle {
    pub fn open(settings: &StoreSettings) -> Result<Self, StartError> {
        let shared = store::Shared::new(settings.deadline)?;
        Ok(match &settings.backend {
            Backend::Redis(redis) => Self::Redis { settings: redis.clone(), shared },
            Backend::File(file) => Self::File { file: open_file(file)?, calls: shared.calls },
        })
    }

    pub fn health(&self) -> Option<Arc<StoreHealth>> {
        match self {
            Self::Redis { shared, .. } => Some(shared.health.clone()),
            Self::File { .. } => None,
        }
    }

    /// The fallback for limits during an outage.
    pub fn fallback(&self, outage: LimitsOutage) -> Arc<Fallback> {
        Arc::new(Fallback::new(outage, self.calls().clone()))
    }

    pub fn calls(&self) -> &Arc<Calls> {
        match self {
            Self::Redis { shared, .. } => &shared.calls,
            Self::File { calls, .. } => calls,
        }
    }

    /// The ledger of usage counts; none with the embedded store.
    fn ledger(&self) -> Option<Arc<Ledger>> {
        match self {
            Self::Redis { shared, .. } => Some(shared.ledger.clone()),
            Self::File { .. } => None,
        }
    }

    /// Starts the task that flushes usage counts.
    pub fn count(&self) -> Counting {
        match self {
            Self::Redis { settings, shared } => Counting::start(shared.ledger.clone(), (**settings).clone()),
            Self::File { .. } => Counting::default(),
        }
    }

    fn start(self, fallback: &Arc<Fallback>) -> Store {
        match self {
            Self::Redis { settings, shared } => Store::Redis(RedisStore::start(*settings, shared, fallback.clone())),
            Self::File { file, calls } => Store::File { file, calls },
        }
    }
}

/// Opens the embedded store, and warns if another process serves from the same file.
fn open_file(path: &Path) -> Result<Arc<FileStore>, StartError> {
    let file = FileStore::open(path).map_err(|error| StartError::Store { file: path.to_owned(), error })?;
    if !file.claim() {
        warn!(
            path = %path.display(),
            "another process serves by this file too, and each counts limits for itself; run one, or keep keys in Redis"
        );
    }
    Ok(file)
}
