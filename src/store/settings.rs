//! Settings of the store.

use std::path::PathBuf;
use std::time::Duration;

use super::outage::{KeysOutage, LimitsOutage};
use super::redis;

#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub backend: Backend,
    /// For all store work of one request.
    pub deadline: Duration,
    /// Keys during an outage.
    pub keys_outage: KeysOutage,
    /// Limits during an outage.
    pub limits_outage: LimitsOutage,
    /// The login for key management, where it is another than the gate's (`management.redis`).
    pub management_redis: Option<Box<redis::Settings>>,
    /// How many replicas must confirm a key's revocation before it is reported as done (`management.wait_replicas`).
    pub wait_replicas: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Redis(Box<redis::Settings>),
    /// Keys and businesses in this file, counts in memory; one process.
    File(PathBuf),
}

impl Backend {
    /// Whether a running store need not be replaced for the other settings. A login in files is read again for every connection,
    /// so that its rotation makes no difference.
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
