//! The parameterised pipeline: blur, downsampling, noise and JPEG, drawn independently (paper Table 2). A prompt can
//! name each.

use rand::RngExt;
use rand::seq::index::sample;
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
    /// Probability that a prompt that names degradations leaves out some of them, if there are two or more. The target is
    /// then the picture with only the named ones removed. The paper has no such samples.
    pub partial_probability: f64,
    /// Probability that a number in the prompt asks for less than the whole: "Deblur with sigma 1.0" for a blur of 3 pixels.
    /// The target then keeps the rest. JPEG's quality is always that of the degradation. The paper has no such samples.
    pub weaker_probability: f64,
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
            partial_probability: 0.0,
            weaker_probability: 0.0,
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
        self.draw_fragments(steps, rng).map_or_else(|| REMOVE_ALL.to_owned(), |fragments| prompt::write(&fragments))
    }

    /// The parts of the restoration prompt of `steps`; `None` if it does not name them.
    fn draw_fragments(&self, steps: &[Step], rng: &mut Rng) -> Option<Vec<Fragment>> {
        let fragment = |&step: &Step| {
            if chance(self.number_probability, rng) { Fragment::Numbered(step) } else { Fragment::Bare(step.kind()) }
        };
        let fragments = steps.iter().map(fragment).collect();
        drawn(self.named_probability, rng).then_some(fragments)
    }

    /// The restoration prompt of `steps`, and what of each stays in the target: nothing (`None`), except with
    /// [`partial_probability`](Self::partial_probability) and [`weaker_probability`](Self::weaker_probability).
    pub(super) fn draw_request(&self, steps: &[Step], rng: &mut Rng) -> (String, Vec<Option<Step>>) {
        let mut rest = vec![None; steps.len()];
        let Some(mut fragments) = self.draw_fragments(steps, rng) else { return (REMOVE_ALL.to_owned(), rest) };
        for (fragment, rest) in fragments.iter_mut().zip(&mut rest) {
            let Fragment::Numbered(step) = *fragment else { continue };
            if drawn(self.weaker_probability, rng)
                && let Some((asked, remaining)) = self.draw_weaker(step, rng)
            {
                (*fragment, *rest) = (Fragment::Numbered(asked), Some(remaining));
            }
        }
        if steps.len() > 1 && drawn(self.partial_probability, rng) {
            let left = rng.random_range(1..steps.len());
            let mut places = sample(rng, steps.len(), left).into_vec();
            places.sort_unstable();
            for place in places.into_iter().rev() {
                fragments.remove(place);
                rest[place] = Some(steps[place]);
            }
        }
        (prompt::write(&fragments), rest)
    }

    /// A step weaker than `step`, to ask for, and the one that remains: both together have the effect of `step`. Variances
    /// of Gaussian blurs and noises add up, factors multiply. `None` for JPEG, and where nothing remains.
    fn draw_weaker(&self, step: Step, rng: &mut Rng) -> Option<(Step, Step)> {
        let whole = step.number();
        let [low, _] = self.range(step.kind());
        let asked = step.kind().step(uniform([low, f64::from(whole)], rng) as f32)?;
        let number = asked.number();
        if number >= whole {
            return None;
        }
        let remaining = (whole.powi(2) - number.powi(2)).sqrt();
        let remaining = match step {
            Step::Blur { .. } => Step::Blur { sigma: remaining },
            Step::Noise { .. } => Step::Noise { sigma: remaining },
            Step::Downsample { .. } => Step::Downsample { factor: whole / number },
            Step::Jpeg { .. } => return None,
        };
        Some((asked, remaining))
    }

    /// The key that lets targets keep a part of the degradations, and its value; `None` if all targets are clean pictures.
    pub fn keeps_degradations(&self) -> Option<(&'static str, f64)> {
        [
            ("degradation.parameterized.partial_probability", self.partial_probability),
            ("degradation.parameterized.weaker_probability", self.weaker_probability),
        ]
        .into_iter()
        .find(|&(_, probability)| probability > 0.0)
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
        section.probability("named_probability", self.named_probability)?;
        section.probability("partial_probability", self.partial_probability)?;
        section.probability("weaker_probability", self.weaker_probability)
    }
}

/// Whether something of `probability` happens. 0 and 1 take no draw, so that later draws do not depend on such a key.
fn drawn(probability: f64, rng: &mut Rng) -> bool {
    match probability {
        0.0 => false,
        1.0 => true,
        _ => chance(probability, rng),
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
        apply_step(step, &mut course, rng)?;
    }
    Ok((course.picture, course.done))
}

/// As [`apply`], and also `clean` with only the `rest` of each step, with the same noise and filters: the degraded picture,
/// that with the rest, the operations.
///
/// # Errors
/// As [`apply`].
pub fn apply_and_rest(
    steps: &[Step],
    rest: &[Option<Step>],
    clean: &Picture,
    rng: &mut Rng,
) -> Result<(Picture, Picture, Vec<Operation>), DegradeError> {
    let (mut all, mut remaining) = (Course::of(clean), Course::of(clean));
    for (&step, &rest) in steps.iter().zip(rest) {
        if let Some(rest) = rest {
            apply_step(rest, &mut remaining, &mut rng.clone())?;
        }
        apply_step(step, &mut all, rng)?;
    }
    Ok((all.picture, remaining.picture, all.done))
}

fn apply_step(step: Step, course: &mut Course, rng: &mut Rng) -> Result<(), DegradeError> {
    match step {
        Step::Blur { sigma } => course.apply(Operation::GaussianBlur { sigma }, rng),
        Step::Downsample { factor } => {
            let (width, height) = (course.picture.width, course.picture.height);
            let smaller = |size: usize| ((size as f32 / factor).round() as usize).max(1);
            let filter = Filter::random(rng);
            course.apply(Operation::Resize { width: smaller(width), height: smaller(height), filter }, rng)?;
            course.apply(Operation::Resize { width, height, filter: Filter::Bicubic }, rng)?;
            course.picture.clamp();
            Ok(())
        }
        Step::Noise { sigma } => course.apply(Operation::GaussianNoise { sigma, gray: false }, rng),
        Step::Jpeg { quality } => course.apply(Operation::Jpeg { quality }, rng),
    }
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
    fn a_partial_prompt_names_some_and_the_rest_stays() {
        let config = ParameterizedConfig { partial_probability: 1.0, number_probability: 1.0, ..Default::default() };
        let data = (0..3 * 24 * 24).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
        let clean = Picture { width: 24, height: 24, data };
        let steps = [Step::Blur { sigma: 2.0 }, Step::Downsample { factor: 2.0 }, Step::Noise { sigma: 0.1 }];
        let mut sizes = [0; 3];
        for n in 0..100 {
            let rng = || rng(3, "test", n);
            let (text, left) = config.draw_request(&steps, &mut rng());
            let named: Vec<Step> =
                steps.iter().zip(&left).filter_map(|(&step, left)| left.is_none().then_some(step)).collect();
            assert_eq!(text, prompt::write(&named.iter().copied().map(Fragment::Numbered).collect::<Vec<_>>()));
            sizes[named.len()] += 1;
            let (degraded, rest, _) = apply_and_rest(&steps, &left, &clean, &mut rng()).unwrap();
            assert_eq!(degraded, apply(&steps, &clean, &mut rng()).unwrap().0);
            if left == [None, None, Some(steps[2])] {
                // The noise of the target is that of the degraded picture.
                let noise = rest.data.iter().zip(&clean.data).map(|(rest, clean)| rest - clean);
                let blurred = apply(&steps[..2], &clean, &mut rng()).unwrap().0;
                let inside = |value: f32| (0.01..0.99).contains(&value);
                let compared = noise.zip(degraded.data.iter().zip(&blurred.data)).zip(&rest.data);
                let compared: Vec<_> = compared
                    .filter(|((_, (degraded, _)), rest)| inside(**degraded) && inside(**rest))
                    .map(|((noise, (degraded, blurred)), _)| (noise - (degraded - blurred)).abs())
                    .collect();
                assert!(compared.len() > 500 && compared.iter().all(|&difference| difference < 1e-5));
            }
        }
        assert!(sizes[0] == 0 && sizes[1] > 30 && sizes[2] > 30, "{sizes:?}");
        for (left, same_as_degraded) in [(steps.map(Some), true), ([None; 3], false)] {
            let (degraded, rest, _) = apply_and_rest(&steps, &left, &clean, &mut rng(0, "test", 0)).unwrap();
            assert_eq!(rest, if same_as_degraded { degraded } else { clean.clone() });
        }
        // One step can't be left out, and "Remove all degradation" means all.
        assert_eq!(config.draw_request(&steps[..1], &mut rng(0, "test", 0)).1, [None]);
        let blind = ParameterizedConfig { named_probability: 0.0, ..config };
        assert_eq!(blind.draw_request(&steps, &mut rng(0, "test", 0)), (REMOVE_ALL.to_owned(), vec![None; 3]));
    }

    #[test]
    fn a_weaker_request_leaves_the_rest() {
        let config = ParameterizedConfig { weaker_probability: 1.0, number_probability: 1.0, ..Default::default() };
        let data = (0..3 * 32 * 32).map(|i| if i % 32 < 16 { 0.4 } else { 0.6 }).collect();
        let clean = Picture { width: 32, height: 32, data };
        let mut rng = rng(3, "test", 0);
        let difference = |a: &Picture, b: &Picture| {
            let sum: f32 = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).powi(2)).sum();
            (sum / a.data.len() as f32).sqrt()
        };
        let whole = [Step::Blur { sigma: 3.0 }, Step::Downsample { factor: 4.0 }, Step::Noise { sigma: 0.1 }];
        for step in whole {
            for _ in 0..50 {
                let (text, rest) = config.draw_request(&[step], &mut rng);
                let [Fragment::Numbered(asked)] = prompt::parse(&text).unwrap()[..] else { panic!("{text}") };
                let Some(rest) = rest[0] else { continue };
                assert!(asked.number() < step.number() && rest.number() <= step.number(), "{asked:?} {rest:?}");
                let together = match step {
                    Step::Downsample { .. } => asked.number() * rest.number(),
                    _ => asked.number().hypot(rest.number()),
                };
                assert!((together - step.number()).abs() < 1e-5);
                let (degraded, target, _) = apply_and_rest(&[step], &[Some(rest)], &clean, &mut rng).unwrap();
                if let Step::Noise { sigma } = step {
                    // The noise that stays is that of the degraded picture, weaker.
                    let part = rest.number() / sigma;
                    for (place, &clean) in clean.data.iter().enumerate() {
                        let (target, degraded) = (target.data[place], degraded.data[place]);
                        let clamped = [target, degraded].iter().any(|&value| value <= 0.0 || value >= 1.0);
                        assert!(clamped || (target - clean - part * (degraded - clean)).abs() < 1e-5);
                    }
                }
                if let Step::Blur { .. } = step {
                    // The blur that was asked for, on the target, gives the degraded picture.
                    let again = apply(&[asked], &target, &mut rng).unwrap().0;
                    assert!(difference(&again, &degraded) < 2e-3, "{asked:?} {rest:?}");
                }
            }
        }
        // A quality can't be a part of another, and nothing remains of the weakest step.
        for step in [Step::Jpeg { quality: 40 }, Step::Blur { sigma: 0.2 }] {
            assert_eq!(config.draw_request(&[step], &mut rng).1, [None]);
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
