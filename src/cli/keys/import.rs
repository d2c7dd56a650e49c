//! `sidegate keys import`: keys that exist already, as JSON lines with their SHA-256. Doing it twice changes nothing.
//!
//! Each line stands or falls alone, and says so. Only a store out of reach ends the command early: no later line could
//! fare better, and the same import can be run again.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::session::{KeysSetting, Session};
use super::words::printable;
use crate::cli::exit::{DONE, FAILED};
use crate::keys::rules::{Holder, Required, RuleError, check_name, networks};
use crate::keys::{Digest, Formats, mask};
use crate::store::StoreError;
use crate::store::keyring::{Granting, Requester};
use crate::store::members::{MEMBERS, Members};
use crate::store::registry::{Insertion, RegistryError, StoredKey};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  echo '{\"sha256\": \"<64 hex digits>\", \"name\": \"crm\", \"business\": \"acme\", \"scopes\": [\"read\"]}' | sidegate keys import"
)]
pub struct ImportArgs {
    /// JSON lines {sha256, name, business?, user?, scopes?, id?, hint?, created_at?, expires_at?, revoked_at?, limits?,
    /// allow_addresses?, rotated_to?}; without it standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A line as it may be written. A member that is misspelt is an error: an expiry that nobody reads would open for ever.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sha256: String,
    name: String,
    id: Option<Value>,
    hint: Option<String>,
    business: Option<Value>,
    user: Option<Value>,
    scopes: Option<Value>,
    created_at: Option<Value>,
    expires_at: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    revoked_at: Option<Value>,
    limits: Option<Value>,
    allow_addresses: Option<Value>,
    rotated_to: Option<Value>,
}

#[derive(Default)]
struct Tally {
    imported: usize,
    already_there: usize,
    failed: usize,
}

pub(super) async fn run(args: ImportArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let actor = session.actor.clone();
    let requester = Requester { actor: &actor, granting: Granting::Everything, now_ms: session.now_ms };
    let mut file;
    let input: &mut dyn BufRead = match args.file.filter(|path| path.as_os_str() != "-") {
        Some(path) => {
            let opened = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            file = BufReader::new(opened);
            &mut file
        }
        None => &mut *session.input,
    };
    let mut tally = Tally::default();
    let mut line = Vec::new();
    // Whether some key's form cannot be seen from its hint.
    let mut unseen = false;
    for number in 1.. {
        line.clear();
        // Bytes, since a line that is not UTF-8 must not end the import of the others.
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| number == 1).unwrap_or(&line).trim_ascii();
        if line.is_empty() {
            continue;
        }
        match import(line, setting, requester).await {
            Ok(insertion) => {
                let (what, key) = tally.count(&insertion);
                writeln!(session.out, "line {number}: {what} as {}", shown_id(key))?;
                for doubt in doubts(key, setting) {
                    let doubt = mask(&doubt, &setting.keyring.formats).into_owned();
                    writeln!(session.err, "line {number}: warning: {}", printable(&doubt))?;
                }
                unseen |= key.text("hint").is_none();
            }
            Err(Failure::Line(what)) => {
                tally.failed += 1;
                writeln!(session.err, "line {number}: {}", printable(&mask(&what, &setting.keyring.formats)))?;
            }
            Err(Failure::Store(error)) => {
                writeln!(session.err, "line {number}: stopped here; import the same lines again, none is doubled")?;
                return Err(error.into());
            }
        }
    }
    if unseen && setting.keyring.formats != Formats::default() {
        writeln!(session.err, "note: {OTHER_FORMS}; what a key looks like cannot be told from its SHA-256")?;
    }
    let Tally { imported, already_there, failed } = tally;
    writeln!(session.out, "{imported} imported, {already_there} already there, {failed} failed")?;
    Ok(if failed == 0 { DONE } else { FAILED })
}

/// What Windows writes at a file's beginning.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

const OTHER_FORMS: &str =
    "keys that have none of the forms in `keys.formats` are refused as malformed_key; add a format for them";

enum Failure {
    /// This line cannot be imported.
    Line(String),
    /// No line can be.
    Store(StoreError),
}

async fn import(line: &[u8], setting: &KeysSetting, requester: Requester<'_>) -> Result<Insertion, Failure> {
    let (digest, members) = read(line, setting).map_err(Failure::Line)?;
    setting.keyring.import(&digest, members, requester).await.map_err(|error| match error {
        RegistryError::Store(error @ (StoreError::Unreachable(_) | StoreError::Deadline)) => Failure::Store(error),
        other => Failure::Line(other.to_string()),
    })
}

fn read(line: &[u8], setting: &KeysSetting) -> Result<(Digest, Members), String> {
    // Checked first: serde would repeat a line that is one text, and that text may be a key.
    if line.first() != Some(&b'{') {
        return Err(
            "no JSON object; write one line such as {\"sha256\": \"…\", \"name\": \"crm\", \"business\": \"acme\"}"
                .to_owned(),
        );
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let digest = Digest::parse_hex(&line.sha256)
        .ok_or("sha256: write the key's SHA-256 as 64 hexadecimal digits, never the key itself")?;
    check_name(&line.name).map_err(|error| format!("name: {error}"))?;
    // Documents that stand are read more leniently; this one is written now.
    let allowed = line.allow_addresses.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let allowed: Vec<String> = allowed.map(str::to_owned).collect();
    networks(&allowed).map_err(|error| format!("allow_addresses: {error}"))?;
    if line.hint.as_ref().is_some_and(|hint| mask(hint, &setting.keyring.formats) != hint.as_str()) {
        return Err("hint: at most the prefix and eight characters of a key may be stored".to_owned());
    }
    Ok((digest, line.into_members()))
}

impl Line {
    fn into_members(self) -> Members {
        let values = [
            self.id,
            Some(Value::from(self.name)),
            self.hint.map(Value::from),
            self.business,
            self.user,
            self.scopes,
            self.created_at,
            self.expires_at,
            self.revoked_at,
            self.limits,
            self.allow_addresses,
            self.rotated_to,
        ];
        let members = MEMBERS.iter().zip(values);
        members.filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect()
    }
}

impl Tally {
    fn count<'a>(&mut self, insertion: &'a Insertion) -> (&'static str, &'a StoredKey) {
        match insertion {
            Insertion::Inserted(key) => {
                self.imported += 1;
                (if key.members.contains_key("revoked_at") { "imported, revoked," } else { "imported" }, key)
            }
            Insertion::AlreadyThere(key) => {
                self.already_there += 1;
                ("already there", key)
            }
        }
    }
}

/// What the gate will not heed, and what a new key would have to have: `create` and `update` refuse it. These keys are there
/// already, and the configuration may come later than they.
fn doubts(key: &StoredKey, setting: &KeysSetting) -> Vec<String> {
    let rules = &setting.keyring.rules;
    let Ok(document) = &key.document else { return Vec::new() };
    let scopes = document.scopes.iter().map(|scope| rules.check_scope(scope));
    let limits = document.limits.keys().map(|name| rules.check_limit(Holder::Key, name));
    let idle = scopes.chain(limits).filter_map(Result::err).map(|error| format!("this has no effect: {error}"));
    let lacks = |required: &&Required| match required {
        Required::Business => document.business.is_none(),
        Required::User => document.user.is_none(),
        Required::Scopes => document.scopes.is_empty(),
        Required::Expiry => document.expires_at.is_none() && !document.revoked,
    };
    let lacking = rules.require.iter().filter(lacks).map(|required| RuleError::Missing(*required).to_string());
    let formats = &setting.keyring.formats;
    let of_another_form = key.text("hint").filter(|hint| {
        *formats != Formats::default() && !formats.by_prefix().iter().any(|format| hint.starts_with(format.prefix()))
    });
    let form = of_another_form.map(|hint| format!("the hint `{hint}` begins as no key here does; {OTHER_FORMS}"));
    idle.chain(lacking).chain(form).collect()
}

fn shown_id(key: &StoredKey) -> String {
    key.text("id").map_or_else(|| "a key without an id".to_owned(), printable)
}

/// `revoked_at: null` revokes as any other value does, so that it must not be read as absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
