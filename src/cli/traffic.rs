//! `sidegate check --log`: which paths of an access log the routes do not cover, and which routes it never touches. The log may
//! be a gate's own, or another server's from before there was a gate.

mod group;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use http::Method;

pub use self::group::grouped;
use super::check::counted;
use super::coverage::{Coverage, Served};
use super::keys::words::printable;
use super::logs::{self, Entry, shortened};
use super::out;
use crate::config::Settings;

/// Groups that are kept; requests of others are counted together. A log holds whatever scanners have tried.
const MOST_GROUPS: usize = 10_000;
/// Groups that are printed, the busiest first.
const MOST_SHOWN: usize = 100;

/// What the log and the routes do not share, a line each; what was left aside is told on standard error. An error: no log.
pub fn differences(file: &Path, settings: &Settings) -> anyhow::Result<Vec<String>> {
    let traffic = Traffic::read(file, settings)?;
    traffic.remarks().iter().for_each(out::remark);
    Ok(traffic.differences())
}

/// What a log asked for.
struct Traffic<'s> {
    settings: &'s Settings,
    served: Served,
    /// Lines that say what was asked.
    requests: u64,
    /// Lines that do not.
    foreign: u64,
    /// Not covered, and not found by the service either.
    unknown: u64,
    uncovered: HashMap<String, Uncovered>,
    /// Requests beyond the groups that are kept.
    ungrouped: u64,
}

/// A method, a kind of path, and why it is not covered.
struct Uncovered {
    requests: u64,
    /// One of its paths.
    example: String,
}

impl<'s> Traffic<'s> {
    fn read(file: &Path, settings: &'s Settings) -> anyhow::Result<Self> {
        let mut traffic = Self {
            settings,
            served: Served::default(),
            requests: 0,
            foreign: 0,
            unknown: 0,
            uncovered: HashMap::new(),
            ungrouped: 0,
        };
        logs::each_line(&[PathBuf::from(file)], |line| match logs::read(line) {
            Some(entry) => traffic.note(&entry),
            None => traffic.foreign += 1,
        })?;
        if traffic.requests == 0 {
            anyhow::bail!(
                "{} holds no line of an access log: neither JSON of sidegate nor the common log format",
                file.display()
            );
        }
        Ok(traffic)
    }

    fn note(&mut self, entry: &Entry<'_>) {
        self.requests += 1;
        let Ok(method) = Method::from_bytes(entry.method.as_bytes()) else { return };
        // `OPTIONS *` is about the server, and no route's.
        if entry.path == "*" {
            return;
        }
        let coverage = Coverage::of(&method, &entry.path, self.settings);
        let Some(problem) = coverage.problem() else {
            if let Coverage::Route(route) = coverage {
                self.served.note(route);
            }
            return;
        };
        if entry.status == 404 && !entry.refused {
            self.unknown += 1;
            return;
        }
        // A line is as long as its writer likes, and what is kept of one is kept for every group.
        let told = format!("{} {} {problem}", shortened(method.as_str()), shortened(&grouped(&entry.path)));
        if let Some(uncovered) = self.uncovered.get_mut(&told) {
            uncovered.requests += 1;
        } else if self.uncovered.len() < MOST_GROUPS {
            self.uncovered.insert(told, Uncovered { requests: 1, example: shortened(&entry.path).to_owned() });
        } else {
            self.ungrouped += 1;
        }
    }

    /// What they do not share, a line each, the busiest first.
    fn differences(&self) -> Vec<String> {
        let mut uncovered: Vec<_> = self.uncovered.iter().collect();
        uncovered.sort_by(|(a, of_a), (b, of_b)| of_b.requests.cmp(&of_a.requests).then(a.cmp(b)));
        let more = uncovered.split_off(uncovered.len().min(MOST_SHOWN));
        let mut lines: Vec<String> = uncovered.iter().map(|(told, uncovered)| line(told, uncovered)).collect();
        let beyond = more.iter().map(|(_, uncovered)| uncovered.requests).sum::<u64>() + self.ungrouped;
        if beyond > 0 {
            lines.push(format!("{beyond} more requests to other paths are not covered"));
        }
        let untouched = self.served.others(self.settings);
        lines.extend(untouched.map(|pattern| format!("route `{pattern}` is not in the log")));
        lines
    }

    /// What was read and left aside, for whoever wonders.
    fn remarks(&self) -> Vec<String> {
        let unknown = counted(self.unknown, "request");
        let foreign = counted(self.foreign, "line");
        let remarks = [
            (self.unknown, format!("left out: {unknown} to paths that no route covers, answered 404 before as well")),
            (self.foreign, format!("left out: {foreign} that no access log has")),
        ];
        remarks.into_iter().filter(|(count, _)| *count > 0).map(|(_, remark)| remark).collect()
    }
}

fn line(told: &str, uncovered: &Uncovered) -> String {
    let requests = counted(uncovered.requests, "request");
    let example =
        if told.contains(&*uncovered.example) { String::new() } else { format!(", such as {}", uncovered.example) };
    printable(&format!("{told}: {requests}{example}"))
}
