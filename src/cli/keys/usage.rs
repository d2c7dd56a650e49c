//! `sidegate keys usage`: what is left of a key's limits, uncharged, and how much the key and its business are used. An
//! operator may give a limit back.

use clap::Args;
use serde_json::{Value, json};

use super::name::{KeyName, Named};
use super::words::{named, print_table};
use super::{DONE, KeysSetting, Session};
use crate::clock;
use crate::gate::LimitNow;
use crate::keys::Tenant;
use crate::manage::peek::{Peek, buckets, peek};
use crate::store::audit::{Action, Record};
use crate::store::registry::{Members, Registry, StoredKey};
use crate::store::usage::{self, Subject, Use};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidegate keys usage sg_8fK2mQ0a\n  sidegate keys usage sg_8fK2mQ0a --reset per-key"
)]
pub struct UsageArgs {
    #[command(flatten)]
    key: KeyName,
    /// Give this limit back, to everybody who shares it with the key; several times for several limits
    #[arg(long, value_name = "LIMIT")]
    reset: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 6] = ["LIMIT", "BY", "WINDOW", "USED", "LEFT", "RESETS AT"];

pub(super) async fn run(args: UsageArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let (policy, store) = setting.gate()?;
    if let Some(unknown) = args.reset.iter().find(|name| !buckets(policy, &key).iter().any(|b| b.limit == **name)) {
        return session.wrong_arguments(format_args!("no limit `{unknown}` counts this key"));
    }
    for name in &args.reset {
        reset(name, &key, setting, session).await?;
    }
    let peek = peek(policy, &store, &key).await?;
    let used = used(&key, setting, session.now_ms).await?;
    if args.json {
        let of = |used: &Option<Use>| used.as_ref().map_or(Value::Null, document);
        session.print_json(&json!({
            "id": key.text("id"),
            "hint": key.text("hint"),
            "windows": windows(&peek, setting.sees_counts()),
            "key": of(&used.0),
            "business": of(&used.1),
        }))?;
        return Ok(DONE);
    }
    writeln!(session.out, "{}\n", named(&key))?;
    print_windows(&peek, setting.sees_counts(), session)?;
    for (whose, used) in [("key", &used.0), ("business", &used.1)] {
        print_use(whose, used.as_ref(), session)?;
    }
    Ok(DONE)
}

/// Removes every bucket of the limit that counts the key: all of it is there again with the next request.
async fn reset(name: &str, key: &StoredKey, setting: &KeysSetting, session: &Session<'_>) -> anyhow::Result<()> {
    let Registry::Redis { documents, layout, .. } = &setting.keyring.registry else {
        anyhow::bail!("the counts of a file's gate are in its memory, where nobody else can reset them; restart it")
    };
    let (policy, _) = setting.gate()?;
    for bucket in buckets(policy, key).into_iter().filter(|bucket| bucket.limit == name) {
        documents.delete(&bucket.key(layout)).await?;
        let mut after = Members::new();
        after.insert("limit".to_owned(), name.into());
        after.insert("bucket".to_owned(), bucket.name.into());
        let subject = key.text("id").unwrap_or_default();
        let record = (&Members::new(), &after);
        setting.keyring.keep(Record::new(&session.actor, Action::LimitReset, subject, record, session.now_ms)).await;
    }
    Ok(())
}

/// What is stored of the use of the key and of its business; `None`: nothing can be.
async fn used(key: &StoredKey, setting: &KeysSetting, now_ms: u64) -> anyhow::Result<(Option<Use>, Option<Use>)> {
    let Registry::Redis { keeper, layout, .. } = &setting.keyring.registry else { return Ok((None, None)) };
    let subject = Subject::Key { tenant: key.tenant.clone(), id: key.text("id").unwrap_or_default().to_owned() };
    let of_key = usage::read(keeper, layout, &subject, now_ms).await?;
    let of_business = match &key.tenant {
        Tenant::Business(id) => Some(usage::read(keeper, layout, &Subject::Business(id.clone()), now_ms).await?),
        Tenant::User(_) => None,
    };
    Ok((Some(of_key), of_business))
}

fn document(used: &Use) -> Value {
    let counts = |counts: &std::collections::BTreeMap<u64, usage::Count>| {
        let one = |(at, count): (&u64, &usage::Count)| json!({"from": clock::rfc3339(*at), "requests": count.requests, "denials": count.denials});
        counts.iter().map(one).collect::<Vec<_>>()
    };
    let total = used.total();
    json!({
        "last_used_at": used.last_used_ms().map(clock::rfc3339),
        "requests": total.requests,
        "denials": total.denials,
        "days": counts(&used.days),
        "minutes": counts(&used.minutes),
    })
}

/// Every window; what is used is null where it cannot be seen from here.
pub(super) fn windows(peek: &Peek, seen: bool) -> Value {
    peek.limits.iter().map(|now| window_document(now, seen)).collect::<Vec<_>>().into()
}

pub fn window_document(now: &LimitNow, seen: bool) -> Value {
    json!({
        "limit": now.limit.name,
        "by": now.limit.by.name(),
        "window": now.window.to_string(),
        "most": now.window.limit,
        "used": seen.then(|| used_of(now)),
        "remaining": seen.then_some(now.now.remaining),
        "resets_at": seen.then(|| clock::rfc3339(now.now.reset_ms)),
    })
}

pub(super) fn print_windows(peek: &Peek, seen: bool, session: &mut Session<'_>) -> anyhow::Result<()> {
    if peek.limits.is_empty() {
        writeln!(session.out, "No limit counts it.")?;
        return Ok(());
    }
    let number = |number: u64| if seen { number.to_string() } else { "?".to_owned() };
    let row = |now: &LimitNow| {
        [
            now.limit.name.clone(),
            now.limit.by.name().to_owned(),
            now.window.to_string(),
            number(used_of(now)),
            number(now.now.remaining),
            if seen { clock::rfc3339(now.now.reset_ms) } else { "?".to_owned() },
        ]
    };
    print_table(session.out, COLUMNS, &peek.limits.iter().map(row).collect::<Vec<_>>())?;
    if !seen {
        writeln!(session.out, "What is used stands in the memory of the gate that reads this file.")?;
    }
    Ok(())
}

fn print_use(whose: &str, used: Option<&Use>, session: &mut Session<'_>) -> anyhow::Result<()> {
    let Some(used) = used else { return Ok(()) };
    let last = used.last_used_ms().map_or_else(|| "never that is known of".to_owned(), clock::rfc3339);
    let total = used.total();
    let (requests, denials, days) = (total.requests, total.denials, usage::DAYS);
    writeln!(session.out, "{whose}: last used {last}; {requests} requests in {days} days, {denials} of them denied")?;
    Ok(())
}

fn used_of(now: &LimitNow) -> u64 {
    now.window.limit.saturating_sub(now.now.remaining)
}
