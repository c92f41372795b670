//! Which model restores, as it is said on the command line.

use std::path::PathBuf;

use anyhow::Result;
use spire_train::trained_model::TrainedModel;

#[derive(clap::Args)]
pub struct Model {
    /// Run whose model is used; without it the one that comes with the program
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Without a run: the text-to-image model, a folder, a single file or a name on the Hugging Face Hub
    #[arg(long, value_name = "MODEL", requires = "control", conflicts_with = "run")]
    base: Option<PathBuf>,
    /// Without a run: the control branch, or a public ControlNet, a folder or a name on the Hugging Face Hub
    #[arg(long, value_name = "BRANCH", requires = "base")]
    control: Option<PathBuf>,
}

impl Model {
    /// Finds it; loads nothing.
    pub fn locate(&self) -> Result<TrainedModel> {
        TrainedModel::locate(self.run.as_deref(), self.base.as_deref().zip(self.control.as_deref()))
    }
}
