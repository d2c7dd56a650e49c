//! Text that must never be printed: passwords, keys just minted, secrets for the upstream.
//!
//! Leaves to the callers when it may be shown: `expose` is the one way in, so that a search for it lists every place.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const LARGEST_FILE: u64 = 64 * 1024;

/// The text of a regular file (a link to one too, as Kubernetes mounts secrets) of at most 64 KiB; one newline at its end is
/// cut off. An error says what is wrong, without the file's name.
pub fn in_file(path: &Path) -> Result<String, String> {
    let said = |error: io::Error| format!("{error}; write the path of a readable file");
    // Asked before opening: to open a named pipe would wait for its writer.
    if !path.metadata().map_err(said)?.is_file() {
        return Err("it is no regular file; write the path of one".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(said)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err("it is larger than 64 KiB; is it the right file?".to_owned());
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8; write a text file".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// A secret. Its `Debug` says nothing and it has no `Display`, so that no log line can hold it by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one consumer that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
