//! Which key a command means: its id or hint as an argument, or the key itself on standard input.

use clap::Args;

use super::given::{self, Given};
use super::session::{KeysSetting, Session};
use crate::cli::exit::FAILED;
use crate::keys::mask;
use crate::keys::tenant::is_id;
use crate::store::registry::{Filter, Registry, RegistryError, StoredKey};

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

impl KeyName {
    pub(super) async fn find(&self, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<Named> {
        let registry = &setting.keyring.registry;
        let formats = &setting.keyring.formats;
        if self.key == "-" {
            return match given::read(session.input, formats)? {
                Given::Key { digest, .. } => Ok(Named::Key(Box::new(registry.find_digest(&digest).await?))),
                Given::Nothing => Ok(Named::Wrong(session.wrong_arguments(given::NOTHING)?)),
                Given::Refused { why, .. } => {
                    let wrong = format_args!("what stands on standard input is no key of this gate: {why}");
                    Ok(Named::Wrong(session.wrong_arguments(wrong)?))
                }
            };
        }
        if mask(&self.key, formats) != self.key {
            return Ok(Named::Wrong(session.wrong_arguments(NEVER_AN_ARGUMENT)?));
        }
        match registry.find(&self.key).await {
            Err(RegistryError::NotFound) if is_business(&self.key, registry).await => {
                let (id, unknown) = (&self.key, RegistryError::NotFound);
                writeln!(
                    session.err,
                    "error: {unknown}. `{id}` is a business: `sidegate keys list --business {id}` shows its keys, \
                     `sidegate business show {id}` the business"
                )?;
                Ok(Named::Wrong(FAILED))
            }
            found => Ok(Named::Key(Box::new(found?))),
        }
    }
}

/// Whether the name is that of a business. What cannot be told is none: the name is no key's either way.
async fn is_business(name: &str, registry: &Registry) -> bool {
    if !is_id(name) {
        return false;
    }
    let filter = Filter { business: Some(name.to_owned()), ..Filter::default() };
    matches!(registry.business(name).await, Ok(Some(_)))
        || registry.list(&filter).await.is_ok_and(|keys| !keys.is_empty())
}

/// One of several texts in a list such as `a, b`.
pub fn trimmed(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
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
