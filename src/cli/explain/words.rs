//! The explanation for a person.

use std::fmt::Write as _;

use super::explanation::Explanation;
use super::limits::Holding;
use super::outcome::{Denied, Forwarded};
use crate::cli::check::{access_words, by_words, upstream_words};
use crate::cli::keys::words::{plan, printable};
use crate::cli::style::{BOLD, GREEN, RED, Style, YELLOW};
use crate::gate::{Denial, LimitNow};
use crate::policy::{Mode, Route};

pub fn of(explanation: &Explanation<'_>, style: Style) -> String {
    let Explanation { settings, explained, route, candidates, outcome, notes } = explanation;
    let mut text = String::new();
    let asked_for = format!("{} {}", explained.method(), explained.request.uri());
    let _ =
        writeln!(text, "{} from {}\n", style.paint(BOLD, &printable(&asked_for)), explained.arrival.client.as_str());
    fact(&mut text, "route", &route.as_ref().map_or("none".to_owned(), |route| style.paint(BOLD, &route.pattern)));
    fact(&mut text, "why", &candidates.why);
    for (pattern, relation) in &candidates.others {
        fact(&mut text, "", &format!("{pattern}: {}", relation.words()));
    }
    if let Some(route) = route {
        needs(&mut text, route, &outcome.holding);
    }
    fact(&mut text, "mode", mode(explanation));
    if let Some(caller) = &outcome.trail.caller {
        let business = caller.business().map_or(String::new(), |business| format!(", business {business}"));
        let plan = caller.plan.as_deref().map(|named| format!(", plan {}", plan(Some(named), &settings.keys)));
        let plan = plan.unwrap_or_default();
        let scopes = if caller.key.scopes.is_empty() { "none".to_owned() } else { caller.key.scopes.join(", ") };
        let key = format!("{} (id {}){business}{plan}, scopes {scopes}", caller.key.name, caller.key.id);
        fact(&mut text, "key", &printable(&key));
    }
    for now in &outcome.trail.limits {
        fact(&mut text, "left", &left(now, outcome.sees_counts));
    }
    match &outcome.verdict {
        Ok(forwarded) => {
            fact(&mut text, "verdict", &passes(forwarded, style));
            forward(&mut text, forwarded, &upstream_words(&settings.proxy.upstreams[forwarded.upstream]));
        }
        Err(denied) => {
            fact(&mut text, "verdict", &style.paint(RED, &denial(denied)));
            fact(&mut text, "answer", &printable(&String::from_utf8_lossy(denied.answer.body())));
            if let Some(would) = &denied.would {
                fact(&mut text, "would go", &upstream_words(&settings.proxy.upstreams[would.upstream]));
                fact(&mut text, "as", &printable(&would.target));
                would.sets.iter().for_each(|name| fact(&mut text, "with", name.as_str()));
            }
            if matches!(denied.denial, Denial::MissingKey) {
                fact(&mut text, "", "No key was given; one on standard input is asked about, and nothing is spent.");
            }
        }
    }
    notes.iter().for_each(|note| fact(&mut text, "note", &printable(note)));
    text
}

fn mode(explanation: &Explanation<'_>) -> &'static str {
    match explanation.mode() {
        Mode::Observe => "observe: denials are counted and logged",
        Mode::Enforce if explanation.route.is_none() && explanation.settings.policy.mode == Mode::Observe => {
            "enforce: a service could take it for a route that is enforced"
        }
        Mode::Enforce => "enforce",
    }
}

fn fact(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<10}{value}");
}

fn needs(text: &mut String, route: &Route, holding: &[Holding]) {
    fact(text, "needs", &access_words(&route.access));
    for limit in &route.limits {
        let holds = holding.iter().find(|holding| holding.limit.name == limit.name);
        let windows = holds.map_or_else(|| limit.windows.to_string(), |of| format!("{} ({})", of.windows, of.whose()));
        let windows = format!("{} {} {windows}", limit.name, by_words(limit.by));
        let observes = if limit.mode == Mode::Observe { "; it only observes" } else { "" };
        fact(text, "limit", &printable(&format!("{windows}, of which this takes {}{observes}", route.cost)));
    }
}

fn left(now: &LimitNow, seen: bool) -> String {
    let name = now.policy_name();
    if !seen {
        return format!("{name}: what is used stands in the memory of the gate that reads this file");
    }
    format!("{name}: {} of {}, resets in {} s", now.now.remaining, now.window, now.reset_in_seconds())
}

fn denial(denied: &Denied) -> String {
    format!("refused with {}: {}", denied.answer.status().as_u16(), denied.denial.reason().name())
}

fn passes(forwarded: &Forwarded, style: Style) -> String {
    let Some(reason) = forwarded.observed else { return style.paint(GREEN, "allowed") };
    let (status, reason) = (reason.status(), reason.name());
    style.paint(YELLOW, &format!("would be refused with {status}: {reason}, but passes: observed"))
}

fn forward(text: &mut String, forwarded: &Forwarded, upstream: &str) {
    fact(text, "goes to", upstream);
    fact(text, "as", &printable(&forwarded.target));
    for (name, value) in &forwarded.set {
        fact(text, "sets", &printable(&format!("{name}: {}", value.as_deref().unwrap_or("… (fixed)"))));
    }
    for name in &forwarded.stripped {
        fact(text, "strips", name.as_str());
    }
}
