//! The part of some work that one of several processes does.

use std::str::FromStr;

/// One of several parts of a list of numbered items: every N-th item, beginning with the part's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1.
    number: usize,
    /// Of so many.
    of: usize,
}

impl Shard {
    /// All items.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Whether the item, counted from 0, belongs to this part.
    pub fn has(self, item: usize) -> bool {
        item % self.of == self.number - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((number, of)) if number >= 1 && number <= of => Ok(Self { number, of }),
            _ => Err(format!("{text:?} is not a part such as 1/8, from 1/8 to 8/8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_several_processes_are_all_items() {
        let parts: Vec<Shard> = (1..=3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        for item in 0..10 {
            assert_eq!(parts.iter().filter(|part| part.has(item)).count(), 1);
        }
        assert!((0..5).all(|item| Shard::WHOLE.has(item)));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
