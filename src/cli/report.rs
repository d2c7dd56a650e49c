//! `sidegate report`: what enforcement would have refused, from access logs of a gate that observes (or what it did refuse,
//! from one that enforces): the way of a service that nobody asked for keys before behind a gate that does.
//!
//! `tally` counts in bounded memory, whatever the size of the logs; `words` and `document` show its `contents`; `advice` says what to do.
//! `one_caller` tells of a single key or business, `one_request` of a single request.

mod advice;
mod contents;
mod document;
mod one_caller;
mod one_request;
mod tally;
mod words;

use std::path::PathBuf;

use clap::Args;

use self::contents::Report;
use self::one_caller::{Caller, CallerTally};
use self::one_request::OneRequest;
use self::tally::{Period, Tally};
use super::exit::{DONE, FAILED, WRONG};
use super::logs::{self, own};
use super::out;
use super::style::Style;
use crate::config;
use crate::keys::change::age;
use crate::keys::{Formats, mask};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kubectl logs deploy/app -c sidegate | sidegate report\n  sidegate report --since 24h --top 5 access.log\n  sidegate report --json access.log.1 access.log\n  sidegate report --key b0f4… --since 24h access.log\n  sidegate report --request-id 6a51… access.log\n\nReads the JSON lines that `sidegate run` writes to standard output; other lines are counted. Where `log.sample` is below 1,\nallowed requests are missing from the log and from the totals; refusals always stand in it."
)]
pub struct ReportArgs {
    /// Access logs; `-`, or none, is standard input
    files: Vec<PathBuf>,
    /// Leave out what was before: a time (RFC 3339), or so long ago (`1h`)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Leave out what was at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    /// Tell of one key, by its id: what it was allowed and refused, when, by which limit, where, from where
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Tell of one business in the same way; with `--key`, of that key's requests for it
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// Tell of one request, by its `X-Request-Id`. Exit code 1: no line has it
    #[arg(long, value_name = "ID", conflicts_with_all = ["key", "business", "since", "until"])]
    request_id: Option<String>,
    /// How many rows of each table to show, the busiest first
    #[arg(long, value_name = "ROWS", default_value_t = 20)]
    top: usize,
    /// The gate's configuration, which tells whether its log is a sample
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let sample = match args.config.as_deref().map(config::load::from_file) {
        None => None,
        Some(Ok(settings)) => Some(settings.observe.sample),
        Some(Err(errors)) => {
            out::remark(errors);
            return Ok(WRONG);
        }
    };
    if args.key.as_deref().is_some_and(|key| mask(key, &Formats::default()) != key) {
        out::remark(
            "error: this looks like a whole key, which stays in the shell's history; name it by its id, as `sidegate keys \
             list` shows it",
        );
        return Ok(WRONG);
    }
    if let Some(id) = &args.request_id {
        return of_request(id, args);
    }
    let period = Period { since: args.since, until: args.until };
    let caller = Caller { key: args.key.as_deref(), business: args.business.as_deref() };
    if caller.key.or(caller.business).is_some() {
        return of_caller(CallerTally::new(caller, period), sample, args);
    }
    let mut tally = Tally::new(period);
    logs::each_line(&args.files, |line| tally.note(own::Line::read(line)))?;
    let report = Report { tally, top: args.top, sample };
    if args.json {
        out::say(format_args!("{}\n", document::of(&report)))?;
    } else {
        out::say(words::of(&report, Style::for_stdout()))?;
    }
    Ok(DONE)
}

fn of_caller(mut tally: CallerTally<'_>, sample: Option<f64>, args: &ReportArgs) -> anyhow::Result<u8> {
    logs::each_line(&args.files, |line| tally.note(own::Line::read(line)))?;
    if args.json {
        out::say(format_args!("{}\n", one_caller::document(&tally, args.top, sample)))?;
    } else {
        out::say(words::of_caller(&tally, args.top, sample, Style::for_stdout()))?;
    }
    Ok(DONE)
}

fn of_request(id: &str, args: &ReportArgs) -> anyhow::Result<u8> {
    let mut found = OneRequest::new(id, (!args.json).then(Style::for_stdout));
    logs::each_line(&args.files, |line| found.note(own::Line::read(line)))?;
    if found.shown.is_empty() {
        out::remark(
            "error: no line has this request id; a request that was refused while its head was read has none, and of \
             allowed ones `log.sample` may leave some out",
        );
        return Ok(FAILED);
    }
    out::say(found)?;
    Ok(DONE)
}

/// Milliseconds since the Unix epoch.
fn time(text: &str) -> Result<u64, String> {
    if let Some(ms) = crate::clock::parse_rfc3339(text) {
        return Ok(ms);
    }
    let ago = age(text).map_err(|_| "write a time such as 2026-03-23T14:30:00Z, or how long ago: 1h".to_owned())?;
    Ok(crate::clock::now_ms().saturating_sub(ago))
}
