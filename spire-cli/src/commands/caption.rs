//! `spire data caption`

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use spire_core::message::printable;
use spire_data::captioning::{CaptionFolder, CaptionSummary, Endpoint, EndpointSettings, Form};

use super::restore::by_name;

/// The environment variable with the server's key, as other programs of this protocol have it.
const KEY: &str = "OPENAI_API_KEY";

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
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Ask again for captions that exist
    #[arg(long)]
    overwrite: bool,
    /// Print JSON: how many captions were written, existed already or failed
    #[arg(long)]
    json: bool,
}

pub fn run(args: Caption) -> Result<ExitCode> {
    let endpoint = Endpoint::new(EndpointSettings {
        url: args.endpoint,
        model: args.model,
        prompt: args.prompt.unwrap_or_else(|| args.form.prompt().to_owned()),
        key: env::var(KEY).ok().filter(|key| !key.is_empty()),
        timeout: Duration::from_secs(args.timeout),
    });
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
