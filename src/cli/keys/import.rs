//! `sidegate keys import`: keys that exist already, as JSON lines with their SHA-256. Doing it twice changes nothing.
//!
//! Each line stands or falls alone, and says so. Only a store out of reach ends the command early: no later line could
//! fare better, and the same import can be run again.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::session::{KeysSetting, Session};
use super::words::printable;
use crate::cli::exit::{DONE, FAILED};
use crate::cli::json_lines::{self, ImportOptions, Lines, Remarks, Tally, changed, present};
use crate::keys::rules::{Holder, Required, RuleError, check_name, networks};
use crate::keys::{Digest, Formats, mask};
use crate::store::StoreError;
use crate::store::keyring::import::{Imported, Importing, Rehearsal};
use crate::store::keyring::{Granting, Requester};
use crate::store::members::{MEMBERS, Members};
use crate::store::registry::{RegistryError, StoredKey};

#[derive(Debug, Args)]
#[command(
    after_help = "A line is {sha256, name, business?, user?, scopes?, id?, hint?, created_at?, expires_at?, revoked_at?, limits?,
allow_addresses?, rotated_to?}.

sha256  of the whole value that callers present, prefix included and without the line's end: printf %s \"$KEY\" | sha256sum
        A key that has blanks or anything but visible ASCII in it cannot be sent in a header.
hint    the first characters of the key, by which people tell keys apart: eight or so, never more than a third of the key

With --update, `null` takes expires_at, limits or allow_addresses away from a key.

Examples:
  echo '{\"sha256\": \"<64 hex digits>\", \"name\": \"crm\", \"business\": \"acme\"}' | sidegate keys import
  sidegate keys import --dry-run keys.jsonl"
)]
pub struct ImportArgs {
    #[command(flatten)]
    options: ImportOptions,
}

/// A line as it has to be.
const FORM: &str = "{\"sha256\": \"…\", \"name\": \"crm\", \"business\": \"acme\"}";

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
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    revoked_at: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    allow_addresses: Option<Value>,
    rotated_to: Option<Value>,
}

pub(super) async fn run(args: ImportArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let ImportOptions { file, dry_run, update, allow_unknown } = args.options;
    let Session { input, out, err, actor, now_ms } = session;
    let requester = Requester { actor, granting: Granting::Everything, now_ms: *now_ms };
    let mut source = json_lines::source(file, &mut **input)?;
    let (mut lines, mut remarks) = (Lines::of(&mut *source), Remarks::on(&mut **err));
    let how = Importing { update, allow_unknown };
    let rehearsal = dry_run.then(Rehearsal::default);
    let mut import = Import { setting, requester, how, rehearsal, unknown: false };
    let mut tally = Tally::default();
    // Whether some key's form cannot be seen from its hint.
    let mut unseen = false;
    while let Some((number, line)) = lines.next()? {
        match import.line(line).await {
            Ok(done) => {
                writeln!(out, "line {number}: {}", mask(&words(&mut tally, &done, dry_run), &setting.keyring.formats))?;
                let (Imported::Inserted(key) | Imported::AlreadyThere(key) | Imported::Updated { after: key, .. }) =
                    &done;
                for doubt in doubts(key, setting) {
                    let doubt = mask(&doubt, &setting.keyring.formats).into_owned();
                    remarks.say(number, &format!("warning: {}", printable(&doubt)))?;
                }
                unseen |= key.text("hint").is_none();
            }
            Err(Failure::Line(what)) => {
                tally.failed += 1;
                remarks.failed(number, line, &printable(&mask(&what, &setting.keyring.formats)))?;
            }
            Err(Failure::Store(error)) => {
                remarks.note(&format!("line {number}: stopped here; import the same lines again, none is doubled"))?;
                remarks.end(FORM, "keys import")?;
                return Err(error.into());
            }
        }
    }
    if unseen && setting.keyring.formats != Formats::default() {
        remarks.note(&format!("note: {OTHER_FORMS}; what a key looks like cannot be told from its SHA-256"))?;
    }
    if import.unknown {
        remarks.note(json_lines::UNKNOWN)?;
    }
    remarks.end(FORM, "keys import")?;
    writeln!(out, "{}", tally.sum(dry_run, update))?;
    Ok(if tally.failed == 0 { DONE } else { FAILED })
}

const OTHER_FORMS: &str =
    "keys that have none of the forms in `keys.formats` are refused as malformed_key; add a format for them";

enum Failure {
    /// This line cannot be imported.
    Line(String),
    /// No line can be.
    Store(StoreError),
}

struct Import<'a> {
    setting: &'a KeysSetting,
    requester: Requester<'a>,
    how: Importing,
    rehearsal: Option<Rehearsal>,
    /// Whether a line was refused for a name that the configuration does not have.
    unknown: bool,
}

impl Import<'_> {
    async fn line(&mut self, line: &[u8]) -> Result<Imported, Failure> {
        let (digest, members) = read(line, self.setting).map_err(Failure::Line)?;
        let keyring = &self.setting.keyring;
        let done = match &mut self.rehearsal {
            Some(rehearsal) => keyring.rehearse_import(rehearsal, &digest, &members, self.how, self.requester).await,
            None => keyring.import(&digest, &members, self.how, self.requester).await,
        };
        done.map_err(|error| match error {
            RegistryError::Store(error @ (StoreError::Unreachable(_) | StoreError::Deadline)) => Failure::Store(error),
            RegistryError::Differs { .. } if self.how.update => Failure::Line(format!(
                "{error}; `--update` changes {} alone, and takes no key its last scope",
                CHANGEABLE.join(", ")
            )),
            RegistryError::Differs { ref member, .. } if CHANGEABLE.contains(&member.as_str()) => {
                Failure::Line(format!("{error}; `--update` changes it"))
            }
            other => {
                self.unknown |= is_unknown(&other);
                Failure::Line(other.to_string())
            }
        })
    }
}

const CHANGEABLE: [&str; 5] = ["name", "scopes", "expires_at", "limits", "allow_addresses"];

fn is_unknown(error: &RegistryError) -> bool {
    let RegistryError::Rule(rule) = error else { return false };
    matches!(rule, RuleError::UnknownScope { .. } | RuleError::UnknownLimit { .. } | RuleError::NotByKey(_))
}

fn read(line: &[u8], setting: &KeysSetting) -> Result<(Digest, Members), String> {
    let line: Line = json_lines::read(line, FORM)?;
    let digest = Digest::parse_hex(&line.sha256)
        .ok_or("sha256: write the key's SHA-256 as 64 hexadecimal digits, never the key itself")?;
    check_name(&line.name).map_err(|error| format!("name: {error}"))?;
    // Documents that stand are read more leniently; this one is written now.
    let allowed = line.allow_addresses.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let allowed: Vec<String> = allowed.map(str::to_owned).collect();
    networks(&allowed).map_err(|error| format!("allow_addresses: {error}"))?;
    let hint = line.hint.clone();
    let members = line.into_members();
    check_digest(&digest, &members)?;
    if hint.is_some_and(|hint| mask(&hint, &setting.keyring.formats) != hint.as_str()) {
        return Err("hint: at most the prefix and eight characters of a key may be stored".to_owned());
    }
    Ok((digest, members))
}

/// What a script that makes lines gets wrong most easily: a row without a key, and a key in clear beside its digest.
fn check_digest(digest: &Digest, members: &Members) -> Result<(), String> {
    let is_of = |text: &str| ["", "\n", "\r\n"].iter().any(|end| Digest::of(&format!("{text}{end}")) == *digest);
    if is_of("") {
        return Err("sha256: this is the digest of no key at all, but of an empty text".to_owned());
    }
    let texts = members.iter().filter_map(|(member, value)| Some((member, value.as_str()?)));
    match texts.into_iter().find(|(_, text)| is_of(text)) {
        Some((member, _)) if member == "hint" => {
            Err("hint: this is the whole key; write its first characters alone, never more than a third of it"
                .to_owned())
        }
        Some((member, _)) => Err(format!("{member}: this is the key itself, and would be stored in clear")),
        None => Ok(()),
    }
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

/// Counts what became of a line, and words it. What is only rehearsed is shown as it would be written.
fn words(tally: &mut Tally, done: &Imported, dry_run: bool) -> String {
    match done {
        Imported::Inserted(key) => {
            tally.imported += 1;
            let revoked = if key.members.contains_key("revoked_at") { ", revoked," } else { "" };
            match dry_run {
                true => format!("would be imported{revoked} as {}", changed(&key.members, &Members::new())),
                false => format!("imported{revoked} as {}", shown_id(key)),
            }
        }
        Imported::AlreadyThere(key) => {
            tally.already_there += 1;
            format!("already there as {}", shown_id(key))
        }
        Imported::Updated { before, after } => {
            tally.updated += 1;
            let (was, is) = (changed(&before.members, &after.members), changed(&after.members, &before.members));
            format!(
                "{} as {}: {was} becomes {is}",
                if dry_run { "would be updated" } else { "updated" },
                shown_id(after)
            )
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
