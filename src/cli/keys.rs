//! `sidegate keys`: a key's whole life in the configured store, from its creation to its end.
//!
//! A key is never an argument: arguments stand in the shell's history and in the process list. What a key must have is
//! decided in `keys`, what is written in `store/registry`; both are reached through `store::keyring`. What every command works with
//! is a `session`.

mod audit;
pub mod create;
pub mod doubts;
mod export;
mod given;
mod import;
mod list;
pub mod name;
mod revoke;
mod rotate;
pub mod session;
mod show;
mod update;
pub mod usage;
mod verify;
pub mod words;

use clap::{Args, Subcommand};

use self::session::{By, KeysSetting, Session, in_session};
use crate::config::Settings;

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
    Revoke(revoke::RevokeArgs),
    /// Delete a key: it is refused from the next request on, and gone
    Delete(revoke::DeleteArgs),
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

/// Opens the configured store and does there what the arguments say.
pub fn with(settings: Settings, args: KeysArgs) -> anyhow::Result<u8> {
    let actor = args.by.actor();
    in_session(settings, actor, async |setting, session| perform(args, setting, session).await)
}

async fn perform(args: KeysArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    match args.command {
        KeysCommand::Create(args) => create::run(args, setting, session).await,
        KeysCommand::List(args) => list::run(args, setting, session).await,
        KeysCommand::Show(args) => show::run(args, setting, session).await,
        KeysCommand::Update(args) => update::run(args, setting, session).await,
        KeysCommand::Revoke(args) => revoke::revoke(args, setting, session).await,
        KeysCommand::Delete(args) => revoke::delete(args, setting, session).await,
        KeysCommand::Rotate(args) => rotate::run(args, setting, session).await,
        KeysCommand::Import(args) => import::run(args, setting, session).await,
        KeysCommand::Export(args) => export::run(args, setting, session).await,
        KeysCommand::Verify(args) => verify::run(args, setting, session).await,
        KeysCommand::Usage(args) => usage::run(args, setting, session).await,
        KeysCommand::Audit(args) => audit::run(args, setting, session).await,
    }
}

#[cfg(test)]
mod tests;
