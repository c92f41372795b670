//! Which of a model folder's files holds its weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// diffusers' name for its models, transformers' for the encoders, transformers' older one.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// From what is best to read to what is worst: full precision before half, safetensors before pickles.
const ENDINGS: [&str; 11] = [
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.safetensors",
    ".safetensors.index.fp16.json",
    ".fp16.safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".fp16.bin",
    ".bin.index.fp16.json",
    ".fp16.bin.index.json",
    ".formula.json",
];

/// What the folder of one network lacks of `config.json` and weights; `stem` is how the latter are usually called.
pub fn missing_in_part(folder: &Path, stem: &str) -> impl Iterator<Item = String> {
    let config = (!folder.join("config.json").is_file()).then(|| "config.json".to_owned());
    let weights = weights_file(folder).is_err().then(|| format!("{stem}.safetensors"));
    config.into_iter().chain(weights)
}

/// The file with a model folder's weights, or the index of its shards: `diffusion_pytorch_model`, `model` or
/// `pytorch_model`, as `.safetensors` or `.bin`, whole or in shards, or as the `fp16` variant of these.
///
/// # Errors
/// None of them is there.
pub fn weights_file(folder: &Path) -> Result<PathBuf> {
    ENDINGS
        .iter()
        .flat_map(|ending| STEMS.map(|stem| folder.join(format!("{stem}{ending}"))))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "there are no weights in {}: looked for diffusion_pytorch_model.safetensors, model.safetensors, their \
                 .fp16 variants, their shards (.safetensors.index.json) and .bin files",
                folder.display()
            )
        })
}
