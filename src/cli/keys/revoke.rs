//! `sidegate keys revoke`: a key named by its id or hint, or given on standard input.

use std::io::{BufRead, Read};

use clap::Args;
use serde_json::json;

use super::{DONE, KeysSetting, Session, printable, revoked_at, shown};
use crate::keys::format::LONGEST;
use crate::keys::{Digest, Reading, mask};
use crate::store::registry::{Registry, Revocation, StoredKey};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sidegate keys revoke sg_8fK2mQ0a\n  sidegate keys revoke - < leaked-key.txt")]
pub struct RevokeArgs {
    /// The key's id or hint; `-` reads the key itself from standard input
    #[arg(value_name = "ID|HINT|-")]
    key: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const NEVER_AN_ARGUMENT: &str = "this looks like a whole key. Arguments stay in the shell's history and can be seen by \
     every process; name the key by its id or hint, or give it on standard input: `sidegate keys revoke -`";

pub(super) async fn run(args: RevokeArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = if args.key == "-" {
        let Some(digest) = read_key(session.input, setting)? else {
            return session.wrong_arguments("what stands on standard input is not one key of this gate");
        };
        setting.registry.find_digest(&digest).await?
    } else if mask(&args.key, &setting.formats) != args.key {
        return session.wrong_arguments(NEVER_AN_ARGUMENT);
    } else {
        setting.registry.find(&args.key).await?
    };
    let revocation = setting.registry.revoke(&key, session.now_ms).await?;
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
    let name = format!("{} ({}, id {})", shown(key, "hint"), shown(key, "name"), shown(key, "id"));
    match &revocation {
        Revocation::Revoked(_) => {
            let at = since(key);
            writeln!(session.out, "Revoked {name} at {at}. {}", effect(&setting.registry))?;
        }
        Revocation::AlreadyRevoked(_) => writeln!(session.out, "{name} was revoked already ({}).", since(key))?,
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

/// The key on the first line, if it can be one; the line's end and spaces around it are not part of it.
fn read_key(input: &mut dyn BufRead, setting: &KeysSetting) -> anyhow::Result<Option<Digest>> {
    let mut text = String::new();
    input.take(4 * LONGEST as u64).read_to_string(&mut text)?;
    let key = text.trim();
    Ok(match setting.formats.read(key) {
        Reading::Ours(_) | Reading::Any => Some(Digest::of(key)),
        Reading::Foreign(_) | Reading::NotOurs => None,
    })
}
