//! `sidegate completions`: what a shell offers behind `sidegate` and a tab, from the arguments themselves.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, command: &mut Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "sidegate", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
