//! Inspects a model on disk and checks that its weights fit: `spire weights inspect`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Value, json};
use spire_core::message::{printable, with_causes};

use super::single_file::SingleFile;
use super::{Misfits, Tensors, read_config, weights_file};
use crate::clip::{self, ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use crate::control::{Control, ControlConfig};
use crate::unet::{UNet, UNetConfig};
use crate::vae::{self, Vae, VaeConfig};

/// The sub-folders of a model's parts.
const PARTS: [&str; 5] = ["text_encoder", "vae", "unet", "image_encoder", "control"];

/// One network of a model.
#[derive(Debug)]
pub struct Part {
    /// Its folder's name, or its name in a single file.
    pub name: String,
    /// The kind of network in its configuration.
    pub kind: String,
    /// Its weights, under diffusers' names.
    pub tensors: Tensors,
    /// The differences from the network; `None` if the network is unknown.
    pub misfits: Option<Misfits>,
    /// The tensors with values that are NaN or infinite.
    pub not_finite: Vec<String>,
}

/// The result of an inspection; displayed as a table.
#[derive(Debug)]
pub struct Inspection {
    /// The readable parts.
    pub parts: Vec<Part>,
    /// The unreadable parts, with the reason.
    pub unreadable: Vec<(String, anyhow::Error)>,
    /// Whether every tensor is listed.
    pub list_tensors: bool,
}

impl Inspection {
    /// Whether all parts are readable, fit, and have only finite values.
    pub fn fits(&self) -> bool {
        let fit = |part: &Part| part.misfits.as_ref().is_none_or(Misfits::is_empty) && part.not_finite.is_empty();
        self.unreadable.is_empty() && self.parts.iter().all(fit)
    }
}

/// Inspects a model folder, the folder of one part, a single-file model or a weights file. Reads all values, one
/// tensor at a time.
///
/// # Errors
/// The path is not a model.
pub fn inspect(path: &Path, list_tensors: bool) -> Result<Inspection> {
    // No tensor is allocated on it.
    let device = &Device::flex();
    let mut inspection = Inspection { parts: vec![], unreadable: vec![], list_tensors };
    let mut add = |name: &str, part: Result<Part>| match part {
        Ok(part) => inspection.parts.push(part),
        Err(error) => inspection.unreadable.push((name.to_owned(), error)),
    };
    if path.is_file() {
        let tensors = Tensors::open(path)?;
        if SingleFile::recognise(&tensors) {
            let file = SingleFile::new(tensors)?;
            let text = file.text_encoder();
            add("text_encoder", text.and_then(|(config, t)| part("text_encoder", ClipText::new(&config, device)?, t)));
            add("vae", file.vae().and_then(|(config, t)| part("vae", Vae::new(&config, device)?, t)));
            add("unet", file.unet().and_then(|(config, t)| part("unet", UNet::new(&config, device)?, t)));
        } else {
            let kind = "tensors without config.json".to_owned();
            add("weights", unknown("weights", kind, tensors));
        }
        return Ok(inspection);
    }
    ensure!(path.is_dir(), "there is no folder or file {}", path.display());
    for name in PARTS.into_iter().filter(|name| path.join(name).is_dir()) {
        add(name, folder(name, &path.join(name), device));
    }
    if path.join("config.json").is_file() || weights_file(path).is_ok() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add(&name, folder(&name, path, device));
    }
    ensure!(
        !inspection.parts.is_empty() || !inspection.unreadable.is_empty(),
        "{} is not a model: it has none of {} and no config.json",
        path.display(),
        PARTS.map(|name| format!("{name}/")).join(", ")
    );
    Ok(inspection)
}

/// The kind of network in `config.json`.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_class_name", default)]
    class_name: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
}

fn folder(name: &str, folder: &Path, device: &Device) -> Result<Part> {
    let kind: Kind = read_config(folder, "config.json")?;
    let class = kind.class_name.or_else(|| kind.architectures.first().cloned()).unwrap_or_default();
    let tensors = Tensors::in_folder(folder)?;
    match class.as_str() {
        "UNet2DConditionModel" => part(name, UNet::new(&UNetConfig::read(folder)?, device)?, tensors),
        "AutoencoderKL" => part(name, Vae::new(&VaeConfig::read(folder)?, device)?, vae::with_current_names(&tensors)),
        "ControlNetModel" | "SpireControl" => part(name, Control::new(&ControlConfig::read(folder)?, device)?, tensors),
        class if class.starts_with("CLIPText") => {
            let config = ClipTextConfig::read(folder)?;
            part(name, ClipText::new(&config, device)?, clip::text::with_full_names(&tensors))
        }
        class if class.starts_with("CLIPVision") => {
            part(name, ClipVision::new(&ClipVisionConfig::read(folder)?, device)?, tensors)
        }
        other => {
            let kind = format!("{other}, which is not a network of this program");
            unknown(name, kind, tensors)
        }
    }
}

fn part<M: Module>(name: &str, module: M, tensors: Tensors) -> Result<Part> {
    let misfits = Some(Misfits::between(&module, &tensors));
    let path = std::any::type_name::<M>();
    let kind = path.rsplit("::").next().unwrap_or(path).to_owned();
    Ok(Part { name: name.to_owned(), kind, not_finite: tensors.not_finite()?, tensors, misfits })
}

/// A part that no network of this program fits.
fn unknown(name: &str, kind: String, tensors: Tensors) -> Result<Part> {
    Ok(Part { name: name.to_owned(), kind, not_finite: tensors.not_finite()?, tensors, misfits: None })
}

impl Part {
    /// The number of values in all tensors.
    fn parameters(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }

    /// The types of the tensors, each once, sorted.
    fn types(&self) -> BTreeSet<String> {
        self.tensors.iter().map(|tensor| format!("{:?}", tensor.dtype)).collect()
    }

    /// What does not fit the network, in a sentence.
    fn misfit(&self) -> Option<String> {
        self.misfits.as_ref().filter(|misfits| !misfits.is_empty()).map(Misfits::to_string)
    }

    fn json(&self, list_tensors: bool) -> Value {
        let mut part = json!({
            "name": self.name,
            "network": self.kind,
            "known": self.misfits.is_some(),
            "parameters": self.parameters(),
            "types": self.types(),
            "file": self.tensors.origin(),
            "does_not_fit": self.misfit(),
            "not_finite": self.not_finite,
        });
        if list_tensors {
            let tensor = |tensor: &burn_store::burn_pack::Tensor| json!({ "name": tensor.name, "shape": tensor.shape.to_vec(), "type": format!("{:?}", tensor.dtype) });
            part["tensors"] = self.tensors.iter().map(tensor).collect();
        }
        part
    }
}

impl Inspection {
    /// The inspection for programs to read.
    pub fn json(&self) -> Value {
        let unreadable = self.unreadable.iter();
        json!({
            "fits": self.fits(),
            "parts": self.parts.iter().map(|part| part.json(self.list_tensors)).collect::<Vec<_>>(),
            "unreadable": unreadable
                .map(|(name, error)| json!({ "name": name, "reason": with_causes(error.as_ref()) }))
                .collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.list_tensors {
            for part in &self.parts {
                writeln!(f, "{}", printable(&part.name))?;
                for tensor in part.tensors.iter() {
                    writeln!(f, "  {:<90} {:?} {:?}", printable(&tensor.name), tensor.shape.to_vec(), tensor.dtype)?;
                }
            }
            writeln!(f)?;
        }
        writeln!(f, "{:<14} {:<12} {:>8} {:>14}  {:<16} file", "part", "network", "tensors", "parameters", "types")?;
        for part in &self.parts {
            writeln!(
                f,
                "{:<14} {:<12} {:>8} {:>14}  {:<16} {}",
                printable(&part.name),
                printable(&part.kind),
                part.tensors.len(),
                part.parameters(),
                part.types().into_iter().collect::<Vec<_>>().join(" "),
                printable(part.tensors.origin())
            )?;
        }
        for part in &self.parts {
            if let Some(misfit) = part.misfit() {
                writeln!(f, "{}: does not fit: {}", printable(&part.name), printable(&misfit))?;
            }
            for tensor in &part.not_finite {
                writeln!(f, "{}: {}", printable(&part.name), printable(tensor))?;
            }
        }
        for (name, error) in &self.unreadable {
            writeln!(f, "{}: {}", printable(name), printable(&with_causes(error.as_ref())))?;
        }
        if self.fits() {
            write!(f, "everything fits")?;
        }
        Ok(())
    }
}
