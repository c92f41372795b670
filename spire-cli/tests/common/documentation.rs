//! The command lines of this program in the documentation.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The arguments of each command line of `spire` in the code blocks of a Markdown file, without the program's name.
pub fn commands_in_blocks(file: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(file).unwrap().replace("\\\n", " ");
    let mut commands = vec![];
    let mut shell = false;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            shell = language == "sh";
        } else if shell {
            commands.extend(arguments(line));
        }
    }
    commands
}

/// The arguments of `spire` in a line of a shell; `None` for another program's line.
pub fn arguments(line: &str) -> Option<Vec<String>> {
    let words = shlex::split(line)?;
    let start = match words.first().map(String::as_str) {
        Some("cargo") if words.iter().any(|word| word == "--example") => return None,
        Some("cargo") if words.get(1).is_some_and(|word| word == "run") => {
            words.iter().position(|word| word == "--")?
        }
        Some(program) if ["python", "python3"].iter().any(|name| program.ends_with(name)) => return None,
        _ => words.iter().position(|word| word == "spire" || word.ends_with("/release/spire"))?,
    };
    // Variables of the shell hold further options.
    Some(words[start + 1..].iter().filter(|word| !word.starts_with('$')).cloned().collect())
}
