//! DPM-Solver++ of second order, multistep, <https://arxiv.org/abs/2211.01095>.

use burn::tensor::Tensor;

use super::prediction::Rates;
use super::{
    BetaSchedule, FinalSigmas, PredictionType, Sampler, SchedulerConfig, SchedulerError, SolverType, TimestepSpacing,
    sigmas::{self, SigmaTable, signal_and_noise},
    timesteps,
};

/// Runs with fewer steps end with a first-order step if `lower_order_final` is set.
const FEW_STEPS: usize = 15;

/// DPM-Solver++(2M): each step extrapolates from the predicted clean latents of this step and the one before.
#[derive(Debug, Clone)]
pub struct DpmSolverPp {
    timesteps: Vec<f32>,
    /// Noise level at each step, and after the last.
    sigmas: Vec<f32>,
    prediction_type: PredictionType,
    solver_order: usize,
    solver_type: SolverType,
    first_order_end: bool,
    /// Whether it solves the stochastic equation, with fresh noise in every step.
    stochastic: bool,
    /// The step taken last and the clean latent predicted in it.
    previous: Option<(usize, Tensor<4>)>,
}

impl DpmSolverPp {
    /// DPM-Solver++ in `steps` steps.
    ///
    /// # Errors
    /// A setting is out of range, or there are no steps, or as many as training timesteps or more.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        let table = SigmaTable::new(config)?;
        timesteps::check(config, steps)?;
        let train_timesteps = config.num_train_timesteps;
        let length = table.length_above(config.lambda_min_clipped);
        let mut timesteps = match config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace) {
            TimestepSpacing::Linspace => timesteps::linspace(length, steps + 1)[..steps].to_vec(),
            TimestepSpacing::Leading => timesteps::leading(length, steps + 1, config.steps_offset)[..steps].to_vec(),
            TimestepSpacing::Trailing => timesteps::trailing(length, train_timesteps as f64 / steps as f64, steps),
        };
        timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| table.at(timestep)).collect();
        if let Some(respaced) = sigmas::respaced(config, table.highest(), table.lowest(), steps) {
            let round = config.use_karras_sigmas && config.beta_schedule != BetaSchedule::SquaredCosine;
            let timestep_of = |&sigma: &f64| {
                let timestep = table.timestep_of(sigma);
                if round { timestep.round_ties_even() } else { timestep.trunc() }
            };
            timesteps = respaced.iter().map(timestep_of).collect();
            sigmas = respaced;
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        if sigmas.is_empty() || sigmas.windows(2).any(|pair| pair[0] <= pair[1]) {
            return Err(SchedulerError::Steps { steps, train_timesteps, advice: "take fewer" });
        }
        sigmas.push(table.after_last(config));
        Ok(Self {
            prediction_type: config.prediction_type,
            solver_order: config.solver_order,
            solver_type: config.solver_type,
            first_order_end: config.euler_at_final
                || (config.lower_order_final && timesteps.len() < FEW_STEPS)
                || config.final_sigmas_type == FinalSigmas::Zero,
            timesteps: timesteps.into_iter().map(|timestep| timestep as f32).collect(),
            sigmas,
            stochastic: false,
            previous: None,
        })
    }

    /// DPM-Solver++ in `steps` steps of the stochastic equation.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn stochastic(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        Ok(Self { stochastic: true, ..Self::new(config, steps)? })
    }

    /// The length of a step in [`lambda`].
    fn step_length(&self, step_index: usize) -> f32 {
        lambda(self.sigmas[step_index + 1]) - lambda(self.sigmas[step_index])
    }

    /// The factors of the latent, of the predicted clean latent and of its slope in a step.
    fn factors(&self, step_index: usize) -> (f32, f32, f32) {
        let (_, noise) = signal_and_noise(self.sigmas[step_index]);
        let (next_signal, next_noise) = signal_and_noise(self.sigmas[step_index + 1]);
        let h = self.step_length(step_index);
        let shrunk = next_noise / noise;
        if self.stochastic {
            let growth = next_signal * (1.0 - (-2.0 * h).exp());
            let of_slope = match self.solver_type {
                SolverType::Midpoint => 0.5 * growth,
                SolverType::Heun => next_signal * ((1.0 - (-2.0 * h).exp()) / (-2.0 * h) + 1.0),
            };
            (shrunk * (-h).exp(), growth, of_slope)
        } else {
            let decay = (-h).exp() - 1.0;
            let of_slope = match self.solver_type {
                SolverType::Midpoint => -(0.5 * (next_signal * decay)),
                SolverType::Heun => next_signal * (decay / h + 1.0),
            };
            (shrunk, -(next_signal * decay), of_slope)
        }
    }
}

fn rates(sigma: f32) -> Rates {
    let (signal, noise) = signal_and_noise(sigma);
    Rates::scalar(signal, noise)
}

/// Half the logarithm of the signal-to-noise ratio: the time that the solver integrates over.
fn lambda(sigma: f32) -> f32 {
    let (signal, noise) = signal_and_noise(sigma);
    signal.ln() - noise.ln()
}

impl Sampler for DpmSolverPp {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4> {
        rates(self.sigmas[step_index]).add_noise(clean, noise)
    }

    fn scale_model_input(&self, sample: Tensor<4>, _step_index: usize) -> Tensor<4> {
        sample
    }

    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        self.prediction_type.clean(model_output, sample, &rates(self.sigmas[step_index]))
    }

    fn noise_scale(&self, step_index: usize) -> f32 {
        if !self.stochastic {
            return 0.0;
        }
        let (_, next_noise) = signal_and_noise(self.sigmas[step_index + 1]);
        next_noise * (1.0 - (-2.0 * self.step_length(step_index)).exp()).sqrt()
    }

    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        let clean = self.predicted_clean(model_output, step_index, sample.clone());
        let (of_sample, of_clean, of_slope) = self.factors(step_index);
        let first_order = sample * of_sample + clean.clone() * of_clean;
        let last = step_index + 1 == self.timesteps.len();
        let use_previous = self.solver_order > 1 && !(last && self.first_order_end);
        match self.previous.replace((step_index, clean.clone())) {
            Some((index, previous)) if use_previous && index + 1 == step_index => {
                let r = self.step_length(index) / self.step_length(step_index);
                first_order + (clean - previous) * (1.0 / r) * of_slope
            }
            _ => first_order,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::scheduler::reference;

    #[test]
    fn follows_diffusers() {
        for case in [
            "case-sampler-dpmpp2m-epsilon",
            "case-sampler-dpmpp2m-v_prediction",
            "case-sampler-dpmpp2m_sde-epsilon",
            "case-sampler-dpmpp2m_sde-v_prediction",
        ] {
            assert!(reference::sampler_error(case) < 5e-6, "{case}");
        }
    }

    #[test]
    fn a_new_run_does_not_use_the_last_run_s_history() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        let mut used = DpmSolverPp::new(&config, 5).unwrap();
        let mut fresh = used.clone();
        let random = || Tensor::<4>::random([1, 4, 2, 2], Distribution::Normal(0.0, 1.0), &Device::default());
        used.step(random(), 0, random());
        used.step(random(), 1, random());
        let (output, sample) = (random(), random());
        for start in [0, 3] {
            let again = used.step(output.clone(), start, sample.clone());
            let first = fresh.clone().step(output.clone(), start, sample.clone());
            assert_eq!(again.to_data(), first.to_data());
        }
        fresh.step(random(), 2, random());
        let followed = fresh.step(output.clone(), 3, sample.clone());
        assert_ne!(followed.to_data(), used.step(output, 3, sample).to_data());
    }

    #[test]
    fn refuses_more_steps_than_distinct_timesteps() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        assert!(DpmSolverPp::new(&config, 999).is_ok());
        assert!(DpmSolverPp::new(&config, 1000).is_err());
        let clipped = SchedulerConfig { lambda_min_clipped: 1e9, ..config };
        assert!(DpmSolverPp::new(&clipped, 10).is_err());
    }
}
