//! sidegate

pub mod cli;
pub mod clock;
pub mod keys;
pub mod limit;
pub mod secret;
pub mod store;
