//! `spire init`

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use spire_core::atomic_write::write_new;
use spire_core::message::printable;

use super::REFERENCE;

#[derive(clap::Args)]
pub struct Init {
    /// Which configuration
    #[arg(value_enum, default_value_t = Template::Tiny)]
    template: Template,
    /// The file to write [default: TEMPLATE.toml in the current folder]
    #[arg(short, long, value_name = "TOML")]
    output: Option<PathBuf>,
}

/// A configuration that this program carries.
#[derive(Clone, Copy, ValueEnum)]
enum Template {
    /// A short training on the built-in tiny model
    Tiny,
    /// Every key with its default and an explanation
    Reference,
}

impl Template {
    fn name_and_text(self) -> (&'static str, &'static str) {
        match self {
            Self::Tiny => ("tiny.toml", include_str!("../../../configs/tiny.toml")),
            Self::Reference => ("reference.toml", REFERENCE),
        }
    }
}

pub fn run(args: Init) -> Result<ExitCode> {
    let (name, text) = args.template.name_and_text();
    let path = args.output.unwrap_or_else(|| name.into());
    match write_new(&path, text.as_bytes()) {
        Err(error) if error.source.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists already: remove it, or write another file with --output", path.display())
        }
        written => written?,
    }
    let shown = printable(&path.to_string_lossy()).into_owned();
    say!("{shown}\nstart it with: spire train {shown}")?;
    Ok(ExitCode::SUCCESS)
}
