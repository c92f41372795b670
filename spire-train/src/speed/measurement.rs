//! A measurement of `spire bench`, for programs and for people. It runs the same code as training and restoration.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use serde::Serialize;

use super::peak_flops::PeakFlops;
use super::units::{amount, bytes};
use crate::config::RunConfig;
use crate::logging::memory;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
    /// Folder for the inputs and weights, so that another program can compute the same.
    pub dump: Option<PathBuf>,
}

/// A measurement; displayed for people, serialised for programs.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// `training step` or `restoration`.
    pub what: &'static str,
    /// Images per step.
    pub images: usize,
    /// Duration of each measured step.
    pub seconds: Vec<f64>,
    /// Floating-point operations of a step, counted from shapes. Operations that are recomputed to save memory count
    /// once.
    pub flops: u64,
    /// The highest speed of the device.
    pub peak: PeakFlops,
    /// Peak memory.
    pub memory: Option<PeakMemory>,
    /// The results of every training step, warm-up included; empty for a restoration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trained: Vec<StepResult>,
    /// The configuration, with the paths of its models.
    pub config: RunConfig,
}

/// What a training step returned.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepResult {
    /// The loss before the update.
    pub loss: f64,
    /// The global norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
}

/// Peak memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PeakMemory {
    /// `process`; `device` on a GPU.
    pub of: &'static str,
    /// In bytes.
    pub bytes: u64,
}

impl PeakMemory {
    /// The peak until now: what a GPU's allocator has reserved, or else the peak size of the process.
    pub(super) fn until_now(device: &Device) -> Option<Self> {
        match device.memory_pool_usage() {
            Some(pool) => Some(Self { of: "device", bytes: pool.bytes_reserved }),
            None => memory::peak().map(|bytes| Self { of: "process", bytes }),
        }
    }
}

/// Runs the warm-up and the measured steps; returns the seconds of each measured step. `step` must return only when its
/// results are computed.
pub(super) fn timed(settings: &BenchSettings, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    ensure!(settings.steps > 0, "at least one step must be measured");
    for _ in 0..settings.warmup {
        step()?;
    }
    let timed = |_| {
        let started = Instant::now();
        step()?;
        Ok(started.elapsed().as_secs_f64())
    };
    (0..settings.steps).map(timed).collect()
}

/// The `share`-quantile of `values`, interpolated linearly.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The line for measured durations, and their median.
pub(super) fn time(seconds: &[f64]) -> (String, f64) {
    let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(seconds, share));
    (format!("time      {median:.4} s (median of {}; quartiles {low:.4} and {high:.4})", seconds.len()), median)
}

impl Measurement {
    /// Median duration of a step, in seconds.
    pub fn median(&self) -> f64 {
        quantile(&self.seconds, 0.5)
    }

    /// Images per second, at the median.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.median()
    }

    /// Floating-point operations per second, at the median.
    pub fn flops_per_second(&self) -> f64 {
        self.flops as f64 / self.median()
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunConfig { run, model, data, train, evaluate, .. } = &self.config;
        let shape = if self.trained.is_empty() {
            format!("{} × {}×{}, {} steps", self.images, data.size, data.size, evaluate.sampling.steps)
        } else {
            format!("{} × {} × {}×{}", train.accumulate, train.batch_size, data.size, data.size)
        };
        let (frozen, branch) = (model.precision, model.control_precision);
        writeln!(f, "{} of {shape}, frozen model in {frozen}, branch in {branch}, on {}", self.what, run.device)?;
        writeln!(f, "{}", time(&self.seconds).0)?;
        writeln!(f, "images/s  {:.3}", self.images_per_second())?;
        let PeakFlops { side, precision, flops_per_second } = &self.peak;
        writeln!(
            f,
            "FLOPs     {}FLOPs, {}FLOP/s: {:.1} % of the {}FLOP/s of a product of {side}×{side} matrices in {precision}",
            amount(self.flops),
            amount(self.flops_per_second() as u64),
            100.0 * self.flops_per_second() / flops_per_second,
            amount(*flops_per_second as u64)
        )?;
        match self.memory {
            Some(PeakMemory { of, bytes: most }) => write!(f, "memory    {} at most, of the {of}", bytes(most)),
            None => write!(f, "memory    unknown: neither the system nor the device reports it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| quantile(&values, share)), [1.0, 1.75, 2.5, 4.0]);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
    }

    #[test]
    fn the_warm_up_is_run_and_not_measured() {
        let settings = BenchSettings { warmup: 2, steps: 3, dump: None };
        let mut taken = 0;
        let seconds = timed(&settings, || {
            taken += 1;
            std::thread::sleep(std::time::Duration::from_millis(if taken <= 2 { 0 } else { 5 }));
            Ok(())
        });
        let seconds = seconds.unwrap();
        assert_eq!((taken, seconds.len()), (5, 3));
        assert!(seconds.iter().all(|&seconds| seconds >= 5e-3), "{seconds:?}");
        let error = timed(&BenchSettings { steps: 0, ..settings }, || Ok(())).unwrap_err().to_string();
        assert_eq!(error, "at least one step must be measured");
    }
}
