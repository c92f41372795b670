//! The two degradation pipelines and their operators (paper section 4.1).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Picture;
use crate::prompt::REMOVE_ALL;
use crate::rng::Rng;

pub mod blur;
mod draw;
pub mod jpeg;
pub mod kernel;
pub mod noise;
pub mod operation;
pub mod parameterized;
pub mod real_esrgan;
pub mod resize;
pub mod setting;
mod simd;

pub use crate::prompt::Step;
pub use jpeg::{JpegError, jpeg_round_trip};
pub use kernel::{Kernel, KernelError, KernelKind, KernelSpec};
pub use operation::Operation;
use parameterized::apply_and_rest;
pub use parameterized::{ParameterizedConfig, apply};
pub use real_esrgan::{OrderConfig, RealEsrganConfig};
pub use resize::{Filter, resize};
pub use setting::InvalidSetting;

/// Settings of the degradation pipelines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DegradationConfig {
    /// Probability of the parameterised pipeline; otherwise it is Real-ESRGAN's.
    pub parameterized_share: f64,
    /// The parameterised pipeline.
    pub parameterized: ParameterizedConfig,
    /// The Real-ESRGAN pipeline.
    pub real_esrgan: RealEsrganConfig,
}

impl Default for DegradationConfig {
    fn default() -> Self {
        Self {
            parameterized_share: 0.5,
            parameterized: ParameterizedConfig::default(),
            real_esrgan: RealEsrganConfig::default(),
        }
    }
}

/// A degraded picture and its restoration prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Degraded {
    /// The degraded picture, of the clean picture's size, in \[0, 1\].
    pub picture: Picture,
    /// The restoration prompt.
    pub prompt: String,
    /// What the prompt asks for where that is not the clean picture: what it does not ask to undo stays.
    pub target: Option<Picture>,
    /// The steps that a prompt can name, in order; empty for Real-ESRGAN.
    pub steps: Vec<Step>,
    /// All operations, in order.
    pub operations: Vec<Operation>,
    /// The pipeline that was drawn.
    pub pipeline: Pipeline,
}

/// The pipeline of a degradation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pipeline {
    /// Steps that the prompt names.
    Parameterized,
    /// The second-order process; its prompt is always "Remove all degradation".
    RealEsrgan,
    /// None: the source had the degraded picture.
    Pair,
}

/// A picture could not be degraded.
#[derive(Debug, Error)]
pub enum DegradeError {
    /// The picture is too large for JPEG.
    #[error(transparent)]
    Jpeg(#[from] JpegError),
    /// Settings that were not validated gave an invalid kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl DegradationConfig {
    /// Degrades `clean` with a random pipeline; all draws come from `rng`.
    ///
    /// # Errors
    /// A side of the picture is longer than 65535 pixels, or the settings don't [validate](Self::validate).
    pub fn degrade(&self, clean: &Picture, rng: &mut Rng) -> Result<Degraded, DegradeError> {
        if draw::chance(self.parameterized_share, rng) {
            let steps = self.parameterized.draw(rng);
            let (prompt, rest) = self.parameterized.draw_request(&steps, rng);
            let (picture, target, operations) = if rest.iter().any(Option::is_some) {
                let (picture, target, operations) = apply_and_rest(&steps, &rest, clean, rng)?;
                (picture, Some(target), operations)
            } else {
                let (picture, operations) = apply(&steps, clean, rng)?;
                (picture, None, operations)
            };
            Ok(Degraded { picture, prompt, target, steps, operations, pipeline: Pipeline::Parameterized })
        } else {
            let (picture, operations) = self.real_esrgan.degrade(clean, rng)?;
            let prompt = REMOVE_ALL.to_owned();
            let (target, steps) = (None, Vec::new());
            Ok(Degraded { picture, prompt, target, steps, operations, pipeline: Pipeline::RealEsrgan })
        }
    }

    /// Checks every range and probability.
    ///
    /// # Errors
    /// The first setting that is out of range; the message names its key.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        setting::Section("degradation").probability("parameterized_share", self.parameterized_share)?;
        self.parameterized.validate()?;
        self.real_esrgan.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng;

    fn clean() -> Picture {
        let data = (0..3 * 48 * 40).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
        Picture { width: 48, height: 40, data }
    }

    fn degraded(index: u64) -> Degraded {
        DegradationConfig::default().degrade(&clean(), &mut rng(7, "degradation", index)).unwrap()
    }

    #[test]
    fn both_pipelines_occur_with_fitting_prompts() {
        let all: Vec<Degraded> = (0..200).map(degraded).collect();
        let parameterized = all.iter().filter(|degraded| degraded.pipeline == Pipeline::Parameterized).count();
        assert!((70..130).contains(&parameterized), "{parameterized}");
        for Degraded { picture, prompt, target, steps, operations, pipeline } in &all {
            assert_eq!(*target, None);
            assert_eq!(operations.is_empty(), *picture == clean());
            assert_eq!((picture.width, picture.height), (48, 40));
            assert_eq!(prompt == REMOVE_ALL, steps.is_empty());
            assert_eq!(*picture == clean(), *pipeline == Pipeline::Parameterized && steps.is_empty());
        }
    }

    #[test]
    fn the_same_index_gives_the_same_bytes_on_any_thread() {
        let alone: Vec<Degraded> = (0..24).map(degraded).collect();
        let threads: Vec<_> = (0..24).rev().map(|index| std::thread::spawn(move || degraded(index))).collect();
        let mut together: Vec<Degraded> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        together.reverse();
        assert_eq!(alone, together);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value() {
        assert_eq!(DegradationConfig::default().validate(), Ok(()));
        let mut config = DegradationConfig::default();
        config.parameterized.noise_sigma = [0.3, 0.1];
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "degradation.parameterized.noise_sigma = [0.3, 0.1]: must be [low, high] with 0.01 <= low <= high <= 1000.0"
        );
        let config = DegradationConfig { parameterized_share: f64::NAN, ..Default::default() };
        assert_eq!(config.validate().unwrap_err().key, "degradation.parameterized_share");
    }
}
