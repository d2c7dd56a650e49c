//! `sidegate demo`: the whole gate with nothing else installed. An embedded store in a temporary file, a small upstream that
//! echoes, one key, and curl lines that show what the configuration does.

mod echo;
mod lines;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::lines::BUSINESS;
use super::out;
use crate::clock;
use crate::config::{Settings, load};
use crate::keys::creation::KeyRequest;
use crate::keys::rules::Required;
use crate::observe::log;
use crate::process::Process;
use crate::proxy::settings::{Protocol, Target};
use crate::secret::Secret;
use crate::store::audit::{Actor, Origin};
use crate::store::file::FileStore;
use crate::store::keyring::{Granting, Keyring, Requester};
use crate::store::record::KeyDocument;
use crate::store::registry::Registry;
use crate::store::settings::Backend;

const USER: &str = "u_42";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sidegate demo --profile kaicalls")]
pub struct DemoArgs {
    /// Which API to stand in front of
    #[arg(long, value_enum, default_value_t = Profile::Small)]
    profile: Profile,
    /// Where the gate listens; without it 127.0.0.1:8080, or a free port where that one is taken
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where operators look; without it 127.0.0.1:9900, or a free port where that one is taken
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// The configurations that come with sidegate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Two routes and a limit
    Small,
    Salescaling,
    Callscaler,
    Bots,
    Scaling,
    Kaicalls,
}

impl Profile {
    fn yaml(self) -> &'static str {
        match self {
            Self::Small => include_str!("demo/demo.yaml"),
            Self::Salescaling => include_str!("../../deploy/profiles/salescaling.yaml"),
            Self::Callscaler => include_str!("../../deploy/profiles/callscaler.yaml"),
            Self::Bots => include_str!("../../deploy/profiles/bots.yaml"),
            Self::Scaling => include_str!("../../deploy/profiles/scaling.yaml"),
            Self::Kaicalls => include_str!("../../deploy/profiles/kaicalls.yaml"),
        }
    }
}

/// Serves until it is interrupted; then nothing is left behind.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let folder = Folder::create()?;
    let mut settings = load::from_text(args.profile.yaml(), &folder.0, "demo.yaml")?;
    let _log = log::init(&settings.observe)?;
    stand_alone(&mut settings, args, &folder.0.join("sidegate-keys.yaml"), echo::start()?);
    let (key, document) = mint(&settings)?;
    let examples = lines::examples(&settings, &document);
    let source = settings.policy.credentials.sources.first().context("the profile reads keys from somewhere")?.clone();
    let process =
        Process::bind(settings).context("`--listen 127.0.0.1:0 --admin 127.0.0.1:0` takes ports that are free")?;
    let addresses = (process.address()?, process.admin_address()?);
    out::say(lines::page(&examples, addresses, &key, &document, &folder.0, &source))?;
    process.run(None)?;
    Ok(())
}

/// The same configuration, with everything outside of this process replaced.
fn stand_alone(settings: &mut Settings, args: &DemoArgs, store: &Path, echo: SocketAddr) {
    settings.listen.address = args.listen.unwrap_or_else(|| free(8080));
    settings.listen.tls = None;
    settings.admin.admin = args.admin.unwrap_or_else(|| free(9900));
    settings.admin.probes = None;
    settings.store.backend = Backend::File(store.to_owned());
    for upstream in &mut settings.proxy.upstreams {
        upstream.target = Target::Tcp { host: echo.ip().to_string(), port: echo.port(), protocol: Protocol::Http };
    }
}

/// This port of loopback, or 0 where something else listens there.
fn free(port: u16) -> SocketAddr {
    let wished = SocketAddr::from(([127, 0, 0, 1], port));
    let port = if TcpListener::bind(wished).is_ok() { port } else { 0 };
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One key, with just the scopes of the first route that needs some.
fn mint(settings: &Settings) -> anyhow::Result<(Secret, KeyDocument)> {
    let Backend::File(file) = &settings.store.backend else { anyhow::bail!("the demo keeps its keys in a file") };
    let plans = settings.policy.plans.iter().flat_map(|plans| plans.iter());
    if let Some((plan, _)) = plans.into_iter().find(|(_, plan)| plan.api) {
        std::fs::write(file, format!("businesses: {{{BUSINESS}: {{plan: {plan}}}}}\n"))?;
    }
    let rules = settings.keys.clone();
    let mut scopes = lines::scopes_to_grant(&settings.policy);
    if scopes.is_empty() && rules.require.contains(&Required::Scopes) {
        scopes.extend(rules.known_scopes.first().cloned());
    }
    let wanted = KeyRequest {
        name: "demo".to_owned(),
        business: Some(BUSINESS.to_owned()),
        user: Some(USER.to_owned()),
        scopes,
        expires: Some("1d".to_owned()),
        ..KeyRequest::default()
    };
    let formats = settings.policy.credentials.formats.clone();
    let keyring = Keyring::new(formats, rules, Registry::File { store: FileStore::open(file)? });
    let actor = Actor { name: "demo".to_owned(), from: Origin::CommandLine };
    let requester = Requester { actor: &actor, granting: Granting::Everything, now_ms: clock::now_ms() };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let minted = runtime.block_on(keyring.create(wanted, None, requester))?;
    Ok((minted.key, minted.document))
}

/// A temporary folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("sidegate-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder is no secret: digests alone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
