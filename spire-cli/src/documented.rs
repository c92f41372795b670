//! Tests that every command line in the documentation is one that this program takes.

#[path = "../tests/common/documentation.rs"]
mod documentation;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use documentation::{arguments, commands_in_blocks, root};
use spire_core::settings::{self, Keys};
use spire_data::testset::Recipe;
use spire_eval::evaluation::EvalConfig;
use spire_train::config::RunConfig;
use spire_train::pretrain::PretrainConfig;
use spire_train::sweep::Sweep;

use crate::commands::Cli;

/// The files that users read.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/evidence/README.md", "fuzz/README.md"]
            .iter()
            .chain(&["scripts/bench/README.md", "scripts/reference/README.md"])
            .map(|name| root().join(name))
            .collect();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    pages
}

fn parse(arguments: &[String]) -> Result<(), clap::Error> {
    Cli::try_parse_from(["spire"].into_iter().chain(arguments.iter().map(String::as_str))).map(|_| ())
}

#[test]
fn every_command_in_a_code_block_is_complete() {
    let mut found = 0;
    for page in pages() {
        for arguments in commands_in_blocks(&page) {
            let parsed = parse(&arguments);
            assert!(parsed.is_ok(), "{}: spire {}: {}", page.display(), arguments.join(" "), parsed.unwrap_err());
            found += 1;
        }
    }
    assert!(found >= 30, "{found} command lines");
}

/// Commands in comments of configurations and scripts, on lines of their own.
#[test]
fn every_command_in_a_comment_is_complete() {
    let mut found = 0;
    for folder in ["configs", "configs/benchmarks", "configs/sweeps", "scripts", "scripts/bench"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_file() {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap().replace("\\\n", " ");
            for line in text.lines().map(|line| line.trim_start_matches('#').trim()) {
                if line.starts_with("spire ") {
                    // A continued line of a comment begins with its mark.
                    let command = line.split("  #").next().unwrap_or_default();
                    let arguments: Vec<String> = arguments(&command.replace(" # ", " ")).unwrap();
                    let parsed = parse(&arguments);
                    assert!(parsed.is_ok(), "{}: {line}: {}", path.display(), parsed.unwrap_err());
                    found += 1;
                }
            }
        }
    }
    assert!(found >= 20, "{found} command lines");
}

/// Within a sentence a command may lack what the sentence does not need, but all that is there must exist.
#[test]
fn every_command_in_a_sentence_exists() {
    let mut found = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap().replace('\n', " ");
        for quoted in text.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("spire ")) {
            let arguments = arguments(quoted).unwrap();
            let accepted = parse(&arguments).map_err(|error| (error.kind(), error));
            let is_partial = |kind: &ErrorKind| {
                matches!(
                    kind,
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelp
                )
            };
            if let Err((kind, error)) = accepted {
                assert!(is_partial(&kind), "{}: `{quoted}`: {error}", page.display());
            }
            found += 1;
        }
    }
    assert!(found >= 40, "{found} commands");
}

/// Every `--set` in a code block names a key, with a value of its type, and every configuration of this repository exists.
#[test]
fn every_override_in_a_code_block_is_a_key() {
    // Sweeps name their base relative to the repository.
    std::env::set_current_dir(root()).unwrap();
    for arguments in pages().iter().flat_map(|page| commands_in_blocks(page)) {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let sets = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].to_owned());
        let sets: Vec<String> = sets.collect();
        let checked = match words.as_slice() {
            ["train", config, ..] | ["bench" | "data", _, config, ..] => check::<RunConfig>(config, &sets),
            ["eval", config, ..] => check::<EvalConfig>(config, &sets),
            ["benchmark", "make", config, ..] => check::<Recipe>(config, &sets),
            ["pretrain", config, ..] => check::<PretrainConfig>(config, &sets),
            ["sweep", config, ..] => Sweep::open(Path::new(config), &sets).map(|_| ()),
            _ => Ok(()),
        };
        assert!(checked.is_ok(), "spire {}: {:#}", arguments.join(" "), checked.unwrap_err());
    }
}

/// Reads a configuration as the command would. One outside the folders of this repository is the user's, and empty here.
fn check<T: Keys>(config: &str, sets: &[String]) -> anyhow::Result<()> {
    let path = Path::new(config);
    match path.starts_with("configs") || path.starts_with("scripts") {
        true => settings::load::<T>(path, sets).map(|_| ())?,
        false => settings::parse::<T>("", path, sets).map(|_| ())?,
    }
    Ok(())
}
