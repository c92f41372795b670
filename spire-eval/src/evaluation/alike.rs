//! Misleading captions: the paper's semantic ambiguity, where only the semantic prompt distinguishes a horse from a zebra.

/// Two words, or groups of words, for objects that look alike when degraded.
pub type Alike = [String; 2];

/// Replaces the first word of `caption` that occurs in a pair by the pair's other word, and fits the article before it. If
/// several pairs have this word, the first of them counts. `None` if no word occurs in a pair.
pub fn mistaken(caption: &str, alike: &[Alike]) -> Option<String> {
    let words = alike.iter().flat_map(|[a, b]| [(a, b), (b, a)]);
    let found = words.filter_map(|(word, other)| Some((find(caption, word)?, word, other)));
    let (place, word, other) = found.min_by_key(|(place, ..)| *place)?;
    let (before, after) = (&caption[..place], &caption[place + word.len()..]);
    Some(format!("{}{other}{after}", with_article(before, other)))
}

/// `text`, with "a" or "an" at its end as `noun` wants it.
fn with_article(text: &str, noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an " } else { "a " };
    let ends = |word: &str| text == word || text.ends_with(&format!(" {word}"));
    let old = ["a ", "an "].into_iter().find(|word| ends(word));
    old.map_or_else(|| text.to_owned(), |old| format!("{}{article}", &text[..text.len() - old.len()]))
}

/// The offset of the first occurrence of `words` in `text` as whole words.
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
        let pairs = [["horse", "zebra"], ["polar bear", "panda"], ["bear", "koala"]];
        mistaken(caption, &pairs.map(|pair| pair.map(str::to_owned)))
    }

    #[test]
    fn the_first_word_of_a_pair_is_replaced_in_both_directions() {
        assert_eq!(exchanged("a small zebra above a bear").as_deref(), Some("a small horse above a bear"));
        assert_eq!(exchanged("a bear above a small zebra").as_deref(), Some("a koala above a small zebra"));
        assert_eq!(exchanged("a polar bear").as_deref(), Some("a panda"));
    }

    #[test]
    fn parts_of_words_are_not_replaced() {
        assert_eq!(exchanged("a bearing beside horses"), None);
        assert_eq!(exchanged("a bearing and a bear").as_deref(), Some("a bearing and a koala"));
        assert_eq!(exchanged(""), None);
        assert_eq!(mistaken("a bear", &[[String::new(), "x".into()]]), None);
    }

    #[test]
    fn the_article_fits_the_new_word() {
        let pairs = [["apple", "tomato"], ["tomato", "peach"]].map(|pair| pair.map(str::to_owned));
        assert_eq!(mistaken("an apple", &pairs).as_deref(), Some("a tomato"));
        assert_eq!(mistaken("a photo of a tomato", &pairs).as_deref(), Some("a photo of an apple"));
        assert_eq!(mistaken("a small apple", &pairs).as_deref(), Some("a small tomato"));
    }
}
