//! Detects another process that serves from the same file: each has its own counts, so that a limit of 60 would let 120 pass.
//!
//! It only warns the operator: where it cannot be detected (a read-only folder, a file system without locks) there is no warning,
//! and a gate may start while its predecessor still drains.

use std::fs::{self, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;

use super::FileStore;
use super::edit::{MODE, beside};

impl FileStore {
    /// Called once by a process that serves; `false`: another one serves already. The claim ends with the process.
    pub fn claim(&self) -> bool {
        // Links to it are resolved, so that they claim the same file.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).mode(MODE).open(beside(&path, "gate"));
        match opened.map(|file| (file.try_lock(), file)) {
            Ok((Ok(()), file)) => drop(self.claim.set(file)),
            Ok((Err(TryLockError::WouldBlock), _)) => return false,
            Ok((Err(TryLockError::Error(_)), _)) | Err(_) => {}
        }
        true
    }
}
