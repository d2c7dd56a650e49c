//! `sidegate run`: serve until told to end.

use std::path::Path;

use tracing::warn;

use crate::config::Settings;
use crate::observe::log;
use crate::process::{Process, StartError};

pub fn run(settings: Settings, config: &Path) -> anyhow::Result<u8> {
    log::init(&settings.observe);
    for warning in &settings.warnings {
        warn!(config = %config.display(), "{warning}");
    }
    match Process::bind(settings) {
        Ok(process) => process.run()?,
        // A file that the configuration names is part of it.
        Err(error @ (StartError::Tls(_) | StartError::Upstream(_))) => {
            eprintln!("{}: {error}", config.display());
            return Ok(super::WRONG_CONFIGURATION);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(super::DONE)
}
