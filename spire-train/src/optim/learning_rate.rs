//! The learning-rate schedule: a linear warm-up, then a constant rate or half a cosine.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The schedule after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to `final_ratio` times the base rate (Loshchilov & Hutter, 2017, without restarts).
    #[default]
    Cosine,
    /// The base rate until the end.
    Constant,
}

/// The learning rate as a function of the step alone, so that a resumed run continues exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The rate at the end of the warm-up.
    pub base: f64,
    /// Steps of linear warm-up. At step `s < warmup_steps` the rate is `base · (s + 1) / warmup_steps`, so that the
    /// first step already learns.
    pub warmup_steps: u64,
    /// The schedule after the warm-up.
    pub schedule: Schedule,
    /// All steps, warm-up included.
    pub total_steps: u64,
    /// The rate at `total_steps` and later, relative to `base`. A constant schedule ignores it.
    pub final_ratio: f64,
}

impl LearningRate {
    /// The rate at `step`, which counts from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.schedule {
            Schedule::Constant => self.base,
            Schedule::Cosine => {
                let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
                let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
                let cosine = 0.5 * (1.0 + (PI * progress).cos());
                self.base * (self.final_ratio + (1.0 - self.final_ratio) * cosine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: LearningRate =
        LearningRate { base: 2e-4, warmup_steps: 10, schedule: Schedule::Cosine, total_steps: 110, final_ratio: 0.1 };

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-15
    }

    #[test]
    fn warm_up_is_linear_and_starts_above_zero() {
        assert!(close(COSINE.at(0), 2e-5));
        assert!(close(COSINE.at(4), 1e-4));
        assert!(close(COSINE.at(9), 2e-4));
    }

    #[test]
    fn cosine_passes_the_middle_and_stays_at_the_end() {
        assert!(close(COSINE.at(10), 2e-4));
        assert!(close(COSINE.at(60), 1.1e-4));
        assert!(close(COSINE.at(110), 2e-5));
        assert!(close(COSINE.at(1_000_000), 2e-5));
        assert!((10..110).all(|step| COSINE.at(step + 1) < COSINE.at(step)));
    }

    #[test]
    fn constant_stays() {
        let constant = LearningRate { schedule: Schedule::Constant, ..COSINE };
        assert!(close(constant.at(4), 1e-4));
        assert!((10..300).all(|step| constant.at(step) == 2e-4));
    }

    #[test]
    fn degenerate_lengths_give_finite_rates() {
        for (warmup_steps, total_steps) in [(0, 0), (0, 1), (5, 5), (9, 3)] {
            let rate = LearningRate { warmup_steps, total_steps, ..COSINE };
            assert!((0..12).all(|step| rate.at(step).is_finite() && rate.at(step) > 0.0));
        }
    }
}
