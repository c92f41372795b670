//! The models that a server restores with.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use spire_data::prompt::{Fragment, StepKind};
use spire_model::restore::SamplingConfig;
use spire_restore::restorer::Restorer;

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    /// What clients may know of it.
    pub(crate) description: Description,
    pub(crate) restorer: Restorer,
    /// Its default sampling settings.
    pub(crate) sampling: SamplingConfig,
}

/// What clients may know of a model: nothing here is a path of this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Description {
    /// The name by which orders choose it.
    pub name: String,
    /// The options of `spire restore` that choose it.
    pub options: String,
    /// The side of the pictures on which it was trained, in pixels.
    pub side: usize,
    /// Its default sampling settings.
    pub sampling: SamplingConfig,
    /// What a restoration prompt may ask for.
    pub trained: Vec<Trained>,
}

/// A kind of degradation, and the strengths on which the model was trained.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trained {
    pub kind: StepKind,
    /// `[low, high]`; `None` if this kind was not trained.
    pub range: Option<[f64; 2]>,
}

impl Model {
    /// Prepares a loaded model. `name` is what clients call it, `options` are the options of `spire restore` that choose it;
    /// neither should hold a path.
    ///
    /// # Errors
    /// The CLIP of the model's `clip_guidance` is missing.
    pub fn new(name: &str, options: &str, mut restorer: Restorer, sampling: SamplingConfig) -> Result<Self> {
        restorer.base.guide_by(sampling.clip_guidance.as_ref())?;
        // The provenance in a picture names the model: a path would leave this machine with it.
        name.clone_into(&mut restorer.run);
        let trained = |kind| {
            let is_trained = restorer.trained.untrained(&Fragment::Bare(kind).to_string()).is_empty();
            Trained { kind, range: is_trained.then(|| restorer.trained.range(kind)) }
        };
        let description = Description {
            name: name.to_owned(),
            options: options.to_owned(),
            side: restorer.base.trained_side(),
            sampling: without_paths(sampling.clone()),
            trained: StepKind::ALL.map(trained).into(),
        };
        Ok(Self { description, restorer, sampling })
    }

    /// What clients call it.
    pub fn name(&self) -> &str {
        &self.description.name
    }
}

/// The settings with the last part alone of every path.
pub(crate) fn without_paths(mut sampling: SamplingConfig) -> SamplingConfig {
    if let Some(guidance) = &mut sampling.clip_guidance {
        guidance.clip = guidance.clip.file_name().map(PathBuf::from).unwrap_or_default();
    }
    sampling
}
