//! JSON lines as the imports of keys and of businesses read them, and what is said of them. Each line stands or falls alone; what
//! is the same about very many of them is said ten times and then counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

use super::keys::words::printable;
use crate::store::members::Members;

/// Whence an import reads, and how it treats what is not simply new.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// JSON lines, as shown below; without it, or as `-`, standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read and judge everything, say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Change what stands there already with other facts; a member that a line leaves out stays as it is
    #[arg(long)]
    pub update: bool,
    /// Take scopes, limits and plans that the configuration does not have, with a warning: they have no effect until it has them
    #[arg(long)]
    pub allow_unknown: bool,
}

/// What is read: the file, or standard input without one or for `-`.
pub fn source<'i>(file: Option<PathBuf>, input: &'i mut dyn BufRead) -> anyhow::Result<Box<dyn BufRead + 'i>> {
    let Some(path) = file.filter(|path| path.as_os_str() != "-") else { return Ok(Box::new(input)) };
    let opened = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Box::new(BufReader::new(opened)))
}

/// Lines by their numbers; empty ones are passed over. Bytes, since a line that is not UTF-8 must not end the others.
pub struct Lines<'i> {
    input: &'i mut dyn BufRead,
    number: usize,
    line: Vec<u8>,
}

/// What Windows writes at a file's beginning.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl<'i> Lines<'i> {
    pub fn of(input: &'i mut dyn BufRead) -> Self {
        Self { input, number: 0, line: Vec::new() }
    }

    pub fn next(&mut self) -> io::Result<Option<(usize, &[u8])>> {
        loop {
            self.line.clear();
            if self.input.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !self.text().is_empty() {
                return Ok(Some((self.number, self.text())));
            }
        }
    }

    fn text(&self) -> &[u8] {
        let marked = self.line.strip_prefix(BYTE_ORDER_MARK).filter(|_| self.number == 1);
        marked.unwrap_or(&self.line).trim_ascii()
    }
}

/// Reads a line; `form` is one as it has to be. A line of text is not repeated: it may be a key.
pub fn read<T: DeserializeOwned>(line: &[u8], form: &str) -> Result<T, String> {
    if line.first() != Some(&b'{') {
        return Err(format!("no JSON object; write one line such as {form}"));
    }
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

/// A member that stands there, `null` included: that is no absence where it takes something away, or revokes.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Where names were refused that may be right all the same: the configuration may come later, or have lost them.
pub const UNKNOWN: &str =
    "note: `--allow-unknown` takes names that the configuration does not have; they have no effect until it has them";

/// What became of the lines.
#[derive(Debug, Default)]
pub struct Tally {
    pub imported: usize,
    pub already_there: usize,
    pub updated: usize,
    pub failed: usize,
}

impl Tally {
    /// The last line, which scripts may read; updates stand there where they were asked for.
    pub fn sum(&self, dry_run: bool, update: bool) -> String {
        let Self { imported, already_there, updated, failed } = self;
        let (would_be, end) = if dry_run { ("would be ", "; nothing was written") } else { ("", "") };
        let updated = if update { format!("{updated} {would_be}updated, ") } else { String::new() };
        format!("{imported} {would_be}imported, {updated}{already_there} already there, {failed} failed{end}")
    }
}

/// The members that are not so in `other`, as JSON for a terminal.
pub fn changed(members: &Members, other: &Members) -> String {
    let differs = |(name, value): &(&String, &Value)| other.get(*name) != Some(*value);
    let changed = members.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone()));
    printable(&Value::Object(changed.collect()).to_string())
}

/// How often the same is said.
const MOST: usize = 10;

/// What is said of lines, on standard error.
pub struct Remarks<'e> {
    err: &'e mut dyn Write,
    said: BTreeMap<String, usize>,
    has_columns: bool,
}

impl<'e> Remarks<'e> {
    pub fn on(err: &'e mut dyn Write) -> Self {
        Self { err, said: BTreeMap::new(), has_columns: false }
    }

    /// Takes note of a line that cannot be imported.
    pub fn failed(&mut self, number: usize, line: &[u8], what: &str) -> io::Result<()> {
        self.has_columns |= line.first() != Some(&b'{') && line.iter().any(|byte| b",;\t".contains(byte));
        self.say(number, what)
    }

    pub fn say(&mut self, number: usize, what: &str) -> io::Result<()> {
        // Where in the line it is makes no other error.
        let kind = what.rsplit_once(" at line ").map_or(what, |(kind, _)| kind);
        let times = self.said.entry(kind.to_owned()).or_default();
        *times += 1;
        if *times > MOST { Ok(()) } else { writeln!(self.err, "line {number}: {what}") }
    }

    /// What no line can be blamed for.
    pub fn note(&mut self, what: &str) -> io::Result<()> {
        writeln!(self.err, "{what}")
    }

    /// Counts what was not said, and tells where a table was given; `form` is a line as it has to be.
    pub fn end(self, form: &str, command: &str) -> io::Result<()> {
        for (what, times) in self.said.iter().filter(|(_, times)| **times > MOST) {
            writeln!(self.err, "{} more lines: {what}", times - MOST)?;
        }
        if self.has_columns {
            writeln!(
                self.err,
                "note: this looks like a table (CSV); an import reads JSON lines, one object for each, such as {form}. \
                 `sidegate {command} --help` says what may stand in one; README has a recipe under Import"
            )?;
        }
        Ok(())
    }
}
