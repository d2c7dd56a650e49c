//! `sidegate keys`: create, list, revoke, and import keys in the configured store.
//!
//! A key is never an argument: arguments stand in the shell's history and in the process list. What a key must have is
//! decided in `keys::rules`, what is written in `store::registry`.

pub mod create;
mod import;
mod list;
mod revoke;

use std::io::{self, BufRead, BufReader, Write};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::clock;
use crate::config::Settings;
use crate::keys::Formats;
use crate::keys::rules::Rules;
use crate::store::file::FileStore;
use crate::store::layout::Layout;
use crate::store::redis::RedisDocuments;
use crate::store::registry::{Registry, StoredKey};
use crate::store::settings::Backend;

/// The part of the command line that follows `sidegate keys`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate keys create --name 'billing job' --business acme --scopes contacts:read --expires 90d"
)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Create a key and show it, once
    Create(create::CreateArgs),
    /// List keys: who they are for, what they may, whether they still stand
    List(list::ListArgs),
    /// Revoke a key: it is refused from the next request on
    Revoke(revoke::RevokeArgs),
    /// Import keys that exist already by their SHA-256, from JSON lines
    Import(import::ImportArgs),
}

/// What the commands work with, as the configuration says it.
#[derive(Debug)]
pub struct KeysSetting {
    pub formats: Formats,
    pub rules: Rules,
    pub registry: Registry,
}

/// Where a command reads and writes, and the time it takes for now.
struct Session<'a> {
    input: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    now_ms: u64,
}

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG_ARGUMENTS: u8 = 2;

/// Opens the configured store and does there what the arguments say.
pub fn with(settings: Settings, args: KeysArgs) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = match &settings.store.backend {
            Backend::Redis(redis) => {
                Registry::Redis { documents: RedisDocuments::connect(redis).await?, layout: Layout::new(&redis.prefix) }
            }
            Backend::File(file) => Registry::File { store: FileStore::open(file)? },
        };
        let formats = settings.policy.credentials.formats.clone();
        run(args, &KeysSetting { formats, rules: settings.keys, registry }).await
    })
}

/// Does what `args` say and returns the exit code: 0 done, 1 failed, 2 wrong arguments. An error is a failure, too.
pub async fn run(args: KeysArgs, setting: &KeysSetting) -> anyhow::Result<u8> {
    let mut session = Session {
        input: &mut BufReader::new(io::stdin()),
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        now_ms: clock::now_ms(),
    };
    perform(args, setting, &mut session).await
}

async fn perform(args: KeysArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    match args.command {
        KeysCommand::Create(args) => create::run(args, setting, session).await,
        KeysCommand::List(args) => list::run(args, setting, session).await,
        KeysCommand::Revoke(args) => revoke::run(args, setting, session).await,
        KeysCommand::Import(args) => import::run(args, setting, session).await,
    }
}

impl Session<'_> {
    fn wrong_arguments(&mut self, what: impl std::fmt::Display) -> anyhow::Result<u8> {
        writeln!(self.err, "error: {what}")?;
        Ok(WRONG_ARGUMENTS)
    }

    /// One JSON document on a line of its own.
    fn print_json(&mut self, document: &impl serde::Serialize) -> anyhow::Result<()> {
        writeln!(self.out, "{}", serde_json::to_string(document)?)?;
        Ok(())
    }
}

/// A text of a document for a terminal: other services write documents, and a control character could rewrite the screen.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn shown(key: &StoredKey, member: &str) -> String {
    key.text(member).filter(|text| !text.is_empty()).map_or_else(|| "-".to_owned(), printable)
}

/// Since when a key is revoked: the time, or `true` where the document says so without one.
fn revoked_at(key: &StoredKey) -> Value {
    match key.members.get("revoked_at") {
        None => Value::Null,
        Some(Value::String(at)) if !at.is_empty() => Value::from(at.as_str()),
        Some(_) => Value::Bool(true),
    }
}

#[cfg(test)]
mod tests;
