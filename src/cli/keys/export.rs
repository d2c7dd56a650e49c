//! `sidegate keys export`: all keys as the JSON lines that `import` reads. Digests, never keys: still, keep the file to yourself.

use clap::Args;
use serde_json::Value;

use super::session::{KeysSetting, Session};
use super::words::shown;
use crate::cli::exit::{DONE, FAILED};
use crate::store::members::{MEMBERS, Members};
use crate::store::registry::{Filter, StoredKey};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys export --business acme > acme.jsonl")]
pub struct ExportArgs {
    /// Only keys that are bound to this business
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// Only keys of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
}

pub(super) async fn run(args: ExportArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let filter = Filter { business: args.business, user: args.user, created_before: None };
    let mut code = DONE;
    for key in setting.keyring.list(&filter).await? {
        if let Err(error) = &key.document {
            // It opens nothing where it is, and must not open something where it is imported.
            writeln!(session.err, "warning: {} is left out: {error}", shown(&key, "id"))?;
            code = FAILED;
            continue;
        }
        session.print_json(&line(&key))?;
    }
    Ok(code)
}

/// What `import` knows; members of other services stay where they are.
fn line(key: &StoredKey) -> Members {
    let mut line = Members::new();
    line.insert("sha256".to_owned(), key.digest.to_hex().into());
    for member in MEMBERS {
        // `null` means absence, save that of `revoked_at`.
        let value = key.members.get(member).filter(|value| !value.is_null() || member == "revoked_at");
        line.extend(value.map(|value| (member.to_owned(), value.clone())));
    }
    line.entry("name").or_insert_with(|| Value::from(key.text("id").unwrap_or("?")));
    line
}
