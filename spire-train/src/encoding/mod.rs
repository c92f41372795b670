//! Latents and text states computed before training: what [`encode`] writes and `with_encoded` reads.

mod arrays;
mod ranking;
mod write;

use anyhow::{Result, ensure};
use spire_data::encoded::{Encoded, EncodedData, EncodedModel, Manifest};
use spire_data::loader::{Crop, Samples};
use spire_model::base::{LongPrompts, Parts, checksum_of_parts};

use crate::config::RunConfig;

pub(crate) use arrays::tensor;
pub use write::{EncodeSettings, Encoding, encode};

/// The training sequence with what `data.encoded` names. The models of the configuration are located.
///
/// # Errors
/// What was encoded is of another model or configuration.
pub(crate) fn with_encoded(samples: Samples, config: &RunConfig) -> Result<Samples> {
    let Some(folder) = &config.data.encoded else { return Ok(samples) };
    let expected = manifest(config, samples.source_len(), &Choices { texts: true, ..Choices::default() })?;
    let encoded = Encoded::open(folder, &expected)?;
    let all_texts = !parts(config, Some(encoded.manifest())).text;
    Ok(samples.with_encoded(encoded.requiring_texts(all_texts)))
}

/// The parts of the frozen model that a training step needs besides the UNet. Validation and figures need all of them.
pub(crate) fn parts(config: &RunConfig, encoded: Option<&Manifest>) -> Parts {
    let Some(encoded) = encoded else { return Parts::ALL };
    // Prompts with numbers can't all be encoded beforehand.
    let degradation = &config.degradation;
    let draws_prompts = !config.data.source.is_paired()
        && degradation.parameterized_share > 0.0
        && degradation.parameterized.named_probability > 0.0;
    // The padding of prompts that are encoded in pieces needs the text tower.
    let in_pieces = config.model.long_prompts == LongPrompts::Chunk;
    Parts { vae: false, text: encoded.model.text.is_none() || draws_prompts || in_pieces }
}

/// What is decided when pictures are encoded, and not by the configuration.
#[derive(Clone, Debug)]
struct Choices {
    /// Crops of each picture.
    crops: usize,
    /// Whether texts are encoded.
    texts: bool,
    /// SHA-256 of the CLIP that chooses captions.
    captions_by: Option<String>,
    pictures_per_file: usize,
}

impl Default for Choices {
    fn default() -> Self {
        Self { crops: 1, texts: false, captions_by: None, pictures_per_file: 1 }
    }
}

/// Of which model and configuration encoded pictures are.
fn manifest(config: &RunConfig, pictures: usize, choices: &Choices) -> Result<Manifest> {
    let (data, model) = (&config.data, &config.model);
    ensure!(
        choices.crops == 1 || data.crop == Crop::Random,
        "several crops of a picture need data.crop = \"random\": with data.crop = \"center\" they are all the same"
    );
    let checksum = |parts: &[&str]| checksum_of_parts(&model.base, parts, model.variant.as_deref());
    let text = choices.texts.then(|| checksum(&["text_encoder", "tokenizer"])).transpose()?;
    let long_prompts = match model.long_prompts {
        LongPrompts::Truncate => "truncate",
        LongPrompts::Chunk => "chunk",
    };
    let model = EncodedModel {
        vae: checksum(&["vae"])?,
        long_prompts: text.as_ref().map(|_| long_prompts.to_owned()),
        text,
        precision: model.precision.to_string(),
        captions_by: choices.captions_by.clone(),
    };
    let data = EncodedData {
        pictures,
        size: data.size,
        crop: data.crop,
        crops: choices.crops,
        horizontal_flip: data.horizontal_flip,
        min_side: data.min_side,
        max_aspect: data.max_aspect,
        max_samples: data.max_samples,
        seed: config.run.seed,
    };
    Ok(Manifest::new(model, data, choices.pictures_per_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tower_is_needed_for_prompts_that_are_not_known() {
        let mut config = RunConfig::default();
        let samples = 4;
        config.model.base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let with = |texts| manifest(&RunConfig { ..config.clone() }, samples, &Choices { texts, ..Choices::default() });
        let (with_texts, without) = (with(true).unwrap(), with(false).unwrap());
        let text = |config: &RunConfig, encoded: &Manifest| parts(config, Some(encoded)).text;
        assert_eq!(parts(&config, None), Parts::ALL);
        assert!(text(&config, &with_texts) && !parts(&config, Some(&with_texts)).vae);
        let mut known = config.clone();
        known.degradation.parameterized_share = 0.0;
        assert!(!text(&known, &with_texts) && text(&known, &without));
        known.model.long_prompts = LongPrompts::Chunk;
        assert!(text(&known, &with_texts));
        let mut pairs = config.clone();
        pairs.data.source.degraded = Some("lq".into());
        assert!(!text(&pairs, &with_texts));
        let crops = manifest(&config, samples, &Choices { crops: 2, ..Choices::default() }).unwrap_err().to_string();
        assert!(crops.contains("data.crop"), "{crops}");
    }
}
