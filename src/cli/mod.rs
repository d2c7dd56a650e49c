//! The command line: one file per subcommand. Everything that people and scripts see of sidegate without HTTP.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong arguments or configuration.

pub mod business;
pub mod check;
mod completions;
mod coverage;
pub mod demo;
mod denied;
mod drain;
mod exit;
mod explain;
mod inject;
mod json_lines;
pub mod keys;
mod logs;
mod openapi;
mod out;
mod report;
pub mod run;
mod schema;
mod style;
mod traffic;
mod webhook;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::exit::{DONE, FAILED, WRONG};
use crate::config::{self, Settings};

/// A gate that stands beside a service: API keys, scopes and exact shared rate limits in one reverse proxy.
#[derive(Debug, Parser)]
#[command(name = "sidegate", version, disable_help_subcommand = true)]
#[command(
    after_help = "Examples:\n  sidegate demo\n  sidegate check --config sidegate.yaml\n  sidegate run --config sidegate.yaml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: check requests, forward what is allowed
    #[command(after_help = "Example:\n  sidegate run --config sidegate.yaml")]
    Run(ConfigArgs),
    /// Ask the process that runs here to drain, as a pod's preStop does: it is not ready any more, and ends with the next SIGTERM
    #[command(
        after_help = "Example:\n  sidegate drain --config sidegate.yaml\n\nExit code 1: nothing answers where the configuration says that operators look."
    )]
    Drain(ConfigArgs),
    /// Read the configuration and say what the gate will do, or everything that is wrong with it
    #[command(
        after_help = "Examples:\n  sidegate check --config sidegate.yaml\n  sidegate check --openapi api.yaml\n  sidegate check --log access.log\n\nExit code 1: the routes and the description, or the log, differ."
    )]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Say which paths of this OpenAPI description no route covers, and which routes it does not have
        #[arg(long, value_name = "FILE")]
        openapi: Option<PathBuf>,
        /// Say which paths of this access log (sidegate's, or the common log format; `-`: standard input) no route covers, and
        /// which routes it never touches
        #[arg(long, value_name = "FILE", conflicts_with = "openapi")]
        log: Option<PathBuf>,
    },
    /// Turn an OpenAPI description into a configuration with its routes and scopes
    Openapi(openapi::OpenapiArgs),
    /// Say what one request would meet: which route and why, what it needs, where it would go. Nothing is spent
    Explain {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        explain: explain::ExplainArgs,
    },
    /// Say what enforcement would have refused, from access logs, and what to do before it does
    Report(report::ReportArgs),
    /// Keep keys: create, list, change, rotate, revoke, delete, import, verify
    Keys {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        keys: keys::KeysArgs,
    },
    /// Keep businesses: their plan, their limits, whether they are suspended
    Business {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        business: business::BusinessArgs,
    },
    /// Put sidegate into Kubernetes manifests, as the webhook does with pods
    #[command(
        after_help = "Examples:\n  sidegate inject -f deployment.yaml | kubectl apply -f -\n  kubectl get deployment web -o yaml | sidegate inject -f -\n\nDocuments that are changed lose their comments; standard error says what was done."
    )]
    Inject(inject::InjectArgs),
    /// Take sidegate out of manifests again
    #[command(after_help = "Example:\n  sidegate uninject -f injected.yaml")]
    Uninject(inject::Manifests),
    /// Serve the Kubernetes admission webhook that puts sidegate into pods that ask for it
    #[command(
        after_help = "Example:\n  sidegate webhook --cert /tls/tls.crt --key /tls/tls.key --probes 0.0.0.0:9901\n\ndeploy/kubernetes/injector has it with everything that belongs to it."
    )]
    Webhook(webhook::WebhookArgs),
    /// Try it: an embedded store, a small upstream, one key, and the curl lines to go with it
    Demo(demo::DemoArgs),
    /// Print the JSON Schema of the configuration, for editors
    #[command(
        after_help = "Example:\n  sidegate schema > sidegate.schema.json\n\nThen write this as the first line of sidegate.yaml:\n  # yaml-language-server: $schema=sidegate.schema.json"
    )]
    Schema,
    /// Print a shell's completions
    #[command(after_help = "Example:\n  sidegate completions bash > /etc/bash_completion.d/sidegate")]
    Completions(completions::CompletionsArgs),
    /// Print the version
    #[command(after_help = "Example:\n  sidegate version")]
    Version,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "SIDEGATE_CONFIG", default_value = "sidegate.yaml", global = true)]
    pub config: PathBuf,
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    // Wrong arguments end here with exit code 2, `--help` and `--version` with 0.
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run::run(&args.config),
        Command::Check { config, openapi: Some(file), .. } => {
            with_settings(&config, |settings| compare(&file, openapi::differences(&file, &settings)))
        }
        Command::Check { config, log: Some(file), .. } => {
            with_settings(&config, |settings| compare(&file, traffic::differences(&file, &settings)))
        }
        Command::Check { config, .. } => check::run(&config.config, check::store_doubts),
        Command::Openapi(args) => openapi::run(&args),
        Command::Explain { config, explain } => with_settings(&config, |settings| explain::run(&explain, settings)),
        Command::Report(args) => report::run(&args),
        Command::Keys { config, keys } => with_settings(&config, |settings| keys::with(settings, keys)),
        Command::Business { config, business } => with_settings(&config, |settings| business::with(settings, business)),
        Command::Drain(args) => with_settings(&args, |settings| drain::run(&settings)),
        Command::Inject(args) => inject::inject(&args),
        Command::Uninject(args) => inject::uninject(&args),
        Command::Webhook(args) => webhook::run(args),
        Command::Demo(args) => demo::run(&args).map(|()| DONE),
        Command::Schema => schema::run().map(|()| DONE),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()).map(|()| DONE),
        Command::Version => out::say(concat!("sidegate ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| DONE),
    };
    done.map_or_else(
        |error| {
            if !out::is_unread(&error) {
                out::remark(format_args!("error: {error:#}"));
            }
            ExitCode::from(FAILED)
        },
        ExitCode::from,
    )
}

/// What a description or a log and the routes do not share.
fn compare(file: &Path, differences: anyhow::Result<Vec<String>>) -> anyhow::Result<u8> {
    match differences {
        Ok(differences) if differences.is_empty() => {
            out::say(format_args!("{} and the routes agree.\n", file.display()))?;
            Ok(DONE)
        }
        Ok(differences) => {
            out::say(differences.iter().map(|difference| format!("{difference}\n")).collect::<String>())?;
            Ok(FAILED)
        }
        Err(error) => {
            out::remark(format_args!("error: {error:#}"));
            Ok(WRONG)
        }
    }
}

fn with_settings(args: &ConfigArgs, act: impl FnOnce(Settings) -> anyhow::Result<u8>) -> anyhow::Result<u8> {
    match config::load::from_file(&args.config) {
        Ok(settings) => act(settings),
        Err(errors) => {
            out::remark(errors);
            Ok(WRONG)
        }
    }
}
