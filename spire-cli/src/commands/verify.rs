//! `spire verify`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

#[derive(clap::Args)]
pub struct Verify {
    /// Folders with reference bundles, at any depth
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long, default_value = "flex")]
    device: String,
    /// Least tolerance, for cases whose own is smaller: 5e-3 for GPUs that multiply float32 in TF32
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
    /// Print JSON, for programs to read, instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: Verify) -> Result<ExitCode> {
    let device = spire_model::device::device(&args.device)?;
    let report = spire_eval::verify::verify(&args.folders, &device, args.tolerance)?;
    let cases = || serde_json::to_string_pretty(&json!({ "passed": report.passed(), "cases": report.rows }));
    say!("{}", if args.json { cases()? } else { report.to_string() })?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
