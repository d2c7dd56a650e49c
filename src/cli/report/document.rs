//! The report as one JSON document.

use serde_json::{Value, json};

use super::advice;
use super::contents::Report;
use super::tally::{MOST_CLIENTS, Row, Table, TimeSpan};
use crate::clock;

pub fn of(report: &Report) -> Value {
    let Report { tally, top, sample } = report;
    let totals = &tally.totals;
    json!({
        "requests": tally.requests,
        "foreign_lines": tally.foreign,
        "outside": tally.outside,
        "from": time(&tally.time_span, tally.time_span.first_ms),
        "to": time(&tally.time_span, tally.time_span.last_ms),
        "sample": sample,
        "allowed": totals.allowed,
        "observed": totals.observed,
        "denied": totals.denied,
        "failed": totals.failed,
        "other": totals.other,
        "routes": table(&tally.routes, "route", *top),
        "keys": table(&tally.keys, "key_id", *top),
        "without_key": table(&tally.clients, "client", *top),
        "reasons": table(&tally.reasons, "reason", *top),
        "failures": failures(&tally.failures, *top),
        "next": next(report),
    })
}

fn table(table: &Table, name: &str, top: usize) -> Value {
    let rows: Vec<Value> = table.busiest(top).into_iter().map(|(named, row)| of_row(name, named, row)).collect();
    json!({"total": table.len(), "beyond": table.beyond, "rows": rows})
}

/// What failed was neither observed nor denied.
fn failures(table: &Table, top: usize) -> Value {
    let row = |(reason, row): (&str, &Row)| {
        let mut document = of_row("reason", reason, row);
        if let Some(members) = document.as_object_mut() {
            members.retain(|name, _| !["observed", "denied"].contains(&name.as_str()));
        }
        document["failed"] = row.refused().into();
        document
    };
    let rows: Vec<Value> = table.busiest(top).into_iter().map(row).collect();
    json!({"total": table.len(), "beyond": table.beyond, "rows": rows})
}

fn of_row(name: &str, named: &str, row: &Row) -> Value {
    json!({
        name: named,
        "observed": row.observed,
        "denied": row.denied,
        "clients": row.clients(),
        "more_clients": row.clients() == MOST_CLIENTS,
        "first": clock::rfc3339(row.time_span.first_ms),
        "last": clock::rfc3339(row.time_span.last_ms),
        "example": row.example,
    })
}

/// What to do by reason, and where.
fn next(report: &Report) -> Vec<Value> {
    let (refused, failed) = (report.tally.reasons.busiest(report.top), report.tally.failures.busiest(report.top));
    let reasons = refused.into_iter().chain(failed);
    let tasks = reasons.filter_map(|(reason, _)| {
        let places = report.tally.tasks.get(reason)?;
        let callers = report.tally.callers.get(reason).map(|callers| table(callers, "caller", report.top));
        let places = table(places, "place", report.top);
        Some(json!({"reason": reason, "advice": advice::for_reason(reason), "places": places, "callers": callers}))
    });
    tasks.collect()
}

fn time(time_span: &TimeSpan, ms: u64) -> Option<String> {
    (time_span.first_ms <= time_span.last_ms).then(|| clock::rfc3339(ms))
}
