//! Keys in words: the documents and tables that the commands print. Hints, never keys.

use std::io::Write;

use serde_json::{Value, json};

use crate::keys::rules::{Holder, RuleError, Rules, is_hidden};
use crate::store::members::SUCCESSOR;
use crate::store::registry::StoredKey;

/// A text of a document for a terminal: other services write documents, and a control character could rewrite the screen, and one
/// that shows nothing could turn a text into another.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A member that is a text, or `-`.
pub fn shown(key: &StoredKey, member: &str) -> String {
    key.text(member).filter(|text| !text.is_empty()).map_or_else(|| "-".to_owned(), printable)
}

/// How people name a key: hint, name and id.
pub fn named(key: &StoredKey) -> String {
    format!("{} ({}, id {})", shown(key, "hint"), shown(key, "name"), shown(key, "id"))
}

/// Since when a key is revoked: the time, or `true` where the document says so without one.
pub fn revoked_at(key: &StoredKey) -> Value {
    match key.members.get("revoked_at") {
        None => Value::Null,
        Some(Value::String(at)) if !at.is_empty() => Value::from(at.as_str()),
        Some(_) => Value::Bool(true),
    }
}

/// What a key is to whoever looks at it now.
pub const STATES: [&str; 5] = ["active", "rotated", "expired", "revoked", "unreadable"];

/// One of `STATES`.
pub fn state(key: &StoredKey, now_ms: u64) -> &'static str {
    match &key.document {
        Err(_) => "unreadable",
        Ok(document) if document.revoked => "revoked",
        Ok(document) if document.expires_at.is_some_and(|at| at <= now_ms) => "expired",
        Ok(_) if key.text(SUCCESSOR).is_some() => "rotated",
        Ok(_) => "active",
    }
}

/// The contract's members and the key's state; what is not there is null, and what the gate cannot read says why.
pub fn document(key: &StoredKey, now_ms: u64) -> Value {
    let member = |name: &str| key.members.get(name).cloned().unwrap_or(Value::Null);
    let mut document = json!({
        "id": member("id"),
        "hint": member("hint"),
        "name": member("name"),
        "state": state(key, now_ms),
        "business": member("business"),
        "user": member("user"),
        "scopes": key.members.get("scopes").cloned().unwrap_or_else(|| json!([])),
        "created_at": member("created_at"),
        "expires_at": member("expires_at"),
        "revoked_at": revoked_at(key),
    });
    for name in ["limits", "allow_addresses", SUCCESSOR] {
        if let Some(value) = key.members.get(name) {
            document[name] = value.clone();
        }
    }
    if let Err(error) = &key.document {
        document["error"] = Value::from(error.to_string());
    }
    document
}

pub fn scopes(key: &StoredKey) -> String {
    let scopes = key.members.get("scopes").and_then(Value::as_array);
    let scopes: Vec<&str> = scopes.into_iter().flatten().filter_map(Value::as_str).collect();
    if scopes.is_empty() { "-".to_owned() } else { printable(&scopes.join(",")) }
}

/// `per-key 20/1s,200/10s`, or `-`. What no gate heeds is marked.
pub fn limits(limits: Option<&Value>, rules: &Rules, holder: Holder) -> String {
    let mark = |name: &str| match rules.check_limit(holder, name) {
        Ok(()) => "",
        Err(RuleError::NotByKey(_)) => " (no effect: not counted by key)",
        Err(_) => " (no such limit)",
    };
    let windows = |windows: &Value| match windows {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.as_str().unwrap_or("?").to_owned(),
    };
    let all = limits.and_then(Value::as_object).into_iter().flatten();
    let all: Vec<_> = all.map(|(name, of)| printable(&format!("{name} {}{}", windows(of), mark(name)))).collect();
    if all.is_empty() { "-".to_owned() } else { all.join("; ") }
}

/// A plan as a document names it, or `-`. One that is not configured is marked.
pub fn plan(plan: Option<&str>, rules: &Rules) -> String {
    match plan {
        None => "-".to_owned(),
        // Without any configured plan, plans play no part.
        Some(plan) if rules.known_plans.is_empty() || rules.check_plan(plan).is_ok() => printable(plan),
        Some(plan) => printable(&format!("{plan} (no such plan)")),
    }
}

/// Why a business's plan refuses its keys (`plan_required`), for who can do something about it.
pub fn why_plan_required(business: Option<&str>, plan: Option<&str>, rules: &Rules) -> String {
    let business = business.unwrap_or("the business");
    match plan.map(|plan| (plan, rules.check_plan(plan))) {
        None => format!(
            "{business} has no plan, and none of those that are configured is called `default`; `sidegate business set {business} --plan` gives it one"
        ),
        Some((_, Err(unknown))) => format!("{business}: {unknown}"),
        Some((plan, Ok(()))) => {
            format!("{business} has the plan `{plan}`, which does not include the API (`api: false`)")
        }
    }
}

/// Columns as wide as what stands in them.
pub fn print_table<const N: usize>(
    out: &mut dyn Write,
    columns: [&str; N],
    rows: &[[String; N]],
) -> anyhow::Result<()> {
    let headings = columns.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&headings).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&headings).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// One fact to a line.
pub fn print_facts(out: &mut dyn Write, facts: &[(&str, &str)]) -> anyhow::Result<()> {
    for (fact, value) in facts {
        writeln!(out, "  {fact:<10}{value}")?;
    }
    Ok(())
}
