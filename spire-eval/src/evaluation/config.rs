//! The configuration of an evaluation: test sets, methods, metrics.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use spire_core::settings::Keys;
use spire_data::prompt;
use spire_data::world::Kind;
use spire_model::device;
use spire_model::restore::SamplingConfig;

use super::alike::Alike;
use super::method::{Captions, MethodConfig, MethodKind, RestorationPrompt};
use super::metric::Metric;
use super::published::PublishedTable;
use crate::Compared;
use crate::fid::Resizing;
use crate::lpips::Backbone;

/// The configuration of an evaluation: a file such as `configs/benchmarks/tiny.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// The evaluation's name.
    pub name: String,
    /// The folder for restored pictures, scores and tables; `results/NAME` if not set.
    pub output: Option<PathBuf>,
    /// The device of the networks; the CPU if neither this nor `devices` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Instead of `device`: devices that share the pictures to restore. The first one measures them.
    pub devices: Vec<String>,
    /// Batch size of restoration, for pictures of one size.
    pub batch_size: usize,
    /// Number of batches computed in parallel on each device. 0: one a core on a CPU, one on a GPU.
    pub threads: usize,
    /// The seed of the initial noise: the i-th picture uses `seed + i`.
    pub seed: u64,
    /// Sampling settings of methods that do not set their own.
    pub sampling: SamplingConfig,
    /// What PSNR and SSIM compare. Papers on x4 super-resolution use `colours = "y"` and `border = 4`.
    pub pixels: Compared,
    /// The metrics to compute.
    pub metrics: Vec<Metric>,
    /// The folder with the published weights of the metrics' networks.
    pub weights: PathBuf,
    /// The CLIP for CLIP-I, CLIP-T and the CLIP Fréchet distance: a folder as transformers publishes it
    /// (`openai/clip-vit-base-patch32`), or one with `image_encoder/`, `text_encoder/` and `tokenizer/`.
    pub clip: PathBuf,
    /// The judge of kinds, for `identity` and `wrong_kind`: a folder that `spire pretrain --stage judge` wrote.
    pub judge: PathBuf,
    /// Pairs of words for objects that look alike when degraded, for the metric `wrong_kind` and for `captions =
    /// "mistaken"`. If several pairs have the first such word of a caption, the first of them counts. By default the pairs of
    /// the illustrated world, [`Kind::ALIKE`].
    pub alike: Vec<Alike>,
    /// Settings of FID and patch FID.
    pub fid: FidConfig,
    /// The network of LPIPS, `alex` or `vgg`.
    pub lpips: Backbone,
    /// The test sets; each gives a table.
    pub benchmarks: Vec<BenchmarkChoice>,
    /// The methods; each gives a row.
    pub methods: Vec<MethodConfig>,
    /// The baseline method for paired differences.
    pub against: Option<String>,
    /// The number of a table of the paper. The first table then has its columns, and its published values beside the
    /// measured ones.
    pub paper_table: Option<u8>,
    /// Number of pictures per test set in `report.html`. For larger test sets: the last method's best and worst, the
    /// other methods', and others at regular intervals.
    pub report_pictures: usize,
    /// The picture sheet written for each test set.
    pub sheet: SheetConfig,
}

impl Keys for EvalConfig {}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            name: "evaluation".to_owned(),
            output: None,
            device: None,
            devices: vec![],
            batch_size: 16,
            threads: 0,
            seed: 0,
            sampling: SamplingConfig::default(),
            pixels: Compared::default(),
            metrics: Metric::usual(),
            weights: PathBuf::from("weights"),
            clip: PathBuf::from("weights/clip-vit-base-patch32"),
            judge: PathBuf::from("assets/tiny/judge"),
            alike: Kind::ALIKE.map(|pair| pair.map(|kind| kind.name().to_owned())).into(),
            fid: FidConfig::default(),
            lpips: Backbone::default(),
            benchmarks: vec![],
            methods: vec![],
            against: None,
            paper_table: None,
            report_pictures: 32,
            sheet: SheetConfig::default(),
        }
    }
}

/// A sheet of pictures: one row for each of the first pictures of a test set, one column per method between the
/// degraded and the clean picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SheetConfig {
    /// Number of pictures; 0 disables the sheet.
    pub rows: usize,
    /// Names of methods; if empty, all except the degraded pictures themselves.
    pub methods: Vec<String>,
}

impl Default for SheetConfig {
    fn default() -> Self {
        Self { rows: 6, methods: vec![] }
    }
}

/// Settings of FID and patch FID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FidConfig {
    /// `clean` (clean-fid) or `legacy` (pytorch-fid).
    pub resizing: Resizing,
    /// Side of the squares of patch FID, in pixels.
    pub patch: usize,
}

impl Default for FidConfig {
    fn default() -> Self {
        Self { resizing: Resizing::default(), patch: 256 }
    }
}

/// A test set of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BenchmarkChoice {
    /// The table's title.
    pub title: String,
    /// The test set's folder.
    pub folder: PathBuf,
    /// The recipe to make it from if the folder does not exist.
    pub recipe: Option<PathBuf>,
}

impl EvalConfig {
    /// The names of the devices that restore, at least one.
    pub fn devices(&self) -> Vec<String> {
        match self.devices.as_slice() {
            [] => vec![self.device.clone().unwrap_or_else(|| "flex".to_owned())],
            several => several.to_owned(),
        }
    }

    /// Batches that a device computes at the same time.
    pub fn threads(&self) -> usize {
        let devices = self.devices();
        device::threads(self.threads, device::kind(&devices[0]) == "flex", devices.len())
    }

    /// Checks names and numbers.
    ///
    /// # Errors
    /// The message names the first invalid key.
    pub fn validate(&self) -> Result<()> {
        let plain = |name: &str| {
            !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
        };
        ensure!(plain(&self.name), "name = \"{}\": letters, digits, \"-\", \"_\" and \".\" only", self.name);
        ensure!(
            self.output.as_ref().is_none_or(|output| !output.as_os_str().is_empty()),
            "output is empty: name a folder"
        );
        ensure!(
            self.device.is_none() || self.devices.is_empty(),
            "device and devices contradict each other: keep one of them"
        );
        ensure!((1..=65_536).contains(&self.batch_size), "batch_size must be from 1 to 65536");
        ensure!(self.threads <= 1024, "threads must be at most 1024");
        ensure!(self.sheet.rows <= 1000, "sheet.rows must be at most 1000");
        self.sampling.validate()?;
        ensure!(!self.metrics.is_empty(), "metrics is empty: there is nothing to measure");
        let mistaken = self.methods.iter().any(|method| method.captions == Captions::Mistaken);
        let asked = mistaken || self.metrics.contains(&Metric::WrongKind);
        let needed = "wrong_kind and captions = \"mistaken\" need pairs of words";
        ensure!(!asked || !self.alike.is_empty(), "alike is empty: {needed}, [[\"horse\", \"zebra\"]]");
        ensure!(self.fid.patch > 0, "fid.patch must be at least 1");
        ensure!(!self.benchmarks.is_empty(), "[[benchmarks]] are missing: each makes a table");
        ensure!(!self.methods.is_empty(), "[[methods]] are missing: each makes a row");
        for (i, benchmark) in self.benchmarks.iter().enumerate() {
            ensure!(benchmark.folder.file_name().is_some(), "benchmarks.{i}.folder is not set");
            let twice =
                self.benchmarks[..i].iter().any(|other| other.folder.file_name() == benchmark.folder.file_name());
            ensure!(!twice, "benchmarks.{i}.folder: two benchmarks have this name");
        }
        for (i, method) in self.methods.iter().enumerate() {
            ensure!(!method.name.is_empty(), "methods.{i}.name is not set");
            let twice = self.methods[..i].iter().any(|other| slug(&other.name) == slug(&method.name));
            ensure!(!twice, "methods.{i}.name = \"{}\": two methods have this name", method.name);
            if let Some(sampling) = &method.sampling {
                sampling.validate()?;
            }
            if let Some(text) = &method.prompt {
                prompt::parse(text).with_context(|| format!("methods.{i}.prompt = \"{text}\""))?;
            }
            ensure!(
                method.caption_words != Some(0),
                "methods.{i}.caption_words must be at least 1; semantic = false is none"
            );
            let factor = method.upscale.unwrap_or(1.0);
            ensure!(factor.is_finite() && factor >= 1.0, "methods.{i}.upscale must be at least 1 ({})", method.name);
            let known = |heading: &String| heading == "Sem" || heading.starts_with("Res");
            let told = method.kind == MethodKind::Folder || !method.marks.keys().any(known);
            ensure!(
                told,
                "methods.{i}.marks ({}): Sem and Res are what the prompts are, and can't be set",
                method.name
            );
            check_contradictions(i, method)?;
            let model = method.run.is_some() || method.control.is_some();
            match method.kind {
                MethodKind::Model => {
                    ensure!(model, "methods.{i} ({}): run, or control (with base), must be set", method.name)
                }
                MethodKind::Folder => {
                    ensure!(method.folder.is_some(), "methods.{i}.folder is not set ({})", method.name)
                }
                _ => {}
            }
            match (method.kind.network(), method.kind.generative(), &method.weights) {
                (Some(network), _, None) => bail!(
                    "methods.{i}.weights is not set ({}): the checkpoint; {} publishes those of {network}",
                    method.name,
                    network.published()
                ),
                (_, Some(kind), None) => {
                    bail!("methods.{i}.weights is not set ({}): the folder with the checkpoints of {kind}", method.name)
                }
                (None, None, Some(_)) => bail!(
                    "methods.{i}.weights ({}): only models of other authors have them, such as swinir and diffbir",
                    method.name
                ),
                _ => {}
            }
            if let Some(kind) = method.kind.generative() {
                let context = || format!("methods.{i}.settings ({})", method.name);
                let settings = kind.settings(&method.settings).with_context(context)?;
                ensure!(
                    method.semantic || !settings.needs_prompt(),
                    "methods.{i} ({}): strength and clip_guidance need the caption: remove semantic = false",
                    method.name
                );
            }
        }
        if let Some(name) =
            self.sheet.methods.iter().find(|name| !self.methods.iter().any(|method| method.name == **name))
        {
            bail!("sheet.methods: no method is called \"{name}\"");
        }
        if let Some(against) = &self.against {
            let known = self.methods.iter().any(|method| method.name == *against);
            ensure!(known, "against = \"{against}\": no method is called so");
        }
        if let Some(number) = self.paper_table {
            let known: Vec<String> = PublishedTable::all().iter().map(|table| table.number.to_string()).collect();
            let there = PublishedTable::of(number).is_some();
            ensure!(there, "paper_table = {number}: the paper's tables with figures are {}", known.join(", "));
        }
        Ok(())
    }
}

/// Checks that no key of a method excludes another one, which would be ignored.
fn check_contradictions(i: usize, method: &MethodConfig) -> Result<()> {
    let of_parts = [("base", method.base.is_some()), ("control", method.control.is_some())];
    let of_captions = [
        ("captions", method.captions != Captions::Own),
        ("captions_from", method.captions_from.is_some()),
        ("caption_words", method.caption_words.is_some()),
    ];
    let restoration = [("restoration", method.restoration != RestorationPrompt::default())];
    let of_model = [
        ("run", method.run.is_some()),
        ("prompt", method.prompt.is_some()),
        ("upscale", method.upscale.is_some()),
        ("sampling", method.sampling.is_some()),
    ];
    let of_models = [&of_model[..], &of_parts, &restoration].concat();
    let of_prompts = [&of_captions[..], &[("semantic", !method.semantic)]].concat();
    let tile = [("tile", method.tile.is_some())];
    let settings = [("settings", !method.settings.is_empty())];
    for (holds, reason, keys) in [
        (method.run.is_some(), "run has its own base and branch", &of_parts[..]),
        (!method.semantic, "semantic = false withholds the caption", &of_captions),
        (method.prompt.is_some(), "prompt is the restoration prompt of every picture", &restoration),
        (method.kind != MethodKind::Model, "kind is not \"model\"", &of_models),
        (!method.kind.reads_prompts(), "this kind reads no captions", &of_prompts),
        (method.kind.network().is_none(), "kind is not \"swinir\", \"bsrnet\" or \"scunet\"", &tile),
        (method.kind.generative().is_none(), "kind is not \"diffbir\" or \"stablesr\"", &settings),
        (method.kind != MethodKind::Folder, "kind is not \"folder\"", &[("folder", method.folder.is_some())]),
    ] {
        let set = keys.iter().find(|(_, is_set)| holds && *is_set);
        if let Some((key, _)) = set {
            bail!("methods.{i} ({}): {key} would be ignored, because {reason}: remove it", method.name);
        }
    }
    Ok(())
}

/// Converts a name to a folder name.
pub fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let dashed: String = name.chars().map(plain).collect();
    dashed.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut MethodConfig);

    fn method(change: impl Fn(&mut MethodConfig)) -> MethodConfig {
        let mut method =
            MethodConfig { name: "Model".into(), run: Some("runs/spire".into()), ..MethodConfig::default() };
        change(&mut method);
        method
    }

    #[test]
    fn a_key_that_another_one_excludes_is_an_error() {
        assert!(check_contradictions(0, &method(|_| ())).is_ok());
        let refused: [(&str, Change); 6] = [
            ("control would be ignored, because run", |method| method.control = Some("branch".into())),
            ("caption_words would be ignored", |method| (method.semantic, method.caption_words) = (false, Some(3))),
            ("restoration would be ignored", |method| {
                method.prompt = Some("Deblur".into());
                method.restoration = RestorationPrompt::Type;
            }),
            ("run would be ignored, because kind is not \"model\"", |method| method.kind = MethodKind::Input),
            ("semantic would be ignored", |method| {
                (method.kind, method.run, method.semantic) = (MethodKind::Folder, None, false);
            }),
            ("folder would be ignored", |method| method.folder = Some("pictures".into())),
        ];
        for (expected, change) in refused {
            let message = check_contradictions(2, &method(change)).unwrap_err().to_string();
            assert!(message.starts_with("methods.2 (Model): ") && message.contains(expected), "{message}");
        }
    }
}
