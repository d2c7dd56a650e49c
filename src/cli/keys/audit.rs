//! `sidegate keys audit`: who changed what, the newest first.

use clap::Args;
use serde_json::{Value, json};

use super::session::{KeysSetting, Session};
use super::words::{print_table, printable};
use crate::cli::exit::DONE;
use crate::store::audit;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys audit --last 20")]
pub struct AuditArgs {
    /// How many changes to show
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
    /// Print one JSON document: {"changes": […]}
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 7] = ["AT", "ACTOR", "FROM", "ACTION", "SUBJECT", "BEFORE", "AFTER"];

pub(super) async fn run(args: AuditArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let changes = audit::last(&setting.keyring.registry, args.last as usize).await?;
    if args.json {
        session.print_json(&json!({"changes": changes}))?;
        return Ok(DONE);
    }
    if changes.is_empty() {
        writeln!(session.out, "No changes are recorded.")?;
        return Ok(DONE);
    }
    print_table(session.out, COLUMNS, &changes.iter().map(row).collect::<Vec<_>>())?;
    Ok(DONE)
}

fn row(change: &Value) -> [String; COLUMNS.len()] {
    COLUMNS.map(|column| match &change[column.to_lowercase()] {
        Value::String(text) => printable(text),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        other => other.to_string(),
    })
}
