//! `sidegate keys rotate`: a new key with the same rights; the old one goes on for the overlap and is then refused by itself.

use clap::Args;
use serde_json::json;

use super::create;
use super::name::{KeyName, Named};
use super::revoke::Replicas;
use super::session::{KeysSetting, Session};
use super::words::named;
use crate::cli::exit::DONE;
use crate::keys::change;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate keys rotate sg_8fK2mQ0a --overlap 24h")]
pub struct RotateArgs {
    #[command(flatten)]
    key: KeyName,
    /// How long the old key goes on beside the new one, 30d at the most; without it the old one ends at once
    #[arg(long, value_name = "DURATION")]
    overlap: Option<String>,
    /// The prefix of the format to mint; without it that of the old key
    #[arg(long, value_name = "PREFIX")]
    format: Option<String>,
    #[command(flatten)]
    replicas: Replicas,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RotateArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let (overlap, format) = (args.overlap.as_deref(), args.format.as_deref());
    let rotated = match setting.keyring.rotate(&key, overlap, format, session.requester()).await {
        Ok(rotated) => rotated,
        Err(error) => return create::refused(error, setting, session),
    };
    let old = &rotated.predecessor;
    let end = old.text("expires_at").unwrap_or_default();
    if args.json {
        let mut document = serde_json::to_value(create::created(&rotated.successor.key, &rotated.successor.document))?;
        document["replaces"] = json!({"id": old.text("id"), "expires_at": end});
        session.print_json(&document)?;
    } else {
        create::show_once(&rotated.successor.key, &rotated.successor.document, false, session)?;
        writeln!(session.out, "\nIt replaces {}, which ends at {end}.", named(old))?;
    }
    create::remarks(&rotated.successor.document, setting, session).await?;
    // The key comes first: whatever the replicas say, it is shown only now.
    let ends_at_once = change::overlap(overlap).is_ok_and(|ms| ms == 0);
    if ends_at_once || args.replicas.is_asked() {
        args.replicas.wait(setting, old).await?;
    }
    Ok(DONE)
}
