//! Finds the weights file in a model folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// File names of diffusers, of transformers, and of older versions of transformers.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// In order of preference: full precision before half, safetensors before pickles.
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

/// The files that a network's folder lacks of `config.json` and weights; `stem` is the usual name of the latter.
pub fn missing_in_part(folder: &Path, stem: &str) -> impl Iterator<Item = String> {
    let config = (!folder.join("config.json").is_file()).then(|| "config.json".to_owned());
    let weights = weights_file(folder).is_err().then(|| format!("{stem}.safetensors"));
    config.into_iter().chain(weights)
}

/// Whether a model folder has weights of a variant.
pub fn has_variant(folder: &Path, variant: &str) -> bool {
    file_of_variant(folder, variant).is_some()
}

fn file_of_variant(folder: &Path, variant: &str) -> Option<PathBuf> {
    let endings = ["safetensors", "bin"].into_iter().flat_map(|form| {
        [format!(".{variant}.{form}"), format!(".{form}.index.{variant}.json"), format!(".{variant}.{form}.index.json")]
    });
    endings.flat_map(|ending| STEMS.map(|stem| folder.join(format!("{stem}{ending}")))).find(|path| path.is_file())
}

/// A published file in `folder`, under its own name or with the ending of another format. `None` if there is none.
pub fn published_file(folder: &Path, file: &str) -> Option<PathBuf> {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let names = [file.to_owned(), format!("{stem}.safetensors"), format!("{stem}.formula.json")];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The weights file of a model folder, or the index of its shards:
///
/// # Errors
/// There is none.
pub fn weights_file(folder: &Path) -> Result<PathBuf> {
    weights_file_of(folder, None)
}

/// As [`weights_file`]; the weights of `variant`, such as `fp16`, if the folder has them.
pub(super) fn weights_file_of(folder: &Path, variant: Option<&str>) -> Result<PathBuf> {
    if let Some(file) = variant.and_then(|variant| file_of_variant(folder, variant)) {
        return Ok(file);
    }
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
