//! `sidegate keys verify`: reads a key and says whether it is valid, what it may do, and where it is limited. Nothing is spent.

use clap::Args;
use serde_json::json;

use super::given::{self, Given};
use super::session::{KeysSetting, Session};
use super::words::{self, printable};
use super::{doubts, show, usage};
use crate::cli::exit::{DONE, FAILED};
use crate::keys::rules::Rules;
use crate::manage::peek::{Peek, peek};
use crate::manage::usage::limits;
use crate::policy::{Access, Policy, Reason, Route};
use crate::store::registry::{RegistryError, StoredKey};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate keys verify < key.txt\n\nExit code 0: it is valid; 1: it is refused, whatever the route; 2: there is none."
)]
pub struct VerifyArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: VerifyArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let (digest, around) = match given::read(session.input, &setting.keyring.formats)? {
        Given::Key { digest, around } => (digest, around),
        Given::Nothing => return session.wrong_arguments(given::NOTHING),
        Given::Refused { reason, why } => return refused_by_its_looks(reason, &why, args.json, session),
    };
    let (policy, store) = setting.gate()?;
    let key = match setting.keyring.registry.find_digest(&digest).await {
        Ok(key) => key,
        Err(RegistryError::NotFound) => return unknown(around, args.json, session),
        Err(error) => return Err(error.into()),
    };
    let peek = peek(policy, &store, &key).await?;
    let reason = if policy.deny.holds_key(&digest) { Some(Reason::DeniedKey) } else { peek.refused };
    // What it could do if it were not refused, it cannot.
    let (routes, windows) = match reason {
        None => (routes(policy, &peek), limits(policy, &peek, setting.sees_counts())),
        Some(_) => (Vec::new(), Vec::new()),
    };
    let plan = peek.business.as_ref().and_then(|business| business.plan.as_deref());
    if args.json {
        let mut document = words::document(&key, session.now_ms);
        document["stands"] = reason.is_none().into();
        document["reason"] = reason.map(Reason::name).into();
        document["plan"] = plan.into();
        document["routes"] = json!(routes);
        document["windows"] = json!(windows);
        session.print_json(&document)?;
    } else if let Some(reason) = reason {
        let why = why(reason, &key, plan, &setting.keyring.rules).map(|why| format!(": {}", printable(&why)));
        writeln!(session.out, "It is refused with {}{}.\n", told(reason), why.unwrap_or_default())?;
        show::print(&key, &setting.keyring.rules, session)?;
    } else {
        writeln!(session.out, "The key is valid.\n")?;
        show::print(&key, &setting.keyring.rules, session)?;
        let routes = if routes.is_empty() { "nothing".to_owned() } else { printable(&routes.join(", ")) };
        writeln!(session.out, "  {:<10}{routes}", "opens")?;
        usage::print_limits(&windows, "No limit counts it.", session)?;
    }
    if let Some(document) = &peek.document
        && let Some(doubt) = doubts::of_owner(document, policy, &setting.keyring.registry).await
    {
        writeln!(session.err, "note: {}", printable(&doubt))?;
    }
    Ok(if reason.is_none() { DONE } else { FAILED })
}

/// `401 (expired_key)`.
fn told(reason: Reason) -> String {
    format!("{} ({})", reason.status(), reason.name())
}

fn refused_by_its_looks(reason: Reason, why: &str, json: bool, session: &mut Session<'_>) -> anyhow::Result<u8> {
    if json {
        session.print_json(&json!({"stands": false, "reason": reason.name(), "detail": why}))?;
    } else {
        writeln!(session.out, "It is refused with {}: {}.", told(reason), printable(why.trim_end_matches('.')))?;
    }
    Ok(FAILED)
}

fn unknown(around: Option<&str>, json: bool, session: &mut Session<'_>) -> anyhow::Result<u8> {
    if json {
        let mut document = json!({"stands": false, "reason": Reason::UnknownKey.name()});
        if let Some(around) = around {
            document["detail"] = around.into();
        }
        session.print_json(&document)?;
    } else {
        let around = around.map(|around| format!(": {around}")).unwrap_or_default();
        writeln!(session.out, "The store holds no such key: it is refused with {}{around}.", told(Reason::UnknownKey))?;
    }
    Ok(FAILED)
}

/// Since when, or by whose doing.
fn why(reason: Reason, key: &StoredKey, plan: Option<&str>, rules: &Rules) -> Option<String> {
    let business = key.text("business");
    let since = |member: &str| key.text(member).filter(|at| !at.is_empty());
    match reason {
        Reason::RevokedKey => since("revoked_at").map(|at| format!("it was revoked at {at}")),
        Reason::ExpiredKey => since("expires_at").map(|at| format!("it expired at {at}")),
        Reason::DeniedKey => Some("`deny.keys` in the configuration names it".to_owned()),
        Reason::PlanRequired => Some(words::why_plan_required(business, plan, rules)),
        Reason::BusinessSuspended => business.map(doubts::suspended),
        Reason::BusinessForbidden if business.is_none() => {
            Some("it is bound to no business, so that a request must name one that its user owns".to_owned())
        }
        _ => None,
    }
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
