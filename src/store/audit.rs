//! The audit log: one record per change to a key or a business, written to the log and to the store.
//!
//! In Redis it is the stream `P:audit`, which keeps about the last ten thousand; beside the embedded file it is
//! `<file>.audit.jsonl`. A record holds what people may see of a key (id, hint, rights) and neither the key nor its digest.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::StoreError;
use super::members::Members;
use super::registry::Registry;
use crate::clock;

/// About how many records a stream keeps.
const MOST: u64 = 10_000;
/// A file beyond this size becomes `<file>.audit.jsonl.old`, so that there are two of them at the most.
const LARGEST_FILE: u64 = 8 << 20;

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user of the system or of the session.
    pub name: String,
    pub from: Origin,
}

/// Which interface a change came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    /// With the client's address.
    Http(String),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    KeyCreated,
    KeyImported,
    KeyUpdated,
    KeyRevoked,
    KeyDeleted,
    KeyRotated,
    BusinessChanged,
    LimitReset,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    pub at: String,
    pub actor: String,
    pub from: String,
    pub action: Action,
    /// The key's id, or the business.
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business: Option<String>,
    /// The members that changed, as they were and as they are. A new key has no before, one that is gone no after.
    pub before: Map<String, Value>,
    pub after: Map<String, Value>,
}

impl Record {
    /// From the members before and after, of which only those that differ are kept.
    pub fn new(
        actor: &Actor,
        action: Action,
        subject: &str,
        (before, after): (&Members, &Members),
        now_ms: u64,
    ) -> Self {
        let text = |member: &str| [after, before].into_iter().find_map(|m| m.get(member)?.as_str().map(str::to_owned));
        let differs = |one: &Members, other: &Members| {
            let changed = one.iter().filter(|(name, value)| other.get(*name) != Some(value));
            changed.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let from = match &actor.from {
            Origin::CommandLine => "cli".to_owned(),
            Origin::Http(address) => format!("http {address}"),
        };
        Self {
            at: clock::rfc3339(now_ms),
            actor: actor.name.clone(),
            from,
            action,
            subject: subject.to_owned(),
            hint: text("hint"),
            business: text("business"),
            before: differs(before, after),
            after: differs(after, before),
        }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("a record has text keys and JSON values")
    }
}

/// Logs a record and stores it. The change has been made, whether or not its record can be stored.
pub async fn write(registry: &Registry, record: &Record) -> Result<(), StoreError> {
    let line = record.line();
    tracing::info!(target: "sidegate::audit", record = %line, "a key or a business was changed");
    let stored = match registry {
        Registry::Redis { key_admin, layout, .. } => key_admin.append(&layout.audit(), MOST, &line).await,
        Registry::File { store } => append(&beside(store.path()), &line)
            .map_err(|error| StoreError::Refused(format!("{}: {error}", beside(store.path()).display()))),
    };
    if let Err(error) = &stored {
        tracing::error!(target: "sidegate::audit", %error, "the record could not be kept in the store");
    }
    stored
}

/// The last records, the newest first.
pub async fn last(registry: &Registry, count: usize) -> Result<Vec<Value>, StoreError> {
    let lines = match registry {
        Registry::Redis { key_admin, layout, .. } => key_admin.last(&layout.audit(), count).await?,
        Registry::File { store } => {
            let path = beside(store.path());
            lines_of(&path, count).map_err(|error| StoreError::Refused(format!("{}: {error}", path.display())))?
        }
    };
    // A line that is not JSON, as another program may have added, is shown as text.
    Ok(lines.into_iter().map(|line| serde_json::from_str(&line).unwrap_or(Value::String(line))).collect())
}

fn beside(keys: &Path) -> PathBuf {
    let mut name = keys.file_name().unwrap_or_default().to_owned();
    name.push(".audit.jsonl");
    keys.with_file_name(name)
}

/// Appends with a single write (`O_APPEND`), so that lines of several processes do not mix.
fn append(path: &Path, line: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > LARGEST_FILE) {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        fs::rename(path, old)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

fn lines_of(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut lines: Vec<String> = BufReader::new(file).lines().collect::<Result<_, _>>()?;
    lines.reverse();
    lines.truncate(count);
    Ok(lines)
}
