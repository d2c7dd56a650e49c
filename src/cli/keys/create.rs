//! `sidegate keys create`: mints a key, stores its digest, shows the key this once.

use clap::Args;
use serde::Serialize;

use super::{DONE, KeysSetting, Session, printable};
use crate::clock;
use crate::keys::mint::{hint, mint};
use crate::keys::rules::{Settled, Wanted};
use crate::keys::{Digest, Format, FormatError};
use crate::secret::Secret;
use crate::store::record::KeyDocument;
use crate::store::registry::{Insertion, RegistryError};

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
    #[arg(long, value_delimiter = ',', value_name = "SCOPE")]
    scopes: Vec<String>,
    /// When the key ends: a duration such as 90d or 24h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// The prefix of the format to mint; without it the first that is configured
    #[arg(long, value_name = "PREFIX")]
    format: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The contract's document; a member without a value is null.
#[derive(Serialize)]
struct Created<'a> {
    id: &'a str,
    key: &'a str,
    hint: &'a str,
    name: &'a str,
    business: Option<&'a str>,
    user: Option<&'a str>,
    scopes: &'a [String],
    created_at: Option<String>,
    expires_at: Option<String>,
}

pub(super) async fn run(args: CreateArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let CreateArgs { name, business, user, scopes, expires, format, json } = args;
    let wanted = Wanted { name, business, user, scopes, expires };
    let settled = match setting.rules.settle(wanted, session.now_ms) {
        Ok(settled) => settled,
        Err(broken) => return session.wrong_arguments(broken),
    };
    let format = match setting.formats.to_mint(format.as_deref()) {
        Ok(format) => format,
        Err(FormatError::NotConfigured { prefix, .. }) if looks_like_a_key(&prefix, setting) => {
            return session.wrong_arguments("`--format` takes the prefix of a format, never a key");
        }
        Err(unknown) => return session.wrong_arguments(unknown),
    };
    let (key, document) = issue(setting, settled, format, session.now_ms).await?;
    if json {
        session.print_json(&created(&key, &document))?;
    } else {
        print_for_a_person(session, &created(&key, &document))?;
    }
    Ok(DONE)
}

/// Mints a key that obeys the rules and stores its digest.
pub async fn issue(
    setting: &KeysSetting,
    settled: Settled,
    format: &Format,
    now_ms: u64,
) -> anyhow::Result<(Secret, KeyDocument)> {
    let key = mint(&setting.formats, format, getrandom::fill)?;
    let document = document_of(settled, hint(key.expose(), format), now_ms);
    let document = insert(setting, &key, &document, now_ms).await?;
    Ok((key, document))
}

fn looks_like_a_key(text: &str, setting: &KeysSetting) -> bool {
    crate::keys::mask(text, &setting.formats) != text
}

fn document_of(settled: Settled, hint: String, now_ms: u64) -> KeyDocument {
    KeyDocument {
        id: uuid::Uuid::new_v4().to_string(),
        name: settled.name,
        hint,
        business: settled.business,
        user: settled.user,
        scopes: settled.scopes,
        created_at: Some(now_ms),
        expires_at: settled.expires_at,
        ..KeyDocument::default()
    }
}

/// The document as it is stored now.
async fn insert(
    setting: &KeysSetting,
    key: &Secret,
    document: &KeyDocument,
    now_ms: u64,
) -> anyhow::Result<KeyDocument> {
    let members = serde_json::from_str(&document.to_json())?;
    match setting.registry.insert(&Digest::of(key.expose()), members, now_ms).await? {
        Insertion::Inserted(stored) => Ok(stored.document.map_err(RegistryError::from)?),
        Insertion::AlreadyThere(_) => anyhow::bail!("the minted key exists already; the system's randomness is broken"),
    }
}

fn created<'a>(key: &'a Secret, document: &'a KeyDocument) -> Created<'a> {
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
    }
}

fn print_for_a_person(session: &mut Session<'_>, created: &Created<'_>) -> anyhow::Result<()> {
    let reach = match (created.business, created.user) {
        (Some(business), _) => business.to_owned(),
        (None, user) => format!("every business that {} owns", user.unwrap_or("its user")),
    };
    let scopes = if created.scopes.is_empty() { "none".to_owned() } else { created.scopes.join(", ") };
    writeln!(session.out, "The new key. It is shown this once and can never be read back:\n\n  {}\n", created.key)?;
    for (fact, value) in [
        ("id", created.id),
        ("hint", created.hint),
        ("name", &printable(created.name)),
        ("business", &reach),
        ("user", created.user.unwrap_or("-")),
        ("scopes", &scopes),
        ("created", created.created_at.as_deref().unwrap_or("-")),
        ("expires", created.expires_at.as_deref().unwrap_or("never")),
    ] {
        writeln!(session.out, "  {fact:<10}{value}")?;
    }
    Ok(())
}
