//! `spire man`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use spire_core::atomic_write::write_atomic;

use crate::stdout;

#[derive(clap::Args)]
pub struct Man {
    /// Write a page for each command into this folder, such as ~/.local/share/man/man1 [default: print the page of spire]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn run(args: Man) -> Result<ExitCode> {
    let mut command = super::Cli::command().disable_help_subcommand(true);
    // Gives every subcommand its full name, `spire-train`, and the global options.
    command.build();
    match args.output {
        None => {
            stdout::write(&page(&command)?)?;
        }
        Some(folder) => {
            fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
            write(&command, &folder)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command, then those of its subcommands.
fn write(command: &clap::Command, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let file = folder.join(format!("{name}.1"));
    write_atomic(&file, &page(command)?)?;
    say!("{}", file.display())?;
    command.get_subcommands().try_for_each(|subcommand| write(subcommand, folder))
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut page = vec![];
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
