//! What the configuration says of the store.

use std::path::PathBuf;
use std::time::Duration;

use super::fallback::LimitsOutage;
use super::redis;

#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub backend: Backend,
    /// All store work of one request.
    pub deadline: Duration,
    /// What becomes of limits while the shared store is away; keys are refused then.
    pub limits_outage: LimitsOutage,
}

#[derive(Debug, Clone)]
pub enum Backend {
    Redis(Box<redis::Settings>),
    /// Keys and businesses in this file, counts in memory; one process.
    File(PathBuf),
}
