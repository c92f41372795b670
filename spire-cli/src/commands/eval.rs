//! `spire eval`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use spire_core::message::{printable, size};
use spire_core::settings;
use spire_core::shard::Shard;
use spire_eval::evaluation::EvalConfig;
use spire_restore::evaluation::{evaluate, restore_part};
use spire_restore::readiness::{Download, Need, needs};
use spire_train::distributed::ensure_single_process;

#[derive(clap::Args)]
pub struct Eval {
    /// The evaluation, TOML, such as configs/benchmarks/tiny.toml
    config: PathBuf,
    /// Override a key of the evaluation; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print results.json instead of the tables, for programs to read; with --check, what the evaluation needs
    #[arg(long)]
    json: bool,
    /// Only say what is there and what is missing (test sets, checkpoints, runs, metrics' weights, with sizes and checksums of
    /// what is published), which files differ from the published ones, and how much is left to restore
    #[arg(long)]
    check: bool,
    /// Restore only this part of the pictures, such as 3/8, as one of several processes, and measure nothing; when every part
    /// is restored, the command without --shard measures and writes the tables
    #[arg(long, value_name = "I/N", conflicts_with_all = ["check", "json"])]
    shard: Option<Shard>,
}

pub fn run(args: Eval) -> Result<ExitCode> {
    if args.shard.is_none() {
        ensure_single_process("spire eval")
            .map_err(|error| anyhow!("{error}; or give each process its part of the pictures with --shard"))?;
    }
    let config: EvalConfig = settings::load(&args.config, &args.overrides)?;
    config.validate().with_context(|| args.config.display().to_string())?;
    let output = config.output.clone().unwrap_or_else(|| Path::new("results").join(&config.name));
    if args.check {
        return check(&needs(&config, &output)?, args.json);
    }
    if let Some(shard) = args.shard {
        let is_ready = restore_part(&config, &output, shard)?;
        let but = if is_ready { "" } else { ", but for the methods that failed" };
        say!("this part is restored{but}: {}", printable(&output.join("restored").to_string_lossy()))?;
        return Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let evaluated = evaluate(&config, &output)?;
    let (tables, size) = evaluated.write(&output, config.report_pictures)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&evaluated.results)?)?;
    } else {
        say!("{tables}\n{}, {:.1} MB", output.join("report.html").display(), size as f64 / 1e6)?;
    }
    Ok(if evaluated.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what an evaluation needs; a failure if something is missing.
fn check(needs: &[Need], json: bool) -> Result<ExitCode> {
    if json {
        say!("{}", serde_json::to_string_pretty(needs)?)?;
    } else {
        let width = needs.iter().map(|need| need.name.chars().count()).max().unwrap_or(0);
        for Need { part, name, ready, state, .. } in needs {
            let missing = if *ready { "" } else { "MISSING: " };
            say!("{part:<9} {:<width$}  {missing}{}", printable(name), printable(state))?;
        }
        let cautions: BTreeSet<&String> = needs.iter().flat_map(|need| &need.cautions).collect();
        for caution in cautions {
            say!("caution: {}", printable(caution))?;
        }
        let missing = needs.iter().filter(|need| !need.ready).count();
        say!("{} of {} are missing", missing, needs.len())?;
        print_downloads(needs)?;
    }
    Ok(if needs.iter().all(|need| need.ready) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the published files that are missing, each once, and how large they are together.
fn print_downloads(needs: &[Need]) -> Result<()> {
    let downloads = needs.iter().flat_map(|need| &need.downloads);
    let downloads: BTreeMap<&Path, &Download> = downloads.map(|download| (download.path.as_path(), download)).collect();
    if downloads.is_empty() {
        return Ok(());
    }
    let sizes: Vec<u64> = downloads.values().filter_map(|download| download.bytes).collect();
    let unknown = match downloads.len() - sizes.len() {
        0 => String::new(),
        1 => " and 1 file whose size is not known".to_owned(),
        count => format!(" and {count} files whose sizes are not known"),
    };
    say!("to download, {}{unknown}:", size(sizes.iter().sum()))?;
    for Download { path, url, bytes, sha256 } in downloads.into_values() {
        let bytes = bytes.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
        let sha256 = sha256.as_ref().map(|sum| format!(", SHA-256 {sum}")).unwrap_or_default();
        say!("  {}: {url}{bytes}{sha256}", printable(&path.to_string_lossy()))?;
    }
    Ok(())
}
