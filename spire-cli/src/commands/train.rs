//! `spire train`

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Error, Result};
use spire_core::settings;
use spire_train::config::RunConfig;
use spire_train::distributed::{Ranks, with_launched_processes};
use spire_train::speed::dry_run;
use spire_train::training::{self, CheckpointChoice, Continuation, Outcome};

use super::closing;
use crate::signals::{interrupt, interruption};

#[derive(clap::Args)]
pub struct Train {
    /// Configuration, TOML
    #[arg(required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Continue the run in this folder from its newest good checkpoint
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    resume: Option<PathBuf>,
    /// Continue from the checkpoint of this step, or from the best one, by validation loss or validate.best: a number, or "best".
    /// What the run did after it moves to RUN/abandoned
    #[arg(long, value_name = "STEP", requires = "resume", conflicts_with = "config")]
    from: Option<CheckpointChoice>,
    /// Continue even if --set makes it another run: another seed, model, data or degradations
    #[arg(long, requires = "resume", conflicts_with = "config")]
    force: bool,
    /// Check the configuration and print what the run needs: parameters, operations, memory. Allocates and writes
    /// nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Override a key of the configuration, such as train.learning_rate=1e-4; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print summary.json at the end, for programs to read, instead of a table
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    /// Stop as after Ctrl-C when the standard input ends, that is when the process at its other end closes it or ends
    #[arg(long, hide = true)]
    until_input_ends: bool,
}

pub fn run(args: Train) -> Result<ExitCode> {
    if let (true, Some(path)) = (args.dry_run, &args.config) {
        say!("{}", dry_run(settings::load(path, &args.overrides)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = interruption("interrupted: writing a checkpoint after this step (again to stop at once)")?;
    if args.until_input_ends {
        let flag = interrupted.clone();
        std::thread::spawn(move || {
            // An input that can't be read counts as ended.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            interrupt(&flag);
        });
    }
    with_launched_processes(|ranks| train(args, ranks, &interrupted))?;
    Ok(ExitCode::SUCCESS)
}

fn train(args: Train, ranks: &Ranks, interrupted: &AtomicBool) -> Result<()> {
    let json = args.json;
    let (outcome, dir) = match (args.resume, args.config) {
        (Some(run), _) => {
            let how =
                Continuation { from: args.from.unwrap_or_default(), overrides: args.overrides, force: args.force };
            (training::resume(&run, &how, ranks, interrupted), run)
        }
        (None, Some(path)) => {
            let config: RunConfig = settings::load(&path, &args.overrides)?;
            let dir = config.run.dir.clone();
            (training::train(config, &args.overrides, ranks, interrupted), dir)
        }
        (None, None) => unreachable!("the parser requires one of the two"),
    };
    let outcome = outcome.map_err(|error| if is_out_of_room(&error) { continue_later(error, &dir) } else { error })?;
    match outcome {
        _ if !ranks.is_first() => {}
        Outcome::Finished => {
            let summary = read(&dir.join("summary.json"))?;
            say!("{}", if json { summary } else { closing::text(&summary, &dir)? })?;
        }
        Outcome::Interrupted(step) => {
            say!("stopped after step {step}; continue with: spire train --resume {}", dir.display())?;
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

/// Whether an error comes from a full disk, a quota or a limit on the size of files.
fn is_out_of_room(error: &Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds
        .into_iter()
        .any(|kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge))
}

fn continue_later(error: Error, run: &Path) -> Error {
    let run = run.display();
    error.context(format!("there is no room for the files of the run; make some, then: spire train --resume {run}"))
}
