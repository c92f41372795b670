//! `spire eval`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, IntoInnerError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use spire_data::benchmark::{self, Benchmark, Entry, Recipe};
use spire_data::parallel;
use spire_eval::evaluation::{
    BenchmarkChoice, EvalConfig, MethodConfig, MethodKind, MethodProtocol, Prompts, Results, Scorer, Scores, Shown,
    ShownMethod, Table, slug, write_report,
};
use spire_train::checkpoint::write_atomic;
use spire_train::progress::FileProgress;
use spire_train::restore_files::{Job, JobSettings, Restored, Restorer};
use spire_train::settings;

use super::model::Found;

#[derive(clap::Args)]
pub struct Eval {
    /// The evaluation, TOML, such as configs/benchmarks/tiny.toml
    config: PathBuf,
    /// Override a key of the evaluation; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(args: Eval) -> Result<ExitCode> {
    let config: EvalConfig = settings::load(&args.config, &args.overrides)?;
    config.validate().with_context(|| args.config.display().to_string())?;
    let output = config.output.clone().unwrap_or_else(|| Path::new("results").join(&config.name));
    let device = spire_model::device::device(&config.device)?;
    let benchmarks = config.benchmarks.iter().map(open).collect::<Result<Vec<_>>>()?;
    let scorer = Scorer::load(&config, &device)?;

    let mut results = Results::new(&config, &scorer);
    let mut models = Models::default();
    let mut rows: Vec<Vec<(String, MethodProtocol, Scores)>> = vec![vec![]; benchmarks.len()];
    let mut shown: Vec<Shown> = benchmarks.iter().map(|benchmark| Shown { benchmark, methods: vec![] }).collect();
    for method in &config.methods {
        for ((benchmark, rows), shown) in benchmarks.iter().zip(&mut rows).zip(&mut shown) {
            let (files, mut made) = pictures(method, &config, benchmark, &output, &mut models)
                .with_context(|| format!("{} on {}", method.name, benchmark.folder.display()))?;
            let progress = FileProgress::new(benchmark.entries.len() as u64);
            let scores = scorer
                .score(benchmark, &files, &|entry| {
                    progress.advance(&format!("{}: measuring {}", method.name, entry.id))
                })
                .with_context(|| method.name.clone())?;
            if let MethodProtocol::Folder { files } = &mut made {
                files.clone_from(&scores.files);
            }
            rows.push((method.name.clone(), made, scores));
            shown.methods.push(ShownMethod {
                name: method.name.clone(),
                files: benchmark.entries.iter().map(files).collect(),
                prompts: match method.kind {
                    MethodKind::Model => method.prompts(&benchmark.entries, config.seed)?,
                    MethodKind::Input | MethodKind::Folder => vec![],
                },
            });
        }
    }
    for ((choice, benchmark), rows) in config.benchmarks.iter().zip(&benchmarks).zip(&rows) {
        results.add(&choice.title, benchmark, &scorer, rows, config.against.as_deref());
    }
    write(&results, &output)?;
    report(&results, &shown, config.report_pictures, &output)?;
    Ok(ExitCode::SUCCESS)
}

/// `report.html`; says how large it is.
fn report(results: &Results, shown: &[Shown], pictures: usize, output: &Path) -> Result<()> {
    let (path, part) = (output.join("report.html"), output.join("report.html.part"));
    let mut file = BufWriter::new(File::create(&part).with_context(|| format!("can't create {}", part.display()))?);
    write_report(results, shown, pictures, &mut file)?;
    let file = file.into_inner().map_err(IntoInnerError::into_error).context("can't write the report")?;
    let size = file.metadata()?.len();
    std::fs::rename(&part, &path).with_context(|| format!("can't create {}", path.display()))?;
    println!("{}, {:.1} MB", path.display(), size as f64 / 1e6);
    Ok(())
}

/// A benchmark that is there, or is made by its recipe.
fn open(choice: &BenchmarkChoice) -> Result<Benchmark> {
    if !choice.folder.exists()
        && let Some(recipe) = &choice.recipe
    {
        let recipe: Recipe = settings::load(recipe, &[])?;
        benchmark::make(&recipe, &choice.folder, parallel::available(), &|_, _| ())?;
    }
    Ok(Benchmark::open(&choice.folder, parallel::available())?)
}

/// What is at hand already.
#[derive(Default)]
struct Models {
    /// Models and the checksums of their branches, by where they are from.
    loaded: BTreeMap<String, (Restorer, String)>,
    restored: Restored,
}

/// Finds the file of an entry's restored picture.
type Files = Box<dyn Fn(&Entry) -> PathBuf>;

/// A method's pictures of a benchmark: where they are, and how they were made. Makes those that are not there.
fn pictures(
    method: &MethodConfig,
    config: &EvalConfig,
    benchmark: &Benchmark,
    output: &Path,
    models: &mut Models,
) -> Result<(Files, MethodProtocol)> {
    let name = benchmark.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let in_folder = |folder: PathBuf| -> Files { Box::new(move |entry| folder.join(format!("{}.png", entry.id))) };
    match method.kind {
        MethodKind::Input => {
            let benchmark = benchmark.clone();
            Ok((Box::new(move |entry| benchmark.degraded(entry)), MethodProtocol::Input))
        }
        MethodKind::Folder => {
            let folder = method.folder.as_deref().unwrap_or_default().replace("{benchmark}", &name);
            Ok((in_folder(folder.into()), MethodProtocol::Folder { files: String::new() }))
        }
        MethodKind::Model => {
            let key = format!("{:?} {:?} {:?}", method.run, method.base, method.control);
            if !models.loaded.contains_key(&key) {
                let base_and_control = method.base.as_deref().zip(method.control.as_deref());
                let found = Found::locate(method.run.as_deref(), base_and_control)?;
                let checksum = found.checksum()?;
                let mut restorer = found.load(Some(&config.device), None)?;
                // Pictures of the same folder with other weights are others.
                restorer.run = format!("{}, control {}", restorer.run, &checksum[..8]);
                models.loaded.insert(key.clone(), (restorer, checksum));
            }
            let (restorer, checksum) = &models.loaded[&key];
            let sampling = method.sampling.as_ref().unwrap_or(&config.sampling);
            let folder = output.join("restored").join(&name).join(slug(&method.name));
            let prompts = method.prompts(&benchmark.entries, config.seed)?;
            let job = |(i, (entry, prompts)): (usize, (&Entry, Prompts))| Job {
                input: benchmark.degraded(entry),
                output: folder.join(format!("{}.png", entry.id)),
                semantic: prompts.semantic,
                restoration: prompts.restoration,
                seed: config.seed + i as u64,
            };
            let jobs: Vec<Job> = benchmark.entries.iter().zip(prompts).enumerate().map(job).collect();
            let progress = FileProgress::new(jobs.len() as u64);
            let advance = |job: &Job| {
                let name = job.output.file_name().unwrap_or_default().to_string_lossy();
                progress.advance(&format!("{}: restoring {name}", method.name));
            };
            let settings =
                JobSettings { sampling: sampling.clone(), batch_size: config.batch_size, threads: config.threads };
            restorer.restore_jobs(&jobs, &settings, &models.restored, &advance)?;
            let made = MethodProtocol::Model {
                model: restorer.run.clone(),
                control: checksum.clone(),
                semantic: method.semantic,
                restoration: method.restoration_told(),
                seed: config.seed,
                sampling: sampling.clone(),
                captions: method.captions_told(),
            };
            Ok((in_folder(folder), made))
        }
    }
}

/// `results.json`, and the tables as `tables.md`, `tables.tex` and one `.csv` each; prints the first.
fn write(results: &Results, output: &Path) -> Result<()> {
    std::fs::create_dir_all(output).with_context(|| format!("can't create {}", output.display()))?;
    let tables = results.tables();
    let markdown = tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n");
    let latex = tables.iter().map(Table::latex).collect::<Vec<_>>().join("\n");
    write_atomic(&output.join("results.json"), serde_json::to_string_pretty(results)?.as_bytes())?;
    write_atomic(&output.join("tables.md"), markdown.as_bytes())?;
    write_atomic(&output.join("tables.tex"), latex.as_bytes())?;
    for table in &tables {
        write_atomic(&output.join(format!("{}.csv", slug(&table.title))), table.csv().as_bytes())?;
    }
    println!("{markdown}\n{}", output.display());
    Ok(())
}
