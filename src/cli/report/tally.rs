//! Counts of an access log. Everything that a log could hold without end is bounded: rows of a table, clients of a row, the
//! length of an example. What is beyond is counted together, and said.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use super::advice;
use crate::cli::logs::own::Line;
use crate::cli::logs::shortened;
use crate::cli::traffic::grouped;

/// Rows of one table; what comes after them is counted together.
const MOST_ROWS: usize = 5_000;
/// There are not that many: beyond them the log is not a gate's.
const MOST_REASONS: usize = 64;
/// Places of one reason.
const MOST_PLACES: usize = 500;
/// Clients that are told apart in one row.
pub const MOST_CLIENTS: usize = 256;

/// From the one to before the other, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    pub since: Option<u64>,
    pub until: Option<u64>,
}

impl Period {
    pub fn has(self, at_ms: u64) -> bool {
        self.since.is_none_or(|since| at_ms >= since) && self.until.is_none_or(|until| at_ms < until)
    }
}

/// What became of requests.
#[derive(Debug, Default)]
pub struct Totals {
    pub allowed: u64,
    /// Let pass by a gate that observes, which would have refused them.
    pub observed: u64,
    pub denied: u64,
    /// Something behind the gate failed, or the client left.
    pub failed: u64,
    /// Decisions that only another release knows.
    pub other: u64,
}

#[derive(Debug)]
pub struct Tally {
    period: Period,
    pub requests: u64,
    /// Lines that are none of an access log.
    pub foreign: u64,
    /// Lines of requests before or after what is asked about.
    pub outside: u64,
    pub time_span: TimeSpan,
    pub totals: Totals,
    pub routes: Table,
    pub keys: Table,
    /// Refusals without a key that is known, by address.
    pub clients: Table,
    pub reasons: Table,
    /// What failed rather than was refused, by reason.
    pub failures: Table,
    /// By reason and then by where it happened: what there is to do.
    pub tasks: HashMap<String, Table>,
    /// By reason, where it concerns them, and then by key, business and limit, or by address.
    pub callers: HashMap<String, Table>,
    hashes: RandomState,
}

/// The first and the last time, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub struct TimeSpan {
    pub first_ms: u64,
    pub last_ms: u64,
}

impl Default for TimeSpan {
    fn default() -> Self {
        Self { first_ms: u64::MAX, last_ms: 0 }
    }
}

impl TimeSpan {
    pub fn note(&mut self, at_ms: u64) {
        self.first_ms = self.first_ms.min(at_ms);
        self.last_ms = self.last_ms.max(at_ms);
    }
}

/// Refusals by something.
#[derive(Debug)]
pub struct Table {
    most: usize,
    rows: HashMap<String, Row>,
    /// Refusals that have no row any more.
    pub beyond: u64,
}

#[derive(Debug, Default)]
pub struct Row {
    pub observed: u64,
    pub denied: u64,
    pub time_span: TimeSpan,
    /// The first of them, `GET /v1/calls/7`.
    pub example: String,
    clients: HashSet<u64>,
}

impl Row {
    pub fn refused(&self) -> u64 {
        self.observed + self.denied
    }

    /// How many addresses they came from; at `MOST_CLIENTS`: so many or more.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

/// One refusal or failure, as tables take it.
struct Refusal<'l> {
    line: &'l Line<'l>,
    at_ms: u64,
    /// The client's address, hashed: rows only tell clients apart.
    client: u64,
}

impl Tally {
    pub fn new(period: Period) -> Self {
        Self {
            period,
            requests: 0,
            foreign: 0,
            outside: 0,
            time_span: TimeSpan::default(),
            totals: Totals::default(),
            routes: Table::new(MOST_ROWS),
            keys: Table::new(MOST_ROWS),
            clients: Table::new(MOST_ROWS),
            reasons: Table::new(MOST_REASONS),
            failures: Table::new(MOST_REASONS),
            tasks: HashMap::new(),
            callers: HashMap::new(),
            hashes: RandomState::new(),
        }
    }

    /// Counts one line; `None`: it was none.
    pub fn note(&mut self, line: Option<Line<'_>>) {
        let Some((line, at_ms)) = line.and_then(|line| line.at_ms().map(|at_ms| (line, at_ms))) else {
            self.foreign += 1;
            return;
        };
        if !self.period.has(at_ms) {
            self.outside += 1;
            return;
        }
        self.requests += 1;
        self.time_span.note(at_ms);
        let totals = &mut self.totals;
        let count = match &*line.decision {
            "allowed" => &mut totals.allowed,
            "observed" => &mut totals.observed,
            "denied" => &mut totals.denied,
            "failed" => &mut totals.failed,
            _ => &mut totals.other,
        };
        *count += 1;
        if !matches!(&*line.decision, "observed" | "denied" | "failed") {
            return;
        }
        let refusal = Refusal { client: self.hashes.hash_one(&*line.client), line: &line, at_ms };
        if line.decision == "failed" {
            self.failures.note(&line.reason, &refusal);
            self.task(&refusal);
        } else {
            self.refusal(&refusal);
        }
    }

    fn refusal(&mut self, refusal: &Refusal<'_>) {
        let Line { route, key_id, client, reason, .. } = refusal.line;
        self.routes.note(route, refusal);
        self.reasons.note(reason, refusal);
        if key_id.is_empty() { &mut self.clients } else { &mut self.keys }
            .note(if key_id.is_empty() { client } else { key_id }, refusal);
        self.task(refusal);
    }

    fn task(&mut self, refusal: &Refusal<'_>) {
        let Line { route, reason, path, method, .. } = refusal.line;
        // Where there is no route, the kind of path says what is missing.
        let place = if route == "none" { format!("{method} {}", grouped(path)) } else { route.clone().into_owned() };
        note_by_reason(&mut self.tasks, &place, refusal);
        if advice::concerns_callers(reason) {
            note_by_reason(&mut self.callers, &caller(refusal.line), refusal);
        }
    }
}

fn note_by_reason(tables: &mut HashMap<String, Table>, name: &str, refusal: &Refusal<'_>) {
    let reason = shortened(&refusal.line.reason);
    let has_room = tables.len() < MOST_REASONS;
    match tables.get_mut(reason) {
        Some(table) => table.note(name, refusal),
        None if has_room => tables.entry(reason.to_owned()).or_insert(Table::new(MOST_PLACES)).note(name, refusal),
        None => {}
    }
}

/// `key k1 of acme, limit per-key-1m`, or `192.0.2.1`.
fn caller(line: &Line<'_>) -> String {
    let Line { key_id, business, client, limit, reason, .. } = line;
    let mut caller = if key_id.is_empty() { client.clone().into_owned() } else { format!("key {key_id}") };
    if !business.is_empty() {
        caller += &format!(" of {business}");
    }
    // Of other refusals the nearest limit is not the reason.
    if reason == "rate_limited" && !limit.is_empty() {
        caller += &format!(", limit {limit}");
    }
    caller
}

impl Table {
    fn new(most: usize) -> Self {
        Self { most, rows: HashMap::new(), beyond: 0 }
    }

    fn note(&mut self, name: &str, refusal: &Refusal<'_>) {
        let name = shortened(name);
        let has_room = self.rows.len() < self.most;
        match self.rows.get_mut(name) {
            Some(row) => row.note(refusal),
            None if has_room => {
                let row = self.rows.entry(name.to_owned()).or_default();
                let (method, path) = (&refusal.line.method, &refusal.line.path);
                row.example = shortened(&format!("{method} {path}")).to_owned();
                row.note(refusal);
            }
            None => self.beyond += 1,
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// So many rows, the busiest first.
    pub fn busiest(&self, top: usize) -> Vec<(&str, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().map(|(name, row)| (name.as_str(), row)).collect();
        rows.sort_by(|(a, of_a), (b, of_b)| of_b.refused().cmp(&of_a.refused()).then(a.cmp(b)));
        rows.truncate(top);
        rows
    }
}

impl Row {
    fn note(&mut self, refusal: &Refusal<'_>) {
        *if refusal.line.decision == "observed" { &mut self.observed } else { &mut self.denied } += 1;
        self.time_span.note(refusal.at_ms);
        if self.clients.len() < MOST_CLIENTS {
            self.clients.insert(refusal.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(i: usize, decision: &str, at: &str) -> String {
        format!(
            r#"{{"timestamp":"{at}","http.request.method":"GET","url.path":"/v1/{i}x/{i}","http.route":"none","client.address":"c{i}",
                "sidegate.decision":"{decision}","sidegate.reason":"route_not_found"}}"#
        )
    }

    #[test]
    fn a_log_of_strangers_is_counted_in_bounded_memory() {
        let mut tally = Tally::new(Period::default());
        for i in 0..10_000 {
            let line = line(i, "observed", "2026-03-23T14:30:00Z");
            tally.note(Line::read(line.as_bytes()));
        }
        tally.note(None);
        assert_eq!((tally.requests, tally.totals.observed, tally.foreign), (10_000, 10_000, 1));
        assert_eq!((tally.clients.len(), tally.clients.beyond), (MOST_ROWS, 5_000));
        let routes = tally.routes.busiest(3);
        assert_eq!((routes.len(), routes[0].1.refused(), routes[0].1.clients()), (1, 10_000, MOST_CLIENTS));
        let places = &tally.tasks["route_not_found"];
        assert_eq!(places.len() as u64 + places.beyond, 10_000);
    }

    #[test]
    fn only_what_is_asked_about_is_counted() {
        let period = Period { since: Some(1_774_276_200_000), until: Some(1_774_276_201_000) };
        let mut tally = Tally::new(period);
        for (at, decision) in [
            ("2026-03-23T14:29:59.999Z", "denied"),
            ("2026-03-23T14:30:00.000Z", "denied"),
            ("2026-03-23T14:30:00.999Z", "allowed"),
            ("2026-03-23T14:30:01.000Z", "denied"),
            ("tomorrow", "denied"),
        ] {
            tally.note(Line::read(line(1, decision, at).as_bytes()));
        }
        assert_eq!((tally.requests, tally.outside, tally.foreign), (2, 2, 1));
        assert_eq!((tally.totals.allowed, tally.totals.denied), (1, 1));
        assert_eq!(tally.time_span.last_ms - tally.time_span.first_ms, 999);
    }
}
