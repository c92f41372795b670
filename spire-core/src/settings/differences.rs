//! What differs between two configurations of the same kind, key by key.

use std::fmt;

use serde::Serialize;
use toml::{Table, Value};

use super::error::SettingsError;

/// A key whose value differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The key in full, as in `train.steps`.
    pub key: String,
    then: Option<Value>,
    now: Option<Value>,
}

/// `train.steps: 100, now 200`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "not set".to_owned(), Value::to_string);
        write!(f, "{}: {}, now {}", self.key, shown(&self.then), shown(&self.now))
    }
}

/// The keys whose values differ between `then` and `now`, sorted.
///
/// # Errors
/// A value that TOML can't represent, such as an integer above `i64::MAX`.
pub fn differences<T: Serialize>(then: &T, now: &T) -> Result<Vec<Difference>, SettingsError> {
    let [then, now] = [then, now].map(|settings| Table::try_from(settings).map(Value::Table));
    let mut found = vec![];
    compare(Some(&then?), Some(&now?), "", &mut found);
    Ok(found)
}

fn compare(then: Option<&Value>, now: Option<&Value>, key: &str, found: &mut Vec<Difference>) {
    if let (Some(Value::Table(then)), Some(Value::Table(now))) = (then, now) {
        let mut keys: Vec<&String> = then.keys().chain(now.keys()).collect();
        keys.sort();
        keys.dedup();
        for inner in keys {
            let key = if key.is_empty() { inner.clone() } else { format!("{key}.{inner}") };
            compare(then.get(inner), now.get(inner), &key, found);
        }
    } else if then != now {
        found.push(Difference { key: key.to_owned(), then: then.cloned(), now: now.cloned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_listed_key_by_key() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        let then = table("a = 1\n[b]\nc = [1, 2]\nd = 'x'\n[e]\nf = 1");
        let now = table("a = 1\n[b]\nc = [1, 3]\ng = 2.5\n[e]\nf = 1");
        let found: Vec<String> = differences(&then, &now).unwrap().iter().map(Difference::to_string).collect();
        assert_eq!(found, ["b.c: [1, 2], now [1, 3]", "b.d: \"x\", now not set", "b.g: not set, now 2.5"]);
        assert_eq!(differences(&then, &then).unwrap(), []);
    }
}
