//! `sidegate keys update`: another name, other scopes, another end, limits of its own, other addresses. It acts on the next
//! request.

use clap::Args;

use super::name::{self, KeyName, Named};
use super::session::{KeysSetting, Session};
use super::{show, words};
use crate::cli::exit::DONE;
use crate::keys::change::{Change, Origins, Until};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidegate keys update sg_8fK2mQ0a --name 'billing job' --expires 90d\n  sidegate keys update sg_8fK2mQ0a --limit per-key=100/1s,5000/1m"
)]
pub struct UpdateArgs {
    #[command(flatten)]
    key: KeyName,
    /// By what people know the key
    #[arg(long)]
    name: Option<String>,
    /// What the key may from now on, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "SCOPE", value_parser = name::trimmed)]
    scopes: Option<Vec<String>>,
    /// When the key ends: a duration such as 90d, an RFC 3339 time, or `never`
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// A limit of the key's own, such as per-key=20/1s,200/10s; several times for several limits
    #[arg(long, value_name = "NAME=WINDOWS", value_parser = name::limit)]
    limit: Vec<(String, Vec<String>)>,
    /// Take a limit of the key's own away again
    #[arg(long, value_name = "NAME")]
    no_limit: Vec<String>,
    /// From where alone the key may be used: addresses and networks, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NETWORK", value_parser = name::trimmed, conflicts_with = "from_anywhere")]
    allow_addresses: Option<Vec<String>>,
    /// Let the key be used from anywhere again
    #[arg(long)]
    from_anywhere: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: UpdateArgs, setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let key = match args.key.find(setting, session).await? {
        Named::Key(key) => key,
        Named::Wrong(code) => return Ok(code),
    };
    let json = args.json;
    let changed = match setting.keyring.update(&key, change(args), session.requester()).await {
        Ok(changed) => changed,
        Err(error) => return session.refused(error),
    };
    let key = changed.after.unwrap_or(changed.before);
    if json {
        session.print_json(&words::document(&key, session.now_ms))?
    } else {
        show::print(&key, &setting.keyring.rules, session)?
    }
    if key.is_revoked() {
        writeln!(session.err, "warning: the key is revoked and stays so, whatever is changed; create a new one")?;
    }
    Ok(DONE)
}

fn change(args: UpdateArgs) -> Change {
    let set = args.limit.into_iter().map(|(name, windows)| (name, Some(windows)));
    Change {
        name: args.name,
        scopes: args.scopes,
        expires: args.expires.map(|when| if when == "never" { Until::Never } else { Until::At(when) }),
        limits: args.no_limit.into_iter().map(|name| (name, None)).chain(set).collect(),
        allow_addresses: match (args.from_anywhere, args.allow_addresses) {
            (true, _) => Some(Origins::Anywhere),
            (false, addresses) => addresses.map(Origins::Only),
        },
    }
}
