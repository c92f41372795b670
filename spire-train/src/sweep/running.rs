//! Trains cells, each in its own process, so that a crash does not affect the others.
//!
//! The sweep holds the writing end of each process's standard input. It closes when the sweep is interrupted or killed,
//! and the process then writes a checkpoint and stops.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use spire_core::parallel::available;
use spire_core::progress::{clock, print};

use super::cells::{Attempt, Cell, End, State};
use super::progress_table::ProgressTable;

/// Interval between two checks of a process.
const POLL: Duration = Duration::from_millis(50);
/// The most characters of an error that are kept; the log has the whole error.
const LONGEST_REASON: usize = 600;

/// Trains `cells` with the program at `program`, `parallel` at a time on each of `devices` (if empty, on the device of
/// their configuration). Each cell's folder then says how its training ended.
pub fn run(cells: &[&Cell], devices: &[String], parallel: usize, program: &Path, interrupted: &AtomicBool) {
    let places: Vec<Option<&str>> = match devices {
        [] => vec![None],
        devices => devices.iter().map(|device| Some(device.as_str())).collect(),
    };
    // Processes that all use every core would slow each other down.
    let cores = (places.len() * parallel > 1).then(|| (available() / (places.len() * parallel)).max(1));
    let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..cells.len()).collect());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let table = ProgressTable::new(cells);
    std::thread::scope(|scope| {
        for place in places.iter().flat_map(|place| std::iter::repeat_n(*place, parallel)) {
            let (next, table) = (&next, &table);
            scope.spawn(move || {
                while let Some(number) = next().filter(|_| !interrupted.load(Ordering::Relaxed)) {
                    let cell = cells[number];
                    let row = table.row(number);
                    row.begin(cell);
                    let trained = train(cell, place, cores, program, interrupted, || row.look(cell));
                    row.end(cell, &how_it_ended(trained));
                    table.advance();
                }
            });
        }
    });
}

fn how_it_ended(trained: Result<Attempt>) -> String {
    match trained {
        Ok(Attempt { seconds, to_step, end, .. }) => match end {
            End::Finished => format!("done in {}", clock(Duration::from_secs_f64(seconds))),
            End::Interrupted => format!("interrupted after step {to_step}"),
            End::Failed { reason } => format!("failed: {reason}"),
        },
        Err(error) => format!("failed: {error:#}"),
    }
}

/// The environment variable with the size of the thread pool.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Trains one cell to its end or until the sweep is interrupted, on `cores` cores, or on all. Calls `look` now and then.
fn train(
    cell: &Cell,
    device: Option<&str>,
    cores: Option<usize>,
    program: &Path,
    interrupted: &AtomicBool,
    look: impl Fn(),
) -> Result<Attempt> {
    cell.prepare()?;
    let path = cell.log();
    let mut log = File::options().create(true).append(true).read(true).open(&path).context("can't write the log")?;
    // The process inherits the lock and keeps it if the sweep is killed first: it may still write a last checkpoint. On
    // other systems than Unix, the lock would prevent the process from writing the log.
    if cfg!(unix) && log.try_lock().is_err() {
        print(&format!("{}: waiting for another process that trains it", cell.name()));
        log.lock().with_context(|| format!("can't lock {}", path.display()))?;
    }
    let from_step = match cell.state() {
        State::CutOff { step } => step,
        State::ToDo | State::Failed { .. } => 0,
        // A process of an earlier sweep completed it.
        State::Done => {
            let steps = cell.config.train.steps;
            return Ok(Attempt { from_step: steps, to_step: steps, seconds: 0.0, end: End::Finished });
        }
    };
    let arguments = arguments(cell, device);
    let command = command_line(&arguments);
    append(&cell.commands(), &format!("{command}\n"))?;
    log.write_all(format!("$ {command}\n").as_bytes())?;
    let start_of_output = log.seek(SeekFrom::End(0))?;

    let started = Instant::now();
    let mut process = Command::new(program);
    process.args(&arguments).arg("--until-input-ends");
    process.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    if let Some(cores) = cores.filter(|_| std::env::var_os(THREADS).is_none()) {
        process.env(THREADS, cores.to_string());
    }
    let status = wait(process, interrupted, Stop::Ask, look)?;

    log.seek(SeekFrom::Start(start_of_output))?;
    let mut output = vec![];
    log.read_to_end(&mut output)?;
    let end = match (status.success(), cell.run().summary().is_file()) {
        (true, true) => End::Finished,
        (true, false) => End::Interrupted,
        (false, _) if ended_by_signal(status) => End::Interrupted,
        (false, _) => End::Failed { reason: reason(&String::from_utf8_lossy(&output), status) },
    };
    let to_step = cell.steps()?.last().map_or(from_step, |last| last.step + 1);
    let attempt = Attempt { from_step, to_step, seconds: started.elapsed().as_secs_f64(), end };
    cell.note(&attempt)?;
    Ok(attempt)
}

/// How to end a process when the sweep is interrupted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stop {
    /// Close its standard input, and wait until it stops.
    Ask,
    /// Kill it.
    Kill,
}

/// Runs a process until it ends, or until the sweep is interrupted. Calls `look` now and then.
pub(super) fn wait(mut process: Command, interrupted: &AtomicBool, stop: Stop, look: impl Fn()) -> Result<ExitStatus> {
    let program = process.get_program().display().to_string();
    let mut child = process.spawn().with_context(|| format!("can't start {program}"))?;
    let mut input = child.stdin.take();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupted.load(Ordering::Relaxed) {
            drop(input.take());
            if stop == Stop::Kill {
                child.kill()?;
            }
        }
        look();
        std::thread::sleep(POLL);
    }
}

/// Whether SIGHUP, SIGINT or SIGTERM ended a process. Code 130 is a second Ctrl-C.
fn ended_by_signal(status: ExitStatus) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if matches!(status.signal(), Some(1 | 2 | 15)) {
            return true;
        }
    }
    status.code() == Some(130)
}

/// The arguments of `spire` that start a run or resume it.
fn arguments(cell: &Cell, device: Option<&str>) -> Vec<String> {
    let mut arguments = match cell.run().config_file().is_file() {
        true => vec!["train".into(), "--resume".into(), cell.config.run.dir.display().to_string()],
        false => vec!["train".into(), cell.config_file().display().to_string()],
    };
    if let Some(device) = device {
        arguments.extend(["--set".into(), format!("run.device={device}")]);
    }
    arguments
}

/// A `spire` command as one types it into a shell.
pub(super) fn command_line<S: AsRef<str>>(arguments: &[S]) -> String {
    let words = std::iter::once("spire").chain(arguments.iter().map(AsRef::as_ref));
    shlex::try_join(words).unwrap_or_else(|_| "spire (an argument has a NUL byte)".to_owned())
}

fn append(path: &Path, text: &str) -> Result<()> {
    let write = || File::options().create(true).append(true).open(path)?.write_all(text.as_bytes());
    write().with_context(|| format!("can't write {}", path.display()))
}

/// Why a process failed, from its output: its error, its panic, or else its status and last line.
pub(super) fn reason(output: &str, status: ExitStatus) -> String {
    let from = |start: &str| output.match_indices(start).map(|(at, _)| at).filter(|&at| starts_line(output, at)).last();
    let panic = || output.find("panicked at").map(|at| output[..at].rfind('\n').map_or(0, |end| end + 1));
    let reason = match from("error: ") {
        Some(at) => output[at..].trim_start_matches("error: ").trim().to_owned(),
        None => match panic() {
            Some(at) => output[at..].trim().to_owned(),
            None => {
                let last = output.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
                last.map_or_else(|| status.to_string(), |last| format!("{status}; its last output: {last}"))
            }
        },
    };
    match reason.chars().count() {
        0..=LONGEST_REASON => reason,
        _ => reason.chars().take(LONGEST_REASON - 1).chain(['…']).collect(),
    }
}

fn starts_line(text: &str, at: usize) -> bool {
    at == 0 || text.as_bytes()[at - 1] == b'\n'
}

/// Clears an earlier failure, so that the cell is trained again.
pub(super) fn forget_failure(cell: &Cell) -> Result<()> {
    let step = cell.attempts().last().map_or(0, |last| last.to_step);
    cell.note(&Attempt { from_step: step, to_step: step, seconds: 0.0, end: End::Interrupted })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;
    use tempfile::TempDir;

    #[test]
    fn the_reason_is_the_error_the_panic_or_the_last_line() {
        let failed = ExitStatus::from_raw(1 << 8);
        assert_eq!(reason("step 1\nan error: no\nerror: the loss\nis lost\n", failed), "the loss\nis lost");
        let panic = "step 1\nthread 'main' panicked at a.rs:3:\nindex out of bounds\n";
        assert_eq!(reason(panic, failed), "thread 'main' panicked at a.rs:3:\nindex out of bounds");
        assert_eq!(reason("", ExitStatus::from_raw(9)), "signal: 9 (SIGKILL)");
        assert!(reason("step 7\n\n", ExitStatus::from_raw(9)).ends_with("its last output: step 7"));
        assert_eq!(reason(&format!("error: {}", "é".repeat(900)), failed).chars().count(), LONGEST_REASON);
    }

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        assert_eq!(
            command_line(&["train", "a b/it's.toml", "--set", "run.device=cuda:0"]),
            "spire train \"a b/it's.toml\" --set 'run.device=cuda:0'"
        );
    }

    fn cells(scratch: &Path, count: u64) -> Vec<Cell> {
        let cell = |seed: u64| {
            let mut config = RunConfig::default();
            config.run.dir = scratch.join(format!("seed-{seed}"));
            Cell { variant: "A".into(), seed, changes: vec![], config, methods: vec![] }
        };
        (0..count).map(cell).collect()
    }

    /// A shell script that replaces the program.
    fn script(scratch: &Path, text: &str) -> PathBuf {
        let path = scratch.join("program");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn each_device_takes_the_next_cell_and_failures_are_recorded() {
        let scratch = TempDir::new().unwrap();
        let cells = cells(scratch.path(), 4);
        // The device is the fourth argument. The second cell fails.
        let program = script(
            scratch.path(),
            "dir=$(dirname $2); echo $4 >> $dir/device\n\
             case $dir in *seed-1) echo 'error: broken' >&2; exit 1;; *) echo '{}' > $dir/summary.json;; esac",
        );
        let devices = ["cuda:0".to_owned(), "cuda:1".to_owned()];
        run(&cells.iter().collect::<Vec<_>>(), &devices, 1, &program, &AtomicBool::new(false));
        let states: Vec<State> = cells.iter().map(Cell::state).collect();
        assert_eq!(states[1], State::Failed { reason: "broken".into() });
        assert!([0, 2, 3].iter().all(|&i| states[i] == State::Done), "{states:?}");
        for cell in &cells {
            let device = fs::read_to_string(cell.config.run.dir.join("device")).unwrap();
            assert!(device.starts_with("run.device=cuda:"), "{device}");
            let log = fs::read_to_string(cell.log()).unwrap();
            assert!(log.starts_with("$ spire train "), "{log}");
        }
        forget_failure(&cells[1]).unwrap();
        assert_eq!(cells[1].state(), State::ToDo);
    }

    #[test]
    fn an_interruption_closes_the_input_and_starts_no_other_cell() {
        let scratch = TempDir::new().unwrap();
        let cells = cells(scratch.path(), 2);
        let program = script(scratch.path(), "touch $(dirname $2)/config.toml; cat > /dev/null");
        let interrupted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !cells[0].run().config_file().exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                interrupted.store(true, Ordering::Relaxed);
            });
            run(&cells.iter().collect::<Vec<_>>(), &[], 1, &program, &interrupted);
        });
        assert_eq!(cells[0].attempts()[0].end, End::Interrupted);
        assert_eq!((cells[0].state(), cells[1].state()), (State::CutOff { step: 0 }, State::ToDo));
        assert!(!cells[1].config.run.dir.exists());
    }
}
