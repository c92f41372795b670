//! Measures the sum of gradients over the devices of a process, apart from the training step.

use std::fmt;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::dry_run::count;
use super::measurement::{BenchSettings, time, timed};
use super::units::bytes;
use crate::config::RunConfig;
use crate::distributed::Ranks;
use crate::training::start::of_new_run;

/// A measured sum; displayed for people, serialised for programs.
#[derive(Debug, Serialize)]
pub struct AllReduce {
    /// The devices.
    pub device: String,
    /// How they sum, in words.
    pub gradients: String,
    /// The numbers that each device has: as many as the branch has parameters.
    pub numbers: u64,
    /// The buckets that hold them.
    pub buckets: usize,
    /// Duration of each measured sum.
    pub seconds: Vec<f64>,
}

/// Measures sums of as many numbers as the branch has parameters, in buckets of `train.bucket_megabytes`, over the devices of
/// `run.device`, as in a training step. A single device sums alone: with CUDA that shows whether NCCL works.
///
/// # Errors
/// As [`train`](crate::training::train), up to its first step; a sum is wrong.
pub fn all_reduce(config: RunConfig, settings: &BenchSettings) -> Result<AllReduce> {
    let config = of_new_run(config)?;
    let numbers = count(config.clone())?.trained_parameters();
    let bucket = (config.train.bucket_megabytes * 1_000_000 / size_of::<f32>()) as u64;
    let lengths: Vec<_> = (0..numbers.div_ceil(bucket)).map(|i| bucket.min(numbers - i * bucket) as usize).collect();
    Ranks::alone().on_new_ranks(&config.run.device, config.train.nccl, |ranks| {
        let device = spire_model::device::device(&ranks.device(&config.run.device))?;
        check(ranks, &lengths, &device)?;
        let seconds = timed(settings, || {
            ranks.barrier();
            sum(ranks, &lengths, &device);
            Ok(device.sync()?)
        })?;
        let device = config.run.device.clone();
        Ok(AllReduce { device, gradients: ranks.gradients().into(), numbers, buckets: lengths.len(), seconds })
    })
}

/// The sums of rows in which every number is the number of the rank, counted from 1.
fn sum(ranks: &Ranks, lengths: &[usize], device: &Device) -> Vec<Tensor<1>> {
    let own = ranks.number() as f32 + 1.0;
    ranks.sum_rows(lengths, device, &mut |i, _| Some(Tensor::full([lengths[i]], own, device)))
}

fn check(ranks: &Ranks, lengths: &[usize], device: &Device) -> Result<()> {
    let expected = (ranks.count() * (ranks.count() + 1) / 2) as f32;
    for (i, row) in sum(ranks, lengths, device).into_iter().enumerate() {
        let error = row.sub_scalar(expected).abs().max().into_scalar::<f32>();
        ensure!(error == 0.0, "the sum of bucket {i} is wrong by {error} on this rank");
    }
    Ok(())
}

impl fmt::Display for AllReduce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.numbers * size_of::<f32>() as u64;
        let buckets = match self.buckets {
            1 => "one bucket".to_owned(),
            count => format!("{count} buckets"),
        };
        writeln!(f, "gradients of {} in {buckets} on {}, {}", bytes(size), self.device, self.gradients)?;
        let (line, median) = time(&self.seconds);
        writeln!(f, "{line}")?;
        write!(f, "speed     {}/s of gradients", bytes((size as f64 / median) as u64))
    }
}
