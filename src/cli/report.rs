//! `sidegate report`: what enforcement would have refused, from access logs of a gate that observes (or what it did refuse,
//! from one that enforces): the way of a service that nobody asked for keys before behind a gate that does.
//!
//! `tally` counts in bounded memory, whatever the size of the logs; `words` and `document` show its `contents`; `advice` says what to do.

mod advice;
mod contents;
mod document;
mod tally;
mod words;

use std::path::PathBuf;

use clap::Args;

use self::contents::Report;
use self::tally::{Period, Tally};
use super::exit::{DONE, WRONG};
use super::logs::{self, own};
use super::out;
use super::style::Style;
use crate::config;
use crate::keys::change::age;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kubectl logs deploy/app -c sidegate | sidegate report\n  sidegate report --since 24h --top 5 access.log\n  sidegate report --json access.log.1 access.log\n\nReads the JSON lines that `sidegate run` writes to standard output; other lines are counted. Where `log.sample` is below 1,\nallowed requests are missing from the log and from the totals; refusals always stand in it."
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
    let mut tally = Tally::new(Period { since: args.since, until: args.until });
    logs::each_line(&args.files, |line| tally.note(own::Line::read(line)))?;
    let report = Report { tally, top: args.top, sample };
    if args.json {
        out::say(format_args!("{}\n", document::of(&report)))?;
    } else {
        out::say(words::of(&report, Style::for_stdout()))?;
    }
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
