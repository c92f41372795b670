//! The subcommands: arguments and wiring.

mod bench;
mod benchmark;
mod data;
mod eval;
mod model;
mod restore;
mod sweep;
mod walk;
mod weights;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use spire_data::Picture;
use spire_data::degrade;
use spire_data::prompt::{self, Fragment};
use spire_data::rng::rng;
use spire_train::config::RunConfig;
use spire_train::dry_run::dry_run;
use spire_train::pretrain::{self, PretrainConfig, Stage};
use spire_train::ranks::{self, Ranks};
use spire_train::settings;
use spire_train::trainer::{self, Outcome};

/// Text-driven image restoration (SPIRE): train, restore, degrade, verify.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `spire train --help` ends with: every key, from the one commented reference.
const REFERENCE: &str = include_str!("../../../configs/reference.toml");

#[derive(Subcommand)]
enum Command {
    /// Train a control branch on a frozen text-to-image model, evaluate it, write a run folder
    #[command(after_long_help = format!("Every key of a configuration, with its default:\n\n{REFERENCE}"))]
    Train(Train),
    /// Restore a picture, or a folder of them
    Restore(Box<restore::Restore>),
    /// Degrade a picture with what a restoration prompt would undo
    Degrade(Degrade),
    /// Make test sets from recipes, and check them
    Benchmark(benchmark::Benchmark),
    /// Measure methods on test sets, and write tables
    Eval(eval::Eval),
    /// Train variants of a configuration with several seeds, and write a table of them
    Sweep(sweep::Sweep),
    /// Restore one picture with prompts that change step by step, and measure what they do
    Walk(walk::Walk),
    /// Look at what a run would read
    Data(data::Data),
    /// Look at weights on disk
    Weights(weights::Weights),
    /// Compare what this program computes with reference bundles
    Verify(Verify),
    /// Measure how fast training and restoring are, and how much memory they take
    Bench(bench::Bench),
    /// Train the small text-to-image model of assets/tiny: CLIP, then the VAE, then the UNet
    Pretrain(Pretrain),
}

#[derive(clap::Args)]
struct Train {
    /// Configuration, TOML
    #[arg(required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Go on with the run in this folder, from its newest sound checkpoint
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    resume: Option<PathBuf>,
    /// Check the configuration and say what the run needs: parameters, operations, memory. Allocates and writes nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Override a key of the configuration, such as train.learning_rate=1e-4; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Stop as after Ctrl-C when the standard input ends, which it does with the process that holds its other end
    #[arg(long, hide = true)]
    until_input_ends: bool,
}

#[derive(clap::Args)]
struct Degrade {
    /// The picture
    image: PathBuf,
    /// The restoration prompt, such as "Deblur with sigma 3.0; Dejpeg with quality 40"; numbers are needed
    #[arg(long)]
    prompt: String,
    /// Where the degraded picture is written, as PNG; beside the picture if not given
    #[arg(short, long, value_name = "PNG")]
    output: Option<PathBuf>,
    /// Decides the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(clap::Args)]
struct Verify {
    /// Folders with bundles, at any depth
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long, default_value = "flex")]
    device: String,
    /// Difference that passes where a case asks for less: 5e-3 for GPUs that multiply float32 in TF32
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
}

#[derive(clap::Args)]
struct Pretrain {
    /// Configuration, TOML
    config: PathBuf,
    /// Only this stage; may be given more than once
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<StageName>,
    /// Override a key of the configuration; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StageName {
    Clip,
    Prompts,
    Vae,
    Unet,
    Embedding,
}

impl Cli {
    /// Does what the command line asks for.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Train(args) => train(args),
            Command::Restore(args) => restore::run(*args),
            Command::Degrade(args) => degrade_picture(args),
            Command::Benchmark(args) => benchmark::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Sweep(args) => sweep::run(args),
            Command::Walk(args) => walk::run(args),
            Command::Data(args) => data::run(args),
            Command::Weights(args) => weights::run(args),
            Command::Verify(args) => verify(args),
            Command::Bench(args) => bench::run(args),
            Command::Pretrain(args) => pretrain_model(args),
        }
    }
}

fn train(args: Train) -> Result<ExitCode> {
    if let (true, Some(path)) = (args.dry_run, &args.config) {
        println!("{}", dry_run(settings::load(path, &args.overrides)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = interruption("interrupted: writing a checkpoint after this step (again to stop at once)")?;
    if args.until_input_ends {
        let flag = interrupted.clone();
        std::thread::spawn(move || {
            // An input that can't be read has ended, too.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            flag.store(true, Ordering::Relaxed);
        });
    }
    ranks::together(|ranks| train_together(args, ranks, &interrupted))?;
    Ok(ExitCode::SUCCESS)
}

fn train_together(args: Train, ranks: &Ranks, interrupted: &AtomicBool) -> Result<()> {
    let (outcome, dir) = match (args.resume, args.config) {
        (Some(run), _) => (trainer::resume(&run, &args.overrides, ranks, interrupted)?, run),
        (None, Some(path)) => {
            let config: RunConfig = settings::load(&path, &args.overrides)?;
            let dir = config.run.dir.clone();
            (trainer::train(config, ranks, interrupted)?, dir)
        }
        (None, None) => unreachable!("the parser asks for one of the two"),
    };
    match outcome {
        _ if !ranks.is_first() => {}
        Outcome::Finished => println!("{}", std::fs::read_to_string(dir.join("summary.json"))?),
        Outcome::Interrupted(step) => {
            println!("stopped after step {step}; go on with: spire train --resume {}", dir.display());
        }
    }
    Ok(())
}

/// A flag that Ctrl-C, a polite kill (SIGTERM) and the end of the terminal (SIGHUP) set, with a word to the user; the second
/// time, the user does not want to wait.
fn interruption(message: &'static str) -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    on_interruption(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("{message}");
    })?;
    Ok(interrupted)
}

#[cfg(unix)]
fn on_interruption(mut interrupted: impl FnMut() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    // A handler would end what `nohup` asked for.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    std::thread::spawn(move || signals.forever().for_each(|_| interrupted()));
    Ok(())
}

#[cfg(not(unix))]
fn on_interruption(interrupted: impl FnMut() + Send + 'static) -> Result<()> {
    Ok(ctrlc::set_handler(interrupted)?)
}

/// Whether this was started with `signal` ignored, as `nohup` does with SIGHUP. Where the system does not tell (`/proc` of
/// Linux), it was not.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn degrade_picture(args: Degrade) -> Result<ExitCode> {
    let steps = prompt::parse(&args.prompt)?
        .into_iter()
        .map(|fragment| match fragment {
            Fragment::Numbered(step) => Ok(step),
            Fragment::Bare(_) => bail!(
                "\"{}\" does not say how much: degrading needs numbers, as in \"Deblur with sigma 3.0\"",
                args.prompt
            ),
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(!steps.is_empty(), "\"{}\" names no degradation that could be applied", args.prompt);
    let clean = Picture::open(&args.image)?;
    let (degraded, _) = degrade::apply(&steps, &clean, &mut rng(args.seed, "degrade", 0))?;
    let output = args.output.unwrap_or_else(|| {
        let stem = args.image.file_stem().unwrap_or_default().to_string_lossy();
        args.image.with_file_name(format!("{stem}-degraded.png"))
    });
    degraded.save_png(&output)?;
    println!("{}", output.display());
    Ok(ExitCode::SUCCESS)
}

fn verify(args: Verify) -> Result<ExitCode> {
    let device = spire_model::device::device(&args.device)?;
    let report = spire_eval::verify::verify(&args.folders, &device, args.tolerance)?;
    println!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pretrain_model(args: Pretrain) -> Result<ExitCode> {
    ranks::ensure_alone("spire pretrain")?;
    let config: PretrainConfig = settings::load(&args.config, &args.overrides)?;
    let stages = if args.stages.is_empty() { StageName::value_variants() } else { &args.stages };
    let stages: Vec<_> = stages
        .iter()
        .map(|stage| match stage {
            StageName::Clip => Stage::Clip,
            StageName::Prompts => Stage::Prompts,
            StageName::Vae => Stage::Vae,
            StageName::Unet => Stage::UNet,
            StageName::Embedding => Stage::Embedding,
        })
        .collect();
    pretrain::pretrain(&config, &stages)?;
    Ok(ExitCode::SUCCESS)
}
