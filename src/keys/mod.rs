//! API keys as plain rules: their digests, formats and checksums, whose they are, how they are minted.
//!
//! No I/O: the stores keep what this room defines, the command line and the management API obey its rules.

pub mod change;
pub mod creation;
pub mod digest;
pub mod format;
pub mod mask;
pub mod mint;
pub mod rules;
pub mod tenant;

pub use digest::{ByDigest, Digest};
pub use format::{Alphabet, Format, FormatAction, FormatError, Formats, Reading};
pub use mask::mask;
pub use tenant::Tenant;
