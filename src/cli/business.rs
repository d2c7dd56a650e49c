//! `sidegate business`: a business's plan, status and limits. What is set acts on the next request of each of its keys.

mod export;
mod import;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::exit::{DONE, FAILED};
use super::keys::doubts::suspended;
use super::keys::name;
use super::keys::session::{By, KeysSetting, Session, in_session};
use super::keys::usage::{print_days, print_limits, print_use};
use super::keys::words::{self, print_facts, print_table, printable};
use crate::config::Settings;
use crate::keys::change::BusinessChange;
use crate::keys::rules::{Holder, Required, Rules, check_id};
use crate::manage::usage::{Usage, of_business};
use crate::store::members::Members;
use crate::store::record::{BusinessDocument, Status};
use crate::store::registry::{Filter, RegistryError, StoredKey};

/// The part of the command line that follows `sidegate business`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate business set acme --plan pro --limit per-business=600/1m")]
pub struct BusinessArgs {
    #[command(subcommand)]
    command: BusinessCommand,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Subcommand)]
enum BusinessCommand {
    /// Show a business and how many keys it has
    #[command(after_help = "Example:\n  sidegate business show acme --json")]
    Show(ShowArgs),
    /// Show how much a business is used, and what is left of the limits that its keys share
    #[command(after_help = "Example:\n  sidegate business usage acme --json")]
    Usage(UsageArgs),
    /// Change a business's plan, status or limits
    #[command(after_help = "Example:\n  sidegate business set acme --status suspended")]
    Set(SetArgs),
    /// List the businesses that have a plan, a status or limits of their own
    #[command(after_help = "Example:\n  sidegate business list")]
    List(ListArgs),
    /// Set the plan, status and limits of many businesses, from JSON lines; doing it twice changes nothing
    Import(import::ImportArgs),
    /// Print all businesses as the JSON lines that `import` reads
    #[command(after_help = "Example:\n  sidegate business export > businesses.jsonl")]
    Export,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The business
    #[arg(value_name = "ID")]
    id: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct UsageArgs {
    /// The business
    #[arg(value_name = "ID")]
    id: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The business
    #[arg(value_name = "ID")]
    id: String,
    /// The plan
    #[arg(long, conflicts_with = "no_plan")]
    plan: Option<String>,
    /// Take the plan away
    #[arg(long)]
    no_plan: bool,
    /// `suspended` refuses all of its keys, `active` lets them pass again
    #[arg(long)]
    status: Option<String>,
    /// A limit of the business's own, such as per-business=600/1m; several times for several limits
    #[arg(long, value_name = "NAME=WINDOWS", value_parser = name::limit)]
    limit: Vec<(String, Vec<String>)>,
    /// Take a limit of the business's own away again
    #[arg(long, value_name = "NAME")]
    no_limit: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print one JSON document: {"businesses": […], "total": N}
    #[arg(long)]
    json: bool,
}

/// Opens the configured store and does there what the arguments say.
pub fn with(settings: Settings, args: BusinessArgs) -> anyhow::Result<u8> {
    let actor = args.by.actor();
    in_session(settings, actor, async |setting, session| match args.command {
        BusinessCommand::Show(args) => show(args, setting, session).await,
        BusinessCommand::Usage(args) => usage(args, setting, session).await,
        BusinessCommand::Set(args) => set(args, setting, session).await,
        BusinessCommand::List(args) => list(args, setting, session).await,
        BusinessCommand::Import(args) => import::run(args, setting, session).await,
        BusinessCommand::Export => export::run(setting, session).await,
    })
}

async fn show(args: ShowArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let found = match setting.keyring.business(&args.id).await {
        Ok(found) => found,
        Err(error) => return session.refused(error),
    };
    let filter = Filter { business: Some(args.id.clone()), ..Filter::default() };
    let keys = setting.keyring.list(&filter).await?;
    if found.is_none() && keys.is_empty() {
        return unknown(&args.id, session);
    }
    let active = keys.iter().filter(|key| key.is_active(session.now_ms)).count();
    let mut document = document(&args.id, &found.unwrap_or_default());
    document["keys"] = keys.len().into();
    document["active_keys"] = active.into();
    if args.json {
        session.print_json(&document)?;
        return Ok(DONE);
    }
    print(&document, &setting.keyring.rules, session)?;
    let count = format!("{}, {active} of them active", keys.len());
    print_facts(session.out, &[("keys", &count)])?;
    Ok(DONE)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct UsageDocument<'u> {
    id: &'u str,
    #[serde(flatten)]
    usage: Usage,
}

async fn usage(args: UsageArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let id = &args.id;
    if let Err(error) = check_id(Required::Business, Some(id)) {
        return session.wrong_arguments(error);
    }
    let (policy, store) = setting.gate()?;
    let registry = &setting.keyring.registry;
    let found = registry.business(id).await?;
    let document = found.map(|members| BusinessDocument::parse(&serde_json::to_vec(&members).unwrap_or_default()));
    let document = document.transpose().map_err(RegistryError::from)?;
    let keys = setting.keyring.list(&Filter { business: Some(id.clone()), ..Filter::default() }).await?;
    let usage = of_business(policy, &store, registry, (id, document.as_ref()), session.now_ms).await?;
    // Requests of its owners' keys count as its use, too.
    let is_known = document.is_some() || !keys.is_empty() || usage.last_used_at.is_some();
    if args.json {
        session.print_json(&UsageDocument { id, usage })?;
    } else {
        print_limits(
            &usage.limits,
            "No limit is shared by its keys; `sidegate keys usage` shows those of a key.",
            session,
        )?;
        print_use("business", &usage, session)?;
        print_days(&usage, session)?;
        print_doubts(id, document.as_ref(), &keys, session)?;
    }
    if is_known { Ok(DONE) } else { unknown(id, session) }
}

/// Why nobody uses it up.
fn print_doubts(
    id: &str,
    document: Option<&BusinessDocument>,
    keys: &[StoredKey],
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    if document.is_some_and(|document| document.status != Status::Active) {
        writeln!(session.out, "{}.", suspended(id))?;
    }
    if !keys.is_empty() && !keys.iter().any(|key| key.is_active(session.now_ms)) {
        writeln!(session.out, "None of its keys ({}) is active.", keys.len())?;
    }
    Ok(())
}

fn unknown(id: &str, session: &mut Session<'_>) -> anyhow::Result<u8> {
    writeln!(session.err, "error: nothing is known of `{id}`; `sidegate business set` gives it a plan")?;
    Ok(FAILED)
}

async fn set(args: SetArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let SetArgs { id, plan, no_plan, status, limit, no_limit, json } = args;
    let plan = if no_plan { Some(None) } else { plan.map(Some) };
    let set = limit.into_iter().map(|(name, windows)| (name, Some(windows)));
    let limits = no_limit.into_iter().map(|name| (name, None)).chain(set).collect();
    let change = BusinessChange { plan, status, limits };
    let changed = match setting.keyring.set_business(&id, change, session.requester()).await {
        Ok(changed) => changed,
        Err(error) => return session.refused(error),
    };
    let document = document(&id, &changed.after);
    if json {
        session.print_json(&document)?
    } else {
        print(&document, &setting.keyring.rules, session)?
    }
    // The change acts whether or not this can be told. It may be meant for keys that are yet to come, or be a slip.
    let filter = Filter { business: Some(id.clone()), ..Filter::default() };
    if setting.keyring.list(&filter).await.is_ok_and(|keys| keys.is_empty()) {
        writeln!(
            session.err,
            "warning: keys 0: no key is bound to `{id}`; if it is spelt right, this holds for those to come"
        )?;
    }
    Ok(DONE)
}

async fn list(args: ListArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let mut all = Vec::new();
    for id in setting.keyring.registry.businesses().await? {
        match setting.keyring.registry.business(&id).await {
            Ok(found) => all.extend(found.map(|members| document(&id, &members))),
            Err(error) => writeln!(session.err, "warning: {}", printable(&error.to_string()))?,
        }
    }
    if args.json {
        session.print_json(&json!({"businesses": all, "total": all.len()}))?;
        return Ok(DONE);
    }
    if all.is_empty() {
        writeln!(session.out, "No business has a plan, a status or limits of its own.")?;
        return Ok(DONE);
    }
    let text = |document: &Value, member: &str| document[member].as_str().map_or_else(|| "-".to_owned(), printable);
    let row = |document: &Value| {
        let limits = words::limits(document.get("limits"), &setting.keyring.rules, Holder::Business);
        let plan = words::plan(document["plan"].as_str(), &setting.keyring.rules);
        [text(document, "id"), plan, text(document, "status"), limits]
    };
    print_table(session.out, ["ID", "PLAN", "STATUS", "LIMITS"], &all.iter().map(row).collect::<Vec<_>>())?;
    Ok(DONE)
}

/// What is not there is as the gate takes it: active, without a plan.
fn document(id: &str, members: &Members) -> Value {
    json!({
        "id": id,
        "plan": members.get("plan"),
        "status": members.get("status").cloned().unwrap_or_else(|| "active".into()),
        "limits": members.get("limits").cloned().unwrap_or_else(|| json!({})),
    })
}

fn print(document: &Value, rules: &Rules, session: &mut Session<'_>) -> anyhow::Result<()> {
    let text = |member: &str| document[member].as_str().map_or_else(|| "-".to_owned(), printable);
    let (id, plan, status) = (text("id"), words::plan(document["plan"].as_str(), rules), text("status"));
    let limits = words::limits(document.get("limits"), rules, Holder::Business);
    print_facts(session.out, &[("business", &id), ("plan", &plan), ("status", &status), ("limits", &limits)])
}
