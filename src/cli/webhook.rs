//! `sidegate webhook`: the process that API servers ask to inject.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing::Level;

use super::inject::SidecarArgs;
use super::out;
use crate::listen::settings::Drain;
use crate::observe::log;
use crate::observe::settings::{Format, Settings as LogSettings};
use crate::process::StartError;
use crate::process::webhook::{Settings, Webhook};

#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Where API servers ask, over TLS
    #[arg(long, value_name = "ADDRESS", env = "SIDEGATE_WEBHOOK_ADDRESS", default_value = "0.0.0.0:8443")]
    address: SocketAddr,
    /// PEM file of the certificate, its chain behind it; read again when it changes
    #[arg(long, value_name = "FILE", env = "SIDEGATE_WEBHOOK_CERT")]
    cert: PathBuf,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", env = "SIDEGATE_WEBHOOK_KEY")]
    key: PathBuf,
    /// Where the kubelet and Prometheus ask, in clear: /livez, /readyz, /metrics
    #[arg(long, value_name = "ADDRESS", env = "SIDEGATE_WEBHOOK_PROBES")]
    probes: Option<SocketAddr>,
    /// The folder with this pod's `token` and `ca.crt`, by which namespaces are read
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account: PathBuf,
    /// How long it still answers when it has been asked to end, until API servers have learned of it
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_delay: u64,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

pub fn run(args: WebhookArgs) -> anyhow::Result<u8> {
    let _log = log::init(&LogSettings { level: Level::INFO, format: Format::Auto, sample: 1.0 })?;
    let inject = args.sidecar.settings();
    let drain = Drain { delay: Duration::from_secs(args.drain_delay), deadline: Duration::from_secs(10) };
    let WebhookArgs { address, cert, key, probes, service_account, .. } = args;
    let settings = Settings { address, cert, key, probes, inject, service_account, api_server: api_server(), drain };
    match Webhook::bind(settings) {
        Ok(webhook) => webhook.run()?,
        Err(StartError::Tls(error)) => {
            out::remark(format_args!("error: --cert, --key: {error}"));
            return Ok(super::exit::WRONG);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(super::exit::DONE)
}

/// Where Kubernetes tells every pod that its API server is.
fn api_server() -> Option<(String, u16)> {
    let host = env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
    let port = env::var("KUBERNETES_SERVICE_PORT").ok().and_then(|port| port.parse().ok());
    Some((host, port.unwrap_or(443)))
}
