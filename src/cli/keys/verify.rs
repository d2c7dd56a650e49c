//! `sidegate keys verify`: reads a key and says whether it is valid, what it may do, and where it is limited. Nothing is spent.

use clap::Args;
use serde_json::json;

use super::name::{NOT_A_KEY, read_key};
use super::session::{KeysSetting, Session};
use super::words::{self, printable};
use super::{show, usage};
use crate::cli::exit::{DONE, FAILED};
use crate::keys::rules::Rules;
use crate::manage::peek::{Peek, peek};
use crate::manage::usage::limits;
use crate::policy::{Access, Policy, Reason, Route};
use crate::store::registry::{RegistryError, StoredKey};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate keys verify < key.txt\n\nExit code 0: it is valid; 1: it is refused, whatever the route."
)]
pub struct VerifyArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: VerifyArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let Some(digest) = read_key(session.input, setting)? else {
        return session.wrong_arguments(NOT_A_KEY);
    };
    let (policy, store) = setting.gate()?;
    let key = match setting.keyring.registry.find_digest(&digest).await {
        Ok(key) => key,
        Err(RegistryError::NotFound) => return unknown(args.json, session),
        Err(error) => return Err(error.into()),
    };
    let peek = peek(policy, &store, &key).await?;
    let reason = if policy.deny.holds_key(&digest) { Some("denied_key") } else { refusal(&peek) };
    let routes = routes(policy, &peek);
    if args.json {
        let mut document = words::document(&key, session.now_ms);
        document["stands"] = reason.is_none().into();
        document["reason"] = reason.into();
        document["plan"] = peek.business.as_ref().and_then(|business| business.plan.as_deref()).into();
        document["routes"] = json!(routes);
        document["windows"] = json!(limits(&peek, setting.sees_counts()));
        session.print_json(&document)?;
    } else {
        let plan = peek.business.as_ref().and_then(|business| business.plan.as_deref());
        let why = (peek.refused == Some(Reason::PlanRequired))
            .then(|| words::why_plan_required(key.text("business"), plan, &setting.keyring.rules));
        let reason = reason.map(|reason| match why {
            Some(why) => format!("{reason}: {}", printable(&why)),
            None => reason.to_owned(),
        });
        print(&key, reason.as_deref(), &setting.keyring.rules, &routes, session)?;
        usage::print_limits(&limits(&peek, setting.sees_counts()), session)?;
    }
    Ok(if reason.is_none() { DONE } else { FAILED })
}

fn unknown(json: bool, session: &mut Session<'_>) -> anyhow::Result<u8> {
    if json {
        session.print_json(&json!({"stands": false, "reason": "unknown_key"}))?;
    } else {
        writeln!(session.out, "The store holds no such key: it is refused with 401 (unknown_key).")?;
    }
    Ok(FAILED)
}

fn refusal(peek: &Peek) -> Option<&'static str> {
    peek.refused.map(Reason::name)
}

/// What the key opens, by its scopes alone.
fn routes<'p>(policy: &'p Policy, peek: &Peek) -> Vec<&'p str> {
    let Some(document) = &peek.document else { return Vec::new() };
    let allowed = |scope: &String| policy.scopes.allow(&document.scopes, scope);
    let opens = |route: &Route| match &route.access {
        Access::Public | Access::Any => true,
        Access::All(scopes) => scopes.iter().all(allowed),
        Access::AnyOf(scopes) => scopes.iter().any(allowed),
    };
    policy.routes.iter().filter(|route| opens(route)).map(|route| route.pattern.as_str()).collect()
}

fn print(
    key: &StoredKey,
    reason: Option<&str>,
    rules: &Rules,
    routes: &[&str],
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    match reason {
        None => writeln!(session.out, "The key is valid.\n")?,
        Some(reason) => writeln!(session.out, "The key is refused: {reason}.\n")?,
    }
    show::print(key, rules, session)?;
    let routes = if routes.is_empty() { "nothing".to_owned() } else { printable(&routes.join(", ")) };
    writeln!(session.out, "  {:<10}{routes}", "opens")?;
    Ok(())
}
