//! The embedded store: keys and businesses in a YAML file that people read and edit, counts in memory, one process.
//!
//! It answers questions exactly as Redis does, from documents under the same names. A thread of its own polls the file about once
//! a second, so that changes act within one, and no request waits for a disk or for 64 MiB of YAML. `snapshot` parses the file,
//! `edit` changes it.

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

/// A little less than the promised second, which includes the time to read and parse the file.
const POLL_EVERY: Duration = Duration::from_millis(900);
/// A file changed this recently may change again within the resolution of its timestamps.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// The largest file: more than is edited by hand; more keys belong in Redis.
const LARGEST: u64 = 64 << 20;

/// Shared by all workers of a process.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    /// Replaced whole when the file changes; locked only to clone or replace the pointer.
    snapshot: RwLock<Arc<Snapshot>>,
    counts: Counts,
    /// Locked while the file is read; requests do not wait for it.
    last_read: Mutex<LastRead>,
    /// A lock file that this process holds while it serves from the file.
    claim: OnceLock<fs::File>,
}

/// The result of the last poll.
#[derive(Debug, Default)]
struct LastRead {
    /// The file's identity and timestamps; `None` while they are too recent to be relied upon.
    stamp: Option<Stamp>,
    /// SHA-256 of the content, valid or not, and its error.
    content: Option<[u8; 32]>,
    error: Option<String>,
    /// The error that was logged last, so that it is logged once: that of the content, or that the file could not be read.
    logged: Option<String>,
    /// Whether the file has had any content since the store was opened.
    had_content: bool,
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
            last_read: Mutex::default(),
            claim: OnceLock::new(),
        };
        let mut last_read = store.last_read();
        store.poll(&mut last_read).map_err(|what| store.broken(&what))?;
        drop(last_read);
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

    /// Adopts the file's content, or keeps the last valid one and logs why, once per change.
    fn refresh(&self, last_read: &mut LastRead) {
        let error = self.poll(last_read).err();
        if error == last_read.logged {
            return;
        }
        let path = self.path.display();
        match &error {
            Some(what) => error!(%path, "the key file cannot be used, the last good reading stays in force: {what}"),
            None => info!(%path, "the key file is good again"),
        }
        last_read.logged = error;
    }

    fn poll(&self, last_read: &mut LastRead) -> Result<(), String> {
        let now = SystemTime::now();
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound && !last_read.had_content => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let stamp = stamp(&metadata);
        if last_read.stamp == Some(stamp) {
            return last_read.error.clone().map_or(Ok(()), Err);
        }
        let yaml = read(&self.path, &metadata)?;
        let settled = metadata.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > SETTLED_AFTER));
        last_read.stamp = settled.then_some(stamp);
        let content: [u8; 32] = Sha256::digest(&yaml).into();
        if last_read.content != Some(content) {
            last_read.error = self.take(&yaml, last_read).err();
            last_read.content = Some(content);
        }
        last_read.error.clone().map_or(Ok(()), Err)
    }

    fn take(&self, yaml: &[u8], last_read: &mut LastRead) -> Result<(), String> {
        if last_read.had_content && yaml.trim_ascii().is_empty() {
            return Err("it is empty, as an editor leaves it for a moment".to_owned());
        }
        self.adopt(&Contents::parse(yaml)?, last_read);
        Ok(())
    }

    /// Makes a snapshot of `contents` the current one. Requests use the former one while it is made.
    fn adopt(&self, contents: &Contents, last_read: &mut LastRead) {
        last_read.had_content |= !contents.is_empty();
        let earlier = self.snapshot();
        let Reading { snapshot, warnings } = Snapshot::read(contents, &earlier);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        for warning in warnings {
            warn!(path = %self.path.display(), "{warning}");
        }
    }

    /// The current snapshot.
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn last_read(&self) -> MutexGuard<'_, LastRead> {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, what: &str) -> StoreError {
        StoreError::Broken(format!("{}: {what}", self.path.display()))
    }
}

/// Polls the file until the store is dropped.
fn poll_until_dropped(store: &Weak<FileStore>) {
    loop {
        thread::sleep(POLL_EVERY);
        let Some(store) = store.upgrade() else { return };
        store.refresh(&mut store.last_read());
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

/// Reads a regular file: a pipe or a device could block the thread.
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
