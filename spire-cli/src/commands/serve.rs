//! `spire serve`

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use spire_model::weights::Precision;
use spire_restore::trained_model::TrainedModel;
use spire_serve::models::Model;
use spire_serve::{ServeSettings, serve};

use super::sampling::by_name;
use crate::signals::interruption;

#[derive(clap::Args)]
pub struct Serve {
    /// Serve the model of this run; may be repeated to compare models [default: the built-in model]
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The text-to-image model, a folder, a single file or a name on the Hugging Face Hub
    #[arg(long, value_name = "MODEL", requires = "control")]
    base: Option<PathBuf>,
    /// The control branch or a public ControlNet for --base, a folder or a name on the Hugging Face Hub
    #[arg(long, value_name = "BRANCH", requires = "base")]
    control: Option<PathBuf>,
    /// The address to listen on; if other machines can reach it, a token is required
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// 0 for any free port
    #[arg(long, default_value_t = 7860)]
    port: u16,
    /// The token that clients have to show, or the environment variable SPIRE_TOKEN [default: a random one if other
    /// machines can reach --host]
    #[arg(long, value_parser = token)]
    token: Option<String>,
    /// Float type of the text-to-image models: f32, bf16 or f16
    #[arg(long, value_parser = by_name::<Precision>)]
    precision: Option<Precision>,
    /// flex (the CPU), cuda:0, vulkan, …; the same for all models
    #[arg(long)]
    device: Option<String>,
}

/// A token goes into an address, a header and a cookie.
fn token(text: &str) -> Result<String> {
    let good = text.len() >= 8 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c));
    anyhow::ensure!(good, "a token has at least 8 letters, digits or -._~");
    Ok(text.to_owned())
}

pub fn run(args: Serve) -> Result<ExitCode> {
    let stop = interruption("Stopping; press Ctrl-C again to stop at once.")?;
    let models = args.load()?;
    let of_environment = || std::env::var("SPIRE_TOKEN").ok().map(|text| token(&text)).transpose();
    let token = match args.token {
        Some(token) => Some(token),
        None => of_environment().context("SPIRE_TOKEN")?,
    };
    let settings = ServeSettings { host: args.host, port: args.port, token };
    if args.host.is_unspecified() {
        tracing::warn!("other machines can reach this server by this machine's name; the connection is not encrypted");
    }
    serve(models, &settings, &stop, |address| {
        let _ = say!("The playground is at {address} (Ctrl-C to stop)");
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Serve {
    fn load(&self) -> Result<Vec<Model>> {
        let mut models: Vec<Model> = vec![];
        let mut add = |found: TrainedModel, name: String, options: String| -> Result<()> {
            let sampling = found.sampling.clone();
            let restorer = found.load(self.device.as_deref(), self.precision)?;
            let same = models.iter().filter(|model| model.name() == name).count();
            let name = if same == 0 { name } else { format!("{name} ({})", models.len() + 1) };
            models.push(Model::new(&name, &options, restorer, sampling)?);
            Ok(())
        };
        if self.runs.is_empty() && self.base.is_none() {
            add(TrainedModel::locate(None, None, None)?, "built-in".to_owned(), String::new())?;
        }
        for run in &self.runs {
            let name = last_part(run)?;
            add(TrainedModel::locate(Some(run), None, None)?, name.clone(), format!("--run {name}"))?;
        }
        if let (Some(base), Some(control)) = (&self.base, &self.control) {
            let found = TrainedModel::locate(None, Some(base), Some(control))?;
            let [base, control] = [public_name(base)?, public_name(control)?];
            add(found, format!("{base} with {control}"), format!("--base {base} --control {control}"))?;
        }
        Ok(models)
    }
}

/// The name of a model on the Hub, or the last part of a path: where it lies on this machine is nobody's business.
fn public_name(model: &Path) -> Result<String> {
    if model.exists() { last_part(model) } else { Ok(model.display().to_string()) }
}

fn last_part(path: &Path) -> Result<String> {
    let whole = path.canonicalize().with_context(|| format!("can't open {}", path.display()))?;
    Ok(whole.file_name().unwrap_or_default().to_string_lossy().into_owned())
}
