//! Timestep spacings, computed as numpy does for diffusers.

use super::{NoiseSchedule, PredictionType, SchedulerConfig, SchedulerError, TimestepSpacing};

/// `points` timesteps from `length - 1` down to 0, not rounded; a single one is 0.
pub(super) fn linspace(length: usize, points: usize) -> Vec<f64> {
    let last = length as f64 - 1.0;
    let stride = last / (points.max(2) - 1) as f64;
    (0..points).rev().map(|index| if index > 0 && index + 1 == points { last } else { stride * index as f64 }).collect()
}

/// Multiples of `length / points`, rounded down, from the highest down to `offset`.
pub(super) fn leading(length: usize, points: usize, offset: usize) -> Vec<f64> {
    (0..points).rev().map(|index| (index * (length / points) + offset) as f64).collect()
}

/// Every `stride`-th timestep from `length - 1` down, `points` at most.
pub(super) fn trailing(length: usize, stride: f64, points: usize) -> Vec<f64> {
    let start = length as f64;
    // numpy's arange advances by the rounded difference of its first two values.
    let stride_taken = start - (start - stride);
    (0..points.min((start / stride).ceil() as usize))
        .map(|index| (start - stride_taken * index as f64).round_ties_even() - 1.0)
        .collect()
}

/// The whole timesteps that DDIM and DDPM visit, `leading` by default.
///
/// # Errors
/// There are no steps or more than training timesteps; or a network that predicts noise would be evaluated at pure noise.
pub(super) fn whole(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    steps: usize,
) -> Result<Vec<usize>, SchedulerError> {
    check(config, steps)?;
    let length = config.num_train_timesteps;
    let timesteps = match config.timestep_spacing.unwrap_or(TimestepSpacing::Leading) {
        TimestepSpacing::Leading => leading(length, steps, config.steps_offset),
        TimestepSpacing::Linspace => linspace(length, steps).into_iter().map(f64::round_ties_even).collect(),
        TimestepSpacing::Trailing => trailing(length, length as f64 / steps as f64, steps),
    };
    if timesteps[0] >= length as f64 {
        return Err(SchedulerError::Unsupported {
            key: "steps_offset".into(),
            value: config.steps_offset.to_string(),
            supported: format!("an offset that keeps {steps} steps below timestep {length}; or take fewer steps"),
        });
    }
    let timesteps: Vec<usize> = timesteps.into_iter().map(|timestep| timestep as usize).collect();
    let pure_noise = timesteps.iter().any(|&timestep| schedule.alphas_cumprod()[timestep] == 0.0);
    if pure_noise && config.prediction_type == PredictionType::Epsilon && !config.clip_sample {
        return Err(SchedulerError::Unsupported {
            key: "rescale_betas_zero_snr".into(),
            value: "true".into(),
            supported:
                "false for a network that predicts noise: at the last timestep, pure noise, its output does not \
                        determine the clean latent. Networks that predict v or the sample may have true"
                    .into(),
        });
    }
    Ok(timesteps)
}

/// Rejects step counts that no spacing supports.
pub(super) fn check(config: &SchedulerConfig, steps: usize) -> Result<(), SchedulerError> {
    let train_timesteps = config.num_train_timesteps;
    match steps {
        0 => Err(SchedulerError::Steps { steps, train_timesteps, advice: "take at least one" }),
        _ if steps > train_timesteps => Err(SchedulerError::Steps { steps, train_timesteps, advice: "take fewer" }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spacings_of_the_paper() {
        assert_eq!(linspace(1000, 4), [999.0, 666.0, 333.0, 0.0]);
        assert_eq!(leading(1000, 10, 1), [901.0, 801.0, 701.0, 601.0, 501.0, 401.0, 301.0, 201.0, 101.0, 1.0]);
        assert_eq!(trailing(1000, 250.0, 4), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(linspace(1000, 1), [0.0]);
    }

    proptest! {
        #[test]
        fn descend_within_the_schedule(length in 1usize..1500, share in 0.0f64..1.0) {
            let points = ((length as f64 * share) as usize).clamp(1, length);
            for timesteps in
                [linspace(length, points), leading(length, points, 0), trailing(length, length as f64 / points as f64, points)]
            {
                prop_assert_eq!(timesteps.len(), points);
                prop_assert!(timesteps.windows(2).all(|pair| pair[0] > pair[1]));
                prop_assert!(timesteps[0] < length as f64 && timesteps[points - 1] >= 0.0);
            }
        }
    }
}
