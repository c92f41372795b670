//! What a benchmark is made from.

use serde::{Deserialize, Serialize};

use crate::degrade::setting::Section;
use crate::degrade::{DegradationConfig, InvalidSetting, Operation, ParameterizedConfig, RealEsrganConfig};
use crate::loader::Crop;
use crate::prompt::REMOVE_ALL;
use crate::source::SourceConfig;

/// A recipe: a file of `configs/benchmarks/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What the benchmark is called, and its folder if none is given.
    pub name: String,
    /// Decides which pictures, cuts and captions are drawn, and every degradation. Recipes with the same seed and source
    /// draw the same pictures and captions.
    pub seed: u64,
    /// How many pictures; unset, all of the source. More than the source has are more cuts of the same.
    pub count: Option<usize>,
    /// Width and height in pixels that every picture is cut to; unset, pictures stay whole.
    pub size: Option<usize>,
    /// Which square, where there is a size.
    pub crop: Crop,
    /// Whole pictures lose columns on the right and rows at the bottom until their sides are multiples of this.
    pub multiple: usize,
    /// The pictures.
    pub source: SourceConfig,
    /// What is done to them.
    pub degradation: RecipeDegradation,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "benchmark".to_owned(),
            seed: 1,
            count: None,
            size: None,
            crop: Crop::Center,
            multiple: 1,
            source: SourceConfig::default(),
            degradation: RecipeDegradation::default(),
        }
    }
}

/// What is done to a benchmark's pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeDegradation {
    /// Which kind.
    pub kind: RecipeKind,
    /// `parameterized`: its ranges and probabilities. The prompts give every number.
    pub parameterized: ParameterizedConfig,
    /// `real_esrgan`: its settings.
    pub real_esrgan: RealEsrganConfig,
    /// `operations`: what is done to every picture, in this order.
    pub operations: Vec<Operation>,
    /// `operations` and `none`: the restoration prompt.
    pub prompt: String,
}

impl Default for RecipeDegradation {
    fn default() -> Self {
        let parameterized = ParameterizedConfig { number_probability: 1.0, ..ParameterizedConfig::default() };
        Self {
            kind: RecipeKind::Parameterized,
            parameterized,
            real_esrgan: RealEsrganConfig::default(),
            operations: vec![],
            prompt: REMOVE_ALL.to_owned(),
        }
    }
}

/// The kinds of degradation of a benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeKind {
    /// Steps that the prompt names (the left half of the paper's Table 1).
    #[default]
    Parameterized,
    /// The second-order process (its right half).
    RealEsrgan,
    /// The same operations for every picture.
    Operations,
    /// Nothing: the pictures are degraded as they are, and there are no clean ones.
    None,
}

impl Recipe {
    /// Checks every number and name; what `source` names is checked when it is opened.
    ///
    /// # Errors
    /// The first setting that makes no sense, with its key.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |key: &str, value: &dyn std::fmt::Debug, good: bool, allowed: &str| {
            let wrong =
                || InvalidSetting { key: key.to_owned(), value: format!("{value:?}"), allowed: allowed.to_owned() };
            good.then_some(()).ok_or_else(wrong)
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let named = !self.name.is_empty() && self.name.bytes().all(plain) && !self.name.starts_with('.');
        check("name", &self.name, named, "letters, digits, \"-\", \"_\" and \".\", as a folder's name")?;
        check("count", &self.count, self.count != Some(0), "at least 1")?;
        let sized = self.size.is_none_or(|size| (1..=65_535).contains(&size));
        check("size", &self.size, sized, "from 1 to 65535")?;
        check("multiple", &self.multiple, (1..=4096).contains(&self.multiple), "from 1 to 4096")?;
        let more = self.size.is_some() && self.crop == Crop::Random;
        let enough = self.count.is_none() || more || self.degradation.kind != RecipeKind::None;
        check("count", &self.count, enough, "unset for pictures that are taken as they are")?;

        let RecipeDegradation { kind, parameterized, real_esrgan, operations, prompt } = &self.degradation;
        DegradationConfig {
            parameterized: parameterized.clone(),
            real_esrgan: real_esrgan.clone(),
            ..DegradationConfig::default()
        }
        .validate()?;
        let some = *kind != RecipeKind::Operations || !operations.is_empty();
        check("degradation.operations", operations, some, "at least one operation")?;
        for (i, operation) in operations.iter().enumerate() {
            operation.validate(&Section(&format!("degradation.operations.{i}")))?;
        }
        let parsed = crate::prompt::parse(prompt);
        check("degradation.prompt", prompt, parsed.is_ok(), "a restoration prompt")
    }
}
