//! `spire data caption`, and the captions that `spire restore` asks for.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use spire_core::message::printable;
use spire_data::captioning::{CaptionFolder, CaptionSummary, Endpoint, EndpointSettings, Form};

use super::sampling::by_name;

/// The environment variable with the server's key, as other programs of this protocol have it.
const KEY: &str = "OPENAI_API_KEY";

/// Seconds that one answer may take, by default.
const TIMEOUT: u64 = 120;

/// How many pictures without a caption are named.
const NAMED: usize = 20;

#[derive(clap::Args)]
pub struct Caption {
    /// The folder of pictures; subfolders are searched too
    folder: PathBuf,
    /// Address of a server that speaks OpenAI's chat protocol (vLLM, llama.cpp, Ollama), such as
    /// http://127.0.0.1:8000/v1. The variable OPENAI_API_KEY holds its key, if it wants one
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// Name of the model on the server
    #[arg(long, value_name = "NAME")]
    model: String,
    /// long (about 60 words) or short (fewer than 20)
    #[arg(long, default_value = "long", value_parser = by_name::<Form>)]
    form: Form,
    /// Ask this instead of the question of --form
    #[arg(long, value_name = "TEXT", conflicts_with = "form")]
    prompt: Option<String>,
    /// Folder of the captions, NAME.txt for each NAME.png [default: beside the pictures]
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Requests at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    requests: u16,
    /// Seconds that one answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Ask again for captions that exist
    #[arg(long)]
    overwrite: bool,
    /// Print JSON: how many captions were written, existed already or failed
    #[arg(long)]
    json: bool,
}

/// Captions on the fly, for `spire restore`.
#[derive(clap::Args)]
pub struct Captioner {
    /// Ask a vision-language model on this server for the semantic prompt of each picture, as `spire data caption` does
    #[arg(long, value_name = "URL", requires = "caption_model", conflicts_with_all = ["semantic", "captions"])]
    caption_endpoint: Option<String>,
    /// Name of the model on the server
    #[arg(long, value_name = "NAME", requires = "caption_endpoint")]
    caption_model: Option<String>,
}

impl Captioner {
    /// The server, if it was asked for.
    pub fn endpoint(self) -> Option<Arc<Endpoint>> {
        let (url, model) = self.caption_endpoint.zip(self.caption_model)?;
        let prompt = Form::Long.prompt().to_owned();
        Some(Arc::new(endpoint(url, model, prompt, Duration::from_secs(TIMEOUT))))
    }
}

fn endpoint(url: String, model: String, prompt: String, timeout: Duration) -> Endpoint {
    let key = env::var(KEY).ok().filter(|key| !key.is_empty());
    Endpoint::new(EndpointSettings { url, model, prompt, key, timeout })
}

pub fn run(args: Caption) -> Result<ExitCode> {
    let prompt = args.prompt.unwrap_or_else(|| args.form.prompt().to_owned());
    let endpoint = endpoint(args.endpoint, args.model, prompt, Duration::from_secs(args.timeout));
    let folder = CaptionFolder {
        captions: args.output.unwrap_or_else(|| args.folder.clone()),
        pictures: args.folder,
        requests: args.requests.into(),
        overwrite: args.overwrite,
    };
    let summary = folder.fill(&endpoint)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        let CaptionSummary { written, kept, failed } = &summary;
        let place = folder.captions.display().to_string();
        say!("{written} captions written, {kept} existed already, {} failed; see {}", failed.len(), printable(&place))?;
        for (picture, reason) in failed.iter().take(NAMED) {
            say!("  {}: {}", printable(&picture.to_string_lossy()), printable(reason))?;
        }
        if failed.len() > NAMED {
            say!("  and {} more (--json lists them all)", failed.len() - NAMED)?;
        }
    }
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
