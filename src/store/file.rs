//! The embedded store: keys and businesses in a YAML file that people read and edit, counts in memory, one process.
//!
//! It answers questions exactly as Redis does, from documents under the same names. A thread of its own looks at the file about
//! once a second, so that what stands in it acts within one, and no request waits for a disk or for 64 MiB of YAML. `snapshot` says what the file means, `edit` changes it.

mod claim;
mod edit;
mod snapshot;

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};

pub use self::snapshot::{Contents, tenant_of};
use self::snapshot::{Reading, Snapshot};
use super::StoreError;
use super::counts::Counts;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Ask, Believed, Outcome, Question};

/// A little less than the second that is promised, so that looking and reading fit into it.
const POLL_EVERY: Duration = Duration::from_millis(900);
/// A file changed this recently may change again without its times showing it.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// More than anybody edits by hand; whoever has more keys wants Redis.
const LARGEST: u64 = 64 << 20;

/// Shared by all workers of a process.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    /// Replaced whole when the file changes; locked only to clone or replace the pointer.
    snapshot: RwLock<Arc<Snapshot>>,
    counts: Counts,
    /// Held while the file is read; requests do not wait for it.
    seen: Mutex<LastRead>,
    /// Locked while this process serves by the file.
    claim: OnceLock<fs::File>,
}

/// What the last look found.
#[derive(Debug, Default)]
struct LastRead {
    /// The file's identity and times; `None` when they cannot be relied upon yet.
    stamp: Option<Stamp>,
    /// SHA-256 of what was read, good or bad, and what is wrong with it.
    content: Option<[u8; 32]>,
    verdict: Option<String>,
    /// What was logged last, so that it is logged once: the verdict, or that the file could not be read.
    complaint: Option<String>,
    /// Whether the file has held anything since the store was opened.
    held_something: bool,
}

/// Device, inode, length, and the two times in nanoseconds.
type Stamp = (u64, u64, u64, i128, i128);

impl FileStore {
    /// Opens the file at `path`; one that does not exist is an empty store.
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let store = Self {
            path: path.to_owned(),
            snapshot: RwLock::default(),
            counts: Counts::new(),
            seen: Mutex::default(),
            claim: OnceLock::new(),
        };
        let mut seen = store.seen();
        store.poll(&mut seen).map_err(|what| store.broken(&what))?;
        drop(seen);
        let store = Arc::new(store);
        let weak = Arc::downgrade(&store);
        let started = thread::Builder::new().name("key file".to_owned()).spawn(move || poll_until_dropped(&weak));
        started.map_err(|error| store.broken(&format!("no thread can be started that looks at it: {error}")))?;
        Ok(store)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tenant of the key with this digest, if the file holds it.
    pub fn lookup(&self, digest: &Digest) -> Option<Tenant> {
        self.snapshot().tenant(digest).cloned()
    }

    /// Answers each question as `limit::ask` says.
    pub fn decide(&self, questions: &[Question], now_ms: u64) -> Vec<Answer> {
        let snapshot = self.snapshot();
        let answer = |question| Answer { now_ms, outcome: self.answer(&snapshot, question, now_ms) };
        questions.iter().map(answer).collect()
    }

    fn answer(&self, snapshot: &Snapshot, question: &Question, now_ms: u64) -> Outcome {
        if !question.asks.iter().all(|ask| is_as_believed(snapshot, ask)) {
            return Outcome::Stale(question.asks.iter().map(|ask| documents(snapshot, ask)).collect());
        }
        if question.asks.iter().any(|ask| ask.not_after_ms.is_some_and(|end| now_ms >= end)) {
            return Outcome::Expired;
        }
        let mut members = question.asks.iter().filter_map(|ask| Some((ask, ask.member.as_ref()?)));
        if !members.all(|(ask, asked)| snapshot.is_member(&ask.slot, &asked.set, &asked.member)) {
            return Outcome::Refused;
        }
        self.counts.spend(question, now_ms)
    }

    /// Takes over what the file holds, or keeps the last good reading and says why, once per change.
    fn refresh(&self, seen: &mut LastRead) {
        let complaint = self.poll(seen).err();
        if complaint == seen.complaint {
            return;
        }
        let path = self.path.display();
        match &complaint {
            Some(what) => error!(%path, "the key file cannot be used, the last good reading stays in force: {what}"),
            None => info!(%path, "the key file is good again"),
        }
        seen.complaint = complaint;
    }

    fn poll(&self, seen: &mut LastRead) -> Result<(), String> {
        let now = SystemTime::now();
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound && !seen.held_something => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let stamp = stamp(&metadata);
        if seen.stamp == Some(stamp) {
            return seen.verdict.clone().map_or(Ok(()), Err);
        }
        let yaml = read(&self.path, &metadata)?;
        let settled = metadata.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > SETTLED_AFTER));
        seen.stamp = settled.then_some(stamp);
        let content: [u8; 32] = Sha256::digest(&yaml).into();
        if seen.content != Some(content) {
            seen.verdict = self.take(&yaml, seen).err();
            seen.content = Some(content);
        }
        seen.verdict.clone().map_or(Ok(()), Err)
    }

    fn take(&self, yaml: &[u8], seen: &mut LastRead) -> Result<(), String> {
        if seen.held_something && yaml.trim_ascii().is_empty() {
            return Err("it is empty, as an editor leaves it for a moment".to_owned());
        }
        self.adopt(&Contents::parse(yaml)?, seen);
        Ok(())
    }

    /// Decides by `contents` from now on. Requests go on with the earlier reading while this one is made.
    fn adopt(&self, contents: &Contents, seen: &mut LastRead) {
        seen.held_something |= !contents.is_empty();
        let earlier = self.snapshot();
        let Reading { snapshot, warnings } = Snapshot::read(contents, &earlier);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        for warning in warnings {
            warn!(path = %self.path.display(), "{warning}");
        }
    }

    /// What to decide by now.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> MutexGuard<'_, LastRead> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, what: &str) -> StoreError {
        StoreError::Broken(format!("{}: {what}", self.path.display()))
    }
}

/// Until the store is dropped.
fn poll_until_dropped(store: &Weak<FileStore>) {
    loop {
        thread::sleep(POLL_EVERY);
        let Some(store) = store.upgrade() else { return };
        store.refresh(&mut store.seen());
    }
}

fn is_as_believed(snapshot: &Snapshot, ask: &Ask) -> bool {
    ask.documents.iter().all(|document| {
        let found = snapshot.document(&ask.slot, &document.name);
        match &document.believed {
            Believed::Unknown => false,
            Believed::Absent => found.is_none(),
            Believed::Is(bytes) => found == Some(bytes),
        }
    })
}

fn documents(snapshot: &Snapshot, ask: &Ask) -> Vec<Option<bytes::Bytes>> {
    ask.documents.iter().map(|document| snapshot.document(&ask.slot, &document.name).cloned()).collect()
}

/// A pipe or a device would hold up the thread that reads it.
fn read(path: &Path, metadata: &fs::Metadata) -> Result<Vec<u8>, String> {
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut yaml = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST + 1).read_to_end(&mut yaml).map_err(|error| error.to_string())?;
    if yaml.len() as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    Ok(yaml)
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let changed = ns(metadata.ctime(), metadata.ctime_nsec());
    (metadata.dev(), metadata.ino(), metadata.len(), ns(metadata.mtime(), metadata.mtime_nsec()), changed)
}

#[cfg(test)]
mod tests;
