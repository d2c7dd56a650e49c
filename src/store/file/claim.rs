//! Whether another process serves by the same file: each counts for itself, so that a limit of 60 would let 120 pass.
//!
//! A hint for an operator, no lock: where it cannot be told (a folder that is not writable, a file system without locks) nothing
//! is said, and a gate that takes over from one that ends is let do so.

use std::fs::{self, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;

use super::FileStore;
use super::edit::{MODE, beside};

impl FileStore {
    /// Called once by a process that serves; `false`: another one does so already. The claim ends with the process.
    pub fn claim(&self) -> bool {
        // Through whatever links, it is one file.
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
