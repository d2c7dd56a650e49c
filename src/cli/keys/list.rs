//! `sidegate keys list`: every key, or those of a business or a user. Hints, never keys.

use clap::Args;
use serde_json::{Value, json};

use super::session::{KeysSetting, Session};
use super::words::{self, print_table, printable, shown};
use crate::cli::exit::DONE;
use crate::clock;
use crate::keys::change::age;
use crate::keys::rules::RuleError;
use crate::manage::usage::{last_used, unused_since};
use crate::store::registry::{Filter, StoredKey};
use crate::store::usage::{DAY_MS, LAST_DAYS};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidegate keys list --business acme --json\n  sidegate keys list --older-than 90d\n  sidegate keys list --unused-for 90d\n  sidegate keys list --expires-within 30d"
)]
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
    /// Only keys that nobody has used for so long and that still act: those to revoke. One that was never used counts from its
    /// creation, or from when use began to be counted
    #[arg(long, value_name = "AGE")]
    unused_for: Option<String>,
    /// Only keys in these states, separated by commas; a rotated one goes on beside its successor until it ends
    #[arg(long, value_delimiter = ',', value_parser = words::STATES)]
    state: Vec<String>,
    /// Only keys that still act and end within this time, the first to end first
    #[arg(long, value_name = "DURATION")]
    expires_within: Option<String>,
    /// Which page, from 1 on; without it the first where `--per-page` stands, else all keys
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    page: Option<u32>,
    /// How many keys a page has; without it 100
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    per_page: Option<u32>,
    /// Print one JSON document: {"keys": […], "total": N}
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 10] =
    ["HINT", "NAME", "STATE", "BUSINESS", "USER", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "ID"];

pub(super) async fn run(args: ListArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let before = |text: &Option<String>| {
        let age = text.as_deref().map(age).transpose()?;
        Ok::<_, RuleError>(age.map(|age| session.now_ms.saturating_sub(age)))
    };
    let (created_before, unused_since) = match (before(&args.older_than), before(&args.unused_for)) {
        (Ok(created_before), Ok(unused_since)) => (created_before, unused_since),
        (Err(wrong), _) | (_, Err(wrong)) => return session.wrong_arguments(wrong),
    };
    let ends_by = match args.expires_within.as_deref().map(age).transpose() {
        Ok(within) => within.map(|within| session.now_ms.saturating_add(within)),
        Err(wrong) => return session.wrong_arguments(wrong),
    };
    if unused_since.is_some_and(|since| session.now_ms - since > LAST_DAYS * DAY_MS) {
        return session
            .wrong_arguments(format_args!("the last use of a key is known for {LAST_DAYS} days, not longer"));
    }
    let by_age = created_before.is_some() || unused_since.is_some();
    let by_state = ends_by.is_some() || !args.state.is_empty();
    let chosen = args.business.is_some() || args.user.is_some() || by_age || by_state;
    let filter = Filter { business: args.business, user: args.user, created_before };
    let mut keys = setting.keyring.list(&filter).await?;
    if by_age {
        keys.retain(|key| key.is_active(session.now_ms));
    }
    if !args.state.is_empty() {
        keys.retain(|key| args.state.iter().any(|state| state == words::state(key, session.now_ms)));
    }
    if let Some(end) = ends_by {
        keys.retain(|key| end_of(key, session.now_ms).is_some_and(|at| at <= end));
        // Stable: the oldest first where several end at once.
        keys.sort_by_key(|key| end_of(key, session.now_ms));
    }
    if let Some(since) = unused_since {
        keys = unused(keys, since, setting, session).await?;
    }
    let total = keys.len();
    if args.page.is_some() || args.per_page.is_some() {
        let (page, per_page) = (args.page.unwrap_or(1) as usize - 1, args.per_page.unwrap_or(100) as usize);
        keys = keys.into_iter().skip(page.saturating_mul(per_page)).take(per_page).collect();
    }
    let last_used = last_used_of(&keys, setting, session).await?;
    if args.json {
        let listed: Vec<Value> =
            keys.iter().zip(last_used).map(|(key, last)| document(key, last, session.now_ms)).collect();
        session.print_json(&json!({"keys": listed, "total": total}))?;
        return Ok(DONE);
    }
    if total == 0 && chosen {
        writeln!(session.out, "No key matches. `sidegate keys list` alone shows all there are.")?;
        return Ok(DONE);
    }
    print(&keys, last_used, total, session)?;
    Ok(DONE)
}

fn print(
    keys: &[StoredKey],
    last_used: Vec<Option<u64>>,
    total: usize,
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    if total == 0 {
        writeln!(session.out, "No keys. `sidegate keys create` makes one.")?;
        return Ok(());
    }
    let rows: Vec<_> = keys.iter().zip(last_used).map(|(key, last)| row(key, last, session.now_ms)).collect();
    print_table(session.out, COLUMNS, &rows)?;
    if keys.len() < total {
        writeln!(session.out, "{} of {total} keys.", keys.len())?;
    }
    for key in keys {
        if let Err(error) = &key.document {
            writeln!(session.err, "warning: {} is refused: {}", shown(key, "id"), printable(&error.to_string()))?;
        }
    }
    Ok(())
}

/// When a key that still acts ends; never, where there is none.
fn end_of(key: &StoredKey, now_ms: u64) -> Option<u64> {
    let document = key.document.as_ref().ok().filter(|document| !document.revoked)?;
    document.expires_at.filter(|&at| at > now_ms)
}

/// Those that were not used since; fails where that cannot be known.
async fn unused(
    keys: Vec<StoredKey>,
    since: u64,
    setting: &KeysSetting,
    session: &mut Session<'_>,
) -> anyhow::Result<Vec<StoredKey>> {
    let Some(unused) = unused_since(&setting.keyring.registry, keys, since).await? else {
        anyhow::bail!(
            "nobody has counted use in this store yet; gates do so in Redis, if their login may write \
             `{{…}}:usage:…`, and never in a file"
        )
    };
    let counted = unused.counted_since_ms;
    if counted >= since {
        let (counted, from) = (clock::rfc3339(counted), clock::rfc3339(counted + (session.now_ms - since)));
        writeln!(session.err, "note: use is counted since {counted}; keys without any are listed from {from} on")?;
    }
    Ok(unused.keys)
}

/// For each key; none where it cannot be known, which is said where it is unexpected.
async fn last_used_of(
    keys: &[StoredKey],
    setting: &KeysSetting,
    session: &mut Session<'_>,
) -> anyhow::Result<Vec<Option<u64>>> {
    let last_used = match last_used(&setting.keyring.registry, keys).await {
        Err(error) if error.is_forbidden() => {
            writeln!(session.err, "warning: this login may not read when keys were last used: {error}")?;
            None
        }
        last_used => last_used?,
    };
    Ok(last_used.unwrap_or_else(|| vec![None; keys.len()]))
}

fn document(key: &StoredKey, last_used: Option<u64>, now_ms: u64) -> Value {
    let mut document = words::document(key, now_ms);
    document["last_used_at"] = last_used.map(clock::rfc3339).into();
    document
}

fn row(key: &StoredKey, last_used: Option<u64>, now_ms: u64) -> [String; COLUMNS.len()] {
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
        last_used.map_or_else(|| "-".to_owned(), clock::rfc3339),
        text("id"),
    ]
}
