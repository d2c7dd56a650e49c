//! What commands say: results on standard output, remarks on standard error. Whoever reads may go before the end, as `head` does;
//! a command then ends without a word about it. The standard library's own macros for printing would panic.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

use anyhow::Context as _;

/// Says the result, or a part of it.
pub fn say(text: impl Display) -> anyhow::Result<()> {
    let written = write!(Out, "{text}").and_then(|()| Out.flush());
    written.context("standard output cannot be written")
}

/// Remarks and errors. What nobody hears changes nothing of what is done.
pub fn remark(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether a command failed for want of a reader alone.
pub fn is_unread(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.get_ref().is_some_and(|inner| inner.is::<ReaderGone>()))
}

/// Standard output, whose closed pipe can be told from those of the network.
#[derive(Debug)]
pub struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(known)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(known)
    }
}

fn known(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe { io::Error::other(ReaderGone) } else { error }
}

#[derive(Debug)]
struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads what is said")
    }
}

impl Error for ReaderGone {}
