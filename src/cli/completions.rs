//! `sidegate completions`: what a shell offers behind `sidegate` and a tab, from the arguments themselves.

use clap::{Args, Command};
use clap_complete::Shell;

use super::out;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, command: &mut Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "sidegate", &mut script);
    out::say(String::from_utf8(script)?)
}
