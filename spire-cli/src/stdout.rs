//! The standard output: every command writes its results through here, so that write errors are handled in one place.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use spire_core::message::printable_lines;

/// Prints a line on the standard output, as `println!`; see [`write_line`].
macro_rules! say {
    ($($argument:tt)*) => { $crate::stdout::write_line(format_args!($($argument)*)) };
}

/// Prints a line. Returns whether somebody reads the output: a closed pipe (`spire … | head`) is no error. Commands go on
/// then, so that their exit status still says how they ended; only one that would print on and on stops.
///
/// # Errors
/// The output can't be written for another reason, as on a full disk.
pub fn write_line(text: Arguments) -> Result<bool> {
    write(format!("{}\n", printable_lines(&text.to_string())).as_bytes())
}

/// As [`write_line`], for bytes.
///
/// # Errors
/// As [`write_line`].
pub fn write(bytes: &[u8]) -> Result<bool> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("can't write to the standard output"),
    }
}
