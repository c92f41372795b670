//! Comparison with reference bundles: folders with a `case.toml`, inputs, and the outputs of a reference
//! implementation.

mod case;
mod degradation;
mod diffusion;
mod metrics;
mod networks;
mod pipeline;
mod quality;
mod report;
mod restoration;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::Device;
use spire_core::message::of_panic;
use spire_model::feedforward::NetworkKind;
use walkdir::WalkDir;

use case::{Case, Worst, check_tolerance};
pub use report::{CaseResult, Report};

/// Runs every case below `dirs`, in the order of `dirs` and of the paths below each.
///
/// A case that can't be run (unknown kind, missing tensor, wrong shape, damaged file) fails in the report. The
/// tolerances of cases are for float32; a larger `tolerance` replaces smaller ones, for devices with lower precision.
///
/// # Errors
/// A folder is unreadable or contains no case, or the tolerance is invalid.
pub fn verify(dirs: &[PathBuf], device: &Device, tolerance: f64) -> Result<Report> {
    check_tolerance(tolerance)?;
    let mut folders = Vec::new();
    for dir in dirs {
        folders.extend(find(dir)?);
    }
    ensure!(!folders.is_empty(), "no folder of reference cases was given");
    Ok(Report { rows: folders.into_iter().map(|folder| row(folder, device, tolerance)).collect() })
}

/// The folders at and below `dir` that have a `case.toml`, sorted.
fn find(dir: &Path) -> Result<Vec<PathBuf>> {
    ensure!(dir.is_dir(), "{}: no such folder", dir.display());
    let mut folders = Vec::new();
    for entry in WalkDir::new(dir).follow_links(true).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{}: can't be searched", dir.display()))?;
        if entry.file_name() == "case.toml" {
            folders.extend(entry.path().parent().map(Path::to_owned));
        }
    }
    ensure!(!folders.is_empty(), "{}: no case.toml here or below", dir.display());
    Ok(folders)
}

fn row(folder: PathBuf, device: &Device, tolerance: f64) -> CaseResult {
    let mut case = match Case::open(&folder) {
        Ok(case) => case,
        Err(error) => return CaseResult::failed(folder, None, &error),
    };
    case.tolerance = case.tolerance.max(tolerance);
    // Input shapes are checked, but a network may still panic on others.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&case, device)))
        .unwrap_or_else(|panic| Err(anyhow!("does not fit together: {}", of_panic(panic.as_ref()))));
    match outcome {
        Ok(worst) => CaseResult::compared(&case, &worst),
        Err(error) => CaseResult::failed(folder, Some(&case), &error),
    }
}

fn run(case: &Case, device: &Device) -> Result<Worst> {
    match case.kind.as_str() {
        "unet" => networks::unet(case, device),
        "controlled-unet" => networks::controlled_unet(case, device),
        "controlnet" => networks::controlnet(case, device),
        "spire" => networks::spire(case, device),
        "controlnet-pipeline" => pipeline::controlnet_pipeline(case, device),
        "vae" => networks::vae(case, device),
        "clip-text" => networks::clip_text(case, device),
        "clip-vision" => networks::clip_vision(case, device),
        "sampler" => diffusion::sampler(case, device),
        "add-noise" => diffusion::add_noise(case, device),
        "tokenizer" => text::tokenizer(case),
        "lpips" => metrics::lpips(case, device),
        "clip-score" => metrics::clip_score(case, device),
        "fid" => metrics::fid(case, device),
        "pillow-resize" => metrics::pillow_resize(case),
        "frechet" => metrics::frechet(case),
        "psnr-ssim" => metrics::psnr_ssim(case),
        "clip-iqa" => quality::clip_iqa(case, device),
        "maniqa" => quality::maniqa(case, device),
        "musiq" => quality::musiq(case, device),
        "swinir" => restoration::network(case, NetworkKind::SwinIr, device),
        "bsrnet" => restoration::network(case, NetworkKind::BsrNet, device),
        "scunet" => restoration::network(case, NetworkKind::ScuNet, device),
        "diffbir" => restoration::diffbir(case, device),
        "stablesr" => restoration::stablesr(case, device),
        "blur-kernels" => degradation::blur_kernels(case),
        "blur-resize" => degradation::blur_resize(case),
        "jpeg" => degradation::jpeg(case),
        unknown => bail!("unknown kind \"{unknown}\""),
    }
}
