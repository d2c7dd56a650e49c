//! What workers serve by: the parts that all of them share, and each one's own made of them.

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

/// What is made of settings and can fail: all of it is made before any of it acts.
pub struct Prepared {
    pub settings: Settings,
    pub tls: Option<Acceptor>,
    /// By `UpstreamId`.
    pub connectors: Arc<[Connector]>,
    /// To the thread that manages keys, which ends when nothing leads to it any more.
    pub management: Option<ManagementQueue>,
}

impl Prepared {
    /// Reads every file that the settings name; `former` is what the listener's TLS was before a reload.
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
            // They are read for every connection; what is wrong with them is said at once.
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

/// Begins to manage keys by these settings. What manages them has its own connections to the store.
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
    /// `former`: what the gates had in common so far.
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

    /// One worker's own, made on its thread: connections belong to the runtime that they start on.
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

    /// The same over what the worker has: its connection to the store, the keys that it knows, pools that stay as they are.
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

/// What the workers' gates share. What the settings leave as it was keeps what it knows and has counted.
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

/// What every worker makes its own store from.
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
            Backend::File(file) => Self::File { file: alone(file)?, calls: shared.calls },
        })
    }

    pub fn health(&self) -> Option<Arc<StoreHealth>> {
        match self {
            Self::Redis { shared, .. } => Some(shared.health.clone()),
            Self::File { .. } => None,
        }
    }

    /// What limits do while it is away.
    pub fn fallback(&self, outage: LimitsOutage) -> Arc<Fallback> {
        Arc::new(Fallback::new(outage, self.calls().clone()))
    }

    pub fn calls(&self) -> &Arc<Calls> {
        match self {
            Self::Redis { shared, .. } => &shared.calls,
            Self::File { calls, .. } => calls,
        }
    }

    /// Where use is gathered; a file has no place for it.
    fn ledger(&self) -> Option<Arc<Ledger>> {
        match self {
            Self::Redis { shared, .. } => Some(shared.ledger.clone()),
            Self::File { .. } => None,
        }
    }

    /// Starts to send the use that workers count.
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

/// The store in a file, which is one process's: whoever shares it is told what that means.
fn alone(path: &Path) -> Result<Arc<FileStore>, StartError> {
    let file = FileStore::open(path).map_err(|error| StartError::Store { file: path.to_owned(), error })?;
    if !file.claim() {
        warn!(
            path = %path.display(),
            "another process serves by this file too, and each counts limits for itself; run one, or keep keys in Redis"
        );
    }
    Ok(file)
}
