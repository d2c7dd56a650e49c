//! The command line: one file per subcommand. Everything that people and scripts see of sidegate without HTTP.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong arguments or configuration.

pub mod business;
pub mod check;
mod completions;
pub mod demo;
pub mod keys;
pub mod run;
mod schema;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

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
    /// Read the configuration and say what the gate will do, or everything that is wrong with it
    #[command(after_help = "Example:\n  sidegate check --config sidegate.yaml")]
    Check(ConfigArgs),
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

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;

/// Does what the arguments say.
pub fn main() -> ExitCode {
    // Wrong arguments end here with exit code 2, `--help` and `--version` with 0.
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run::run(&args.config),
        Command::Check(args) => Ok(check::run(&args.config, check::store_problem)),
        Command::Keys { config, keys } => with_settings(&config, |settings| keys::with(settings, keys)),
        Command::Business { config, business } => with_settings(&config, |settings| business::with(settings, business)),
        Command::Demo(args) => demo::run(&args).map(|()| DONE),
        Command::Schema => schema::run().map(|()| DONE),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()).map(|()| DONE),
        Command::Version => {
            println!("sidegate {}", env!("CARGO_PKG_VERSION"));
            Ok(DONE)
        }
    };
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        },
        ExitCode::from,
    )
}

fn with_settings(args: &ConfigArgs, act: impl FnOnce(Settings) -> anyhow::Result<u8>) -> anyhow::Result<u8> {
    match config::load::from_file(&args.config) {
        Ok(settings) => act(settings),
        Err(errors) => {
            eprintln!("{errors}");
            Ok(WRONG_CONFIGURATION)
        }
    }
}
