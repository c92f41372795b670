//! The settings of one method of an evaluation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spire_model::restore::SamplingConfig;

/// A row of the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodConfig {
    /// What the row is called.
    pub name: String,
    /// What makes its pictures.
    pub kind: MethodKind,
    /// `model`: a run of this project.
    pub run: Option<PathBuf>,
    /// `model`, without a run: the text-to-image model.
    pub base: Option<PathBuf>,
    /// `model`, without a run: the control branch.
    pub control: Option<PathBuf>,
    /// `model`: whether it is told what the picture shows.
    pub semantic: bool,
    /// `model`: whose caption that is: `own`; `unmatched`, another picture's; `mistaken`, with a word exchanged for its
    /// pair in `alike`.
    pub captions: Captions,
    /// `model`: how many words of the caption it is told; unset, all.
    pub caption_words: Option<usize>,
    /// `model`: what it is told of the degradation.
    pub restoration: RestorationPrompt,
    /// `model`: a restoration prompt for all pictures, in place of the benchmark's.
    pub prompt: Option<String>,
    /// `model`: how pictures are restored, where that differs from the evaluation's.
    pub sampling: Option<SamplingConfig>,
    /// `folder`: for each benchmark the folder of its restored pictures, `ID.png`; `{benchmark}` stands for the name of the
    /// benchmark's folder.
    pub folder: Option<String>,
    /// What the paper's tables say of the method where the program can't know it: `{ Sem = "✓", Res = "✗" }` of another
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
            caption_words: None,
            restoration: RestorationPrompt::Parameters,
            prompt: None,
            sampling: None,
            folder: None,
            marks: BTreeMap::new(),
        }
    }
}

/// What makes a method's pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// A model of this project.
    #[default]
    Model,
    /// Nothing: the degraded pictures themselves.
    Input,
    /// Another program: a folder of its pictures.
    Folder,
}

/// What a model is told of the degradation (the paper's Table 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestorationPrompt {
    /// Nothing: "Remove all degradation".
    None,
    /// The kinds of degradation.
    Type,
    /// The kinds and their numbers.
    #[default]
    Parameters,
}

/// Whose caption a picture gets (the paper's Table 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// Its own.
    #[default]
    Own,
    /// Another picture's of the benchmark, never its own.
    Unmatched,
    /// Its own with a word exchanged for another that a degraded picture might as well show.
    Mistaken,
}
