//! Whether a run can start with a configuration, and what is odd about it.

use anyhow::{Result, ensure};
use spire_data::degrade::ParameterizedConfig;
use spire_data::degrade::parameterized::SMALL_SIZE;
use spire_model::weights::Precision;

use super::{HELD_OUT_SHARE, RunConfig, TrainSection};

/// The most samples of a batch, and the most batches of a step.
const MOST_IN_A_BATCH: usize = 1 << 16;

/// The most pixels of a batch: 12 GiB of float32, before the first layer.
const MOST_PIXELS: usize = 1 << 30;

/// The most threads.
const MOST_THREADS: usize = 1024;

/// The most held-out pictures: twenty times those of the largest test sets.
const MOST_HELD_OUT: usize = 1_000_000;

/// The most rows of a sheet of samples.
const MOST_ROWS: usize = 1000;

impl RunConfig {
    /// What is odd about the configuration, although a run with it can start: a sentence each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![];
        let TrainSection { steps, warmup_steps, learning_rate, .. } = self.train;
        if warmup_steps > 0 && warmup_steps >= steps {
            let highest = self.train.optimizer(1).learning_rate.at(steps.saturating_sub(1));
            remarks.push(format!(
                "train.warmup_steps = {warmup_steps} is not below train.steps = {steps}: the learning rate only rises, up to \
                 {highest:.2e} of train.learning_rate = {learning_rate:.2e}; lower train.warmup_steps"
            ));
        }
        let (found, defaults) = (&self.degradation.parameterized, ParameterizedConfig::default());
        let strongest = [
            ("blur_sigma", found.blur_sigma[1], defaults.blur_sigma[1]),
            ("downsample_factor", found.downsample_factor[1], defaults.downsample_factor[1]),
        ];
        let size = self.data.size;
        for (key, most, default) in strongest {
            if self.degradation.parameterized_share > 0.0 && size < SMALL_SIZE && most >= default {
                remarks.push(format!(
                    "degradation.parameterized.{key} goes up to {most}, which is for pictures of 512 pixels: of data.size = \
                     {size} it leaves little that could be restored; remove the key to have a range for this size"
                ));
            }
        }
        remarks
    }

    /// Checks that no number asks for more than memory and time can give.
    ///
    /// # Errors
    /// The error names the key and the limit.
    fn check_limits(&self) -> Result<()> {
        let (train, evaluate) = (&self.train, &self.evaluate);
        for (key, value, most) in [
            ("train.batch_size", train.batch_size, MOST_IN_A_BATCH),
            ("train.accumulate", train.accumulate, MOST_IN_A_BATCH),
            ("evaluate.batch_size", evaluate.batch_size, MOST_IN_A_BATCH),
            ("train.threads", train.threads, MOST_THREADS),
            ("evaluate.threads", evaluate.threads, MOST_THREADS),
            ("evaluate.samples", evaluate.samples.unwrap_or(0), MOST_HELD_OUT),
            ("evaluate.validation_samples", evaluate.validation_samples, MOST_HELD_OUT),
            ("evaluate.rows", evaluate.rows, MOST_ROWS),
            ("validate.samples", self.validate.samples, MOST_HELD_OUT),
            ("the number of validate.pictures", self.validate.pictures.len(), MOST_ROWS),
        ] {
            ensure!(value <= most, "{key} = {value} is too much: the most are {most}");
        }
        let pixels = train.batch_size.saturating_mul(self.data.size).saturating_mul(self.data.size);
        ensure!(
            pixels <= MOST_PIXELS,
            "train.batch_size = {} pictures with data.size = {} have more than {MOST_PIXELS} pixels: lower one of the two",
            train.batch_size,
            self.data.size
        );
        Ok(())
    }

    /// Checks the numbers. Those of `[data]` and `[degradation]` are checked when the data is opened.
    ///
    /// # Errors
    /// A number is out of range; the error names the key.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.run.dir.as_os_str().is_empty(), "run.dir is empty: name the folder of the run");
        self.check_limits()?;
        let train = &self.train;
        for (key, value) in [
            ("train.batch_size", train.batch_size),
            ("train.accumulate", train.accumulate),
            ("train.bucket_megabytes", train.bucket_megabytes),
            ("train.keep_checkpoints", train.keep_checkpoints),
            ("evaluate.batch_size", self.evaluate.batch_size),
            ("evaluate.validation_samples", self.evaluate.validation_samples),
        ] {
            ensure!(value > 0, "{key} must be at least 1");
        }
        for (key, value) in [
            ("train.steps", train.steps),
            ("train.checkpoint_every", train.checkpoint_every),
            ("train.validate_every", train.validate_every),
        ] {
            ensure!(value > 0, "{key} must be at least 1");
        }
        self.model.check_contradictions()?;
        if let Some((key, _)) = self.degradation.parameterized.keeps_degradations() {
            ensure!(
                self.data.encoded.is_none(),
                "{key} asks for targets that keep some degradations, but data.encoded has the latents of clean pictures \
                 alone: remove one of the two"
            );
        }
        ensure!(train.bucket_megabytes <= 4096, "train.bucket_megabytes must be at most 4096");
        ensure!(
            self.model.control_precision != Precision::F16,
            "model.control_precision must be f32 or bf16: f16 loses small gradients"
        );
        ensure!(train.max_bad_steps > 0, "train.max_bad_steps must be at least 1");
        ensure!(train.schedule_cycles > 0, "train.schedule_cycles must be at least 1");
        for (key, value) in [
            ("train.learning_rate", train.learning_rate),
            ("train.max_grad_norm", train.max_grad_norm),
            ("train.schedule_power", train.schedule_power),
            ("train.adam_epsilon", train.adam_epsilon),
            ("train.min_snr_gamma", train.min_snr_gamma.map_or(1.0, f64::from)),
            ("train.epochs", train.epochs.unwrap_or(1.0)),
        ] {
            ensure!(value.is_finite() && value > 0.0, "{key} must be a number above 0");
        }
        for (key, value) in [("train.adam_beta1", train.adam_beta1), ("train.adam_beta2", train.adam_beta2)] {
            ensure!((0.0..1.0).contains(&value), "{key} must be at least 0 and below 1");
        }
        for (key, value) in [("train.ema_decay", train.ema_decay), ("train.final_ratio", train.final_ratio)] {
            ensure!((0.0..=1.0).contains(&value), "{key} must be between 0 and 1");
        }
        ensure!(train.weight_decay.is_finite() && train.weight_decay >= 0.0, "train.weight_decay must not be negative");
        let share = self.evaluate.held_out_share.unwrap_or(HELD_OUT_SHARE);
        ensure!((0.0..=0.5).contains(&share), "evaluate.held_out_share must be from 0 to 0.5");
        self.validate.check(train.validate_every)?;
        ensure!(self.evaluate.samples != Some(1), "evaluate.samples must be 0 (no evaluation) or at least 2");
        self.evaluate.sampling.validate().map_err(|error| error.context("[evaluate.sampling]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_configurations_are_remarked_on() {
        let mut config = RunConfig::default();
        config.data.size = 512;
        assert_eq!(config.remarks(), Vec::<String>::new());
        config.train.steps = 100;
        let remarks = config.remarks();
        assert_eq!(remarks.len(), 1);
        assert!(
            remarks[0].contains("train.warmup_steps = 500") && remarks[0].contains("up to 1.00e-5 of"),
            "{remarks:?}"
        );
        config.train.warmup_steps = 0;
        config.data.size = 64;
        assert_eq!(config.remarks(), Vec::<String>::new());
        config.degradation.parameterized = ParameterizedConfig::default();
        let remarks = config.remarks();
        assert!(remarks.len() == 2 && remarks[0].contains("blur_sigma goes up to 5"), "{remarks:?}");
    }
}
