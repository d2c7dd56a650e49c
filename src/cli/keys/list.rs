//! `sidegate keys list`: every key, or those of a business or a user. Hints, never keys.

use clap::Args;
use serde_json::{Value, json};

use super::words::{self, print_table, printable, shown};
use super::{DONE, KeysSetting, Session};
use crate::keys::change::age;
use crate::store::registry::{Filter, StoredKey};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sidegate keys list --business acme --json\n  sidegate keys list --older-than 90d")]
pub struct ListArgs {
    /// Only keys that are bound to this business
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// Only keys of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only keys that were created so long ago and still act: those to rotate
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Which page, from 1 on; without it all keys
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    page: Option<u32>,
    /// How many keys a page has
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    per_page: u32,
    /// Print one JSON document: {"keys": […], "total": N}
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 9] = ["HINT", "NAME", "STATE", "BUSINESS", "USER", "SCOPES", "CREATED", "EXPIRES", "ID"];

pub(super) async fn run(args: ListArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let age = match args.older_than.as_deref().map(age).transpose() {
        Ok(age) => age,
        Err(wrong) => return session.wrong_arguments(wrong),
    };
    let created_before = age.map(|age| session.now_ms.saturating_sub(age));
    let filter = Filter { business: args.business, user: args.user, created_before };
    let mut keys = setting.keyring.list(&filter).await?;
    if age.is_some() {
        keys.retain(|key| key.is_active(session.now_ms));
    }
    let total = keys.len();
    if let Some(page) = args.page {
        let (page, per_page) = (page as usize - 1, args.per_page as usize);
        keys = keys.into_iter().skip(page.saturating_mul(per_page)).take(per_page).collect();
    }
    if args.json {
        let listed: Vec<Value> = keys.iter().map(words::document).collect();
        session.print_json(&json!({"keys": listed, "total": total}))?;
        return Ok(DONE);
    }
    if total == 0 {
        writeln!(session.out, "No keys. `sidegate keys create` makes one.")?;
        return Ok(DONE);
    }
    print_table(session.out, COLUMNS, &keys.iter().map(|key| row(key, session.now_ms)).collect::<Vec<_>>())?;
    if keys.len() < total {
        writeln!(session.out, "{} of {total} keys.", keys.len())?;
    }
    for key in &keys {
        if let Err(error) = &key.document {
            writeln!(session.err, "warning: {} is refused: {}", shown(key, "id"), printable(&error.to_string()))?;
        }
    }
    Ok(DONE)
}

fn row(key: &StoredKey, now_ms: u64) -> [String; COLUMNS.len()] {
    let text = |member: &str| shown(key, member);
    [
        text("hint"),
        text("name"),
        words::state(key, now_ms).to_owned(),
        text("business"),
        text("user"),
        words::scopes(key),
        text("created_at"),
        text("expires_at"),
        text("id"),
    ]
}
