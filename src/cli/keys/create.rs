//! `sidegate keys create`: mints a key, stores its digest, shows the key this once.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::session::{KeysSetting, Session};
use super::words::{print_facts, printable};
use super::{doubts, name};
use crate::cli::exit::DONE;
use crate::clock;
use crate::keys::FormatError;
use crate::keys::creation::KeyRequest;
use crate::policy::{Access, Policy};
use crate::secret::Secret;
use crate::store::keyring::KeyringError;
use crate::store::record::KeyDocument;
use crate::store::registry::Registry;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate keys create --name 'billing job' --business acme --scopes contacts:read,calls:read --expires 90d"
)]
pub struct CreateArgs {
    /// By what people know the key
    #[arg(long)]
    name: String,
    /// The business that the key is bound to
    #[arg(long, value_name = "ID")]
    business: Option<String>,
    /// The user whom the key acts for; without a business it reaches all businesses that the user owns
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// What the key may, separated by commas; without it the configured default
    #[arg(long, value_delimiter = ',', value_name = "SCOPE", value_parser = name::trimmed)]
    scopes: Vec<String>,
    /// When the key ends: a duration such as 90d or 24h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// A limit of the key's own, such as per-key=20/1s,200/10s; several times for several limits
    #[arg(long, value_name = "NAME=WINDOWS", value_parser = name::limit)]
    limit: Vec<(String, Vec<String>)>,
    /// From where alone the key may be used: addresses and networks, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NETWORK", value_parser = name::trimmed)]
    allow_addresses: Option<Vec<String>>,
    /// The prefix of the format to mint; without it the first that is configured
    #[arg(long, value_name = "PREFIX")]
    format: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The contract's document; a member without a value is null. Limits and addresses of its own stand there where it has any.
#[derive(Serialize)]
pub(super) struct Created<'a> {
    id: &'a str,
    key: &'a str,
    hint: &'a str,
    name: &'a str,
    business: Option<&'a str>,
    user: Option<&'a str>,
    scopes: &'a [String],
    created_at: Option<String>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<&'a str, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_addresses: Option<Vec<String>>,
}

pub(super) async fn run(args: CreateArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let CreateArgs { name, business, user, scopes, expires, limit: limits, allow_addresses, format, json } = args;
    let wanted = KeyRequest { name, business, user, scopes, expires, limits, allow_addresses };
    let minted = match setting.keyring.create(wanted, format.as_deref(), session.requester()).await {
        Ok(minted) => minted,
        Err(error) => return refused(error, setting, session),
    };
    show_once(&minted.key, &minted.document, json, session)?;
    remarks(&minted.document, setting, session).await?;
    Ok(DONE)
}

/// A whole key where a prefix belongs is not repeated.
pub(super) fn refused(error: KeyringError, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let looks_like_a_key = |text: &str| crate::keys::mask(text, &setting.keyring.formats) != text;
    match error {
        KeyringError::Format(FormatError::NotConfigured { prefix, .. }) if looks_like_a_key(&prefix) => {
            session.wrong_arguments("`--format` takes the prefix of a format, never a key")
        }
        other => session.refused(other),
    }
}

/// The only time that the key is printed.
pub(super) fn show_once(
    key: &Secret,
    document: &KeyDocument,
    json: bool,
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    let created = created(key, document);
    if json { session.print_json(&created) } else { print_for_a_person(session, &created) }
}

/// Why a new key may be refused although nothing is wrong. On standard error, so that a script's document stays whole.
pub(super) async fn remarks(
    document: &KeyDocument,
    setting: &KeysSetting,
    session: &mut Session<'_>,
) -> anyhow::Result<()> {
    if let Registry::File { .. } = setting.keyring.registry {
        writeln!(session.err, "The gate that reads this file accepts the key within a second.")?;
    }
    if document.scopes.is_empty() && setting.policy.as_deref().is_some_and(|policy| !opens_without_scopes(policy)) {
        writeln!(
            session.err,
            "warning: the key has no scopes and no route is `any`, so it opens public routes alone; \
             `sidegate keys update {} --scopes …` gives it some",
            document.id
        )?;
    }
    if let Some(doubt) = doubts::of(document, setting).await {
        writeln!(session.err, "note: {}", printable(&doubt))?;
    }
    Ok(())
}

fn opens_without_scopes(policy: &Policy) -> bool {
    policy.routes.iter().any(|route| route.access == Access::Any)
}

pub(super) fn created<'a>(key: &'a Secret, document: &'a KeyDocument) -> Created<'a> {
    Created {
        id: &document.id,
        key: key.expose(),
        hint: &document.hint,
        name: &document.name,
        business: document.business.as_deref(),
        user: document.user.as_deref(),
        scopes: &document.scopes,
        created_at: document.created_at.map(clock::rfc3339),
        expires_at: document.expires_at.map(clock::rfc3339),
        limits: document.limits.iter().map(|(name, windows)| (name.as_str(), texts(windows.as_slice()))).collect(),
        allow_addresses: document.allow_addresses.as_deref().map(texts),
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn print_for_a_person(session: &mut Session<'_>, created: &Created<'_>) -> anyhow::Result<()> {
    let reach = match (created.business, created.user) {
        (Some(business), _) => business.to_owned(),
        (None, user) => format!("every business that {} owns", user.unwrap_or("its user")),
    };
    let scopes = if created.scopes.is_empty() { "none".to_owned() } else { created.scopes.join(", ") };
    writeln!(session.out, "The new key. It is shown this once and can never be read back:\n\n  {}\n", created.key)?;
    let facts = [
        ("id", created.id),
        ("hint", created.hint),
        ("name", &printable(created.name)),
        ("business", &reach),
        ("user", created.user.unwrap_or("-")),
        ("scopes", &scopes),
        ("created", created.created_at.as_deref().unwrap_or("-")),
        ("expires", created.expires_at.as_deref().unwrap_or("never")),
    ];
    print_facts(session.out, &facts)?;
    for (name, windows) in &created.limits {
        print_facts(session.out, &[("limit", &format!("{name} {}", windows.join(",")))])?;
    }
    match &created.allow_addresses {
        Some(addresses) => print_facts(session.out, &[("from", &addresses.join(", "))]),
        None => Ok(()),
    }
}
