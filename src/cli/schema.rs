//! `sidegate schema`: the configuration's JSON Schema, for editors that complete and check while one writes.

use super::out;
use crate::config;

pub fn run() -> anyhow::Result<()> {
    let schema = serde_json::to_string_pretty(&config::schema())?;
    out::say(format_args!("{schema}\n"))
}
