//! `scheduler_config.json` as Hugging Face diffusers writes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::SamplerKind;
use super::prediction::PredictionType;

/// How the variances β_t of the forward process grow with the timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Betas are evenly spaced.
    #[default]
    Linear,
    /// Square roots of the betas are evenly spaced: the schedule of Stable Diffusion.
    ScaledLinear,
    /// The cosine schedule of <https://arxiv.org/abs/2102.09672>, with betas capped at 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// Which of the training timesteps a sampler visits; table 2 of <https://arxiv.org/abs/2305.08891>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of an integer ratio from 0, plus `steps_offset`.
    Leading,
    /// Evenly spaced, both ends included.
    Linspace,
    /// Evenly spaced downwards from the last timestep.
    Trailing,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmas {
    /// Zero.
    #[default]
    Zero,
    /// The level of the first training timestep.
    SigmaMin,
}

/// The equation that DPM-Solver++ solves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AlgorithmType {
    /// The ordinary differential equation: deterministic.
    #[default]
    #[serde(rename = "dpmsolver++")]
    Ode,
    /// The stochastic differential equation.
    #[serde(rename = "sde-dpmsolver++")]
    Sde,
}

/// The order of the correction term of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// Midpoint rule.
    #[default]
    Midpoint,
    /// Heun's rule.
    Heun,
}

/// Noise schedule and sampler settings, with the key names and defaults of diffusers' schedulers.
///
/// [`SchedulerConfig::from_json`] rejects settings of diffusers that are not implemented (dynamic thresholding, flow
/// matching, …) if they would change the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The diffusers class that wrote the file; chooses [`SchedulerConfig::sampler`].
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Length of the forward process, T. Timesteps run over `0..T`.
    pub num_train_timesteps: usize,
    /// Variance at the first timestep.
    pub beta_start: f64,
    /// Variance at the last timestep.
    pub beta_end: f64,
    /// How the variances grow between the two.
    pub beta_schedule: BetaSchedule,
    /// Explicit variances; they replace the three settings above.
    pub trained_betas: Option<Vec<f32>>,
    /// Rescales the schedule to pure noise at the last timestep (<https://arxiv.org/abs/2305.08891>, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// The prediction type of the network.
    pub prediction_type: PredictionType,
    /// Which timesteps to visit; by default `leading` for DDIM and `linspace` for the others.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to every timestep of `leading` spacing.
    pub steps_offset: usize,
    /// DDIM: whether the predicted clean latent is clamped to ± [`SchedulerConfig::clip_sample_range`].
    pub clip_sample: bool,
    /// DDIM: the bound of that clamp.
    pub clip_sample_range: f32,
    /// DDIM: whether the last step ends without noise, rather than at the first timestep's level.
    pub set_alpha_to_one: bool,
    /// Euler, DPM-Solver++: the noise level after the last step.
    pub final_sigmas_type: FinalSigmas,
    /// Euler, DPM-Solver++: noise levels as in <https://arxiv.org/abs/2206.00364>, equation 5, with rho = 7.
    pub use_karras_sigmas: bool,
    /// Euler, DPM-Solver++: noise levels evenly spaced in their logarithm.
    pub use_exponential_sigmas: bool,
    /// Lowest Karras or exponential noise level; by default the schedule's.
    pub sigma_min: Option<f64>,
    /// Highest Karras or exponential noise level; by default the schedule's.
    pub sigma_max: Option<f64>,
    /// DPM-Solver++: which sampler [`SchedulerConfig::sampler`] chooses.
    #[serde(skip_serializing_if = "is_default")]
    pub algorithm_type: AlgorithmType,
    /// DPM-Solver++: 1 or 2.
    pub solver_order: usize,
    /// DPM-Solver++: the second-order correction.
    pub solver_type: SolverType,
    /// DPM-Solver++: whether fewer than 15 steps end with a first-order one.
    pub lower_order_final: bool,
    /// DPM-Solver++: whether the last step is of first order, however many there are.
    pub euler_at_final: bool,
    /// DPM-Solver++: timesteps whose log signal-to-noise ratio is below this are left out.
    #[serde(skip_serializing_if = "is_infinite")]
    pub lambda_min_clipped: f32,
}

fn is_infinite(value: &f32) -> bool {
    value.is_infinite()
}

fn is_default(value: &AlgorithmType) -> bool {
    *value == AlgorithmType::default()
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: "DDIMScheduler".into(),
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::default(),
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::default(),
            timestep_spacing: None,
            steps_offset: 0,
            clip_sample: true,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            final_sigmas_type: FinalSigmas::default(),
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            algorithm_type: AlgorithmType::default(),
            solver_order: 2,
            solver_type: SolverType::default(),
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f32::NEG_INFINITY,
        }
    }
}

impl SchedulerConfig {
    /// The noise schedule and DDIM settings of Stable Diffusion 1 and 2, for a network that predicts `prediction_type`.
    pub fn stable_diffusion(prediction_type: PredictionType) -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type,
            steps_offset: 1,
            clip_sample: false,
            set_alpha_to_one: false,
            ..Self::default()
        }
    }

    /// Reads `scheduler_config.json`; `path` is the file or its folder.
    ///
    /// # Errors
    /// The file is missing or not JSON, a value is of the wrong type or out of range, or a setting isn't supported.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SchedulerError> {
        let path = path.as_ref();
        let path = if path.is_dir() { path.join("scheduler_config.json") } else { path.to_owned() };
        let json = fs::read_to_string(&path).map_err(|source| SchedulerError::Read { path: path.clone(), source })?;
        Self::from_json(&json).map_err(|error| SchedulerError::File { path, error: Box::new(error) })
    }

    /// Reads the text of a `scheduler_config.json`. Keys that no scheduler here uses are ignored.
    ///
    /// # Errors
    /// The text isn't JSON, a value is of the wrong type or out of range, or a setting isn't supported.
    pub fn from_json(json: &str) -> Result<Self, SchedulerError> {
        // Python writes `-Infinity`, which JSON5 allows and JSON does not. It is parsed as null, and null means the
        // default, as in diffusers.
        let mut settings: Map<String, Value> =
            json5::from_str(json).map_err(|error| SchedulerError::Parse { message: error.to_string() })?;
        settings.retain(|_, value| !value.is_null());
        refuse_unsupported(&settings)?;
        let config: Self = serde_json::from_value(Value::Object(settings))
            .map_err(|error| SchedulerError::Parse { message: error.to_string() })?;
        config.validate()?;
        Ok(config)
    }

    /// The sampler of the file's class. `PNDMScheduler`, the default of Stable Diffusion 1, maps to DDIM.
    ///
    /// # Errors
    /// There is no sampler for the class.
    pub fn sampler(&self) -> Result<SamplerKind, SchedulerError> {
        match self.class_name.as_str() {
            "DDIMScheduler" | "PNDMScheduler" => Ok(SamplerKind::Ddim),
            "DDPMScheduler" => Ok(SamplerKind::Ddpm),
            "DPMSolverMultistepScheduler" => Ok(match self.algorithm_type {
                AlgorithmType::Ode => SamplerKind::DpmPp2m,
                AlgorithmType::Sde => SamplerKind::DpmPp2mSde,
            }),
            "EulerDiscreteScheduler" => Ok(SamplerKind::Euler),
            "EulerAncestralDiscreteScheduler" => Ok(SamplerKind::EulerAncestral),
            other => Err(SchedulerError::Unsupported {
                key: "_class_name".into(),
                value: other.into(),
                supported: "DDIMScheduler, DDPMScheduler, PNDMScheduler, DPMSolverMultistepScheduler, \
                            EulerDiscreteScheduler, EulerAncestralDiscreteScheduler; or name a sampler yourself"
                    .into(),
            }),
        }
    }

    /// Checks ranges.
    pub(super) fn validate(&self) -> Result<(), SchedulerError> {
        let invalid = |key: &str, value: String, expected: &str| {
            Err(SchedulerError::Unsupported { key: key.into(), value, supported: expected.into() })
        };
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            return invalid("num_train_timesteps", self.num_train_timesteps.to_string(), "2 to 1000000");
        }
        if let Some(betas) = &self.trained_betas {
            if betas.len() != self.num_train_timesteps {
                return invalid("trained_betas", format!("{} values", betas.len()), "num_train_timesteps values");
            }
            if let Some(beta) = betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
                return invalid("trained_betas", beta.to_string(), "values in [0, 1)");
            }
        }
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return invalid(key, beta.to_string(), "more than 0 and less than 1");
            }
        }
        if !(1..=2).contains(&self.solver_order) {
            return invalid("solver_order", self.solver_order.to_string(), "1 or 2");
        }
        if self.use_karras_sigmas && self.use_exponential_sigmas {
            return invalid("use_exponential_sigmas", "true".into(), "false beside use_karras_sigmas");
        }
        for (key, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(sigma) = sigma.filter(|sigma| !(*sigma > 0.0 && sigma.is_finite())) {
                return invalid(key, sigma.to_string(), "more than 0");
            }
        }
        Ok(())
    }
}

/// Settings of diffusers' schedulers of which only some values are supported.
fn refuse_unsupported(settings: &Map<String, Value>) -> Result<(), SchedulerError> {
    let only = [
        ("thresholding", vec![Value::Bool(false)]),
        ("use_beta_sigmas", vec![Value::Bool(false)]),
        ("use_lu_lambdas", vec![Value::Bool(false)]),
        ("use_flow_sigmas", vec![Value::Bool(false)]),
        ("use_dynamic_shifting", vec![Value::Bool(false)]),
        ("algorithm_type", vec!["dpmsolver++".into(), "sde-dpmsolver++".into()]),
        ("interpolation_type", vec!["linear".into()]),
        ("timestep_type", vec!["discrete".into()]),
        ("variance_type", vec!["fixed_small".into()]),
    ];
    for (key, supported) in only {
        if let Some(value) = settings.get(key).filter(|value| !supported.contains(value)) {
            let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
            return Err(SchedulerError::Unsupported {
                key: key.into(),
                value: value.to_string(),
                supported: supported.join(", "),
            });
        }
    }
    Ok(())
}

/// A scheduler can't be built or used.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The configuration file can't be read.
    #[error("cannot read the scheduler configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a scheduler configuration.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: Box<SchedulerError>,
    },
    /// The configuration isn't JSON, or has a value of the wrong type.
    #[error("not a scheduler configuration: {message}")]
    Parse {
        /// The parser's message, with the position.
        message: String,
    },
    /// A setting has a value that isn't supported.
    #[error("scheduler setting `{key}` is {value}, but only this is supported: {supported}")]
    Unsupported {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// The supported values.
        supported: String,
    },
    /// A sampler of that name doesn't exist.
    #[error("there is no sampler `{0}`: use ddim, dpm++2m, euler, ddpm, dpm++2m-sde or euler-a")]
    UnknownSampler(String),
    /// Too few or too many sampling steps.
    #[error("cannot take {steps} sampling steps through {train_timesteps} training timesteps: {advice}")]
    Steps {
        /// The requested number.
        steps: usize,
        /// Length of the schedule.
        train_timesteps: usize,
        /// Advice.
        advice: &'static str,
    },
    /// A timestep beyond the schedule.
    #[error("timestep {timestep} is beyond the schedule, which has {count} timesteps (0 to {})", count - 1)]
    Timestep {
        /// The timestep.
        timestep: usize,
        /// Length of the schedule.
        count: usize,
    },
    /// The number of timesteps isn't the batch size.
    #[error("{timesteps} timesteps given for a batch of {batch}: give one per sample")]
    Batch {
        /// Number of timesteps.
        timesteps: usize,
        /// Batch size.
        batch: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinity_and_null_mean_defaults() {
        let config = SchedulerConfig::from_json(
            r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "use_karras_sigmas": null,
                "prediction_type": "v_prediction", "some_future_key": [1, 2]}"#,
        )
        .unwrap();
        assert_eq!(config.lambda_min_clipped, f32::NEG_INFINITY);
        assert_eq!(config.prediction_type, PredictionType::VPrediction);
        assert_eq!(config.sampler().unwrap(), SamplerKind::DpmPp2m);
        assert_eq!(config.timestep_spacing, None);
    }

    #[test]
    fn survives_being_written_and_read_again() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::VPrediction);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(SchedulerConfig::from_json(&json).unwrap(), config);
    }

    #[test]
    fn names_the_setting_that_is_not_supported() {
        for (json, key) in [
            (r#"{"thresholding": true}"#, "thresholding"),
            (r#"{"use_lu_lambdas": true}"#, "use_lu_lambdas"),
            (r#"{"algorithm_type": "dpmsolver"}"#, "algorithm_type"),
            (r#"{"solver_order": 3}"#, "solver_order"),
            (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps"),
            (r#"{"beta_end": 2.0}"#, "beta_end"),
            (r#"{"trained_betas": [0.1, 0.2]}"#, "trained_betas"),
            (r#"{"beta_schedule": "sigmoid"}"#, "sigmoid"),
        ] {
            let message = SchedulerConfig::from_json(json).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        let unknown = SchedulerConfig { class_name: "UniPCMultistepScheduler".into(), ..Default::default() };
        assert!(unknown.sampler().unwrap_err().to_string().contains("UniPCMultistepScheduler"));
    }
}
