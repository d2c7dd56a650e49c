//! sidegate

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gate;
pub mod keys;
pub mod limit;
pub mod listen;
pub mod observe;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod secret;
pub mod store;
