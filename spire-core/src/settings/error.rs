//! Errors of settings.

use std::path::PathBuf;

use thiserror::Error;

/// Why settings could not be read or written.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The message of the parser.
        message: String,
    },
    /// A key is unknown, missing, or has a value of the wrong type.
    #[error("{origin}: {message}")]
    Key {
        /// `file:line`, or the override.
        origin: String,
        /// The key, what is wrong with it and what would be valid.
        message: String,
    },
    /// A value that TOML can't represent.
    #[error("the settings can't be written as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}
