//! Captions of what a degraded picture might as well show: the paper's semantic ambiguity, where only the semantic prompt tells
//! a horse from a zebra.

/// Two words, or groups of words, for what looks alike when degraded.
pub type Alike = [String; 2];

/// The caption with the first word that is one of a pair exchanged for the pair's other; `None` where there is none.
pub fn mistaken(caption: &str, alike: &[Alike]) -> Option<String> {
    let words = alike.iter().flat_map(|[a, b]| [(a, b), (b, a)]);
    let (place, word, other) = words.filter_map(|(word, other)| Some((find(caption, word)?, word, other))).min()?;
    Some(format!("{}{other}{}", &caption[..place], &caption[place + word.len()..]))
}

/// Where `words` first stand in `text`, not as part of longer words.
fn find(text: &str, words: &str) -> Option<usize> {
    let within = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let alone = |place: usize| {
        !within(text[..place].chars().next_back()) && !within(text[place + words.len()..].chars().next())
    };
    text.match_indices(words).map(|(place, _)| place).find(|&place| !words.is_empty() && alone(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchanged(caption: &str) -> Option<String> {
        let pairs = [["pentagon", "hexagon"], ["letter e", "letter f"], ["star", "cross"]];
        mistaken(caption, &pairs.map(|pair| pair.map(str::to_owned)))
    }

    #[test]
    fn the_first_of_the_words_is_exchanged_either_way() {
        assert_eq!(exchanged("a red hexagon above a star").as_deref(), Some("a red pentagon above a star"));
        assert_eq!(exchanged("a star above a red hexagon").as_deref(), Some("a cross above a red hexagon"));
        assert_eq!(exchanged("a blue letter f").as_deref(), Some("a blue letter e"));
    }

    #[test]
    fn parts_of_words_do_not_count() {
        assert_eq!(exchanged("a starfish beside a pentagonal letter"), None);
        assert_eq!(exchanged("a starfish and a star").as_deref(), Some("a starfish and a cross"));
        assert_eq!(exchanged(""), None);
        assert_eq!(mistaken("a star", &[[String::new(), "x".into()]]), None);
    }
}
