//! Recipes of test sets.

use serde::{Deserialize, Serialize};
use spire_core::settings::Keys;

use crate::crop::Crop;
use crate::degrade::setting::Section;
use crate::degrade::{DegradationConfig, InvalidSetting, Operation, ParameterizedConfig, RealEsrganConfig};
use crate::prompt::REMOVE_ALL;
use crate::source::SourceConfig;

/// A recipe: a file of `configs/benchmarks/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// The name of the test set, and of its folder if none is given.
    pub name: String,
    /// The seed for pictures, crops, captions and degradations. Recipes with the same seed and source draw the same
    /// pictures and captions.
    pub seed: u64,
    /// Number of pictures; if not set, all of the source. A larger number than the source has gives several crops of
    /// the same pictures.
    pub count: Option<usize>,
    /// Side in pixels of the square that every picture is cropped to; if not set, pictures are not cropped.
    pub size: Option<usize>,
    /// Which square, if `size` is set.
    pub crop: Crop,
    /// Without `size`: pictures are trimmed at the right and bottom to multiples of this.
    pub multiple: usize,
    /// The pictures.
    pub source: SourceConfig,
    /// Their degradation.
    pub degradation: RecipeDegradation,
}

impl Keys for Recipe {}

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

/// The degradation of a test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeDegradation {
    /// The kind of degradation.
    pub kind: RecipeKind,
    /// `parameterized`: its ranges and probabilities. By default the prompts give every number.
    pub parameterized: ParameterizedConfig,
    /// `real_esrgan`: its settings.
    pub real_esrgan: RealEsrganConfig,
    /// `operations`: the operations on every picture, in order.
    pub operations: Vec<Operation>,
    /// `operations`, `none` and `paired`: the restoration prompt. A pair may have its own.
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

/// The kinds of degradation of a test set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeKind {
    /// The parameterised pipeline (left half of the paper's Table 1).
    #[default]
    Parameterized,
    /// The second-order Real-ESRGAN process (right half).
    RealEsrgan,
    /// The same operations for every picture.
    Operations,
    /// None: the pictures are degraded already, and there are no clean ones.
    None,
    /// None: the source has pairs, clean pictures and degraded ones.
    Paired,
}

/// The most pictures of a test set.
const MOST_PICTURES: usize = 1_000_000;

impl Recipe {
    /// Checks every number and name. Paths are checked when the source is opened.
    ///
    /// # Errors
    /// The first setting that is out of range; the message names its key.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |key: &str, value: &dyn std::fmt::Debug, good: bool, allowed: &str| {
            let wrong =
                || InvalidSetting { key: key.to_owned(), value: format!("{value:?}"), allowed: allowed.to_owned() };
            good.then_some(()).ok_or_else(wrong)
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let named = !self.name.is_empty() && self.name.bytes().all(plain) && !self.name.starts_with('.');
        check("name", &self.name, named, "letters, digits, \"-\", \"_\" and \".\", as a folder's name")?;
        let counted = self.count.is_none_or(|count| (1..=MOST_PICTURES).contains(&count));
        check("count", &self.count, counted, &format!("from 1 to {MOST_PICTURES}"))?;
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
        let allowed = "0: a test set compares with clean pictures, without any degradation";
        if let Some((key, probability)) = parameterized.keeps_degradations() {
            check(key, &probability, false, allowed)?;
        }
        let pairs = (*kind == RecipeKind::Paired) == self.source.is_paired();
        let allowed = "set if degradation.kind is \"paired\", and unset otherwise";
        check("source.degraded", &self.source.degraded, pairs, allowed)?;
        let some = *kind != RecipeKind::Operations || !operations.is_empty();
        check("degradation.operations", operations, some, "at least one operation")?;
        for (i, operation) in operations.iter().enumerate() {
            operation.validate(&Section(&format!("degradation.operations.{i}")))?;
        }
        let parsed = crate::prompt::parse(prompt);
        check("degradation.prompt", prompt, parsed.is_ok(), "a restoration prompt")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn recipe(text: &str) -> Recipe {
        spire_core::settings::parse(text, Path::new("recipe.toml"), &[]).unwrap()
    }

    #[test]
    fn prompts_give_every_number_unless_the_recipe_says_otherwise() {
        let probability = |text: &str| recipe(text).degradation.parameterized.number_probability;
        assert_eq!(probability(""), 1.0);
        assert_eq!(probability("[degradation.parameterized]\nblur_sigma = [0.2, 3.0]"), 1.0);
        assert_eq!(probability("[degradation.parameterized]\nnumber_probability = 0.5"), 0.5);
    }

    #[test]
    fn a_test_set_has_no_targets_that_keep_degradations() {
        for key in ["degradation.parameterized.partial_probability", "degradation.parameterized.weaker_probability"] {
            assert_eq!(recipe(&format!("{key} = 0.2")).validate().unwrap_err().key, key);
        }
    }
}
