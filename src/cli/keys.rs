//! `sidegate keys`: a key's whole life in the configured store, from its creation to its end.
//!
//! A key is never an argument: arguments stand in the shell's history and in the process list. What a key must have is
//! decided in `keys`, what is written in `store/registry`; both are reached through `store::keyring`.

mod audit;
pub mod create;
mod end;
mod export;
mod import;
mod list;
pub mod name;
mod rotate;
mod show;
mod update;
pub mod usage;
mod verify;
pub mod words;

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::WRONG;
use super::out::Out;
use crate::config::Settings;
use crate::policy::Policy;
use crate::store::audit::{Actor, Origin};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::file::FileStore;
use crate::store::keyring::{Asker, Granting, Keyring, KeyringError};
use crate::store::redis::RedisStore;
use crate::store::registry::RegistryError;
use crate::store::settings::{Backend, StoreSettings};
use crate::store::{Shared, Store};

/// The part of the command line that follows `sidegate keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate keys create --name 'billing job' --business acme --scopes contacts:read --expires 90d"
)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
    #[command(flatten)]
    pub by: By,
}

/// Who changes something, for the audit.
#[derive(Debug, Args)]
pub struct By {
    /// Who does it, for the audit; without it the user of the system
    #[arg(long, value_name = "WHO", global = true)]
    actor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Create a key and show it, once
    Create(create::CreateArgs),
    /// List keys: who they are for, what they may, whether they still stand
    List(list::ListArgs),
    /// Show one key
    Show(show::ShowArgs),
    /// Change a key's name, scopes, end, limits or addresses
    Update(update::UpdateArgs),
    /// Revoke a key: it is refused from the next request on, and stays listed
    Revoke(end::RevokeArgs),
    /// Delete a key: it is refused from the next request on, and gone
    Delete(end::DeleteArgs),
    /// Replace a key by a new one with the same rights
    Rotate(rotate::RotateArgs),
    /// Import keys that exist already by their SHA-256, from JSON lines
    Import(import::ImportArgs),
    /// Print all keys as the JSON lines that `import` reads
    Export(export::ExportArgs),
    /// Read a key from standard input and say whether it stands, what it may, and where it is limited
    Verify(verify::VerifyArgs),
    /// Show what is left of a key's limits, and how much it is used
    Usage(usage::UsageArgs),
    /// Show the last changes to keys and businesses
    Audit(audit::AuditArgs),
}

/// What the commands work with, as the configuration says it.
#[derive(Debug)]
pub struct KeysSetting {
    pub keyring: Keyring,
    pub policy: Option<Arc<Policy>>,
    pub store: Option<StoreSettings>,
}

/// Where a command reads and writes, who does it, and the time it takes for now.
pub(super) struct Session<'a> {
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub actor: Actor,
    pub now_ms: u64,
}

/// Opens the configured store and does there what the arguments say.
pub fn with(settings: Settings, args: KeysArgs) -> anyhow::Result<u8> {
    let actor = args.by.actor();
    in_session(settings, actor, async |setting, session| perform(args, setting, session).await)
}

/// Opens the configured store for one command. An error is a failure, too.
pub(super) fn in_session(
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
        if let Some(error) = setting.keyring.unrecorded().await {
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
    is_keepers: bool,
}

impl Login {
    fn of(store: &StoreSettings) -> Self {
        let gates = match &store.backend {
            Backend::Redis(redis) => Some(&**redis),
            Backend::File(_) => None,
        };
        let user = store.keepers.as_deref().or(gates).and_then(|redis| redis.username.clone());
        Self { user: user.unwrap_or_else(|| "default".to_owned()), is_keepers: store.keepers.is_some() }
    }
}

/// What to do about what Redis refuses: who logs in as the gate may not keep keys where the gate's login is as small as it can be,
/// and a Redis that has no memory left takes no change but those that take something away.
fn with_a_way_out(error: anyhow::Error, login: &Login) -> anyhow::Error {
    let says = |what: &str| error.chain().any(|cause| cause.to_string().contains(what));
    if says("NOPERM") {
        let user = &login.user;
        return error.context(match login.is_keepers {
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

async fn perform(args: KeysArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    match args.command {
        KeysCommand::Create(args) => create::run(args, setting, session).await,
        KeysCommand::List(args) => list::run(args, setting, session).await,
        KeysCommand::Show(args) => show::run(args, setting, session).await,
        KeysCommand::Update(args) => update::run(args, setting, session).await,
        KeysCommand::Revoke(args) => end::revoke(args, setting, session).await,
        KeysCommand::Delete(args) => end::delete(args, setting, session).await,
        KeysCommand::Rotate(args) => rotate::run(args, setting, session).await,
        KeysCommand::Import(args) => import::run(args, setting, session).await,
        KeysCommand::Export(args) => export::run(args, setting, session).await,
        KeysCommand::Verify(args) => verify::run(args, setting, session).await,
        KeysCommand::Usage(args) => usage::run(args, setting, session).await,
        KeysCommand::Audit(args) => audit::run(args, setting, session).await,
    }
}

impl KeysSetting {
    /// The policy and the store that a gate with this configuration decides by, with the gate's own login.
    pub(super) fn gate(&self) -> anyhow::Result<(&Policy, Store)> {
        let (Some(policy), Some(settings)) = (&self.policy, &self.store) else {
            anyhow::bail!("there is no configuration to decide by");
        };
        let store = gate_store(settings)?;
        Ok((policy, store))
    }

    /// Whether what is counted can be seen from here: a file's counts are in the memory of its gate.
    fn sees_counts(&self) -> bool {
        self.store.as_ref().is_some_and(|store| matches!(store.backend, Backend::Redis(_)))
    }
}

/// The store as a gate opens it.
pub(super) fn gate_store(settings: &StoreSettings) -> anyhow::Result<Store> {
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
    pub(super) fn actor(&self) -> Actor {
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
    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { actor: &self.actor, granting: Granting::Everything, now_ms: self.now_ms }
    }

    pub(super) fn wrong_arguments(&mut self, what: impl std::fmt::Display) -> anyhow::Result<u8> {
        writeln!(self.err, "error: {what}")?;
        Ok(WRONG)
    }

    /// A broken rule is a wrong argument, anything else a failure.
    pub(super) fn refused(&mut self, error: impl Into<KeyringError>) -> anyhow::Result<u8> {
        match error.into() {
            KeyringError::Registry(RegistryError::Rule(broken)) => self.wrong_arguments(broken),
            KeyringError::Format(unknown) => self.wrong_arguments(unknown),
            other => Err(other.into()),
        }
    }

    /// One JSON document on a line of its own.
    pub(super) fn print_json(&mut self, document: &impl serde::Serialize) -> anyhow::Result<()> {
        writeln!(self.out, "{}", serde_json::to_string(document)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
