//! Overrides from the command line: `--set section.key=value`.

use std::fmt::Display;

use toml::{Table, Value};

use super::deserialize::Found;
use super::error::SettingsError;
use super::tree::dotted;

/// The most parts of the key of an override. The TOML parser has its own limit.
const MAX_DEPTH: usize = 32;

/// A change of one key.
pub struct Override {
    /// As it was given.
    pub text: String,
    /// The parts of its key.
    pub keys: Vec<String>,
    value: Value,
}

impl Override {
    /// Parses `section.key=value`.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let (keys, value) = text
            .split_once('=')
            .ok_or_else(|| bad_override(text, "expected section.key=value, for example train.steps=500"))?;
        let keys: Vec<String> = keys.split('.').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(bad_override(text, "a part of the key is empty; expected section.key=value"));
        }
        if keys.len() > MAX_DEPTH {
            return Err(bad_override(text, "the key has too many parts"));
        }
        let value = value.trim();
        let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { text: text.to_owned(), keys, value })
    }

    /// Sets the key in `settings`.
    pub fn apply(&self, settings: &mut Value) -> Result<(), SettingsError> {
        let mut place = settings;
        for (depth, key) in self.keys.iter().enumerate() {
            place = match place {
                Value::Table(table) => table.entry(key.as_str()).or_insert_with(|| Table::new().into()),
                Value::Array(array) => {
                    let (name, length) = (dotted(&self.keys[..depth]), array.len());
                    key.parse::<usize>().ok().and_then(|index| array.get_mut(index)).ok_or_else(|| {
                        let message = format!("\"{name}\" is an array of {length}; {key:?} is not one of its indices");
                        bad_override(&self.text, message)
                    })?
                }
                other => {
                    let message = format!("\"{}\" is {}, not a section", dotted(&self.keys[..depth]), Found::of(other));
                    return Err(bad_override(&self.text, message));
                }
            };
        }
        *place = self.value.clone();
        Ok(())
    }
}

fn bad_override(text: &str, message: impl Display) -> SettingsError {
    SettingsError::Key { origin: format!("--set {text}"), message: message.to_string() }
}
