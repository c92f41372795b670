//! What `spire train` says at its end: the figures against the degraded pictures, where the results are, and what to do next.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use spire_core::progress::clock;

/// The parts of `summary.json` that are told.
#[derive(Deserialize)]
struct Summary {
    steps: u64,
    last_smoothed_loss: Option<f64>,
    images_per_second: Option<f64>,
    skipped_samples: usize,
    held_out: Option<HeldOut>,
    evaluation_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct HeldOut {
    samples: usize,
    sampling: Sampling,
    degraded: Figures,
    restored: Figures,
}

#[derive(Deserialize)]
struct Sampling {
    sampler: String,
    steps: usize,
}

#[derive(Deserialize)]
struct Figures {
    psnr: Option<f64>,
    ssim: Option<f64>,
    clip_frechet: Option<f64>,
}

/// The text for the run in `dir` with this `summary.json`.
///
/// # Errors
/// The summary is malformed.
pub fn text(summary: &str, dir: &Path) -> Result<String> {
    let summary: Summary = serde_json::from_str(summary).context("summary.json")?;
    let mut text = format!("steps {}", summary.steps);
    if let Some(loss) = summary.last_smoothed_loss {
        write!(text, ", loss {loss:.4} at the end")?;
    }
    if let Some(speed) = summary.images_per_second {
        write!(text, ", {speed:.1} images/s")?;
    }
    text.push('\n');
    if summary.skipped_samples > 0 {
        writeln!(text, "{} pictures could not be used; the log above names them", summary.skipped_samples)?;
    }
    if let Some(held_out) = &summary.held_out {
        let HeldOut { samples, sampling, degraded, restored } = held_out;
        writeln!(text, "\n{:<16}{:>10}{:>10}", "", "degraded", "restored")?;
        for (name, digits, degraded, restored) in [
            ("PSNR, dB ↑", 2, degraded.psnr, restored.psnr),
            ("SSIM ↑", 3, degraded.ssim, restored.ssim),
            ("CLIP Fréchet ↓", 3, degraded.clip_frechet, restored.clip_frechet),
        ] {
            if let (Some(degraded), Some(restored)) = (degraded, restored) {
                writeln!(text, "{name:<16}{degraded:>10.digits$}{restored:>10.digits$}")?;
            }
        }
        let Sampling { sampler, steps } = sampling;
        write!(text, "{samples} held-out pictures, {steps} steps of {sampler}")?;
        match summary.evaluation_seconds {
            Some(seconds) => writeln!(text, ", measured in {}", clock(Duration::from_secs_f64(seconds.max(0.0))))?,
            None => text.push('\n'),
        }
    }
    let dir = dir.display();
    writeln!(text, "\npictures  {dir}/samples")?;
    writeln!(text, "branch    {dir}/control")?;
    write!(text, "next      spire restore PICTURE -o restored.png --run {dir}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_those_of_the_degraded_pictures() {
        let summary = r#"{"steps": 800, "last_smoothed_loss": 0.123456, "images_per_second": 66.27, "ranks": 1,
            "skipped_samples": 0, "evaluation_seconds": 61.0,
            "held_out": {"samples": 96, "sampling": {"sampler": "ddim", "steps": 20},
                "degraded": {"psnr": 21.5, "ssim": 0.6131, "clip_frechet": 0.3},
                "restored": {"psnr": 22.0, "ssim": 0.7, "clip_frechet": 0.125}}}"#;
        let expected = "steps 800, loss 0.1235 at the end, 66.3 images/s\n\n\
            \x20                 degraded  restored\n\
            PSNR, dB ↑           21.50     22.00\n\
            SSIM ↑               0.613     0.700\n\
            CLIP Fréchet ↓       0.300     0.125\n\
            96 held-out pictures, 20 steps of ddim, measured in 1:01\n\n\
            pictures  runs/tiny/samples\nbranch    runs/tiny/control\n\
            next      spire restore PICTURE -o restored.png --run runs/tiny";
        assert_eq!(text(summary, Path::new("runs/tiny")).unwrap(), expected);
    }

    #[test]
    fn a_run_without_figures_names_its_results() {
        let summary = r#"{"steps": 1, "last_smoothed_loss": null, "images_per_second": null, "skipped_samples": 2}"#;
        let text = text(summary, Path::new("run")).unwrap();
        assert!(text.starts_with("steps 1\n2 pictures could not be used"), "{text}");
        assert!(!text.contains("PSNR") && text.contains("spire restore PICTURE"), "{text}");
    }
}
