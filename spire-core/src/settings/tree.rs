//! Places in a tree of TOML values: by keys, and by line and column in the text.

use toml::Value;
use toml::de::{DeTable, DeValue};

/// The line, from 1, of the key at `keys` in the TOML `text`; `None` if the text does not have it.
pub fn line_of(text: &str, keys: &[String]) -> Option<usize> {
    let document = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let (depth, line) = deepest_line(keys, text, &document);
    line.filter(|_| depth == keys.len())
}

/// How many of `keys` exist in the document, and the line of the last of them.
pub fn deepest_line(keys: &[String], text: &str, document: &DeValue<'_>) -> (usize, Option<usize>) {
    let mut place = document;
    let mut line = None;
    for (depth, key) in keys.iter().enumerate() {
        let next = match place {
            DeValue::Table(table) => table.get_key_value(key.as_str()).map(|(key, value)| (key.span(), value)),
            DeValue::Array(array) => {
                key.parse::<usize>().ok().and_then(|index| array.get(index)).map(|value| (value.span(), value))
            }
            _ => None,
        };
        let Some((span, value)) = next else { return (depth, line) };
        line = Some(position(text, span.start).0);
        place = value.get_ref();
    }
    (keys.len(), line)
}

/// Line and column of a byte offset, both from 1.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    (line, 1 + String::from_utf8_lossy(&before[line_start..]).chars().count())
}

/// The value at `keys`.
pub fn at<'a>(settings: &'a Value, keys: &[String]) -> Option<&'a Value> {
    keys.iter().try_fold(settings, |value, key| match value {
        Value::Array(array) => array.get(key.parse::<usize>().ok()?),
        other => other.get(key.as_str()),
    })
}

/// The keys from `value` to the only entry that matches; `None` if there is no such entry, or more than one.
pub fn find(value: Option<&Value>, matches: &dyn Fn(&str, &Value) -> bool) -> Option<Vec<String>> {
    fn walk(
        value: &Value,
        keys: &mut Vec<String>,
        found: &mut Vec<Vec<String>>,
        matches: &dyn Fn(&str, &Value) -> bool,
    ) {
        let entries: Vec<(String, &Value)> = match value {
            Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(array) => array.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
            _ => Vec::new(),
        };
        for (key, value) in entries {
            let hit = matches(&key, value);
            keys.push(key);
            if hit {
                found.push(keys.clone());
            }
            walk(value, keys, found, matches);
            keys.pop();
        }
    }
    let mut found = Vec::new();
    walk(value?, &mut Vec::new(), &mut found, matches);
    if found.len() == 1 { found.pop() } else { None }
}

/// Keys with dots between them.
pub fn dotted(keys: &[String]) -> String {
    keys.join(".")
}
