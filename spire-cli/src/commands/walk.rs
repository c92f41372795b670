//! `spire walk`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use spire_core::atomic_write::{check_output, write_atomic};
use spire_core::message::printable;
use spire_core::picture_file::{self, PictureFormat};
use spire_core::{Picture, sheet};
use spire_data::prompt::{self, StepKind};
use spire_restore::walk::{Axis, Path, axes, walk};

use super::model::Model;
use super::sampling::Sampling;

#[derive(clap::Args)]
pub struct Walk {
    /// The degraded picture
    image: PathBuf,
    /// The grid, .png, .jpg or .webp; prompts and figures are written beside it as JSON
    #[arg(short, long, value_name = "PICTURE")]
    output: PathBuf,
    #[command(flatten)]
    model: Model,
    /// Numbers of "Deblur with sigma …". One or two of --deblur, --upsample, --denoise and --dejpeg make the grid: the first
    /// of these its rows, the second its columns; 0 leaves the request out [default: 0,1,2,3,4, and 0,0.06,0.12,0.18,0.24
    /// of --denoise]
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    deblur: Vec<f32>,
    /// Numbers of "Upsample to …x"
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    upsample: Vec<f32>,
    /// Numbers of "Denoise with sigma …"
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    denoise: Vec<f32>,
    /// Numbers of "Dejpeg with quality …"
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    dejpeg: Vec<f32>,
    /// Semantic prompt: what the picture shows. If repeated: one restoration per prompt, in a row, instead of the grid
    #[arg(long = "semantic", value_name = "PROMPT")]
    semantics: Vec<String>,
    /// With several semantic prompts: the restoration prompt
    #[arg(long, default_value = prompt::REMOVE_ALL)]
    restoration: String,
    #[command(flatten)]
    sampling: Sampling,
    /// Seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long)]
    device: Option<String>,
}

pub fn run(args: Walk) -> Result<ExitCode> {
    let json = args.output.with_extension("json");
    let format = PictureFormat::of(&args.output, None)?;
    for output in [&args.output, &json] {
        check_output(output, &args.image)?;
    }
    let degraded = Picture::open(&args.image)?;
    let path = match args.semantics.as_slice() {
        [] | [_] => {
            let semantic = args.semantics.first().cloned().unwrap_or_default();
            match Path::over(axes(args.deblur, args.upsample, args.denoise, args.dejpeg), semantic.clone())? {
                Some(path) => path,
                None => Path::Strengths {
                    rows: Some(Axis { kind: StepKind::Blur, numbers: vec![0.0, 1.0, 2.0, 3.0, 4.0] }),
                    columns: Axis { kind: StepKind::Noise, numbers: vec![0.0, 0.06, 0.12, 0.18, 0.24] },
                    semantic,
                },
            }
        }
        several => Path::Semantics { prompts: several.to_vec(), restoration: args.restoration },
    };
    let model = args.model.locate()?;
    let (sampling, batch_size) = (args.sampling.over(model.sampling.clone()), model.batch_size);
    sampling.validate()?;
    let mut restorer = model.load(args.device.as_deref(), None)?;
    restorer.guide_by(sampling.clip_guidance.as_ref())?;
    restorer.warn_of_small(&degraded, &args.image);

    let walked = walk(&restorer, &sampling, &degraded, &path, args.seed, batch_size)?;
    write_atomic(&json, serde_json::to_string_pretty(&walked)?.as_bytes())?;
    picture_file::save_rgb8(&args.output, format, &sheet::grid(walked.columns, &walked.captioned()))?;
    say!("{}\n{}", printable(&args.output.to_string_lossy()), printable(&json.to_string_lossy()))?;
    Ok(ExitCode::SUCCESS)
}
