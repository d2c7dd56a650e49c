//! `sidegate keys list`: every key, or those of a business or a user. Hints, never keys.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{DONE, KeysSetting, Session, printable, revoked_at, shown};
use crate::store::registry::{Filter, StoredKey};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys list --business acme --json")]
pub struct ListArgs {
    /// Only keys that are bound to this business
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// Only keys of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Print one JSON document: {"keys": […], "total": N}
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 9] = ["HINT", "NAME", "STATE", "BUSINESS", "USER", "SCOPES", "CREATED", "EXPIRES", "ID"];

pub(super) async fn run(args: ListArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let keys = setting.registry.list(&Filter { business: args.business, user: args.user }).await?;
    if args.json {
        let listed: Vec<Value> = keys.iter().map(listed).collect();
        session.print_json(&json!({"keys": listed, "total": keys.len()}))?;
        return Ok(DONE);
    }
    if keys.is_empty() {
        writeln!(session.out, "No keys. `sidegate keys create` makes one.")?;
        return Ok(DONE);
    }
    print_table(session.out, &keys.iter().map(|key| row(key, session.now_ms)).collect::<Vec<_>>())?;
    for key in &keys {
        if let Err(error) = &key.document {
            writeln!(session.err, "warning: {} is refused: {}", shown(key, "id"), printable(&error.to_string()))?;
        }
    }
    Ok(DONE)
}

/// The contract's members; what is not there is null, and what the gate cannot read says why.
fn listed(key: &StoredKey) -> Value {
    let member = |name: &str| key.members.get(name).cloned().unwrap_or(Value::Null);
    let mut listed = json!({
        "id": member("id"),
        "hint": member("hint"),
        "name": member("name"),
        "business": member("business"),
        "user": member("user"),
        "scopes": key.members.get("scopes").cloned().unwrap_or_else(|| json!([])),
        "created_at": member("created_at"),
        "expires_at": member("expires_at"),
        "revoked_at": revoked_at(key),
    });
    for name in ["limits", "allow_addresses"] {
        if let Some(value) = key.members.get(name) {
            listed[name] = value.clone();
        }
    }
    if let Err(error) = &key.document {
        listed["error"] = Value::from(error.to_string());
    }
    listed
}

fn row(key: &StoredKey, now_ms: u64) -> [String; COLUMNS.len()] {
    let state = match &key.document {
        Err(_) => "unreadable",
        Ok(document) if document.revoked => "revoked",
        Ok(document) if document.expires_at.is_some_and(|at| at <= now_ms) => "expired",
        Ok(_) => "active",
    };
    let scopes: Vec<&str> =
        key.members.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let scopes = if scopes.is_empty() { "-".to_owned() } else { printable(&scopes.join(",")) };
    let text = |member: &str| shown(key, member);
    [
        text("hint"),
        text("name"),
        state.to_owned(),
        text("business"),
        text("user"),
        scopes,
        text("created_at"),
        text("expires_at"),
        text("id"),
    ]
}

fn print_table(out: &mut dyn Write, rows: &[[String; COLUMNS.len()]]) -> anyhow::Result<()> {
    let mut widths = COLUMNS.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings = COLUMNS.map(str::to_owned);
    for row in std::iter::once(&headings).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
