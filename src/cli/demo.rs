//! `sidegate demo`
use clap::Args;
#[derive(Debug, Args)]
pub struct DemoArgs {
    #[arg(long)]
    pub profile: Option<String>,
}
pub fn run(_: &DemoArgs) -> anyhow::Result<()> {
    Ok(())
}
