//! A configuration as a flat list of hyper-parameters, for TensorBoard's table of runs.

use anyhow::Result;
use serde::Serialize;
use toml::{Table, Value};

/// A value as TensorBoard compares it.
#[derive(Clone, Debug, PartialEq)]
pub enum Hyperparameter {
    /// A number.
    Number(f64),
    /// True or false.
    Switch(bool),
    /// Anything else; a list is one text.
    Text(String),
}

/// Every key of `config` in full, as in `train.learning_rate`, with its value; sorted.
///
/// # Errors
/// A value that TOML can't represent.
pub fn flat(config: &impl Serialize) -> Result<Vec<(String, Hyperparameter)>> {
    let mut flat = vec![];
    flatten("", &Value::Table(Table::try_from(config)?), &mut flat);
    flat.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(flat)
}

fn flatten(key: &str, value: &Value, flat: &mut Vec<(String, Hyperparameter)>) {
    let value = match value {
        Value::Table(table) => {
            for (inner, value) in table {
                let key = if key.is_empty() { inner.clone() } else { format!("{key}.{inner}") };
                flatten(&key, value, flat);
            }
            return;
        }
        Value::Integer(number) => Hyperparameter::Number(*number as f64),
        Value::Float(number) => Hyperparameter::Number(*number),
        Value::Boolean(switch) => Hyperparameter::Switch(*switch),
        Value::String(text) => Hyperparameter::Text(text.clone()),
        other => Hyperparameter::Text(other.to_string()),
    };
    flat.push((key.to_owned(), value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_dotted_keys() {
        let table: Table =
            "[train]\nsteps = 3\nrate = 1e-3\nlong = true\nname = 'x'\nsizes = [1, 2]\n".parse().unwrap();
        let expected = [
            ("train.long", Hyperparameter::Switch(true)),
            ("train.name", Hyperparameter::Text("x".into())),
            ("train.rate", Hyperparameter::Number(1e-3)),
            ("train.sizes", Hyperparameter::Text("[1, 2]".into())),
            ("train.steps", Hyperparameter::Number(3.0)),
        ];
        assert_eq!(flat(&table).unwrap(), expected.map(|(key, value)| (key.to_owned(), value)));
    }
}
