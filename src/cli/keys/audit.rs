//! `sidegate keys audit`: who changed what, the newest first.

use clap::Args;
use serde_json::{Value, json};

use super::session::{KeysSetting, Session};
use super::words::printable;
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
    for change in &changes {
        writeln!(session.out, "{}", line(change))?;
    }
    Ok(DONE)
}

/// When, who, what, and what became of it: `2027-01-31T00:00:00Z  ada (cli)  key_updated sg_8fK2mQ0a, id …: name "a" → "b"`.
fn line(change: &Value) -> String {
    let text = |member: &str| change[member].as_str().map(printable);
    let Some((at, action)) = text("at").zip(text("action")) else {
        // Nobody here wrote it.
        return printable(change.as_str().map_or_else(|| change.to_string(), str::to_owned).as_str());
    };
    let (actor, from) = (text("actor").unwrap_or_default(), text("from").unwrap_or_default());
    let subject = text("subject").unwrap_or_default();
    let whom = text("hint").map_or_else(|| subject.clone(), |hint| format!("{hint} (id {subject})"));
    let changed = differences(change);
    let changed = if changed.is_empty() { String::new() } else { format!(": {}", changed.join(", ")) };
    format!("{at}  {actor} ({from})  {action} {whom}{changed}")
}

/// The members that changed; those of a key that is new or gone are named by what matters of them.
fn differences(change: &Value) -> Vec<String> {
    let members = |when: &str| change[when].as_object().cloned().unwrap_or_default();
    let (before, after) = (members("before"), members("after"));
    let is_whole = before.is_empty() || after.is_empty();
    let told =
        |name: &&String| !is_whole || ["name", "business", "user", "scopes", "expires_at"].contains(&name.as_str());
    let new = after.keys().filter(|name| !before.contains_key(*name));
    let names = before.keys().chain(new).filter(told);
    let difference = |name: &String| {
        let name_shown = printable(name);
        match (before.get(name), after.get(name)) {
            (Some(was), Some(is)) => format!("{name_shown} {} → {}", short(was), short(is)),
            (Some(was), None) if !is_whole => format!("{name_shown} {} → none", short(was)),
            (None, Some(is)) if !is_whole => format!("{name_shown} none → {}", short(is)),
            (one, other) => format!("{name_shown} {}", one.or(other).map(short).unwrap_or_default()),
        }
    };
    names.map(difference).collect()
}

/// A value on a line that people read: JSON, cut where it is long. `--json` has the whole.
fn short(value: &Value) -> String {
    const MOST: usize = 80;
    let text = printable(&value.to_string());
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line_that_says_what_became_of_what() {
        let change = |action: &str, before: Value, after: Value| {
            line(&json!({
                "at": "2027-01-31T00:00:00Z", "actor": "ada", "from": "cli", "action": action, "subject": "k1",
                "hint": "sg_8fK2mQ0a", "before": before, "after": after,
            }))
        };
        assert_eq!(
            change("key_updated", json!({"name": "a", "limits": {}}), json!({"name": "b\n", "scopes": ["read"]})),
            "2027-01-31T00:00:00Z  ada (cli)  key_updated sg_8fK2mQ0a (id k1): limits {} → none, name \"a\" → \"b\\n\", \
             scopes none → [\"read\"]"
        );
        assert_eq!(
            change(
                "key_created",
                json!({}),
                json!({"id": "k1", "hint": "sg_8fK2mQ0a", "name": "a", "business": "acme"})
            ),
            "2027-01-31T00:00:00Z  ada (cli)  key_created sg_8fK2mQ0a (id k1): business \"acme\", name \"a\""
        );
        assert_eq!(line(&json!("not\u{202e}ours")), "not\\u{202e}ours");
        assert!(change("key_updated", json!({"name": "x".repeat(500)}), json!({"name": "y"})).len() < 200);
    }
}
