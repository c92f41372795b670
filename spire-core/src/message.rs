//! Text for a terminal: names that others chose, errors with their causes, panics, and whether there are colours.

use std::any::Any;
use std::borrow::Cow;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr};

use indicatif::DecimalBytes;

/// `name` with its control characters escaped, such as `\u{1b}` for the escape character: the name of a file, of a tensor
/// or of a tar member must not move the cursor, change colours or start a new line.
pub fn printable(name: &str) -> Cow<'_, str> {
    escaped(name, is_unprintable)
}

/// As [`printable`], but keeps line breaks and tabs: for a whole message that contains such names.
pub fn printable_lines(message: &str) -> Cow<'_, str> {
    escaped(message, |c| is_unprintable(c) && c != '\n' && c != '\t')
}

fn escaped(text: &str, is_unprintable: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unprintable(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Control characters, and the marks that reverse the direction of the text after them.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The message of `error`, followed by those of its causes. A cause that the message before it ends with is left out:
/// many messages contain that of their cause.
pub fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

/// A size for people, as in `6.48 GB`.
pub fn size(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// The message of a caught panic.
pub fn of_panic(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Whether the log on stderr has colours: on a terminal, unless the variable `NO_COLOR` is set; elsewhere if
/// `CLICOLOR_FORCE` is set.
pub fn stderr_has_colours() -> bool {
    has_colours(env::var_os("NO_COLOR"), env::var_os("CLICOLOR_FORCE"), stderr().is_terminal())
}

fn has_colours(no_color: Option<OsString>, force: Option<OsString>, is_terminal: bool) -> bool {
    let is_set = |value: &OsString| !value.is_empty();
    match (no_color.filter(is_set), force.filter(is_set)) {
        (Some(_), _) => false,
        (None, Some(force)) => force != "0",
        (None, None) => is_terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use thiserror::Error;

    #[test]
    fn control_characters_are_escaped_and_other_letters_kept() {
        assert_eq!(printable("a\u{1b}[31mb\r\nc"), "a\\u{1b}[31mb\\r\\nc");
        assert_eq!(printable("\u{9b}2J\u{202e}gpj.exe\u{7f}"), "\\u{9b}2J\\u{202e}gpj.exe\\u{7f}");
        assert!(matches!(printable("ein Bär — 熊.png"), Cow::Borrowed("ein Bär — 熊.png")));
        assert_eq!(printable_lines("one\u{7}\n\ttwo"), "one\\u{7}\n\ttwo");
    }

    #[test]
    fn colours_are_for_terminals_unless_the_user_says_otherwise() {
        let set = |value: &str| Some(OsString::from(value));
        assert!(has_colours(None, None, true) && !has_colours(None, None, false));
        assert!(!has_colours(set("1"), set("1"), true), "NO_COLOR has precedence");
        assert!(has_colours(set(""), None, true) && !has_colours(set(""), None, false));
        assert!(has_colours(None, set("1"), false) && !has_colours(None, set("0"), false));
    }

    #[test]
    fn a_cause_is_named_once() {
        #[derive(Debug, Error)]
        #[error("a.png: {source}")]
        struct Outer {
            source: io::Error,
        }
        #[derive(Debug, Error)]
        #[error("the test set")]
        struct Outermost(#[source] Outer);
        let error = Outermost(Outer { source: io::Error::other("no room") });
        assert_eq!(with_causes(&error), "the test set: a.png: no room");
    }
}
