//! `sidegate run`: serve until told to end.

use std::path::Path;

use tracing::warn;

use crate::config::Settings;
use crate::observe::log;
use crate::process::Process;

pub fn run(settings: Settings, config: &Path) -> anyhow::Result<u8> {
    log::init(&settings.observe);
    for warning in &settings.warnings {
        warn!(config = %config.display(), "{warning}");
    }
    Process::bind(settings)?.run()?;
    Ok(super::DONE)
}
