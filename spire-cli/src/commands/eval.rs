//! `spire eval`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use spire_core::settings;
use spire_eval::evaluation::EvalConfig;
use spire_restore::evaluation::evaluate;
use spire_train::distributed::ensure_single_process;

#[derive(clap::Args)]
pub struct Eval {
    /// The evaluation, TOML, such as configs/benchmarks/tiny.toml
    config: PathBuf,
    /// Override a key of the evaluation; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print results.json instead of the tables, for programs to read
    #[arg(long)]
    json: bool,
}

pub fn run(args: Eval) -> Result<ExitCode> {
    ensure_single_process("spire eval")?;
    let config: EvalConfig = settings::load(&args.config, &args.overrides)?;
    config.validate().with_context(|| args.config.display().to_string())?;
    let output = config.output.clone().unwrap_or_else(|| Path::new("results").join(&config.name));
    let evaluated = evaluate(&config, &output)?;
    let (tables, size) = evaluated.write(&output, config.report_pictures)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&evaluated.results)?)?;
    } else {
        say!("{tables}\n{}, {:.1} MB", output.join("report.html").display(), size as f64 / 1e6)?;
    }
    Ok(if evaluated.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
