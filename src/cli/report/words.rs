//! The report for a person. All names come from a log, so that none reaches a terminal with a control character.

use std::fmt::Write as _;

use super::advice;
use super::contents::Report;
use super::one_caller::{CallerTally, Counted, Counts, DAY_MS};
use super::tally::{MOST_CLIENTS, Row, Table, Tally, TimeSpan};
use crate::cli::check::counted;
use crate::cli::keys::words::printable;
use crate::cli::style::{BOLD, GREEN, RED, Style};
use crate::clock;

/// Places of one reason.
const MOST_PLACES: usize = 5;

pub fn of(report: &Report, style: Style) -> String {
    let Report { tally, top, sample } = report;
    let mut text = String::new();
    totals(&mut text, tally, style);
    say_sample(&mut text, *sample);
    if tally.totals.observed + tally.totals.denied + tally.totals.failed == 0 {
        return text;
    }
    table(&mut text, &tally.routes, "By route", ("REFUSED", *top), style);
    table(&mut text, &tally.keys, "By key", ("REFUSED", *top), style);
    table(&mut text, &tally.clients, "Without a known key, by address", ("REFUSED", *top), style);
    table(&mut text, &tally.reasons, "By reason", ("REFUSED", *top), style);
    table(&mut text, &tally.failures, "Failed, by reason", ("FAILED", *top), style);
    next(&mut text, report, style);
    text
}

fn totals(text: &mut String, tally: &Tally, style: Style) {
    let totals = &tally.totals;
    let span = match tally.requests {
        0 => String::new(),
        _ => format!(", {} to {}", clock::rfc3339(tally.time_span.first_ms), clock::rfc3339(tally.time_span.last_ms)),
    };
    let _ = writeln!(text, "{}{span}", style.paint(BOLD, &counted(tally.requests, "request")));
    for (count, name, meaning, code) in [
        (totals.allowed, "allowed", "", GREEN),
        (totals.observed, "observed", "let pass; enforcement refuses them", RED),
        (totals.denied, "denied", "refused", RED),
        (totals.failed, "failed", "the store or the service failed, or the client left", RED),
        (totals.other, "other", "a decision of another release", RED),
    ] {
        if count > 0 || !["other", "failed"].contains(&name) {
            let number = format!("{count:>10}");
            let number = if count > 0 { style.paint(code, &number) } else { number };
            let _ = writeln!(text, "{}", format!("{number}  {name:<9}{meaning}").trim_end());
        }
    }
    if tally.outside > 0 {
        let _ = writeln!(text, "Left out: {} outside the time asked about.", counted(tally.outside, "request"));
    }
    if tally.foreign > 0 {
        let _ =
            writeln!(text, "Left out: {} that sidegate's access log did not write.", counted(tally.foreign, "line"));
    }
}

fn table(text: &mut String, table: &Table, heading: &str, (count, top): (&str, usize), style: Style) {
    let rows = table.busiest(top);
    if rows.is_empty() {
        return;
    }
    let shown = if rows.len() < table.len() {
        format!(" (the busiest {} of {})", rows.len(), table.len())
    } else {
        String::new()
    };
    let _ = writeln!(text, "\n{}", style.paint(BOLD, &format!("{heading}{shown}")));
    let names: Vec<String> = rows.iter().map(|(name, _)| shortened(name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let _ =
        writeln!(text, "{:>10}  {:>7}  {:<20}  {:<20}  {:<width$}  FOR EXAMPLE", count, "CLIENTS", "FIRST", "LAST", "");
    for (name, (_, row)) in names.iter().zip(&rows) {
        let (first, last) = (clock::rfc3339(row.time_span.first_ms), clock::rfc3339(row.time_span.last_ms));
        let (refused, clients, example) = (row.refused(), clients(row), printable(&row.example));
        let _ = writeln!(text, "{refused:>10}  {clients:>7}  {first}  {last}  {name:<width$}  {example}");
    }
    if table.beyond > 0 {
        let _ = writeln!(text, "{:>10}  in rows that came too late to be told apart", table.beyond);
    }
}

/// By reason what to do, and where.
fn next(text: &mut String, report: &Report, style: Style) {
    let _ = writeln!(text, "\n{}", style.paint(BOLD, "What to do"));
    let (refused, failed) = (report.tally.reasons.busiest(report.top), report.tally.failures.busiest(report.top));
    for (reason, _) in refused.into_iter().chain(failed) {
        let _ = writeln!(text, "{}: {}", style.paint(RED, &shortened(reason)), advice::for_reason(reason));
        let Some(places) = report.tally.tasks.get(reason) else { continue };
        for (place, row) in places.busiest(MOST_PLACES) {
            let from = if row.clients() == 1 { "1 client".to_owned() } else { format!("{} clients", clients(row)) };
            let _ = writeln!(text, "  {}: {} from {from}", shortened(place), counted(row.refused(), "request"));
        }
        more(text, places);
        let Some(callers) = report.tally.callers.get(reason) else { continue };
        for (caller, row) in callers.busiest(MOST_PLACES) {
            let _ = writeln!(text, "  from {}: {}", printable(caller), counted(row.refused(), "request"));
        }
        more(text, callers);
    }
}

/// What a table holds beyond the rows that are shown.
fn more(text: &mut String, table: &Table) {
    match (table.len().saturating_sub(MOST_PLACES), table.beyond) {
        (0, _) => {}
        (more, 0) => drop(writeln!(text, "  and {more} more")),
        (more, _) => drop(writeln!(text, "  and more than {more} more")),
    }
}

/// What one key or business did, for whoever disputes a refusal or asks who used a key.
pub fn of_caller(tally: &CallerTally<'_>, top: usize, sample: Option<f64>, style: Style) -> String {
    let mut text = String::new();
    let named = [("key", tally.caller.key), ("business", tally.caller.business)];
    let named: Vec<_> = named.iter().filter_map(|(what, id)| Some(format!("{what} {}", (*id)?))).collect();
    let requests = counted(tally.totals.all(), "request");
    let _ = write!(text, "{}: {requests}", style.paint(BOLD, &printable(&named.join(", "))));
    if tally.totals.all() == 0 {
        return text + ". Lines have ids alone; `sidegate keys list` shows them\n";
    }
    let TimeSpan { first_ms, last_ms } = tally.time_span;
    let _ = writeln!(text, ", {} to {}", clock::rfc3339(first_ms), clock::rfc3339(last_ms));
    let Counts { allowed, refused, failed } = tally.totals;
    for (count, name) in [(allowed, "allowed"), (refused, "refused"), (failed, "failed")] {
        let _ = writeln!(text, "{count:>10}  {name}");
    }
    say_sample(&mut text, sample);
    let (heading, times) = match last_ms - first_ms < DAY_MS {
        true => ("By minute", &tally.minutes),
        false => ("By day", &tally.days),
    };
    by(&mut text, heading, times, times.busiest_in_order(top), style);
    for (heading, counted) in [
        ("By reason", &tally.reasons),
        ("By limit that refused", &tally.limits),
        ("By key", &tally.keys),
        ("By route", &tally.routes),
        ("By address", &tally.clients),
        ("By agent", &tally.agents),
    ] {
        if heading == "By key" && tally.caller.key.is_some() {
            continue;
        }
        by(&mut text, heading, counted, counted.busiest(top), style);
    }
    text
}

fn by(text: &mut String, heading: &str, counted: &Counted, rows: Vec<(&str, Counts)>, style: Style) {
    if rows.is_empty() {
        return;
    }
    let shown = match counted.len() - rows.len() {
        0 => String::new(),
        _ => format!(" (the busiest {} of {})", rows.len(), counted.len()),
    };
    let _ = writeln!(text, "\n{}", style.paint(BOLD, &format!("{heading}{shown}")));
    let _ = writeln!(text, "{:>10}  {:>10}  {:>10}", "ALLOWED", "REFUSED", "FAILED");
    for (name, Counts { allowed, refused, failed }) in rows {
        let _ = writeln!(text, "{allowed:>10}  {refused:>10}  {failed:>10}  {}", shortened(name));
    }
    if counted.beyond > 0 {
        let _ = writeln!(text, "{:>10}  in rows that came too late to be told apart", counted.beyond);
    }
}

fn say_sample(text: &mut String, sample: Option<f64>) {
    if let Some(share) = sample.filter(|share| *share < 1.0) {
        let _ = writeln!(
            text,
            "The log is a sample: of allowed requests a share of {share} stands in it, of refusals all."
        );
    }
}

fn clients(row: &Row) -> String {
    let count = row.clients();
    if count == MOST_CLIENTS { format!("{count}+") } else { count.to_string() }
}

/// A name that fits a row.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 60;
    let name = if name.is_empty() { "-" } else { name };
    if name.chars().count() <= LONGEST {
        return printable(name);
    }
    printable(&(name.chars().take(LONGEST - 1).collect::<String>() + "…"))
}
