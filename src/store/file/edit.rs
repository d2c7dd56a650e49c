//! Atomic changes to the file by programs, one at a time.
//!
//! A lock file excludes other writers; the new file is renamed into place, so that readers see either the old one or the new one.
//! Comments above the first entry are kept; those further down are not, since the file is written anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::snapshot::Contents;
use super::{FileStore, read};
use crate::store::StoreError;

/// Readable by its owner alone.
pub(super) const MODE: u32 = 0o600;

/// How long other writers are waited for: many times what one takes, and no longer, since nobody else is answered meanwhile.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

const NEW_FILE: &str =
    "# The keys of sidegate's embedded store: digests, never keys. Edit as you like; changes act within a second.
# `sidegate keys` keeps these lines when it writes the file, but no comment further down.
";

impl FileStore {
    /// Changes the file under an exclusive lock: `change` gets its contents, and returns whether it changed them. When this
    /// returns, this process decides by the new contents.
    pub fn edit<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<(T, bool), E>,
    ) -> Result<T, E> {
        // Behind a symbolic link the target is replaced, not the link.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let _lock = lock(&path).map_err(|error| self.unwritable(&error))?;
        self.refuse_vanished(&path)?;
        let yaml = self.read_now(&path)?;
        let mut contents = Contents::parse(&yaml).map_err(|what| self.broken(&what))?;
        let (outcome, changed) = change(&mut contents)?;
        if changed {
            let yaml = preamble(&yaml) + &contents.to_yaml().map_err(|what| self.broken(&what))?;
            replace(&path, yaml.as_bytes()).map_err(|error| self.unwritable(&error))?;
        }
        // Not left to the next poll: a key that is reported as revoked must not pass in this process.
        self.adopt(&contents, &mut self.last_read());
        Ok(outcome)
    }

    /// The file's contents now.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        let yaml = self.read_now(&self.path)?;
        Contents::parse(&yaml).map_err(|what| self.broken(&what))
    }

    fn read_now(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        match fs::metadata(path) {
            Ok(metadata) => read(path, &metadata).map_err(|what| self.broken(&what)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(NEW_FILE.as_bytes().to_vec()),
            Err(error) => Err(self.broken(&error.to_string())),
        }
    }

    /// A file that is away for a moment, or was not mounted, must not be begun anew: all of its keys would be refused.
    fn refuse_vanished(&self, path: &Path) -> Result<(), StoreError> {
        let audit = beside(&self.path, "audit.jsonl");
        let is_gone = fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if !is_gone || !audit.exists() {
            return Ok(());
        }
        let (path, audit) = (self.path.display(), audit.display());
        Err(StoreError::Refused(format!(
            "{path} has vanished, but {audit} stands; put the file back, or move the other away too, to begin without keys"
        )))
    }

    fn unwritable(&self, error: &io::Error) -> StoreError {
        StoreError::Refused(format!("{} cannot be written: {error}", self.path.display()))
    }
}

/// Waits for other writers. The lock is released when the file is closed, at the latest with the process.
fn lock(path: &Path) -> io::Result<File> {
    let name = beside(path, "lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(MODE).open(&name)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(TRY_AGAIN_AFTER),
            Err(TryLockError::WouldBlock) => {
                let held = format!("another process has held {} for {LOCK_TIMEOUT:?}; end it", name.display());
                return Err(io::Error::new(ErrorKind::WouldBlock, held));
            }
        }
    }
}

/// Writes a temporary file and renames it over the old one. It gets the old one's mode and, where this process may change owners,
/// its owner: an operator who edits as root must not lock the gate out.
fn replace(path: &Path, yaml: &[u8]) -> io::Result<()> {
    let temporary = beside(path, "tmp");
    // Whoever was killed while he wrote has left it; nobody else writes it under the lock.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = write_new(&temporary, path, yaml).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename is durable only once its folder is synced.
    File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

fn write_new(temporary: &Path, path: &Path, yaml: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(MODE).open(temporary)?;
    if let Ok(old) = fs::metadata(path) {
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
    }
    file.write_all(yaml)?;
    file.sync_all()
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// The comments and blank lines at the top.
fn preamble(yaml: &[u8]) -> String {
    let text = String::from_utf8_lossy(yaml);
    let comments = text.lines().take_while(|line| line.starts_with('#') || line.trim().is_empty());
    comments.flat_map(|line| [line, "\n"]).collect()
}
