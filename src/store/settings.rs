//! What the configuration says of the store.

use std::path::PathBuf;
use std::time::Duration;

use super::outage::{KeysOutage, LimitsOutage};
use super::redis;

#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub backend: Backend,
    /// All store work of one request.
    pub deadline: Duration,
    /// What becomes of keys while the shared store is away.
    pub keys_outage: KeysOutage,
    /// What becomes of limits while the shared store is away.
    pub limits_outage: LimitsOutage,
    /// The login for key management, where it is another than the gate's (`management.redis`).
    pub management_redis: Option<Box<redis::Settings>>,
    /// How many replicas must hold a key's end before it counts as done (`management.wait_replicas`).
    pub wait_replicas: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Redis(Box<redis::Settings>),
    /// Keys and businesses in this file, counts in memory; one process.
    File(PathBuf),
}

impl Backend {
    /// Whether a store that runs with these settings is the one that the other settings mean. A login in files is read again
    /// for every connection, so that its rotation makes no other store.
    pub fn is_same(&self, other: &Self) -> bool {
        let (Self::Redis(mine), Self::Redis(theirs)) = (self, other) else { return self == other };
        let mut theirs = theirs.clone();
        if mine.login_files == theirs.login_files {
            if mine.login_files.username.is_some() {
                theirs.username.clone_from(&mine.username);
            }
            if mine.login_files.password.is_some() {
                theirs.password.clone_from(&mine.password);
            }
        }
        *mine == theirs
    }
}
