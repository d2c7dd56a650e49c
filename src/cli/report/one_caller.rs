//! `--key` and `--business`: what one of them was allowed and refused, when, where, from where and by which limit. Bounded as the
//! `tally` is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::tally::{Period, TimeSpan};
use crate::cli::logs::own::Line;
use crate::cli::logs::shortened;
use crate::clock;

/// Rows of one table: minutes of three days, and more routes and agents than a caller has.
const MOST_ROWS: usize = 5_000;
const MINUTE_MS: u64 = 60_000;
pub const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// Whose requests are asked about; with both, those of the key for the business.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub key: Option<&'a str>,
    pub business: Option<&'a str>,
}

#[derive(Debug)]
pub struct CallerTally<'a> {
    pub caller: Caller<'a>,
    period: Period,
    pub totals: Counts,
    pub time_span: TimeSpan,
    pub days: Counted,
    pub minutes: Counted,
    pub reasons: Counted,
    /// Refusals by the limit that had no room.
    pub limits: Counted,
    pub keys: Counted,
    pub routes: Counted,
    pub clients: Counted,
    pub agents: Counted,
}

/// What became of requests.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub allowed: u64,
    /// Refused, or let pass by a gate that only observes.
    pub refused: u64,
    /// Something behind the gate failed, or the client left.
    pub failed: u64,
}

/// Counts by something, in its order.
#[derive(Debug, Default)]
pub struct Counted {
    rows: BTreeMap<String, Counts>,
    /// Requests that have no row any more.
    pub beyond: u64,
}

impl<'a> CallerTally<'a> {
    pub fn new(caller: Caller<'a>, period: Period) -> Self {
        Self {
            caller,
            period,
            totals: Counts::default(),
            time_span: TimeSpan::default(),
            days: Counted::default(),
            minutes: Counted::default(),
            reasons: Counted::default(),
            limits: Counted::default(),
            keys: Counted::default(),
            routes: Counted::default(),
            clients: Counted::default(),
            agents: Counted::default(),
        }
    }

    /// Counts the line if it is one of this caller's.
    pub fn note(&mut self, line: Option<Line<'_>>) {
        let Some(line) = line.filter(|line| self.caller.made(line)) else { return };
        let Some(at_ms) = line.at_ms().filter(|at_ms| self.period.has(*at_ms)) else { return };
        let outcome = match &*line.decision {
            "allowed" => Counts { allowed: 1, ..Counts::default() },
            "observed" | "denied" => Counts { refused: 1, ..Counts::default() },
            _ => Counts { failed: 1, ..Counts::default() },
        };
        self.totals.add(outcome);
        self.time_span.note(at_ms);
        let day = clock::rfc3339(at_ms - at_ms % DAY_MS);
        self.days.note(day.split('T').next().unwrap_or_default(), outcome);
        self.minutes.note(&clock::rfc3339(at_ms - at_ms % MINUTE_MS), outcome);
        for (table, name) in [
            (&mut self.reasons, &line.reason),
            (&mut self.keys, &line.key_id),
            (&mut self.routes, &line.route),
            (&mut self.clients, &line.client),
            (&mut self.agents, &line.agent),
        ] {
            if !name.is_empty() {
                table.note(name, outcome);
            }
        }
        // Of other requests the line names the nearest limit, which has decided nothing.
        if !line.limit.is_empty() && line.reason == "rate_limited" {
            self.limits.note(&line.limit, outcome);
        }
    }
}

impl Caller<'_> {
    fn made(&self, line: &Line<'_>) -> bool {
        self.key.is_none_or(|id| line.key_id == id) && self.business.is_none_or(|id| line.business == id)
    }
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.allowed + self.refused + self.failed
    }

    fn add(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.refused += other.refused;
        self.failed += other.failed;
    }
}

impl Counted {
    fn note(&mut self, name: &str, outcome: Counts) {
        let name = shortened(name);
        let has_room = self.rows.len() < MOST_ROWS;
        match self.rows.get_mut(name) {
            Some(row) => row.add(outcome),
            None if has_room => drop(self.rows.insert(name.to_owned(), outcome)),
            None => self.beyond += 1,
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// So many rows, those with the most refusals, then requests, first.
    pub fn busiest(&self, top: usize) -> Vec<(&str, Counts)> {
        let mut rows: Vec<_> = self.rows.iter().map(|(name, counts)| (name.as_str(), *counts)).collect();
        rows.sort_by_key(|(_, counts)| std::cmp::Reverse((counts.refused, counts.all())));
        rows.truncate(top);
        rows
    }

    /// The same rows in their own order, as times are read.
    pub fn busiest_in_order(&self, top: usize) -> Vec<(&str, Counts)> {
        let mut rows = self.busiest(top);
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows
    }
}

/// One JSON document.
pub fn document(tally: &CallerTally<'_>, top: usize, sample: Option<f64>) -> Value {
    let time = |ms: u64| (tally.totals.all() > 0).then(|| clock::rfc3339(ms));
    let row = |name: &str, named: &str, counts: Counts| -> Value {
        let Counts { allowed, refused, failed } = counts;
        json!({name: named, "allowed": allowed, "refused": refused, "failed": failed})
    };
    let table = |counted: &Counted, name: &str, rows: Vec<(&str, Counts)>| {
        let rows: Vec<Value> = rows.into_iter().map(|(named, counts)| row(name, named, counts)).collect();
        json!({"total": counted.len(), "beyond": counted.beyond, "rows": rows})
    };
    let busiest = |counted: &Counted, name: &str| table(counted, name, counted.busiest(top));
    let in_order = |counted: &Counted, name: &str| table(counted, name, counted.busiest_in_order(top));
    json!({
        "key_id": tally.caller.key,
        "business": tally.caller.business,
        "requests": tally.totals.all(),
        "allowed": tally.totals.allowed,
        "refused": tally.totals.refused,
        "failed": tally.totals.failed,
        "sample": sample,
        "from": time(tally.time_span.first_ms),
        "to": time(tally.time_span.last_ms),
        "days": in_order(&tally.days, "day"),
        "minutes": in_order(&tally.minutes, "minute"),
        "reasons": busiest(&tally.reasons, "reason"),
        "limits": busiest(&tally.limits, "limit"),
        "keys": busiest(&tally.keys, "key_id"),
        "routes": busiest(&tally.routes, "route"),
        "clients": busiest(&tally.clients, "client"),
        "agents": busiest(&tally.agents, "agent"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_days_and_minutes_are_told_apart_in_bounded_memory() {
        let mut tally = CallerTally::new(Caller { key: Some("k1"), business: None }, Period::default());
        let start = 1_774_276_200_000;
        for minute in 0..6_000_u64 {
            let at = clock::rfc3339(start + minute * MINUTE_MS);
            for key in ["k1", "k2"] {
                let line = format!(
                    r#"{{"timestamp":"{at}","http.request.method":"GET","url.path":"/a","sidegate.decision":"allowed","sidegate.key_id":"{key}"}}"#
                );
                tally.note(Line::read(line.as_bytes()));
            }
        }
        assert_eq!((tally.totals.allowed, tally.days.len()), (6_000, 5));
        assert_eq!((tally.minutes.len(), tally.minutes.beyond), (MOST_ROWS, 1_000));
        let days = tally.days.busiest_in_order(2);
        assert_eq!(days.iter().map(|(day, _)| *day).collect::<Vec<_>>(), ["2026-03-24", "2026-03-25"]);
    }
}
