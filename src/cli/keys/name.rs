//! Which key a command means: its id or hint as an argument, or the key itself on standard input.

use std::io::{BufRead, Read};

use clap::Args;

use super::session::{KeysSetting, Session};
use crate::keys::format::LONGEST;
use crate::keys::{Digest, Reading, mask};
use crate::store::registry::StoredKey;

#[derive(Debug, Args)]
pub struct KeyName {
    /// The key's id or hint; `-` reads the key itself from standard input
    #[arg(value_name = "ID|HINT|-")]
    key: String,
}

/// A key that was found, or the exit code where the argument names none.
pub enum Named {
    Key(Box<StoredKey>),
    Wrong(u8),
}

const NEVER_AN_ARGUMENT: &str = "this looks like a whole key. Arguments stay in the shell's history and can be seen by \
     every process; name the key by its id or hint, or give it on standard input, with `-` in its place";

pub(super) const NOT_A_KEY: &str = "what stands on standard input is not one key of this gate";

impl KeyName {
    pub(super) async fn find(&self, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<Named> {
        let registry = &setting.keyring.registry;
        let key = if self.key == "-" {
            let Some(digest) = read_key(session.input, setting)? else {
                return Ok(Named::Wrong(session.wrong_arguments(NOT_A_KEY)?));
            };
            registry.find_digest(&digest).await?
        } else if mask(&self.key, &setting.keyring.formats) != self.key {
            return Ok(Named::Wrong(session.wrong_arguments(NEVER_AN_ARGUMENT)?));
        } else {
            registry.find(&self.key).await?
        };
        Ok(Named::Key(Box::new(key)))
    }
}

/// The key on the first line, if it can be one; the line's end and spaces around it are not part of it.
pub(super) fn read_key(input: &mut dyn BufRead, setting: &KeysSetting) -> anyhow::Result<Option<Digest>> {
    let mut text = String::new();
    input.take(4 * LONGEST as u64).read_to_string(&mut text)?;
    let key = text.trim();
    Ok(match setting.keyring.formats.read(key) {
        Reading::Ours(_) | Reading::Any => Some(Digest::of(key)),
        Reading::Foreign(_) | Reading::NotOurs => None,
    })
}

/// `NAME=WINDOWS`, as `per-key=20/1s,200/10s`.
pub fn limit(text: &str) -> Result<(String, Vec<String>), String> {
    match text.split_once('=') {
        Some((name, windows)) if !name.is_empty() && !windows.is_empty() => {
            Ok((name.to_owned(), windows.split(',').map(|window| window.trim().to_owned()).collect()))
        }
        _ => Err("write a limit's name and its windows, such as `per-key=20/1s,200/10s`".to_owned()),
    }
}
