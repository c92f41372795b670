//! Notes below a table.

/// Notes that cells refer to, without duplicates.
#[derive(Debug, Default)]
pub struct Notes(
    /// The notes as printed below the table.
    pub Vec<String>,
);

impl Notes {
    /// The mark that refers to this note.
    pub fn mark(&mut self, note: &str) -> String {
        let is_it = |(i, there): (usize, &String)| {
            let mark = mark(i);
            (*there == format!("{mark} {note}.")).then_some(mark)
        };
        self.0.iter().enumerate().find_map(is_it).unwrap_or_else(|| {
            let mark = mark(self.0.len());
            self.0.push(format!("{mark} {note}."));
            mark
        })
    }
}

/// "(a)", "(b)", … "(z)", "(27)", …
fn mark(i: usize) -> String {
    match ('a'..='z').nth(i) {
        Some(letter) => format!("({letter})"),
        None => format!("({})", i + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_is_there_keeps_its_mark() {
        let mut notes = Notes::default();
        let marks = ["one", "two", "one"].map(|note| notes.mark(note));
        assert_eq!(marks, ["(a)", "(b)", "(a)"]);
        assert_eq!(notes.0, ["(a) one.", "(b) two."]);
        assert_eq!([25, 26].map(mark), ["(z)", "(27)"]);
    }
}
