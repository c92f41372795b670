//! The arguments that choose the model.

use std::path::PathBuf;

use anyhow::Result;
use spire_restore::trained_model::TrainedModel;

#[derive(clap::Args)]
pub struct Model {
    /// Use the model of this run [default: the built-in model]
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// With --control: the text-to-image model, a folder, a single file or a name on the Hugging Face Hub [default: the
    /// one that the branch's model.toml names]
    #[arg(long, value_name = "MODEL", requires = "control", conflicts_with = "run")]
    base: Option<PathBuf>,
    /// Without --run: the control branch or a public ControlNet, a folder or a name on the Hugging Face Hub
    #[arg(long, value_name = "BRANCH", conflicts_with = "run")]
    control: Option<PathBuf>,
}

impl Model {
    /// Finds the model without loading it.
    pub fn locate(&self) -> Result<TrainedModel> {
        TrainedModel::locate(self.run.as_deref(), self.base.as_deref(), self.control.as_deref())
    }
}
