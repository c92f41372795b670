//! A table, and the forms in which papers and web pages want it.

use std::collections::BTreeSet;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// Cells of text under headings.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Above the table.
    pub title: String,
    headings: Vec<(String, Align)>,
    /// Rows of as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Row and column of the cells that stand out.
    pub bold: BTreeSet<(usize, usize)>,
    notes: Vec<String>,
}

impl Table {
    /// Without columns.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), headings: vec![], rows: vec![], bold: BTreeSet::new(), notes: vec![] }
    }

    /// One column more.
    pub fn column(&mut self, heading: &str, align: Align) {
        self.headings.push((heading.to_owned(), align));
    }

    /// A line below the table.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// GitHub's Markdown.
    pub fn markdown(&self) -> String {
        let escaped = |text: &str| text.replace('|', "\\|");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("### {}\n\n", self.title);
        text += &line(self.headings.iter().map(|(heading, _)| escaped(heading)).collect());
        let rule = |align: &Align| if *align == Align::Left { "---".to_owned() } else { "---:".to_owned() };
        text += &line(self.headings.iter().map(|(_, align)| rule(align)).collect());
        for (i, row) in self.rows.iter().enumerate() {
            let cell = |(j, cell): (usize, &String)| {
                let cell = escaped(cell);
                if self.bold.contains(&(i, j)) { format!("**{cell}**") } else { cell }
            };
            text += &line(row.iter().enumerate().map(cell).collect());
        }
        self.notes.iter().for_each(|note| text += &format!("\n{note}\n"));
        text
    }

    /// RFC 4180, without the title and the notes.
    pub fn csv(&self) -> String {
        let quoted = |text: &str| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        let line = |cells: Vec<String>| format!("{}\r\n", cells.join(","));
        let headings = line(self.headings.iter().map(|(heading, _)| quoted(heading)).collect());
        let rows = self.rows.iter().map(|row| line(row.iter().map(|cell| quoted(cell)).collect()));
        std::iter::once(headings).chain(rows).collect()
    }

    /// A LaTeX `table`, with the rules of `booktabs`.
    pub fn latex(&self) -> String {
        let columns: String =
            self.headings.iter().map(|(_, align)| if *align == Align::Left { 'l' } else { 'r' }).collect();
        let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        let mut text = format!("\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n", escape_latex(&self.title));
        text += &format!("  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n");
        text += &line(self.headings.iter().map(|(heading, _)| escape_latex(heading)).collect());
        text += "    \\midrule\n";
        for (i, row) in self.rows.iter().enumerate() {
            let cell = |(j, cell): (usize, &String)| {
                let cell = escape_latex(cell);
                if self.bold.contains(&(i, j)) { format!("\\textbf{{{cell}}}") } else { cell }
            };
            text += &line(row.iter().enumerate().map(cell).collect());
        }
        text += "    \\bottomrule\n  \\end{tabular}\n";
        self.notes.iter().for_each(|note| text += &format!("  \\\\ {{\\footnotesize {}}}\n", escape_latex(note)));
        text + "\\end{table}\n"
    }
}

fn escape_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '↑' => escaped.push_str("$\\uparrow$"),
            '↓' => escaped.push_str("$\\downarrow$"),
            '×' => escaped.push_str("$\\times$"),
            '–' => escaped.push_str("--"),
            '`' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("Tiny & small");
        table.column("Method", Align::Left);
        table.column("PSNR ↑", Align::Right);
        table.rows.push(vec!["a|b".into(), "1.00 [0.9, 1.1]".into()]);
        table.rows.push(vec!["50 %".into(), "2.00".into()]);
        table.bold.insert((1, 1));
        table.note("A note.");
        table
    }

    #[test]
    fn markdown() {
        let expected = "### Tiny & small\n\n| Method | PSNR ↑ |\n| --- | ---: |\n| a\\|b | 1.00 [0.9, 1.1] |\n\
            | 50 % | **2.00** |\n\nA note.\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn csv() {
        assert_eq!(table().csv(), "Method,PSNR ↑\r\na|b,\"1.00 [0.9, 1.1]\"\r\n50 %,2.00\r\n");
    }

    #[test]
    fn latex() {
        let text = table().latex();
        for part in ["\\caption{Tiny \\& small}", "{lr}", "PSNR $\\uparrow$ \\\\", "50 \\% & \\textbf{2.00}", "A note."]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
