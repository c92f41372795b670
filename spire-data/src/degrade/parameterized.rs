//! The parameterised pipeline: blur, downsampling, noise and JPEG, drawn independently (paper Table 2). A prompt can
//! name each.

use serde::{Deserialize, Serialize};

use super::DegradeError;
use super::draw::{chance, uniform, whole};
use super::operation::{Course, Operation};
use super::resize::Filter;
use super::setting::{InvalidSetting, Section};
use crate::Picture;
use crate::prompt::{self, Fragment, REMOVE_ALL, Step, StepKind};
use crate::rng::Rng;

/// Ranges and probabilities of the parameterised pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParameterizedConfig {
    /// Probability of a blur.
    pub blur_probability: f64,
    /// Standard deviation of the blur in pixels, `[low, high]`, at least 0.1.
    pub blur_sigma: [f64; 2],
    /// Probability of downsampling.
    pub downsample_probability: f64,
    /// Downsampling factor, `[low, high]`, at least 1.
    pub downsample_factor: [f64; 2],
    /// Probability of noise.
    pub noise_probability: f64,
    /// Standard deviation of the noise on a \[0, 1\] picture, `[low, high]`, at least 0.01.
    pub noise_sigma: [f64; 2],
    /// Probability of JPEG compression.
    pub jpeg_probability: f64,
    /// JPEG quality, `[low, high]` within 1 to 100.
    pub jpeg_quality: [u8; 2],
    /// Probability that the prompt states the number of a degradation.
    pub number_probability: f64,
    /// Probability that the prompt names the degradations; otherwise it is "Remove all degradation". 0 and 1 give the
    /// same pictures.
    pub named_probability: f64,
}

impl Default for ParameterizedConfig {
    fn default() -> Self {
        Self {
            blur_probability: 0.5,
            blur_sigma: [0.2, 5.0],
            downsample_probability: 0.5,
            downsample_factor: [1.0, 8.0],
            noise_probability: 0.5,
            noise_sigma: [0.01, 0.3],
            jpeg_probability: 0.5,
            jpeg_quality: [20, 95],
            number_probability: 0.5,
            named_probability: 1.0,
        }
    }
}

/// Below this size of pictures, in pixels, the paper's strongest blur and downsampling leave nothing to restore.
pub const SMALL_SIZE: usize = 256;

impl ParameterizedConfig {
    /// The default for pictures of `size` × `size` pixels. From [`SMALL_SIZE`] on it is the paper's, which has 512; smaller
    /// pictures are blurred and downsampled less.
    pub fn for_size(size: usize) -> Self {
        let paper = Self::default();
        if size < SMALL_SIZE {
            return Self { blur_sigma: [0.2, 3.0], downsample_factor: [1.0, 4.0], ..paper };
        }
        paper
    }

    /// Draws which degradations occur, in order, with their strengths.
    pub fn draw(&self, rng: &mut Rng) -> Vec<Step> {
        let mut steps = Vec::new();
        for kind in StepKind::ALL {
            if chance(self.probability(kind), rng) {
                steps.push(self.draw_step(kind, rng));
            }
        }
        steps
    }

    /// Draws the strength of one degradation.
    pub fn draw_step(&self, kind: StepKind, rng: &mut Rng) -> Step {
        let step = match kind {
            StepKind::Blur => Step::Blur { sigma: uniform(self.blur_sigma, rng) as f32 },
            StepKind::Downsample => Step::Downsample { factor: uniform(self.downsample_factor, rng) as f32 },
            StepKind::Noise => Step::Noise { sigma: uniform(self.noise_sigma, rng) as f32 },
            StepKind::Jpeg => Step::Jpeg { quality: whole(self.jpeg_quality, rng) },
        };
        step.rounded()
    }

    /// The restoration prompt of `steps`; each is named with or without its number.
    pub fn draw_prompt(&self, steps: &[Step], rng: &mut Rng) -> String {
        let fragment = |&step: &Step| {
            if chance(self.number_probability, rng) { Fragment::Numbered(step) } else { Fragment::Bare(step.kind()) }
        };
        let prompt = prompt::write(&steps.iter().map(fragment).collect::<Vec<_>>());
        let named = match self.named_probability {
            // No draw here, so that later draws do not change.
            0.0 => false,
            1.0 => true,
            probability => chance(probability, rng),
        };
        if named { prompt } else { REMOVE_ALL.to_owned() }
    }

    /// The degradations that a prompt of `fragments` asks to undo. Missing numbers are drawn.
    pub fn steps_undone_by(&self, fragments: &[Fragment], rng: &mut Rng) -> Vec<Step> {
        let step = |&fragment: &Fragment| match fragment {
            Fragment::Numbered(step) => step,
            Fragment::Bare(kind) => self.draw_step(kind, rng),
        };
        fragments.iter().map(step).collect()
    }

    /// The parts of a restoration prompt that lie outside these training settings, one message each.
    pub fn untrained(&self, prompt: &str) -> Vec<String> {
        let fragments = match prompt::parse(prompt) {
            Ok(fragments) => fragments,
            Err(error) => return vec![error.to_string()],
        };
        let judge = |fragment: &Fragment| {
            let (kind, number) = match *fragment {
                Fragment::Bare(kind) => (kind, None),
                Fragment::Numbered(step) => (step.kind(), Some(f64::from(step.number()))),
            };
            let [low, high] = self.range(kind);
            if self.probability(kind) == 0.0 {
                return Some(format!("\"{fragment}\" was not trained"));
            }
            // Compare the rounded numbers: 0.3 as f32 is not exactly 0.3.
            let outside = number.is_some_and(|number| number < low - 1e-6 || number > high + 1e-6);
            outside.then(|| format!("\"{fragment}\" is outside the trained range, {low} to {high}"))
        };
        fragments.iter().filter_map(judge).collect()
    }

    /// The probability of a kind of degradation.
    fn probability(&self, kind: StepKind) -> f64 {
        match kind {
            StepKind::Blur => self.blur_probability,
            StepKind::Downsample => self.downsample_probability,
            StepKind::Noise => self.noise_probability,
            StepKind::Jpeg => self.jpeg_probability,
        }
    }

    /// The range of a kind of degradation.
    pub fn range(&self, kind: StepKind) -> [f64; 2] {
        match kind {
            StepKind::Blur => self.blur_sigma,
            StepKind::Downsample => self.downsample_factor,
            StepKind::Noise => self.noise_sigma,
            StepKind::Jpeg => self.jpeg_quality.map(f64::from),
        }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidSetting> {
        let section = Section("degradation.parameterized");
        section.probability("blur_probability", self.blur_probability)?;
        section.range("blur_sigma", self.blur_sigma, [0.1, 1000.0])?;
        section.probability("downsample_probability", self.downsample_probability)?;
        section.range("downsample_factor", self.downsample_factor, [1.0, 1000.0])?;
        section.probability("noise_probability", self.noise_probability)?;
        section.range("noise_sigma", self.noise_sigma, [0.01, 1000.0])?;
        section.probability("jpeg_probability", self.jpeg_probability)?;
        section.range("jpeg_quality", self.jpeg_quality, [1, 100])?;
        section.probability("number_probability", self.number_probability)?;
        section.probability("named_probability", self.named_probability)
    }
}

/// Applies `steps` to `clean` in order; also returns the operations used. The picture keeps its size and stays in \[0,
/// 1\].
///
/// `rng` draws the noise and the downsampling filter (area, bilinear or bicubic).
///
/// # Errors
/// A step is JPEG and a side of the picture is longer than 65535 pixels.
pub fn apply(steps: &[Step], clean: &Picture, rng: &mut Rng) -> Result<(Picture, Vec<Operation>), DegradeError> {
    let mut course = Course::of(clean);
    for &step in steps {
        match step {
            Step::Blur { sigma } => course.apply(Operation::GaussianBlur { sigma }, rng)?,
            Step::Downsample { factor } => {
                let smaller = |size: usize| ((size as f32 / factor).round() as usize).max(1);
                let (width, height) = (clean.width, clean.height);
                let filter = Filter::random(rng);
                course.apply(Operation::Resize { width: smaller(width), height: smaller(height), filter }, rng)?;
                course.apply(Operation::Resize { width, height, filter: Filter::Bicubic }, rng)?;
                course.picture.clamp();
            }
            Step::Noise { sigma } => course.apply(Operation::GaussianNoise { sigma, gray: false }, rng)?,
            Step::Jpeg { quality } => course.apply(Operation::Jpeg { quality }, rng)?,
        }
    }
    Ok((course.picture, course.done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng;

    #[test]
    fn untrained_parts_of_a_prompt_are_reported() {
        let config = ParameterizedConfig { jpeg_probability: 0.0, ..ParameterizedConfig::default() };
        for trained in ["Deblur with sigma 5.0", "deblur; Denoise with sigma 0.30", "Remove all degradation"] {
            assert_eq!(config.untrained(trained), Vec::<String>::new());
        }
        let blur = &config.untrained("Deblur with sigma 300; Denoise with sigma 0.1")[..];
        assert!(matches!(blur, [one] if one.contains("sigma 300") && one.contains("0.2 to 5")), "{blur:?}");
        assert!(config.untrained("Dejpeg")[0].contains("not trained"));
        assert!(config.untrained("make it pretty")[0].contains("make it pretty"));
    }

    #[test]
    fn each_step_occurs_with_its_probability_and_in_its_range() {
        let config = ParameterizedConfig::default();
        let mut rng = rng(0, "test", 0);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            for step in config.draw(&mut rng) {
                counts[StepKind::ALL.iter().position(|&kind| kind == step.kind()).unwrap()] += 1;
                assert!(match step {
                    Step::Blur { sigma } => (0.2..=5.0).contains(&sigma),
                    Step::Downsample { factor } => (1.0..=8.0).contains(&factor),
                    Step::Noise { sigma } => (0.01..=0.3).contains(&sigma),
                    Step::Jpeg { quality } => (20..=95).contains(&quality),
                });
            }
        }
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_number_in_the_prompt_is_the_number_used() {
        let config = ParameterizedConfig { number_probability: 1.0, ..Default::default() };
        let mut rng = rng(0, "test", 1);
        for _ in 0..500 {
            let steps = config.draw(&mut rng);
            let fragments = prompt::parse(&config.draw_prompt(&steps, &mut rng)).unwrap();
            assert_eq!(fragments, steps.iter().copied().map(Fragment::Numbered).collect::<Vec<_>>());
            assert_eq!(config.steps_undone_by(&fragments, &mut rng), steps);
        }
    }

    #[test]
    fn a_missing_number_is_drawn_from_its_range() {
        let config = ParameterizedConfig { jpeg_quality: [33, 33], ..Default::default() };
        let steps = config.steps_undone_by(&[Fragment::Bare(StepKind::Jpeg)], &mut rng(0, "test", 2));
        assert_eq!(steps, [Step::Jpeg { quality: 33 }]);
    }

    #[test]
    fn every_step_handles_any_picture_at_full_strength() {
        let steps = [
            Step::Blur { sigma: 5.0 },
            Step::Downsample { factor: 8.0 },
            Step::Noise { sigma: 0.3 },
            Step::Jpeg { quality: 20 },
        ];
        for (width, height) in [(1, 1), (1, 7), (5, 2), (64, 64), (70, 33)] {
            let clean = Picture::filled(width, height, [0.1, 0.5, 1.0]);
            let (degraded, operations) = apply(&steps, &clean, &mut rng(0, "test", 3)).unwrap();
            assert_eq!(operations.len(), 5);
            assert_eq!((degraded.width, degraded.height), (width, height));
            assert_eq!(degraded.data.len(), clean.data.len());
            assert!(degraded.data.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }

    #[test]
    fn steps_act_in_the_order_given() {
        let clean = Picture::filled(16, 16, [0.5; 3]);
        let deviation = |steps: &[Step]| {
            let (picture, _) = apply(steps, &clean, &mut rng(0, "test", 4)).unwrap();
            picture.data.iter().map(|value| (value - 0.5).powi(2)).sum::<f32>()
        };
        let (blur, noise) = (Step::Blur { sigma: 2.0 }, Step::Noise { sigma: 0.1 });
        assert!(deviation(&[noise, blur]) < 0.2 * deviation(&[blur, noise]));
    }
}
