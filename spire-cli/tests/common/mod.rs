//! Runs the real program as a user does.

use std::path::Path;
use std::process::{Command, Output};

pub fn spire(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// A command in the root of the repository.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spire"));
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

/// The standard output of a command that must succeed.
pub fn ok(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a command that must fail without a panic.
pub fn error(output: Output) -> String {
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("panicked"), "{error}");
    error
}
