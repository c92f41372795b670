//! Evaluations: methods on test sets, from the recipe to tables and report (`spire eval`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use spire_core::atomic_write::{AtomicFile, write_atomic};
use spire_core::folder_lock::FolderLock;
use spire_core::message::with_causes;
use spire_core::progress::PhaseProgress;
use spire_core::shard::Shard;
use spire_core::{parallel, settings, sheet};
use spire_data::testset::{self, Entry, Recipe, TestSet};
use spire_eval::evaluation::{
    BenchmarkChoice, EvalConfig, Ground, MethodConfig, MethodKind, MethodProtocol, Results, ScoreSettings, Scorer,
    Scores, SheetConfig, Shown, ShownMethod, Table, slug, write_report,
};

use crate::evaluation_sheet;
use crate::methods::{self, Methods};
use crate::sharing::Sharing;

/// A finished evaluation.
#[derive(Debug)]
pub struct Evaluated {
    /// All figures.
    pub results: Results,
    benchmarks: Vec<TestSet>,
    /// The pictures of each test set's methods.
    methods: Vec<Vec<ShownMethod>>,
    sheet: SheetConfig,
    /// Held until everything is written.
    _lock: FolderLock,
}

/// Measures every method on every test set. Missing test sets are made from their recipes, missing pictures of models
/// are restored into `output`. A method that can't be measured is reported; the others are still measured.
///
/// # Errors
/// A test set can't be opened or made; the weights of a metric do not fit; another process uses `output`.
pub fn evaluate(config: &EvalConfig, output: &Path) -> Result<Evaluated> {
    let sharing = Sharing::new(config.devices(), Shard::WHOLE)?;
    let benchmarks = config.benchmarks.iter().map(open).collect::<Result<Vec<_>>>()?;
    let unready = unready(config, &benchmarks);
    let scorer = Scorer::load(config, &spire_model::device::device(sharing.first_device())?)?;
    let lock = FolderLock::take(output)?;

    let mut made = Methods::new(sharing);
    let mut results = Results::new(config, &scorer);
    let mut shown = vec![];
    for ((choice, benchmark), mut reasons) in config.benchmarks.iter().zip(&benchmarks).zip(unready) {
        let measuring = Measuring { config, scorer: &scorer, benchmark, output };
        let ground = measuring.ground()?;
        ground.missing_columns(&scorer).iter().for_each(|sentence| tracing::warn!("{sentence}"));
        let (mut rows, mut pictures) = (vec![], vec![]);
        for method in &config.methods {
            if reasons.contains_key(&method.name) {
                continue;
            }
            match measuring.score(method, &ground, &mut made) {
                Ok((row, of_method)) => {
                    rows.push(row);
                    pictures.push(of_method);
                }
                Err(error) => note(&mut reasons, method, benchmark, &error),
            }
        }
        results.add(&choice.title, benchmark, &scorer, &rows, reasons, config.against.as_deref());
        shown.push(pictures);
    }
    Ok(Evaluated { results, benchmarks, methods: shown, sheet: config.sheet.clone(), _lock: lock })
}

/// Restores the part `shard` of the pictures of every model into `output`, and measures nothing. Other processes may restore
/// other parts at the same time; [`evaluate`] then measures all. Returns whether every method is ready: one that is not is
/// reported, and the pictures of the others are restored.
///
/// # Errors
/// A test set can't be opened or is not made yet; a device is unknown; a process measures into `output`.
pub fn restore_part(config: &EvalConfig, output: &Path, shard: Shard) -> Result<bool> {
    let sharing = Sharing::new(config.devices(), shard)?;
    for BenchmarkChoice { folder, recipe, .. } in &config.benchmarks {
        if let (false, Some(recipe)) = (folder.exists(), recipe) {
            let [folder, recipe] = [folder, recipe].map(|path| path.display());
            bail!(
                "there is no test set {folder}, and several processes can't make it at once: begin with spire benchmark make \
                 {recipe} -o {folder}"
            );
        }
    }
    let benchmarks = config.benchmarks.iter().map(open).collect::<Result<Vec<_>>>()?;
    let _lock = FolderLock::share(output)?;
    let mut methods = Methods::new(sharing);
    let mut is_ready = true;
    for (benchmark, mut reasons) in benchmarks.iter().zip(unready(config, &benchmarks)) {
        for method in &config.methods {
            if !reasons.contains_key(&method.name)
                && let Err(error) = methods.pictures(method, config, benchmark, output)
            {
                note(&mut reasons, method, benchmark, &error);
            }
        }
        is_ready &= reasons.is_empty();
    }
    Ok(is_ready)
}

/// For each test set, the methods whose files are missing, with the reason. They are reported before the slow work.
fn unready(config: &EvalConfig, benchmarks: &[TestSet]) -> Vec<BTreeMap<String, String>> {
    let of = |benchmark: &TestSet| {
        let mut reasons = BTreeMap::new();
        for method in &config.methods {
            Methods::check(method, &methods::name(benchmark))
                .unwrap_or_else(|error| note(&mut reasons, method, benchmark, &error));
        }
        reasons
    };
    benchmarks.iter().map(of).collect()
}

fn note(reasons: &mut BTreeMap<String, String>, method: &MethodConfig, benchmark: &TestSet, error: &anyhow::Error) {
    let reason = with_causes(error.as_ref());
    tracing::error!("{} on {}: {reason}", method.name, benchmark.folder.display());
    reasons.insert(method.name.clone(), reason);
}

/// Opens a test set; makes it first if it is missing and has a recipe.
fn open(choice: &BenchmarkChoice) -> Result<TestSet> {
    if !choice.folder.exists()
        && let Some(recipe) = &choice.recipe
    {
        let recipe: Recipe = settings::load(recipe, &[])?;
        testset::make(&recipe, &choice.folder, parallel::available(), &|_, _| ())?;
    }
    Ok(TestSet::open(&choice.folder, parallel::available())?)
}

/// The measurements on one test set.
struct Measuring<'a> {
    config: &'a EvalConfig,
    scorer: &'a Scorer,
    benchmark: &'a TestSet,
    output: &'a Path,
}

impl<'a> Measuring<'a> {
    fn ground(&self) -> Result<Ground<'a>> {
        let advance = self.progress("clean pictures");
        Ground::measure(self.scorer, self.benchmark, &self.measured_file("clean"), self.settings(), &advance)
    }

    fn score(
        &self,
        method: &MethodConfig,
        ground: &Ground,
        made: &mut Methods,
    ) -> Result<((String, MethodProtocol, Scores), ShownMethod)> {
        let (pictures, protocol) = made.pictures(method, self.config, self.benchmark, self.output)?;
        let mut protocol = protocol.context("the test set has no pictures")?;
        let file = |entry: &Entry| pictures.file(self.benchmark, entry);
        let advance = self.progress(&method.name);
        let scores =
            ground.score(self.scorer, &file, &self.measured_file(&slug(&method.name)), self.settings(), &advance)?;
        if let MethodProtocol::Folder { files } = &mut protocol {
            files.clone_from(&scores.files);
        }
        let mut prompts = match method.kind.reads_prompts() {
            true => method.prompts(&self.benchmark.entries, &self.config.alike, self.config.seed)?,
            false => vec![],
        };
        if method.kind != MethodKind::Model {
            // Models of other authors read no restoration prompt.
            prompts.iter_mut().for_each(|prompts| prompts.restoration.clear());
        }
        let files = self.benchmark.entries.iter().map(file).collect();
        let shown = ShownMethod { name: method.name.clone(), files, prompts };
        Ok(((method.name.clone(), protocol, scores), shown))
    }

    fn settings(&self) -> ScoreSettings {
        ScoreSettings { batch_size: self.config.batch_size, threads: self.config.threads() }
    }

    /// The file that keeps measurements, so that they are not repeated.
    fn measured_file(&self, name: &str) -> PathBuf {
        self.output.join("measured").join(methods::name(self.benchmark)).join(format!("{name}.jsonl"))
    }

    fn progress(&self, what: &str) -> impl Fn(&Entry) + Sync + use<> {
        let progress = PhaseProgress::new(&format!("{what}: measuring"), self.benchmark.entries.len() as u64);
        move |entry| progress.advance(&entry.id)
    }
}

impl Evaluated {
    /// Whether every method was measured on every test set.
    pub fn is_complete(&self) -> bool {
        self.results.benchmarks.iter().all(|benchmark| benchmark.unmeasured.is_empty())
    }

    /// Writes into `output`: `results.json`; the tables as `tables.md`, `tables.tex` and one `.csv` each; a sheet of
    /// pictures per test set, `NAME.png`; and `report.html` with `pictures` pictures of each test set. Returns the
    /// tables as Markdown and the size of the report in bytes.
    ///
    /// # Errors
    /// A file can't be written, or a picture read.
    pub fn write(&self, output: &Path, pictures: usize) -> Result<(String, u64)> {
        std::fs::create_dir_all(output).with_context(|| format!("can't create {}", output.display()))?;
        let tables = self.results.tables();
        let markdown = tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n");
        let latex = tables.iter().map(Table::latex).collect::<Vec<_>>().join("\n");
        write_atomic(&output.join("results.json"), serde_json::to_string_pretty(&self.results)?.as_bytes())?;
        write_atomic(&output.join("tables.md"), markdown.as_bytes())?;
        write_atomic(&output.join("tables.tex"), latex.as_bytes())?;
        for table in &tables {
            write_atomic(&output.join(format!("{}.csv", slug(&table.title))), table.csv().as_bytes())?;
        }
        for (benchmark, methods) in self.benchmarks.iter().zip(&self.methods) {
            if let Some(sheet) = evaluation_sheet::draw(&self.sheet, benchmark, methods)? {
                sheet::save_png(&sheet, &output.join(format!("{}.png", methods::name(benchmark))))?;
            }
        }
        Ok((markdown, self.write_report(output, pictures)?))
    }

    fn write_report(&self, output: &Path, pictures: usize) -> Result<u64> {
        let pairs = self.benchmarks.iter().zip(&self.methods);
        let shown: Vec<Shown> =
            pairs.map(|(benchmark, methods)| Shown { benchmark, methods: methods.clone() }).collect();
        let path = output.join("report.html");
        let mut file = AtomicFile::create(&path)?;
        write_report(&self.results, &shown, pictures, &mut file).with_context(|| path.display().to_string())?;
        file.finish()?;
        Ok(path.metadata()?.len())
    }
}
