//! `spire restore --model`: models of other authors.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use spire_model::feedforward::NetworkKind;
use spire_model::generative::GenerativeKind;
use spire_restore::files::{FolderSummary, Semantic, restore_folder};
use spire_restore::generative::{GenerativeRestorer, GenerativeTask};
use spire_restore::network::NetworkRestorer;
use spire_restore::sharing::Sharing;

use super::sampling::{self, Sampling};

/// A model of other authors.
#[derive(Clone, Copy, Debug)]
pub enum OtherModel {
    /// One that restores in one pass, without prompts.
    Network(NetworkKind),
    /// One that generates.
    Generative(GenerativeKind),
}

/// Parses a model by its name.
pub fn by_name(name: &str) -> Result<OtherModel> {
    let network = sampling::by_name::<NetworkKind>(name).map(OtherModel::Network);
    let found = network.or_else(|_| sampling::by_name::<GenerativeKind>(name).map(OtherModel::Generative));
    let known = || GenerativeKind::ALL.map(|kind| kind.to_string()).join(", ");
    found.map_err(|_| anyhow!("the models are swinir, bsrnet, scunet, {}", known()))
}

/// What to restore, and how.
pub struct Order {
    /// The picture or the folder.
    pub input: PathBuf,
    /// The restored picture, or the folder for them.
    pub output: PathBuf,
    /// The checkpoint, or the folder with the checkpoints.
    pub weights: PathBuf,
    /// The devices.
    pub sharing: Sharing,
    pub sampling: Sampling,
    /// `KEY=VALUE`.
    pub settings: Vec<String>,
    pub semantic: Semantic,
    pub seed: u64,
    pub upscale: f64,
    pub overwrite: bool,
}

impl Order {
    /// Restores.
    pub fn restore(self, model: OtherModel) -> Result<FolderSummary> {
        match model {
            OtherModel::Network(network) => self.restore_by_network(network),
            OtherModel::Generative(kind) => self.generate(kind),
        }
    }

    fn restore_by_network(self, network: NetworkKind) -> Result<FolderSummary> {
        let sampling =
            self.sampling.given()?.into_iter().map(|(option, ..)| option).filter(|option| *option != "--tile");
        let others = [
            ("--semantic", self.is_prompted()),
            ("--upscale", self.upscale != 1.0),
            ("--seed", self.seed != 0),
            ("--set", !self.settings.is_empty()),
        ];
        let mut given = sampling.chain(others.into_iter().filter_map(|(option, given)| given.then_some(option)));
        if let Some(option) = given.next() {
            bail!("{option} cannot be used with --model {network}, which has no prompts and no sampling");
        }
        let load = |device: &str| NetworkRestorer::load(network, &self.weights, self.sampling.tile, device);
        let restore = |restorer: &NetworkRestorer, picture: &Path, place: &Path| {
            restorer.restore_file(picture, place, None, self.overwrite)
        };
        match self.input.is_dir() {
            true => restore_folder(&self.input, &self.output, &self.sharing, load, restore),
            false => Ok(restore(&load(self.sharing.first_device())?, &self.input, &self.output)?.into()),
        }
    }

    fn generate(self, kind: GenerativeKind) -> Result<FolderSummary> {
        ensure!(
            kind.reads_prompts() || !self.is_prompted(),
            "--semantic and captions cannot be used with --model {kind}, which reads no prompts"
        );
        let settings = kind.settings(&self.keys()?).context("the settings of --model")?;
        let Self { input, output, weights, sharing, semantic, seed, upscale, overwrite, .. } = self;
        let load = |device: &str| GenerativeRestorer::load(kind, &weights, settings.clone(), device);
        let task = GenerativeTask { semantic, seed, upscale, overwrite };
        let restore =
            |restorer: &GenerativeRestorer, picture: &Path, place: &Path| restorer.restore_file(&task, picture, place);
        match input.is_dir() {
            true => restore_folder(&input, &output, &sharing, load, restore),
            false => Ok(restore(&load(sharing.first_device())?, &input, &output)?.into()),
        }
    }

    fn is_prompted(&self) -> bool {
        !matches!(&self.semantic, Semantic::Text(text) if text.is_empty())
    }

    /// The keys of the settings that the options name.
    fn keys(&self) -> Result<toml::Table> {
        let given = self.sampling.given()?.into_iter();
        let mut keys: toml::Table = given.map(|(_, key, value)| (key.to_owned(), value)).collect();
        for setting in &self.settings {
            let pair = setting.split_once('=');
            let (key, value) = pair.with_context(|| format!("--set {setting}: KEY=VALUE is expected"))?;
            let (key, value) = (key.trim(), value.trim());
            // A value that is no TOML is a text.
            let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
            let value = parsed.and_then(|mut parsed| parsed.remove("value")).unwrap_or_else(|| value.into());
            keys.insert(key.to_owned(), value);
        }
        Ok(keys)
    }
}
