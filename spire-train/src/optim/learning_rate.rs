//! The learning-rate schedule: a linear warm-up, then one of the common decays, each with the name that diffusers gives it.

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
    /// A straight line down to `final_ratio` times the base rate.
    Linear,
    /// A power of the remaining share of the steps, down to `final_ratio` times the base rate.
    Polynomial,
    /// Half cosines that each start from the base rate again (Loshchilov & Hutter, 2017, with hard restarts).
    CosineWithRestarts,
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
    /// The exponent of [`Schedule::Polynomial`].
    pub power: f64,
    /// The number of half cosines of [`Schedule::CosineWithRestarts`].
    pub cycles: u32,
}

impl LearningRate {
    /// The rate at `step`, which counts from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        let cosine = |progress: f64| 0.5 * (1.0 + (PI * progress).cos());
        let remaining = match self.schedule {
            Schedule::Constant => return self.base,
            Schedule::Cosine => cosine(progress),
            Schedule::Linear => 1.0 - progress,
            Schedule::Polynomial => (1.0 - progress).powf(self.power),
            Schedule::CosineWithRestarts if progress < 1.0 => cosine((f64::from(self.cycles) * progress).fract()),
            Schedule::CosineWithRestarts => 0.0,
        };
        self.base * (self.final_ratio + (1.0 - self.final_ratio) * remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: LearningRate = LearningRate {
        base: 2e-4,
        warmup_steps: 10,
        schedule: Schedule::Cosine,
        total_steps: 110,
        final_ratio: 0.1,
        power: 2.0,
        cycles: 4,
    };

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
    fn every_decay_starts_at_the_base_rate_and_ends_at_the_final_one() {
        let of = |schedule| LearningRate { schedule, ..COSINE };
        // A quarter, a half and three quarters of the way; of four cycles, each of these is a restart.
        for (schedule, expected) in [
            (Schedule::Linear, [0.775, 0.55, 0.325]),
            (Schedule::Polynomial, [0.60625, 0.325, 0.15625]),
            (Schedule::CosineWithRestarts, [1.0, 1.0, 1.0]),
        ] {
            let rate = of(schedule);
            assert!(
                close(rate.at(10), 2e-4) && close(rate.at(110), 2e-5) && close(rate.at(9999), 2e-5),
                "{schedule:?}"
            );
            for (step, ratio) in [35, 60, 85].into_iter().zip(expected) {
                assert!(close(rate.at(step), 2e-4 * ratio), "{schedule:?} at {step}: {}", rate.at(step));
            }
        }
        // The end of a cycle is near the final rate.
        assert!(of(Schedule::CosineWithRestarts).at(34) < 2.2e-5);
        assert!(close(of(Schedule::CosineWithRestarts).at(22), of(Schedule::CosineWithRestarts).at(47)));
    }

    #[test]
    fn degenerate_lengths_give_finite_rates() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Polynomial, Schedule::CosineWithRestarts] {
            for (warmup_steps, total_steps) in [(0, 0), (0, 1), (5, 5), (9, 3)] {
                let rate = LearningRate { warmup_steps, total_steps, schedule, ..COSINE };
                assert!((0..12).all(|step| rate.at(step).is_finite() && rate.at(step) > 0.0));
            }
        }
    }
}
