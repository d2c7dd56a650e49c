//! `sidegate keys revoke` and `sidegate keys delete`: a key's end. When they return, it acts everywhere.

use clap::Args;
use serde_json::json;

use super::name::{KeyName, Named};
use super::session::{KeysSetting, Session};
use super::words::{named, printable, revoked_at};
use crate::cli::exit::DONE;
use crate::store::keyring::Revocation;
use crate::store::registry::{Registry, RegistryError, StoredKey};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sidegate keys revoke sg_8fK2mQ0a\n  sidegate keys revoke - < leaked-key.txt")]
pub struct RevokeArgs {
    #[command(flatten)]
    key: KeyName,
    #[command(flatten)]
    replicas: Replicas,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys delete sg_8fK2mQ0a")]
pub struct DeleteArgs {
    #[command(flatten)]
    key: KeyName,
    #[command(flatten)]
    replicas: Replicas,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Replicas {
    /// Return only when so many replicas have it, so that a failover cannot lose it; fail if they do not answer
    #[arg(long, value_name = "N")]
    wait_replicas: Option<u64>,
}

impl Replicas {
    pub(super) async fn wait(&self, setting: &KeysSetting, key: &StoredKey) -> Result<(), RegistryError> {
        let configured = || setting.store.as_ref().map_or(0, |store| store.wait_replicas);
        match self.wait_replicas.unwrap_or_else(configured) {
            0 => Ok(()),
            wanted => setting.keyring.registry.wait_for_replicas(key, wanted).await,
        }
    }

    /// Whether the command itself asks for it.
    pub(super) fn is_asked(&self) -> bool {
        self.wait_replicas.is_some()
    }
}

pub(super) async fn revoke(args: RevokeArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let revocation = setting.keyring.revoke(&key, session.requester()).await?;
    args.replicas.wait(setting, &key).await?;
    let (Revocation::Revoked(key) | Revocation::AlreadyRevoked(key)) = &revocation;
    if args.json {
        let text = |member: &str| key.members.get(member).cloned();
        session.print_json(&json!({
            "id": text("id"),
            "hint": text("hint"),
            "name": text("name"),
            "business": text("business"),
            "user": text("user"),
            "revoked_at": revoked_at(key),
        }))?;
        return Ok(DONE);
    }
    let effect = effect(&setting.keyring.registry);
    match &revocation {
        Revocation::Revoked(_) => writeln!(session.out, "Revoked {} at {}. {effect}", named(key), since(key))?,
        Revocation::AlreadyRevoked(_) => writeln!(session.out, "{} was revoked already ({}).", named(key), since(key))?,
    }
    Ok(DONE)
}

pub(super) async fn delete(args: DeleteArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let gone = setting.keyring.delete(&key, session.requester()).await?;
    args.replicas.wait(setting, &key).await?;
    if args.json {
        session.print_json(&json!({"id": gone.text("id"), "hint": gone.text("hint"), "deleted": true}))?;
    } else {
        writeln!(session.out, "Deleted {}. {}", named(&gone), effect(&setting.keyring.registry))?;
    }
    Ok(DONE)
}

fn since(key: &StoredKey) -> String {
    revoked_at(key).as_str().map_or_else(|| "at an unknown time".to_owned(), printable)
}

fn effect(registry: &Registry) -> &'static str {
    match registry {
        Registry::Redis { .. } => "Every gate on this Redis refuses it from the next request on.",
        Registry::File { .. } => "The gate that reads this file refuses it within a second.",
    }
}
