//! `spire benchmark`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use clap::Subcommand;
use spire_core::message::printable;
use spire_core::picture_file::{PictureFormat, save_rgb8};
use spire_core::progress::PhaseProgress;
use spire_core::sheet::{Note, Row, Sheet};
use spire_core::{Picture, parallel, settings};
use spire_data::testset::{Entry, Made, Recipe, check, make};

use super::check_sheet;

#[derive(clap::Args)]
pub struct Benchmark {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Choose and degrade the pictures of a recipe; write them with their prompts and checksums
    Make(Make),
    /// Compare a test set with its checksums
    Check(Check),
}

#[derive(clap::Args)]
struct Make {
    /// The recipe, TOML, such as configs/benchmarks/coco-parameterized.toml
    recipe: PathBuf,
    /// Folder of the test set [default: benchmarks/NAME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Threads [default: the number of processors]
    #[arg(long)]
    threads: Option<usize>,
    /// Draw a contact sheet of the first pictures
    #[arg(long, value_name = "PICTURE")]
    sheet: Option<PathBuf>,
    /// Override a key of the recipe; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(clap::Args)]
struct Check {
    /// Folder of the test set
    folder: PathBuf,
}

/// Rows of a contact sheet.
const ROWS: usize = 12;

pub fn run(args: Benchmark) -> Result<ExitCode> {
    match args.command {
        Command::Make(args) => write(&args),
        Command::Check(args) => compare(&args.folder),
    }
}

fn write(args: &Make) -> Result<ExitCode> {
    let recipe: Recipe = settings::load(&args.recipe, &args.overrides)?;
    args.sheet.as_deref().map(check_sheet).transpose()?;
    let folder = args.output.clone().unwrap_or_else(|| Path::new("benchmarks").join(&recipe.name));
    let bar = OnceLock::new();
    let advance =
        |wanted: usize, name: &str| bar.get_or_init(|| PhaseProgress::new("pictures", wanted as u64)).advance(name);
    let made = make(&recipe, &folder, args.threads.unwrap_or_else(parallel::available), &advance)?;
    drop(bar);

    say!("{}: {} pictures", made.folder.display(), made.entries.len())?;
    say!("skipped     {}", made.skipped.len())?;
    for skipped in &made.skipped {
        say!("            {}: {}", printable(&skipped.name), printable(&skipped.reason))?;
    }
    say!("checksum    {}", made.checksum)?;
    if let Some(path) = &args.sheet {
        save_rgb8(path, PictureFormat::of(path, None)?, &sheet(&made)?.draw())?;
        say!("{}", printable(&path.to_string_lossy()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn sheet(made: &Made) -> Result<Sheet> {
    let has_clean = made.folder.join("clean").is_dir();
    let below: &[&str] = if has_clean { &["clean", "degraded"] } else { &["degraded"] };
    let mut sheet = Sheet::new(below.iter().copied());
    for Entry { id, semantic, restoration, .. } in made.entries.iter().take(ROWS) {
        let open = |below: &&str| Picture::open(made.folder.join(below).join(format!("{id}.png")));
        let notes = [("semantic prompt", semantic), ("restoration prompt", restoration), ("picture", id)];
        sheet.rows.push(Row {
            pictures: below.iter().map(open).collect::<Result<_, _>>()?,
            notes: notes.map(|(title, text)| Note::new(title, text.clone())).into(),
        });
    }
    Ok(sheet)
}

fn compare(folder: &Path) -> Result<ExitCode> {
    ensure!(folder.is_dir(), "{}: no such folder", folder.display());
    let (files, sum, problems) = check(folder, parallel::available())?;
    for problem in &problems {
        say!("{problem}")?;
    }
    say!("{files} files, {} problems, checksum {sum}", problems.len())?;
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
