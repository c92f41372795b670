//! `spire eval`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use spire_data::benchmark::{self, Benchmark, Entry, Recipe};
use spire_data::parallel;
use spire_eval::evaluation::{
    BenchmarkChoice, EvalConfig, Ground, MethodConfig, MethodProtocol, Results, ScoreSettings, Scorer, Table, slug,
};
use spire_train::checkpoint::write_atomic;
use spire_train::methods::{self, Methods};
use spire_train::progress::FileProgress;
use spire_train::settings;

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
    let mut unavailable = Unavailable::default();
    for (method, benchmark) in pairs(&config, &benchmarks) {
        unavailable.note(method, benchmark, Methods::check(method, benchmark));
    }
    let scorer = Scorer::load(&config, &device)?;
    let settings = ScoreSettings { batch_size: config.batch_size, threads: config.threads };

    let mut methods = Methods::default();
    let mut results = Results::new(&config.name, &scorer);
    for (choice, benchmark) in config.benchmarks.iter().zip(&benchmarks) {
        let measured = output.join("measured").join(methods::name(benchmark));
        let kept = |name: &str| measured.join(format!("{name}.jsonl"));
        let progress = FileProgress::new(benchmark.entries.len() as u64);
        let advance = |entry: &Entry| progress.advance(&format!("clean pictures: measuring {}", entry.id));
        let ground = Ground::measure(&scorer, benchmark, &kept("clean"), settings, &advance)?;
        let mut rows = vec![];
        for method in &config.methods {
            if unavailable.has(method, benchmark) {
                continue;
            }
            let mut score = || -> Result<_> {
                let (pictures, mut made) = methods.pictures(method, &config, benchmark, &output)?;
                let progress = FileProgress::new(benchmark.entries.len() as u64);
                let advance = |entry: &Entry| progress.advance(&format!("{}: measuring {}", method.name, entry.id));
                let file = |entry: &Entry| pictures.file(benchmark, entry);
                let scores = ground.score(&scorer, &file, &kept(&slug(&method.name)), settings, &advance)?;
                if let MethodProtocol::Folder { files } = &mut made {
                    files.clone_from(&scores.files);
                }
                Ok((method.name.clone(), made, scores))
            };
            match score() {
                Ok(row) => rows.push(row),
                Err(error) => unavailable.note(method, benchmark, Err(error)),
            }
        }
        results.add(&choice.title, benchmark, &scorer, &rows, config.against.as_deref());
    }
    write(&results, &output)?;
    Ok(unavailable.exit_code())
}

fn pairs<'a>(
    config: &'a EvalConfig,
    benchmarks: &'a [Benchmark],
) -> impl Iterator<Item = (&'a MethodConfig, &'a Benchmark)> {
    config.methods.iter().flat_map(move |method| benchmarks.iter().map(move |benchmark| (method, benchmark)))
}

/// Why a method has no figures on a benchmark. The others do not wait for it.
#[derive(Default)]
struct Unavailable {
    reasons: BTreeMap<(String, PathBuf), String>,
}

impl Unavailable {
    fn note(&mut self, method: &MethodConfig, benchmark: &Benchmark, outcome: Result<()>) {
        if let Err(error) = outcome {
            let (name, folder) = (method.name.clone(), benchmark.folder.clone());
            tracing::error!("{name} on {}: {error:#}", folder.display());
            self.reasons.insert((name, folder), format!("{error:#}"));
        }
    }

    fn has(&self, method: &MethodConfig, benchmark: &Benchmark) -> bool {
        self.reasons.contains_key(&(method.name.clone(), benchmark.folder.clone()))
    }

    fn exit_code(&self) -> ExitCode {
        if self.reasons.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
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
