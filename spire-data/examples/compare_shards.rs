//! Compares the training sequence over shards in several places, sample for sample, and measures how long a trainer waits:
//! `cargo run --release -p spire-data --features object-store --example compare_shards -- 20000 0.25 CONFIG CONFIG`. The
//! numbers are those of samples, and of seconds that a step of 16 takes; a configuration is a section `[data]` as JSON.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spire_data::degrade::DegradationConfig;
use spire_data::loader::{DataConfig, Loader, Samples, TrainingSample};

/// Samples of a step.
const BATCH: usize = 16;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("samples, seconds of a step, and configurations");
    let count: usize = next().parse().expect("a number of samples");
    let step = Duration::from_secs_f64(next().parse().expect("seconds of a step"));

    let expected = Run::over(&next(), count, step);
    println!("{expected}");
    for config in arguments {
        let found = Run::over(&config, count, step);
        let differing = expected.samples.iter().zip(&found.samples).filter(|(a, b)| a != b).count();
        println!("{found}\n  {differing} of {count} samples differ; {} skipped", found.skipped);
        assert_eq!((differing, found.skipped), (0, expected.skipped));
    }
}

/// A pass by a trainer whose steps take a given time.
struct Run {
    /// A hash of everything in each sample but its name, which holds the place of the shards.
    samples: Vec<u64>,
    skipped: usize,
    opened: Duration,
    first_batch: Duration,
    /// Waits for all batches but the first.
    waited: Duration,
    longest: Duration,
    whole: Duration,
}

impl Run {
    fn over(config: &str, count: usize, step: Duration) -> Self {
        let data: DataConfig = serde_json::from_str(config).expect("the section [data] as JSON");
        let started = Instant::now();
        let samples = Arc::new(Samples::open(data, DegradationConfig::default(), 1).expect("the source opens"));
        let opened = started.elapsed();
        let mut loader = Loader::new(Arc::clone(&samples), 0).expect("threads start");
        let mut waits = vec![];
        let mut hashes = vec![];
        while hashes.len() < count {
            let asked = Instant::now();
            let batch = loader.batch(BATCH.min(count - hashes.len())).expect("samples are there");
            waits.push(asked.elapsed());
            hashes.extend(batch.iter().map(hash));
            std::thread::sleep(step);
        }
        let later = &waits[1..];
        Self {
            samples: hashes,
            skipped: samples.skipped().len(),
            opened,
            first_batch: waits[0],
            waited: later.iter().sum(),
            longest: later.iter().max().copied().unwrap_or_default(),
            whole: started.elapsed(),
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { samples, opened, first_batch, waited, longest, whole, .. } = self;
        let rate = samples.len() as f64 / whole.as_secs_f64();
        let share = 100.0 * waited.as_secs_f64() / (*whole - *opened - *first_batch).as_secs_f64();
        write!(
            f,
            "{whole:.1?}, {rate:.0} samples/s; opened in {opened:.1?}, first batch after {first_batch:.1?}, then {share:.2} % of the \
             time spent waiting, at most {longest:.1?} at once"
        )
    }
}

fn hash(sample: &TrainingSample) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sample.n, sample.index, &sample.caption, &sample.semantic, &sample.restoration).hash(&mut hasher);
    for picture in [&sample.clean, &sample.degraded] {
        picture.data.iter().for_each(|value| value.to_bits().hash(&mut hasher));
    }
    hasher.finish()
}
