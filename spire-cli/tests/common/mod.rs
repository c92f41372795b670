//! The real program, driven as a user drives it.

use std::path::Path;
use std::process::{Command, Output};

pub fn spire(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// In the repository's root.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spire"));
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

/// What it said on stdout; it must have succeeded.
pub fn ok(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it said on stderr; it must have failed, and not by a panic.
pub fn error(output: Output) -> String {
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("panicked"), "{error}");
    error
}
