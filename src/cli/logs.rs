//! Access logs, read line by line: sidegate's own (`own`), and the common and combined formats of other servers (`common`).
//!
//! Logs come from anywhere and are of any size: no line is kept, a line that is none is the caller's to count, and one without
//! an end is cut.

pub mod common;
pub mod entry;
pub mod own;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

pub use self::entry::Entry;

/// More than any line of a gate; what stands behind it is skipped.
const LONGEST: u64 = 64 * 1024;
/// Characters of a name or an example that are kept of a line.
const LONGEST_KEPT: usize = 200;
/// Read at a time.
const BLOCK: usize = 256 * 1024;

/// One request; `None`: the line is none of an access log.
pub fn read(line: &[u8]) -> Option<Entry<'_>> {
    match own::Line::read(line) {
        Some(own) => {
            Some(Entry { refused: own.decision == "denied", method: own.method, path: own.path, status: own.status })
        }
        None => common::read(line),
    }
}

/// The beginning of a text that a log may hold at any length.
pub fn shortened(text: &str) -> &str {
    text.char_indices().nth(LONGEST_KEPT).map_or(text, |(end, _)| &text[..end])
}

/// Shows every line of these files, one after the other; `-` is standard input, and so are no files at all.
pub fn each_line(files: &[PathBuf], mut show: impl FnMut(&[u8])) -> anyhow::Result<()> {
    let standard_input = [PathBuf::from("-")];
    let files = if files.is_empty() { &standard_input } else { files };
    for file in files {
        let shown = if file == Path::new("-") {
            each_of(io::stdin().lock(), &mut show)
        } else {
            File::open(file).and_then(|file| each_of(file, &mut show))
        };
        shown.with_context(|| format!("{} cannot be read", file.display()))?;
    }
    Ok(())
}

fn each_of(source: impl Read, show: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut source = BufReader::with_capacity(BLOCK, source);
    let mut line = Vec::new();
    loop {
        line.clear();
        if source.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
            source.skip_until(b'\n')?;
        }
        let line = line.trim_ascii();
        if !line.is_empty() {
            show(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_shown_whole_and_endless_ones_are_cut() {
        let endless = "x".repeat(3 * usize::try_from(LONGEST).expect("it is small"));
        let text = format!("a\n\n  b \r\n{endless}\nc");
        let mut shown = Vec::new();
        each_of(text.as_bytes(), &mut |line: &[u8]| shown.push(String::from_utf8_lossy(line).into_owned()))
            .expect("memory can be read");
        assert_eq!(shown.iter().map(String::len).collect::<Vec<_>>(), [1, 1, usize::try_from(LONGEST).unwrap_or(0), 1]);
        assert_eq!((&*shown[0], &*shown[1], &*shown[3]), ("a", "b", "c"));
    }

    proptest! {
        /// Whatever stands in a line, it is read or it is none; what is read is a request.
        #[test]
        fn any_bytes_are_an_entry_or_none(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(entry) = read(&line) {
                prop_assert!(!entry.method.is_empty() && !entry.path.contains('?'));
            }
        }

        /// Pieces of both formats in any order.
        #[test]
        fn what_looks_like_a_line_is_an_entry_or_none(pieces in proptest::collection::vec(
            proptest::sample::select(&[
                "127.0.0.1", " - - ", "[10/Oct/2000:13:55:36 -0700]", " \"", "GET", " /a", "?b=1", " HTTP/1.1", "\"", " 200", " 1",
                "{", "}", "\"url.path\":", "\"/x\"", ",", "\"http.request.method\":", "\"timestamp\":", "\"\"",
                "\"sidegate.decision\":", "\"denied\"", "\\", "\u{1b}", "http://h",
            ]), 0..30)) {
            let line = pieces.concat();
            if let Some(entry) = read(line.as_bytes()) {
                prop_assert!(entry.path.starts_with('/') || line.contains('{') || entry.path == "*", "{}", line);
            }
        }
    }
}
