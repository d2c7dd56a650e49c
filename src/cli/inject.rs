//! `sidegate inject` and `uninject`: manifests in, manifests out, what was done with each object on standard error.

mod consistency;

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::out;
use crate::inject::Settings;
use crate::inject::documents::{self, Injected};

/// Which manifests.
#[derive(Debug, Args)]
pub struct Manifests {
    /// Kubernetes manifests, YAML or JSON; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct InjectArgs {
    #[command(flatten)]
    manifests: Manifests,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

/// What holds for every pod.
#[derive(Debug, Args)]
pub struct SidecarArgs {
    /// sidegate's image, where no annotation names another
    #[arg(long, value_name = "IMAGE", env = "SIDEGATE_IMAGE", default_value_t = Settings::default().image)]
    image: String,
    /// How long the service is kept when its pod ends, so that it outlives its endpoint; 0 on Kubernetes 1.29, which has no `sleep`
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().app_pre_stop)]
    app_pre_stop: u32,
}

impl SidecarArgs {
    pub fn settings(&self) -> Settings {
        Settings { image: self.image.clone(), app_pre_stop: self.app_pre_stop }
    }
}

pub fn inject(args: &InjectArgs) -> anyhow::Result<u8> {
    let settings = args.sidecar.settings();
    args.manifests.turned_into(|text| documents::inject(text, &settings))
}

pub fn uninject(args: &Manifests) -> anyhow::Result<u8> {
    args.turned_into(documents::uninject)
}

impl Manifests {
    fn turned_into<E>(&self, turn: impl FnOnce(&str) -> Result<Injected, E>) -> anyhow::Result<u8>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let name = self.file.display();
        let text = if self.file.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("standard input cannot be read as text")?;
            text
        } else {
            fs::read_to_string(&self.file).with_context(|| format!("{name} cannot be read"))?
        };
        let Injected { text, messages, gates } = turn(&text).with_context(|| name.to_string())?;
        messages.iter().for_each(out::remark);
        consistency::warnings(&gates).iter().for_each(out::remark);
        out::say(text)?;
        Ok(super::exit::DONE)
    }
}
