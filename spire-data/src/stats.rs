//! Statistics of a training source: size, speed, broken samples, degradations.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::Picture;
use crate::degrade::Pipeline;
use crate::parallel::in_order;
use crate::prompt::REMOVE_ALL;
use crate::samples::{LoaderError, Samples, TrainingSample};

/// Statistics over the first samples of a sequence.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Number of pictures in the source.
    pub source_pictures: usize,
    /// Number of samples prepared.
    pub samples: u64,
    /// Number of distinct pictures among them.
    pub pictures: usize,
    /// Number of threads.
    pub threads: usize,
    /// Time in seconds for reading, cropping and degrading.
    pub seconds: f64,
    /// Samples a second.
    pub images_per_second: f64,
    /// Broken pictures and shards, each with the cause.
    pub broken: Vec<(String, String)>,
    /// Width and height of the smallest, the median and the largest picture, by number of pixels.
    pub sizes: [(usize, usize); 3],
    /// Number of samples per degradation pipeline.
    pub pipelines: BTreeMap<&'static str, u64>,
    /// Number of samples with the prompt of blind restoration.
    pub blind_prompts: u64,
    /// Number of samples with an empty semantic prompt.
    pub empty_captions: u64,
    /// Peak signal-to-noise ratio in dB of the degraded picture to the clean one.
    pub psnr: Spread,
}

/// Mean and standard deviation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
    /// The value of each sample, in the order of the sequence.
    pub values: Vec<f64>,
}

/// The ratio assigned to an unchanged picture, in dB: 8 bits cannot resolve more.
const MOST_PSNR: f64 = 60.0;

/// Prepares the samples `0..count` on `threads` threads and collects their statistics.
///
/// # Errors
/// Too many pictures in a row are broken, or one can't be degraded.
pub fn stats(samples: &Samples, count: u64, threads: usize) -> Result<Stats, LoaderError> {
    let start = Instant::now();
    let records = in_order(count as usize, threads, |n| samples.sample(n as u64).map(|sample| Record::of(&sample)))?;
    let seconds = start.elapsed().as_secs_f64();

    let mut pictures: Vec<_> = records.iter().map(|record| record.index).collect();
    pictures.sort_unstable();
    pictures.dedup();
    let mut sizes: Vec<_> = records.iter().map(|record| record.size).collect();
    sizes.sort_unstable_by_key(|(width, height)| width * height);
    let size = |place: usize| sizes.get(place).copied().unwrap_or_default();
    let counted = |which: &dyn Fn(&Record) -> bool| records.iter().filter(|record| which(record)).count() as u64;
    Ok(Stats {
        source_pictures: samples.epoch_len(),
        samples: count,
        pictures: pictures.len(),
        threads: threads.max(1),
        seconds,
        images_per_second: count as f64 / seconds,
        broken: samples.skipped().into_iter().map(|skipped| (skipped.name, skipped.reason)).collect(),
        sizes: [size(0), size(sizes.len() / 2), size(sizes.len().saturating_sub(1))],
        pipelines: [
            ("parameterized", Pipeline::Parameterized),
            ("real_esrgan", Pipeline::RealEsrgan),
            ("pair", Pipeline::Pair),
        ]
        .map(|(name, pipeline)| (name, counted(&|record| record.pipeline == pipeline)))
        .into(),
        blind_prompts: counted(&|record| record.blind),
        empty_captions: counted(&|record| record.uncaptioned),
        psnr: spread(records.iter().map(|record| record.psnr).collect()),
    })
}

/// The values recorded per sample.
struct Record {
    index: usize,
    size: (usize, usize),
    pipeline: Pipeline,
    blind: bool,
    uncaptioned: bool,
    psnr: f64,
}

impl Record {
    fn of(sample: &TrainingSample) -> Self {
        Self {
            index: sample.index,
            size: sample.source_size,
            pipeline: sample.pipeline,
            blind: sample.restoration == REMOVE_ALL,
            uncaptioned: sample.semantic.is_empty(),
            psnr: psnr(&sample.clean, &sample.degraded),
        }
    }
}

fn psnr(clean: &Picture, degraded: &Picture) -> f64 {
    let squares: f64 = clean.data.iter().zip(&degraded.data).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (-10.0 * (squares / clean.data.len() as f64).log10()).min(MOST_PSNR)
}

fn spread(values: Vec<f64>) -> Spread {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    Spread { mean, std: variance.sqrt(), values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataConfig;
    use crate::degrade::DegradationConfig;

    #[test]
    fn figures_do_not_depend_on_the_number_of_threads() {
        let samples = Samples::open(DataConfig::default(), DegradationConfig::default(), 3).unwrap();
        let [one, three] = [1, 3].map(|threads| stats(&samples, 12, threads).unwrap());
        assert_eq!(one.psnr.values, three.psnr.values);
        assert_eq!((one.samples, one.pictures, one.broken.len()), (12, 12, 0));
        assert_eq!(one.sizes, [(64, 64); 3]);
        assert_eq!(one.pipelines.values().sum::<u64>(), 12);
        assert!(one.psnr.mean > 5.0 && one.psnr.std > 0.0 && one.images_per_second > 0.0);
    }
}
