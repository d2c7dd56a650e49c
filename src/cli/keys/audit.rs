//! `sidegate keys audit`: who changed what, the newest first.

use clap::Args;
use serde_json::{Value, json};

use super::session::{KeysSetting, Session};
use super::words::printable;
use crate::cli::exit::DONE;
use crate::clock;
use crate::keys::change::age;
use crate::keys::mask;
use crate::store::audit;
use crate::store::members::SUCCESSOR;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidegate keys audit --last 20\n  sidegate keys audit --business acme --since 24h\n  sidegate keys audit --key sg_8fK2mQ0a"
)]
pub struct AuditArgs {
    /// How many changes to show, of those that match; without it 50, or all with `--since`
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: Option<u32>,
    /// Only changes to this business and its keys
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// Only changes to this key, by its id or hint; it may be gone by now
    #[arg(long, value_name = "ID|HINT")]
    key: Option<String>,
    /// Only changes since then: a duration such as 24h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Print one JSON document: {"changes": […]}
    #[arg(long)]
    json: bool,
}

/// How many are shown where nobody says.
const SHOWN: usize = 50;
/// As many as a store keeps, and those that a stream has before it is cut.
const KEPT: usize = 20_000;

/// Which changes are asked for.
struct Wanted {
    business: Option<String>,
    key: Option<String>,
    /// Milliseconds since the Unix epoch.
    since: Option<u64>,
}

pub(super) async fn run(args: AuditArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    if args.key.as_deref().is_some_and(|key| mask(key, &setting.keyring.formats) != key) {
        return session.wrong_arguments("this looks like a whole key; name it by its id or hint");
    }
    let since = match args.since.as_deref().map(|when| time(when, session.now_ms)) {
        Some(None) => {
            return session
                .wrong_arguments("`--since` takes a duration such as `24h` or a time such as `2027-01-31T00:00:00Z`");
        }
        since => since.flatten(),
    };
    let last = args.last.map_or(if since.is_some() { KEPT } else { SHOWN }, |last| last as usize);
    let wanted = Wanted { business: args.business, key: args.key, since };
    let read = if wanted.is_everything() { last } else { KEPT };
    let mut changes = audit::last(&setting.keyring.registry, read).await?;
    changes.retain(|change| wanted.fits(change));
    changes.truncate(last);
    if args.json {
        session.print_json(&json!({"changes": changes}))?;
        return Ok(DONE);
    }
    if changes.is_empty() {
        let none = if wanted.is_everything() { "No changes are recorded." } else { "No recorded change matches." };
        writeln!(session.out, "{none}")?;
        return Ok(DONE);
    }
    for change in &changes {
        writeln!(session.out, "{}", line(change))?;
    }
    Ok(DONE)
}

/// How long ago, or when. Records have whole seconds.
fn time(when: &str, now_ms: u64) -> Option<u64> {
    let at = match age(when) {
        Ok(age) => now_ms.saturating_sub(age),
        Err(_) => clock::parse_rfc3339(when)?,
    };
    Some(at / 1000 * 1000)
}

impl Wanted {
    fn is_everything(&self) -> bool {
        self.business.is_none() && self.key.is_none() && self.since.is_none()
    }

    fn fits(&self, change: &Value) -> bool {
        let text = |member: &str| change[member].as_str();
        let is_of_business = text("action") == Some("business_changed");
        let subject = |is_meant: bool| text("subject").filter(|_| is_meant);
        let same = |wanted: &Option<String>, found: &[Option<&str>]| {
            wanted.is_none() || found.iter().any(|found| found.is_some() && *found == wanted.as_deref())
        };
        let since = || text("at").and_then(clock::parse_rfc3339);
        same(&self.business, &[subject(is_of_business), text("business")])
            // A key that another was rotated into has no creation of its own.
            && same(&self.key, &[subject(!is_of_business), text("hint"), change["after"][SUCCESSOR].as_str()])
            && self.since.is_none_or(|wanted| since().is_some_and(|at| at >= wanted))
    }
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

/// The members that changed, before → after. What is new, gone or no change of a document is told as it is, without what the line
/// says already.
fn differences(change: &Value) -> Vec<String> {
    let members = |when: &str| change[when].as_object().cloned().unwrap_or_default();
    let (before, after) = (members("before"), members("after"));
    let action = change["action"].as_str().unwrap_or_default();
    let is_whole = ["key_created", "key_imported", "key_deleted", "limit_reset"].contains(&action);
    let told = |name: &&String| !is_whole || !["id", "hint", "created_at"].contains(&name.as_str());
    let new = after.keys().filter(|name| !before.contains_key(*name));
    let names = before.keys().chain(new).filter(told);
    let difference = |name: &String| {
        let shown = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), short);
        let (was, is) = (before.get(name), after.get(name));
        let name = printable(name);
        if is_whole {
            format!("{name} {}", shown(was.or(is)))
        } else {
            format!("{name} {} → {}", shown(was), shown(is))
        }
    };
    names.map(difference).collect()
}

/// A value on a line that people read: JSON, cut where it is long beyond what the commands write. `--json` has the whole.
fn short(value: &Value) -> String {
    let most = if value.is_string() { 80 } else { 500 };
    let text = printable(&value.to_string());
    match text.char_indices().nth(most) {
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
        assert!(change("limit_reset", json!({}), json!({"limit": "per-key"})).ends_with("(id k1): limit \"per-key\""),);
        assert_eq!(line(&json!("not\u{202e}ours")), "not\\u{202e}ours");
        assert!(change("key_updated", json!({"name": "x".repeat(500)}), json!({"name": "y"})).len() < 200);
    }
}
