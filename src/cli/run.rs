//! `sidegate run`: serve until told to end.

use std::path::Path;

use tracing::warn;

use super::out;
use crate::observe::log;
use crate::process::{Process, StartError};
use crate::reload::{self, Watch};

pub fn run(config: &Path) -> anyhow::Result<u8> {
    let reading = reload::read(config, vec![config.to_owned()]);
    let watch = Watch::new(config, &reading);
    let settings = match reading.loaded.settings {
        Ok(settings) => settings,
        Err(errors) => {
            out::remark(errors);
            return Ok(super::exit::WRONG);
        }
    };
    let queued = log::init(&settings.observe)?;
    for warning in &settings.warnings {
        warn!(config = %config.display(), "{warning}");
    }
    match Process::bind(settings) {
        Ok(process) => process.run(Some(watch))?,
        // A file that the configuration names is part of it.
        Err(error @ (StartError::Tls(_) | StartError::Upstream(_))) => {
            drop(queued);
            out::remark(format_args!("{}: {error}", config.display()));
            return Ok(super::exit::WRONG);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(super::exit::DONE)
}
