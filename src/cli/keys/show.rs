//! `sidegate keys show`: all that is stored of one key, which is never the key.

use clap::Args;
use serde_json::Value;

use super::name::{KeyName, Named};
use super::session::{KeysSetting, Session};
use super::words::{self, print_facts, printable, shown};
use crate::cli::exit::DONE;
use crate::keys::rules::{Holder, Rules};
use crate::store::members::SUCCESSOR;
use crate::store::registry::StoredKey;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys show sg_8fK2mQ0a")]
pub struct ShowArgs {
    #[command(flatten)]
    key: KeyName,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ShowArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let predecessor = predecessor(&key, setting).await?;
    let predecessor = predecessor.as_ref();
    if args.json {
        let mut document = words::document(&key, session.now_ms);
        if let Some(id) = predecessor.and_then(|predecessor| predecessor.text("id")) {
            document["rotated_from"] = Value::from(id);
        }
        session.print_json(&document)?;
        return Ok(DONE);
    }
    print(&key, &setting.keyring.rules, session)?;
    if let Some(predecessor) = predecessor {
        print_facts(session.out, &[("replaces", &words::named(predecessor))])?;
    }
    Ok(DONE)
}

/// The key that this one was rotated from: only its own document says so.
async fn predecessor(key: &StoredKey, setting: &KeysSetting) -> anyhow::Result<Option<StoredKey>> {
    let Some(id) = key.text("id") else { return Ok(None) };
    let all = setting.keyring.registry.list_of(std::slice::from_ref(&key.tenant)).await?;
    Ok(all.into_iter().find(|other| other.text(SUCCESSOR) == Some(id)))
}

pub(super) fn print(key: &StoredKey, rules: &Rules, session: &mut Session<'_>) -> anyhow::Result<()> {
    let addresses = key.members.get("allow_addresses").and_then(Value::as_array);
    let addresses = addresses.map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    let or_never = |member: &str| key.text(member).map_or_else(|| "never".to_owned(), printable);
    let facts = [
        ("id", shown(key, "id")),
        ("hint", shown(key, "hint")),
        ("name", shown(key, "name")),
        ("state", words::state(key, session.now_ms).to_owned()),
        ("business", shown(key, "business")),
        ("user", shown(key, "user")),
        ("scopes", words::scopes(key)),
        ("created", shown(key, "created_at")),
        ("expires", or_never("expires_at")),
        ("limits", words::limits(key.members.get("limits"), rules, Holder::Key)),
        ("from", addresses.map_or_else(|| "anywhere".to_owned(), |all| printable(&all))),
    ];
    print_facts(session.out, &facts.each_ref().map(|(fact, value)| (*fact, value.as_str())))?;
    if let Some(successor) = key.text(SUCCESSOR) {
        print_facts(session.out, &[("successor", &printable(successor))])?;
    }
    if let Err(error) = &key.document {
        writeln!(session.err, "warning: it is refused: {}", printable(&error.to_string()))?;
    }
    Ok(())
}
