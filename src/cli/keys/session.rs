//! What the commands about keys and businesses work with: the configured store, who changes it, and where they read and write.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use clap::Args;

use crate::cli::exit::WRONG;
use crate::cli::out::Out;
use crate::config::Settings;
use crate::policy::Policy;
use crate::store::audit::{Actor, Origin};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::file::FileStore;
use crate::store::keyring::{Granting, Keyring, KeyringError, Requester};
use crate::store::redis::RedisStore;
use crate::store::registry::RegistryError;
use crate::store::settings::{Backend, StoreSettings};
use crate::store::{Shared, Store};

/// What the commands work with, as the configuration says it.
#[derive(Debug)]
pub struct KeysSetting {
    pub keyring: Keyring,
    pub policy: Option<Arc<Policy>>,
    pub store: Option<StoreSettings>,
}

/// Where a command reads and writes, who does it, and the time it takes for now.
pub struct Session<'a> {
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub actor: Actor,
    pub now_ms: u64,
}

/// Who changes something, for the audit.
#[derive(Debug, Args)]
pub struct By {
    /// Who does it, for the audit; without it the user of the system
    #[arg(long, value_name = "WHO", global = true)]
    actor: Option<String>,
}

/// Opens the configured store for one command. An error is a failure, too.
pub fn in_session(
    settings: Settings,
    actor: Actor,
    command: impl AsyncFnOnce(&KeysSetting, &mut Session<'_>) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let login = Login::of(&settings.store);
    let done = runtime.block_on(async {
        let formats = settings.policy.credentials.formats.clone();
        let keyring = Keyring::open(&settings.store, formats, settings.keys).await?;
        let setting = KeysSetting { keyring, policy: Some(settings.policy), store: Some(settings.store) };
        let now_ms = setting.keyring.registry.now_ms().await?;
        let (input, out, err) = (&mut BufReader::new(io::stdin()), &mut Out, &mut io::stderr());
        let mut session = Session { input, out, err, actor, now_ms };
        let code = command(&setting, &mut session).await;
        if let Some(error) = setting.keyring.take_audit_error().await {
            writeln!(session.err, "warning: what was changed acts, but is not in the audit: {error}")?;
        }
        code
    });
    done.map_err(|error| with_a_way_out(error, &login))
}

/// As whom a command reaches Redis.
struct Login {
    user: String,
    /// `management.redis` says it; else it is the gate's own.
    is_management: bool,
}

impl Login {
    fn of(store: &StoreSettings) -> Self {
        let gates = match &store.backend {
            Backend::Redis(redis) => Some(&**redis),
            Backend::File(_) => None,
        };
        let user = store.management_redis.as_deref().or(gates).and_then(|redis| redis.username.clone());
        Self { user: user.unwrap_or_else(|| "default".to_owned()), is_management: store.management_redis.is_some() }
    }
}

/// What to do about what Redis refuses: who logs in as the gate may not keep keys where the gate's login is as small as it can
/// be, and a Redis that has no memory left takes no change but those that take something away.
fn with_a_way_out(error: anyhow::Error, login: &Login) -> anyhow::Error {
    let says = |what: &str| error.chain().any(|cause| cause.to_string().contains(what));
    if says("NOPERM") {
        let user = &login.user;
        return error.context(match login.is_management {
            false => format!(
                "the login of the gate itself (user `{user}`) may not keep keys in Redis; name one that may as `management.redis`, \
                 or as `store.username` and `store.password` in a configuration for those who keep keys (`--config`)"
            ),
            true => format!(
                "the login of `management.redis` (user `{user}`) may not do this in Redis; README lists the commands that keeping keys needs"
            ),
        });
    }
    if says("OOM command not allowed") {
        return error.context(
            "Redis has no memory left to change anything; `keys delete` works, and so does `deny.keys` in the configuration",
        );
    }
    error
}

impl KeysSetting {
    /// The policy and the store that a gate with this configuration decides by, with the gate's own login.
    pub fn gate(&self) -> anyhow::Result<(&Policy, Store)> {
        let (Some(policy), Some(settings)) = (&self.policy, &self.store) else {
            anyhow::bail!("there is no configuration to decide by");
        };
        let store = gate_store(settings)?;
        Ok((policy, store))
    }

    /// Whether what is counted can be seen from here: a file's counts are in the memory of its gate.
    pub fn sees_counts(&self) -> bool {
        self.store.as_ref().is_some_and(|store| matches!(store.backend, Backend::Redis(_)))
    }
}

/// The store as a gate opens it.
pub fn gate_store(settings: &StoreSettings) -> anyhow::Result<Store> {
    let shared = Shared::new(settings.deadline)?;
    Ok(match &settings.backend {
        Backend::Redis(redis) => {
            let fallback = Arc::new(Fallback::new(settings.limits_outage, shared.calls.clone()));
            Store::Redis(RedisStore::start((**redis).clone(), shared, fallback))
        }
        Backend::File(file) => Store::File { file: FileStore::open(file)?, calls: Arc::new(Calls::new()?) },
    })
}

impl By {
    pub fn actor(&self) -> Actor {
        let named = |name: &String| !name.is_empty();
        let of_system = || ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(named));
        // A container or a unit of systemd may have neither.
        let number = || format!("uid {}", rustix::process::getuid().as_raw());
        let name = self.actor.clone().filter(named).or_else(of_system).unwrap_or_else(number);
        Actor { name, from: Origin::CommandLine }
    }
}

impl Session<'_> {
    /// Who reaches the store can do everything there.
    pub fn requester(&self) -> Requester<'_> {
        Requester { actor: &self.actor, granting: Granting::Everything, now_ms: self.now_ms }
    }

    pub fn wrong_arguments(&mut self, what: impl std::fmt::Display) -> anyhow::Result<u8> {
        writeln!(self.err, "error: {what}")?;
        Ok(WRONG)
    }

    /// A broken rule is a wrong argument, anything else a failure.
    pub fn refused(&mut self, error: impl Into<KeyringError>) -> anyhow::Result<u8> {
        match error.into() {
            KeyringError::Registry(RegistryError::Rule(broken)) => self.wrong_arguments(broken),
            KeyringError::Format(unknown) => self.wrong_arguments(unknown),
            other => Err(other.into()),
        }
    }

    /// One JSON document on a line of its own.
    pub fn print_json(&mut self, document: &impl serde::Serialize) -> anyhow::Result<()> {
        writeln!(self.out, "{}", serde_json::to_string(document)?)?;
        Ok(())
    }
}
