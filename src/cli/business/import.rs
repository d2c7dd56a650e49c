//! `sidegate business import`: plans, states and limits of many businesses, as JSON lines. Doing it twice changes nothing.
//!
//! Each line stands or falls alone, as with `keys import`.

use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::exit::{DONE, FAILED};
use crate::cli::json_lines::{self, ImportOptions, Lines, Remarks, Tally, changed, present};
use crate::cli::keys::session::{KeysSetting, Session};
use crate::cli::keys::words::printable;
use crate::keys::rules::{Holder, RuleError, Rules};
use crate::store::StoreError;
use crate::store::keyring::import::{BusinessFacts, ImportedBusiness, Importing, Rehearsal};
use crate::store::keyring::{Granting, Requester};
use crate::store::members::Members;
use crate::store::record::{BusinessDocument, Limits};
use crate::store::registry::{ChangedBusiness, RegistryError};

#[derive(Debug, Args)]
#[command(after_help = "A line is {id, plan?, status?, limits?}: status is `active` or `suspended`,
limits are all of the business's own.
With --update, `null` takes the plan or the limits away.

Examples:
  echo '{\"id\": \"acme\", \"plan\": \"pro\", \"limits\": {\"per-business\": [\"600/1m\"]}}' | sidegate business import
  sidegate business import --dry-run businesses.jsonl")]
pub struct ImportArgs {
    #[command(flatten)]
    options: ImportOptions,
}

/// A line as it has to be.
const FORM: &str = "{\"id\": \"acme\", \"plan\": \"pro\"}";

/// A line as it may be written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    #[serde(default, deserialize_with = "present")]
    plan: Option<Option<String>>,
    status: Option<String>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<IgnoredAny>,
}

pub(super) async fn run(args: ImportArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let ImportOptions { file, dry_run, update, allow_unknown } = args.options;
    let Session { input, out, err, actor, now_ms } = session;
    let requester = Requester { actor, granting: Granting::Everything, now_ms: *now_ms };
    let mut source = json_lines::source(file, &mut **input)?;
    let (mut lines, mut remarks) = (Lines::of(&mut *source), Remarks::on(&mut **err));
    let how = Importing { update, allow_unknown };
    let mut rehearsal = dry_run.then(Rehearsal::default);
    let (mut tally, mut unknown) = (Tally::default(), false);
    while let Some((number, line)) = lines.next()? {
        let (id, facts) = match read(line) {
            Ok(read) => read,
            Err(what) => {
                tally.failed += 1;
                remarks.failed(number, line, &printable(&what))?;
                continue;
            }
        };
        match setting.keyring.import_business(rehearsal.as_mut(), &id, &facts, how, requester).await {
            Ok(done) => {
                writeln!(out, "line {number}: {}", words(&mut tally, &id, &done, dry_run))?;
                for doubt in doubts(&facts, &setting.keyring.rules) {
                    remarks.say(number, &format!("warning: this has no effect: {}", printable(&doubt.to_string())))?;
                }
            }
            Err(RegistryError::Store(error @ (StoreError::Unreachable(_) | StoreError::Deadline))) => {
                remarks.note(&format!("line {number}: stopped here; import the same lines again"))?;
                remarks.end(FORM, "business import")?;
                return Err(error.into());
            }
            Err(error) => {
                tally.failed += 1;
                unknown |= is_unknown(&error);
                let way_out = match error {
                    RegistryError::BusinessDiffers { .. } => "; `--update` changes it",
                    _ => "",
                };
                remarks.failed(number, line, &format!("{}{way_out}", printable(&error.to_string())))?;
            }
        }
    }
    if unknown {
        remarks.note(json_lines::UNKNOWN)?;
    }
    remarks.end(FORM, "business import")?;
    writeln!(out, "{}", tally.sum(dry_run, update))?;
    Ok(if tally.failed == 0 { DONE } else { FAILED })
}

/// A business's id, and what is said of it. Its limits are read as the gate reads them.
fn read(text: &[u8]) -> Result<(String, BusinessFacts), String> {
    let Line { id, plan, status, limits } = json_lines::read(text, FORM)?;
    let document = BusinessDocument::parse(text).map_err(|error| error.to_string())?;
    Ok((id, BusinessFacts { plan, status, limits: limits.map(|_| document.limits) }))
}

fn is_unknown(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Rule(RuleError::UnknownPlan { .. } | RuleError::UnknownLimit { .. }))
}

/// What no gate with this configuration heeds.
fn doubts(facts: &BusinessFacts, rules: &Rules) -> Vec<RuleError> {
    let plan = facts.plan.iter().flatten().map(|plan| rules.check_plan(plan));
    let limits = facts.limits.iter().flat_map(Limits::keys).map(|name| rules.check_limit(Holder::Business, name));
    plan.chain(limits).filter_map(Result::err).collect()
}

fn words(tally: &mut Tally, id: &str, done: &ImportedBusiness, dry_run: bool) -> String {
    let would_be = if dry_run { "would be " } else { "" };
    match done {
        ImportedBusiness::Inserted(ChangedBusiness { after, .. }) => {
            tally.imported += 1;
            format!("{id} {would_be}imported: {}", changed(after, &Members::new()))
        }
        ImportedBusiness::AlreadyThere => {
            tally.already_there += 1;
            format!("{id} is so already")
        }
        ImportedBusiness::Updated(ChangedBusiness { before, after }) => {
            tally.updated += 1;
            format!("{id} {would_be}updated: {} becomes {}", changed(before, after), changed(after, before))
        }
    }
}
