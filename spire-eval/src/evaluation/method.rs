//! The settings of one method of an evaluation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spire_model::feedforward::NetworkKind;
use spire_model::generative::GenerativeKind;
use spire_model::restore::SamplingConfig;

/// A row of the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodConfig {
    /// The row's name.
    pub name: String,
    /// What produces its pictures.
    pub kind: MethodKind,
    /// `model`: the folder of a run.
    pub run: Option<PathBuf>,
    /// `model` without a run: the base model.
    pub base: Option<PathBuf>,
    /// `model` without a run: the control branch.
    pub control: Option<PathBuf>,
    /// `model`, `diffbir…`: whether it gets a semantic prompt.
    pub semantic: bool,
    /// `model`, `diffbir…`: the source of the caption: `own`; `unmatched`, another picture's; `mistaken`, its own with a word
    /// replaced by its partner in `alike`.
    pub captions: Captions,
    /// `model`, `diffbir…`: a folder with other captions than the test set's, `ID.txt`, for example from `spire data caption`.
    pub captions_from: Option<PathBuf>,
    /// `model`, `diffbir…`: number of words of the caption to use; if not set, all.
    pub caption_words: Option<usize>,
    /// `model`: the kind of restoration prompt.
    pub restoration: RestorationPrompt,
    /// `model`: one restoration prompt for all pictures, instead of the test set's.
    pub prompt: Option<String>,
    /// `model`: restore the test set's small pictures, enlarged by this factor, instead of the degraded ones, which
    /// have their full size.
    pub upscale: Option<f64>,
    /// `model`: sampling settings that replace the evaluation's.
    pub sampling: Option<SamplingConfig>,
    /// `swinir`, `bsrnet`, `scunet`: the published checkpoint; `diffbir…`, `stablesr`: the folder with the published
    /// checkpoints; `{benchmark}` is replaced by the name of the test set's folder.
    pub weights: Option<String>,
    /// `diffbir…`, `stablesr`: settings that differ from the published ones.
    pub settings: toml::Table,
    /// `swinir`, `bsrnet`, `scunet`: the side of the tiles of larger pictures, in pixels; 0 for no tiles; 512 if not set.
    pub tile: Option<usize>,
    /// `folder`: the folder of the restored pictures `ID.png`; `{benchmark}` is replaced by the name of the test set's
    /// folder.
    pub folder: Option<String>,
    /// Values of the paper's descriptive columns that the program can't derive: `{ Sem = "✓", Res = "✗" }` for another
    /// program's pictures, `{ "Modulate skip" = "✓" }`.
    pub marks: BTreeMap<String, String>,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: MethodKind::Model,
            run: None,
            base: None,
            control: None,
            semantic: true,
            captions: Captions::Own,
            captions_from: None,
            caption_words: None,
            restoration: RestorationPrompt::Parameters,
            prompt: None,
            upscale: None,
            sampling: None,
            weights: None,
            settings: toml::Table::new(),
            tile: None,
            folder: None,
            marks: BTreeMap::new(),
        }
    }
}

/// What produces a method's pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// A model of this project.
    #[default]
    Model,
    /// The degraded pictures themselves.
    Input,
    /// A folder with another program's pictures.
    Folder,
    /// A SwinIR.
    #[serde(rename = "swinir")]
    SwinIr,
    /// A BSRNet or BSRGAN.
    #[serde(rename = "bsrnet")]
    BsrNet,
    /// A SCUNet.
    #[serde(rename = "scunet")]
    ScuNet,
    /// DiffBIR, version 1.
    #[serde(rename = "diffbir")]
    DiffBir,
    /// DiffBIR, version 2, for super-resolution.
    #[serde(rename = "diffbir-v2")]
    DiffBirV2,
    /// DiffBIR, version 2, for denoising.
    #[serde(rename = "diffbir-v2-denoising")]
    DiffBirV2Denoising,
    /// DiffBIR, version 2.1.
    #[serde(rename = "diffbir-v2.1")]
    DiffBirV2_1,
    /// StableSR.
    #[serde(rename = "stablesr")]
    StableSr,
}

impl MethodKind {
    /// The architecture of a method that is a network without prompts.
    pub fn network(self) -> Option<NetworkKind> {
        match self {
            Self::SwinIr => Some(NetworkKind::SwinIr),
            Self::BsrNet => Some(NetworkKind::BsrNet),
            Self::ScuNet => Some(NetworkKind::ScuNet),
            _ => None,
        }
    }

    /// The model of a method that is another author's and generates.
    pub fn generative(self) -> Option<GenerativeKind> {
        match self {
            Self::DiffBir => Some(GenerativeKind::DiffBir),
            Self::DiffBirV2 => Some(GenerativeKind::DiffBirV2),
            Self::DiffBirV2Denoising => Some(GenerativeKind::DiffBirV2Denoising),
            Self::DiffBirV2_1 => Some(GenerativeKind::DiffBirV2_1),
            Self::StableSr => Some(GenerativeKind::StableSr),
            _ => None,
        }
    }

    /// Whether the method can read a semantic prompt.
    pub fn reads_prompts(self) -> bool {
        self == Self::Model || self.generative().is_some_and(GenerativeKind::reads_prompts)
    }
}

/// The kind of restoration prompt (paper Table 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestorationPrompt {
    /// "Remove all degradation".
    None,
    /// The kinds of degradation, without numbers.
    Type,
    /// The kinds of degradation with their numbers.
    #[default]
    Parameters,
}

/// The source of a picture's caption (paper Table 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// Its own caption.
    #[default]
    Own,
    /// The caption of another picture of the test set.
    Unmatched,
    /// Its own caption with a word replaced by one for a similar-looking object.
    Mistaken,
}
