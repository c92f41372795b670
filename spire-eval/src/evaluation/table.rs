//! Tables as Markdown, CSV and LaTeX.

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// A column's headings.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The heading of a group of columns; may be empty.
    pub group: String,
    /// The heading of this column.
    pub heading: String,
    /// The alignment of its cells.
    pub align: Align,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableCell {
    /// A name or a value.
    pub text: String,
    /// The confidence interval, "[1.0, 2.0]"; may be empty.
    pub range: String,
    /// The mark of the cell's note, "(a)"; may be empty.
    pub mark: String,
    /// Whether the cell is bold.
    pub bold: bool,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableRow {
    /// One cell per column.
    pub cells: Vec<TableCell>,
    /// Whether the row is quoted from elsewhere: italic and separated from the others.
    pub quoted: bool,
}

/// A table of text cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The title above the table.
    pub title: String,
    /// The columns, from left to right.
    pub columns: Vec<Column>,
    /// The rows, from top to bottom.
    pub rows: Vec<TableRow>,
    /// The notes below the table.
    pub notes: Vec<String>,
    /// Whether intervals are omitted.
    pub compact: bool,
}

impl<T: Into<String>> From<T> for TableCell {
    fn from(text: T) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

impl Table {
    /// An empty table.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), ..Self::default() }
    }

    /// Adds a column.
    pub fn column(&mut self, group: &str, heading: &str, align: Align) {
        self.columns.push(Column { group: group.to_owned(), heading: heading.to_owned(), align });
    }

    /// Adds a note below the table.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// The group headings, each with its number of columns; empty if no column has one.
    pub fn groups(&self) -> Vec<(&str, usize)> {
        let mut groups: Vec<(&str, usize)> = vec![];
        for column in &self.columns {
            match groups.last_mut() {
                Some((group, columns)) if *group == column.group => *columns += 1,
                _ => groups.push((&column.group, 1)),
            }
        }
        groups.retain(|_| self.columns.iter().any(|column| !column.group.is_empty()));
        groups
    }

    /// The table in GitHub's Markdown, which has one heading line: a second one becomes the first row.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let headings: Vec<String> = self.columns.iter().map(|column| escape_markdown(&column.heading)).collect();
        let above: Vec<String> = self
            .groups()
            .iter()
            .flat_map(|&(group, columns)| {
                std::iter::once(escape_markdown(group)).chain(std::iter::repeat_n(String::new(), columns - 1))
            })
            .collect();
        let rules = line(
            self.columns
                .iter()
                .map(|column| match column.align {
                    Align::Left => "---".to_owned(),
                    Align::Right => "---:".to_owned(),
                })
                .collect(),
        );
        let mut text = format!("### {}\n\n", one_line(&self.title));
        text += &if above.is_empty() {
            line(headings) + &rules
        } else {
            line(above) + &rules + &line(headings.iter().map(|heading| format!("**{heading}**")).collect())
        };
        for row in &self.rows {
            let cell = |cell: &TableCell| match (escape_markdown(&self.printed(cell)), cell.bold, row.quoted) {
                (text, true, _) => format!("**{text}**"),
                (text, _, true) if !text.is_empty() => format!("*{text}*"),
                (text, ..) => text,
            };
            text += &line(row.cells.iter().map(cell).collect());
        }
        self.notes.iter().for_each(|note| text += &format!("\n{}\n", note.replace('<', "&lt;")));
        text
    }

    /// The table as CSV (RFC 4180), without title and notes.
    pub fn csv(&self) -> String {
        let quoted = |text: String| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        };
        let line = |cells: Vec<String>| format!("{}\r\n", cells.into_iter().map(quoted).collect::<Vec<_>>().join(","));
        let heading = |column: &Column| match column.group.as_str() {
            "" => column.heading.clone(),
            group => format!("{group}: {}", column.heading),
        };
        let headings = line(self.columns.iter().map(heading).collect());
        let rows = self.rows.iter().map(|row| line(row.cells.iter().map(|cell| self.printed(cell)).collect()));
        std::iter::once(headings).chain(rows).collect()
    }

    /// The table in LaTeX: a `table` with the rules of `booktabs` and the marks of `pifont`; `table*` if it is wide.
    pub fn latex(&self) -> String {
        let wide = self.columns.len() > 8;
        let environment = if wide { "table*" } else { "table" };
        let align = |column: &Column| if column.align == Align::Left { 'l' } else { 'r' };
        let columns: String = self.columns.iter().map(align).collect();
        let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        let mut text = format!("\\begin{{{environment}}}\n  \\centering\n");
        if wide {
            text += "  \\footnotesize\\setlength{\\tabcolsep}{3pt}\n";
        }
        text += &format!(
            "  \\caption{{{}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n",
            escape_latex(&self.title)
        );
        let groups = self.groups();
        if !groups.is_empty() {
            let cell = |&(group, columns): &(&str, usize)| match group {
                "" => format!("\\multicolumn{{{columns}}}{{l}}{{}}"),
                group => format!("\\multicolumn{{{columns}}}{{c}}{{{}}}", escape_latex(group)),
            };
            text += &line(groups.iter().map(cell).collect());
            let mut first = 1;
            let mut rules = vec![];
            for (group, columns) in groups {
                if !group.is_empty() {
                    rules.push(format!("\\cmidrule(lr){{{first}-{}}}", first + columns - 1));
                }
                first += columns;
            }
            text += &format!("    {}\n", rules.join(" "));
        }
        text += &line(self.columns.iter().map(|column| escape_latex(&column.heading)).collect());
        text += "    \\midrule\n";
        for (i, row) in self.rows.iter().enumerate() {
            if i > 0 && row.quoted != self.rows[i - 1].quoted {
                text += "    \\midrule\n";
            }
            let cell = |cell: &TableCell| match (escape_latex(&self.printed(cell)), cell.bold, row.quoted) {
                (text, true, _) => format!("\\textbf{{{text}}}"),
                (text, _, true) => format!("\\textit{{{text}}}"),
                (text, ..) => text,
            };
            text += &line(row.cells.iter().map(cell).collect());
        }
        text += "    \\bottomrule\n  \\end{tabular}\n";
        let note =
            |note: &String| format!("  \\par\\smallskip{{\\footnotesize\\raggedright {}\\par}}\n", escape_latex(note));
        text += &self.notes.iter().map(note).collect::<String>();
        text + &format!("\\end{{{environment}}}\n")
    }

    /// A cell as plain text.
    fn printed(&self, cell: &TableCell) -> String {
        let range = if self.compact { "" } else { &cell.range };
        [&cell.text, range, &cell.mark].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// Escapes a cell for Markdown.
fn escape_markdown(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}

/// Text on one line, with `<` escaped.
fn one_line(text: &str) -> String {
    text.replace('<', "&lt;").replace(['\n', '\r'], " ")
}

fn escape_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            // After `\\` they would be read as its argument.
            '[' | ']' | '*' => escaped.extend(['{', c, '}']),
            '-' if characters.peek().is_some_and(char::is_ascii_digit) && !escaped.ends_with(char::is_alphanumeric) => {
                escaped.push_str("$-$");
            }
            '↑' => escaped.push_str("$\\uparrow$"),
            '↓' => escaped.push_str("$\\downarrow$"),
            '×' => escaped.push_str("$\\times$"),
            '±' => escaped.push_str("$\\pm$"),
            '✓' => escaped.push_str("\\ding{51}"),
            '✗' => escaped.push_str("\\ding{55}"),
            '–' => escaped.push_str("--"),
            '…' => escaped.push_str("\\ldots{}"),
            '`' => {}
            '\n' | '\r' => escaped.push(' '),
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
        table.column("", "Method", Align::Left);
        table.column("", "PSNR ↑", Align::Right);
        let value = TableCell { text: "1.00".into(), range: "[0.9, 1.1]".into(), ..TableCell::default() };
        table.rows.push(TableRow { cells: vec!["a|b".into(), value], quoted: false });
        let best = TableCell { text: "2.00".into(), mark: "(a)".into(), bold: true, ..TableCell::default() };
        table.rows.push(TableRow { cells: vec!["50 %".into(), best], quoted: false });
        table.note("A note.");
        table
    }

    fn grouped() -> Table {
        let mut table = table();
        table.compact = true;
        table.columns[1].group = "Left, half".into();
        table.column("Left, half", "SSIM ↑", Align::Right);
        table.rows.iter_mut().for_each(|row| row.cells.push("–".into()));
        table.rows.push(TableRow { cells: vec!["[x]".into(), "-3.0".into(), "✓".into()], quoted: true });
        table
    }

    #[test]
    fn markdown() {
        let expected = "### Tiny & small\n\n| Method | PSNR ↑ |\n| --- | ---: |\n| a\\|b | 1.00 [0.9, 1.1] |\n\
            | 50 % | **2.00 (a)** |\n\nA note.\n";
        assert_eq!(table().markdown(), expected);
        let expected = "### Tiny & small\n\n|  | Left, half |  |\n| --- | ---: | ---: |\n\
            | **Method** | **PSNR ↑** | **SSIM ↑** |\n| a\\|b | 1.00 | – |\n| 50 % | **2.00 (a)** | – |\n\
            | *[x]* | *-3.0* | *✓* |\n\nA note.\n";
        assert_eq!(grouped().markdown(), expected);
        let hostile = Table::new("<script>\nalert(1)").markdown();
        assert!(hostile.starts_with("### &lt;script> alert(1)\n"), "{hostile}");
    }

    #[test]
    fn csv() {
        assert_eq!(table().csv(), "Method,PSNR ↑\r\na|b,\"1.00 [0.9, 1.1]\"\r\n50 %,2.00 (a)\r\n");
        assert!(grouped().csv().starts_with("Method,\"Left, half: PSNR ↑\",\"Left, half: SSIM ↑\"\r\na|b,1.00,–\r\n"));
    }

    #[test]
    fn latex() {
        let text = table().latex();
        for part in
            ["\\caption{Tiny \\& small}", "{lr}", "PSNR $\\uparrow$ \\\\", "50 \\% & \\textbf{2.00 (a)}", "A note."]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        let text = grouped().latex();
        for part in [
            "    \\multicolumn{1}{l}{} & \\multicolumn{2}{c}{Left, half} \\\\\n    \\cmidrule(lr){2-3}\n    Method & ",
            "    \\midrule\n    \\textit{{[}x{]}} & \\textit{$-$3.0} & \\textit{\\ding{51}} \\\\\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // A bracket or star at the start of a line would be read as the argument of the preceding `\\`.
        assert_eq!(escape_latex("[a] *b"), "{[}a{]} {*}b");
        assert_eq!(escape_latex("x-4, -4 [-0.5, +0.5]"), "x-4, $-$4 {[}$-$0.5, +0.5{]}");
        for environment in ["table", "tabular"] {
            assert_eq!(text.matches(&format!("\\begin{{{environment}}}")).count(), 1);
            assert_eq!(text.matches(&format!("\\end{{{environment}}}")).count(), 1);
        }
    }

    #[test]
    fn adjacent_columns_share_a_group_heading() {
        assert_eq!(table().groups(), []);
        assert_eq!(grouped().groups(), [("", 1), ("Left, half", 2)]);
    }
}
