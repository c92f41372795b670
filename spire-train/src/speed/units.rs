//! Large numbers for people.

/// Three digits and a decimal prefix: `1.09 T`; a dash for 0.
pub fn amount(count: u64) -> String {
    if count == 0 {
        return "–".into();
    }
    let prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let mut value = count as f64;
    let mut prefix = 0;
    while value >= 999.5 && prefix + 1 < prefixes.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let decimals = match value {
        _ if prefix == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", prefixes[prefix])
}

/// As [`amount`], of bytes: `1.09 TB`.
pub fn bytes(count: u64) -> String {
    if count == 0 { amount(0) } else { format!("{}B", amount(count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        for (count, text) in [
            (0, "–"),
            (999, "999 "),
            (12_345, "12.3 k"),
            (9_996, "10.0 k"),
            (999_600, "1.00 M"),
            (1_087_825_805_312, "1.09 T"),
            (803_273_441_280, "803 G"),
        ] {
            assert_eq!(amount(count), text);
        }
    }
}
