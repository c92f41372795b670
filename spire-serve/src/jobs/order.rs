//! What a client orders, checked and laid out as the pictures to restore.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use spire_data::prompt::REMOVE_ALL;
use spire_model::restore::{ColourFix, SamplingConfig, StartFrom};
use spire_model::scheduler::SamplerKind;
use spire_restore::walk::{Path, Stop, axes};

use crate::models::Description;

/// The most pictures of one order: variants, cells of a walk, models.
pub const MOST_PICTURES: usize = 64;

/// The most steps of a restoration.
pub const MOST_STEPS: usize = 250;

/// The most bytes of a prompt: CLIP reads 77 tokens of it.
const LONGEST_PROMPT: usize = 2000;

/// An order. Its keys are named as the options of `spire restore` and `spire walk`; what is left out is as there.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// Names of models; several restore the picture with each of them. The first model by default.
    pub models: Vec<String>,
    pub semantic: String,
    pub restoration: String,
    pub negative: Option<String>,
    pub steps: Option<usize>,
    pub guidance: Option<f64>,
    pub sampler: Option<SamplerKind>,
    pub strength: Option<f64>,
    pub start: Option<StartFrom>,
    pub control_scale: Option<f64>,
    pub control_start: Option<f64>,
    pub control_end: Option<f64>,
    pub colour_fix: Option<ColourFix>,
    pub tile: Option<usize>,
    pub upscale: f64,
    pub seed: u64,
    pub variants: u64,
    /// Numbers of a walk's rows and columns: of one or two of these.
    pub deblur: Vec<f32>,
    pub upsample: Vec<f32>,
    pub denoise: Vec<f32>,
    pub dejpeg: Vec<f32>,
    /// Semantic prompts of a walk along a row.
    pub semantics: Vec<String>,
    /// Cancel the job if nobody follows its events for ten seconds, as the page wants it.
    pub while_followed: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            models: vec![],
            semantic: String::new(),
            restoration: REMOVE_ALL.to_owned(),
            negative: None,
            steps: None,
            guidance: None,
            sampler: None,
            strength: None,
            start: None,
            control_scale: None,
            control_start: None,
            control_end: None,
            colour_fix: None,
            tile: None,
            upscale: 1.0,
            seed: 0,
            variants: 1,
            deblur: vec![],
            upsample: vec![],
            denoise: vec![],
            dejpeg: vec![],
            semantics: vec![],
            while_followed: false,
        }
    }
}

/// An order that was checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub models: Vec<ModelPlan>,
    /// Row after row.
    pub cells: Vec<CellPlan>,
    pub columns: usize,
    pub upscale: f64,
    pub while_followed: bool,
}

/// A model, and how it samples.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// Its place among the server's models.
    pub index: usize,
    pub name: String,
    pub sampling: SamplingConfig,
}

/// A picture to restore.
#[derive(Clone, Debug)]
pub struct CellPlan {
    /// An index into [`Plan::models`].
    pub model: usize,
    pub title: String,
    pub semantic: String,
    /// `None`: the degraded picture itself.
    pub restoration: Option<String>,
    pub seed: u64,
}

impl Order {
    /// Checks the order against the server's models, given by their descriptions and default sampling settings.
    ///
    /// # Errors
    /// A key is out of range, or there is no such model; the message names it.
    pub fn plan(&self, models: &[(Description, SamplingConfig)]) -> Result<Plan> {
        ensure!(self.upscale.is_finite() && self.upscale >= 1.0, "upscale must be at least 1");
        let negative = self.negative.iter().map(|prompt| ("negative", prompt));
        let prompts = [("semantic", &self.semantic), ("restoration", &self.restoration)].into_iter().chain(negative);
        for (key, prompt) in prompts.chain(self.semantics.iter().map(|prompt| ("semantics", prompt))) {
            ensure!(prompt.len() <= LONGEST_PROMPT, "{key} is longer than {LONGEST_PROMPT} bytes");
        }
        let names = if self.models.is_empty() { vec![models[0].0.name.clone()] } else { self.models.clone() };
        let models = names.iter().map(|name| self.model(name, models)).collect::<Result<Vec<_>>>()?;
        let (columns, cells) = self.cells(&models)?;
        ensure!(cells.len() <= MOST_PICTURES, "an order may have {MOST_PICTURES} pictures, not {}", cells.len());
        Ok(Plan { models, cells, columns, upscale: self.upscale, while_followed: self.while_followed })
    }

    fn model(&self, name: &str, models: &[(Description, SamplingConfig)]) -> Result<ModelPlan> {
        let index = models.iter().position(|(description, _)| description.name == name);
        let index = index.with_context(|| {
            let names: Vec<_> = models.iter().map(|(description, _)| format!("\"{}\"", description.name)).collect();
            format!("models: there is no \"{name}\"; choose from {}", names.join(", "))
        })?;
        let mut sampling = models[index].1.clone();
        sampling.steps = self.steps.unwrap_or(sampling.steps);
        sampling.guidance_scale = self.guidance.unwrap_or(sampling.guidance_scale);
        sampling.sampler = self.sampler.unwrap_or(sampling.sampler);
        sampling.negative = self.negative.clone().unwrap_or(sampling.negative);
        sampling.strength = self.strength.unwrap_or(sampling.strength);
        sampling.start = self.start.unwrap_or(sampling.start);
        sampling.control_scale = self.control_scale.unwrap_or(sampling.control_scale);
        sampling.control_start = self.control_start.unwrap_or(sampling.control_start);
        sampling.control_end = self.control_end.unwrap_or(sampling.control_end);
        sampling.colour_fix = self.colour_fix.unwrap_or(sampling.colour_fix);
        sampling.tile = self.tile.or(sampling.tile);
        sampling.validate()?;
        ensure!(sampling.steps <= MOST_STEPS, "steps must be at most {MOST_STEPS}");
        Ok(ModelPlan { index, name: name.to_owned(), sampling })
    }

    /// The pictures, row after row, and their number per row.
    fn cells(&self, models: &[ModelPlan]) -> Result<(usize, Vec<CellPlan>)> {
        let [deblur, upsample, denoise, dejpeg] =
            [&self.deblur, &self.upsample, &self.denoise, &self.dejpeg].map(Clone::clone);
        let strengths = Path::over(axes(deblur, upsample, denoise, dejpeg), self.semantic.clone())?;
        let walk = match (self.semantics.is_empty(), strengths) {
            (true, strengths) => strengths,
            (false, None) => {
                Some(Path::Semantics { prompts: self.semantics.clone(), restoration: self.restoration.clone() })
            }
            (false, Some(_)) => bail!("a walk has semantics or numbers (deblur, denoise, …), not both"),
        };
        let Some(walk) = walk else {
            ensure!((1..=MOST_PICTURES as u64).contains(&self.variants), "variants must be from 1 to {MOST_PICTURES}");
            let cell = |model: usize, variant: u64| {
                let seed = self.seed.wrapping_add(variant);
                let title = match (models.len(), self.variants) {
                    (1, _) => format!("seed {seed}"),
                    (_, 1) => models[model].name.clone(),
                    _ => format!("{}, seed {seed}", models[model].name),
                };
                let (semantic, restoration) = (self.semantic.clone(), Some(self.restoration.clone()));
                CellPlan { model, title, semantic, restoration, seed }
            };
            let each = |model| (0..self.variants).map(move |variant| cell(model, variant));
            let columns = if self.variants == 1 { models.len() } else { self.variants as usize };
            return Ok((columns, (0..models.len()).flat_map(each).collect()));
        };
        ensure!(models.len() == 1, "a walk takes one model");
        ensure!(self.variants == 1, "a walk has no variants");
        let (columns, stops) = walk.stops()?;
        let cell = |Stop { title, semantic, restoration }| CellPlan {
            model: 0,
            title,
            semantic,
            restoration,
            seed: self.seed,
        };
        Ok((columns, stops.into_iter().map(cell).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> Vec<(Description, SamplingConfig)> {
        let description = |name: &str| Description {
            name: name.into(),
            options: String::new(),
            side: 64,
            sampling: SamplingConfig::default(),
            trained: vec![],
        };
        ["one", "two"].map(|name| (description(name), SamplingConfig::default())).into()
    }

    fn plan(json: &str) -> Result<Plan> {
        serde_json::from_str::<Order>(json)?.plan(&models())
    }

    #[test]
    fn what_is_left_out_is_the_models_default() {
        let plan = plan(r#"{"semantic": "a panda", "steps": 7, "colour_fix": "wavelet"}"#).unwrap();
        assert_eq!((plan.cells.len(), plan.columns, plan.models[0].index), (1, 1, 0));
        assert_eq!(plan.cells[0].restoration.as_deref(), Some(REMOVE_ALL));
        let expected = SamplingConfig { steps: 7, colour_fix: ColourFix::Wavelet, ..SamplingConfig::default() };
        assert_eq!(plan.models[0].sampling, expected);
    }

    #[test]
    fn variants_models_and_walks_become_cells() {
        let titles = |json: &str| -> (usize, Vec<String>) {
            let plan = plan(json).unwrap();
            (plan.columns, plan.cells.into_iter().map(|cell| cell.title).collect())
        };
        assert_eq!(titles(r#"{"variants": 2, "seed": 7}"#), (2, vec!["seed 7".into(), "seed 8".into()]));
        assert_eq!(titles(r#"{"models": ["two", "one"]}"#), (2, vec!["two".into(), "one".into()]));
        let (columns, cells) = titles(r#"{"denoise": [0, 0.1], "deblur": [0, 2, 3]}"#);
        assert_eq!((columns, cells.len()), (2, 6));
        assert_eq!(cells[3], "Deblur with sigma 2.0; Denoise with sigma 0.10");
        assert_eq!(titles(r#"{"semantics": ["a lion", "a tiger"]}"#).1, ["degraded", "“a lion”", "“a tiger”"]);
    }

    #[test]
    fn errors_name_the_key() {
        for (json, expected) in [
            (r#"{"step": 7}"#, "step"),
            (r#"{"models": ["three"]}"#, "choose from \"one\", \"two\""),
            (r#"{"steps": 0}"#, "steps must be at least 1"),
            (r#"{"steps": 1000}"#, "steps must be at most 250"),
            (r#"{"upscale": 0.5}"#, "upscale"),
            (r#"{"strength": 0}"#, "strength"),
            (r#"{"start": "middle"}"#, "middle"),
            (r#"{"control_start": 2}"#, "control_start"),
            (r#"{"variants": 65}"#, "variants must be from 1 to 64"),
            (r#"{"variants": 40, "models": ["one", "two"]}"#, "64 pictures, not 80"),
            (r#"{"sampler": "plms"}"#, "plms"),
            (r#"{"denoise": [0.1], "semantics": ["a"]}"#, "not both"),
            (r#"{"deblur": [-1]}"#, "deblur"),
            (r#"{"deblur": [1], "denoise": [0.1], "dejpeg": [20]}"#, "not of 3"),
            (r#"{"semantics": ["a"], "models": ["one", "two"]}"#, "one model"),
        ] {
            let error = format!("{:#}", plan(json).unwrap_err());
            assert!(error.contains(expected), "{json}: {error}");
        }
        let long = format!(r#"{{"semantic": "{}"}}"#, "a".repeat(2001));
        assert!(plan(&long).unwrap_err().to_string().contains("semantic is longer"));
    }
}
