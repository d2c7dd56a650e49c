//! `sidegate keys usage`: what is left of a key's limits, uncharged, and how much the key and its business are used. An
//! operator may give a limit back.

use clap::Args;
use serde::Serialize;

use super::name::{KeyName, Named};
use super::session::{KeysSetting, Session};
use super::words::{named, print_table, printable};
use crate::cli::exit::DONE;
use crate::manage::peek::buckets;
use crate::manage::usage::{LimitUse, Usage, of_business_of, of_key};
use crate::store::audit::{Action, Record};
use crate::store::members::Members;
use crate::store::registry::{Registry, StoredKey};
use crate::store::usage::{DAYS, MINUTES};

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

const COLUMNS: [&str; 7] = ["LIMIT", "BY", "WINDOW", "FROM", "USED", "LEFT", "RESETS AT"];

/// What is printed as JSON.
#[derive(Serialize)]
struct Document<'k> {
    id: Option<&'k str>,
    hint: Option<&'k str>,
    #[serde(flatten)]
    usage: &'k Usage,
    /// Of the business that the key is bound to; the limits that they share stand among the key's.
    business: Option<Usage>,
}

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
    let registry = &setting.keyring.registry;
    let usage = of_key(policy, &store, registry, &key, session.now_ms, setting.sees_counts()).await?;
    let business = of_business_of(registry, &key, session.now_ms).await?;
    if args.json {
        let document = Document { id: key.text("id"), hint: key.text("hint"), usage: &usage, business };
        session.print_json(&document)?;
        return Ok(DONE);
    }
    writeln!(session.out, "{}\n", named(&key))?;
    print_limits(&usage.limits, "No limit counts it.", session)?;
    print_use("key", &usage, session)?;
    print_days(&usage, session)?;
    if let Some(business) = &business {
        print_use("business", business, session)?;
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
        let members = (&Members::new(), &after);
        let record = Record::new(&session.actor, Action::LimitReset, subject, members, session.now_ms);
        // Whose key it is stands beside the change: by that it is found again.
        let text = |member: &str| key.text(member).map(str::to_owned);
        let record = Record { hint: text("hint"), business: text("business"), ..record };
        setting.keyring.write_audit(record).await;
    }
    Ok(())
}

/// Where there are none, `none` says so.
pub(in crate::cli) fn print_limits(limits: &[LimitUse], none: &str, session: &mut Session<'_>) -> anyhow::Result<()> {
    let Some(first) = limits.first() else {
        writeln!(session.out, "{none}")?;
        return Ok(());
    };
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let row = |limit: &LimitUse| {
        let resets_at = limit.resets_at.as_deref().unwrap_or("?").to_owned();
        let LimitUse { name, by, window, from, used, remaining, .. } = limit;
        let from = printable(from.as_deref().unwrap_or("?"));
        [name.clone(), (*by).to_owned(), window.clone(), from, number(*used), number(*remaining), resets_at]
    };
    print_table(session.out, COLUMNS, &limits.iter().map(row).collect::<Vec<_>>())?;
    if first.used.is_none() {
        writeln!(session.out, "What is used stands in the memory of the gate that reads this file.")?;
    }
    Ok(())
}

/// In one line; the days follow where they are asked for, and `--json` has the minutes, too.
pub(in crate::cli) fn print_use(whose: &str, usage: &Usage, session: &mut Session<'_>) -> anyhow::Result<()> {
    let (Some(total), Some(minutes)) = (usage.total(), &usage.minutes) else {
        writeln!(session.out, "{whose}: use is counted in Redis only, and the store is a file")?;
        return Ok(());
    };
    let last = usage.last_used_at.as_deref().unwrap_or("never (since counting began)");
    let sum = |amounts: &std::collections::BTreeMap<String, u64>| amounts.values().sum::<u64>();
    writeln!(
        session.out,
        "{whose}: last used {last}; requests in {DAYS} days {} ({} denied), in {MINUTES} minutes {} ({} denied)",
        total.requests,
        total.denials,
        sum(&minutes.requests),
        sum(&minutes.denials),
    )?;
    Ok(())
}

/// Those with requests, the last first.
pub(in crate::cli) fn print_days(usage: &Usage, session: &mut Session<'_>) -> anyhow::Result<()> {
    let days = usage.requests.iter().flatten();
    let denials =
        |day: &String| usage.denials.as_ref().and_then(|denials| denials.get(day)).copied().unwrap_or_default();
    let rows: Vec<_> =
        days.rev().map(|(day, requests)| [day.clone(), requests.to_string(), denials(day).to_string()]).collect();
    if rows.is_empty() {
        return Ok(());
    }
    print_table(session.out, ["DAY", "REQUESTS", "DENIED"], &rows)
}
