//! A library that a gate loads before all others, so that its clocks can be set and its threads held without its help.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use super::client;

/// With a folder of its own, in which files can say what is to happen and what has happened.
pub struct Preloaded {
    folder: TempDir,
}

impl Preloaded {
    /// Of this C source.
    pub fn build(source: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("shim.c"), source).expect("the folder is writable");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]).current_dir(&folder);
        client::printed_by(&mut cc, "`apt-get install gcc`: Rust links with it too");
        Self { folder }
    }

    /// What a gate's environment needs.
    pub fn variable(&self) -> (String, String) {
        ("LD_PRELOAD".to_owned(), self.file("shim.so").display().to_string())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
