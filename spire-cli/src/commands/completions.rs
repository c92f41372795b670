//! `spire completions`

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::stdout;

#[derive(clap::Args)]
pub struct Completions {
    /// The shell; `spire completions bash > ~/.local/share/bash-completion/completions/spire` installs its script
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: Completions) -> Result<ExitCode> {
    // In memory: the generator panics if it can't write.
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut super::Cli::command(), "spire", &mut script);
    stdout::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
