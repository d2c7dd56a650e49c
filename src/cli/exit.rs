//! The exit codes of the contract.

pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
/// The arguments, or the configuration.
pub const WRONG: u8 = 2;
