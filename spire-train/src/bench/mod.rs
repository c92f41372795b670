//! How fast a training step and a restoration are, measured on the very code that training and restoring run:
//! `spire bench`.

mod dump;
mod peak;
mod restore;
mod train;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use serde::Serialize;

pub use peak::Peak;
pub use restore::restore;
pub use train::{Trained, train};

use crate::config::RunConfig;
use crate::dry_run::{amount, bytes};
use crate::memory;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// Steps before the first that counts.
    pub warmup: usize,
    /// Steps that count.
    pub steps: usize,
    /// Folder into which what is computed with is written, for another program to compute the same.
    pub dump: Option<PathBuf>,
}

/// What was measured; displayed for people.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// `training step` or `restoration`.
    pub what: &'static str,
    /// Images that go through a step.
    pub images: usize,
    /// Of each step that counts, in order.
    pub seconds: Vec<f64>,
    /// Floating-point operations of a step, counted from shapes; what is computed twice to save memory counts once.
    pub flops: u64,
    /// What the device reaches at best.
    pub peak: Peak,
    /// The most memory that was held.
    pub memory: Option<Memory>,
    /// Of a training step, and those of the warm-up: what came out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trained: Vec<Trained>,
    /// The configuration, with the models that it names found.
    pub config: RunConfig,
}

/// The most memory that was held.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// `process`, or on a GPU `device`.
    pub of: &'static str,
    /// In bytes.
    pub bytes: u64,
}

impl Memory {
    /// Until now. A device's allocator keeps what it has once reserved, a process' size has a record.
    fn peak(device: &Device) -> Option<Self> {
        match device.memory_pool_usage() {
            Some(pool) => Some(Self { of: "device", bytes: pool.bytes_reserved }),
            None => memory::peak().map(|bytes| Self { of: "process", bytes }),
        }
    }
}

/// Seconds of each step that counts. A step must not return before its results are there.
fn timed(settings: &BenchSettings, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    ensure!(settings.steps > 0, "there must be at least one step that counts");
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

/// The value below which lies `share` of `values`, between two of them in proportion.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

impl Measurement {
    /// Median seconds of a step.
    pub fn median(&self) -> f64 {
        quantile(&self.seconds, 0.5)
    }

    /// Images a second, at the median.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.median()
    }

    /// Floating-point operations a second, at the median.
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
        writeln!(
            f,
            "time      {:.4} s (median of {}; quartiles {:.4} and {:.4})",
            self.median(),
            self.seconds.len(),
            quantile(&self.seconds, 0.25),
            quantile(&self.seconds, 0.75)
        )?;
        writeln!(f, "images/s  {:.3}", self.images_per_second())?;
        let Peak { side, precision, flops_per_second } = &self.peak;
        writeln!(
            f,
            "FLOPs     {}FLOPs, {}FLOP/s: {:.1} % of the {}FLOP/s of a product of {side}×{side} matrices in {precision}",
            amount(self.flops),
            amount(self.flops_per_second() as u64),
            100.0 * self.flops_per_second() / flops_per_second,
            amount(*flops_per_second as u64)
        )?;
        match self.memory {
            Some(Memory { of, bytes: most }) => write!(f, "memory    {} at most, of the {of}", bytes(most)),
            None => write!(f, "memory    unknown: neither the system nor the device tells"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values_in_proportion() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| quantile(&values, share)), [1.0, 1.75, 2.5, 4.0]);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
    }

    #[test]
    fn steps_of_the_warm_up_are_taken_and_do_not_count() {
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
        assert!(timed(&BenchSettings { steps: 0, ..settings }, || Ok(())).is_err());
    }
}
