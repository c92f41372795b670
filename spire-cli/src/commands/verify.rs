//! `spire verify`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

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
}

pub fn run(args: Verify) -> Result<ExitCode> {
    let device = spire_model::device::device(&args.device)?;
    let report = spire_eval::verify::verify(&args.folders, &device, args.tolerance)?;
    say!("{report}")?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
