//! Repairs text that was decoded with the wrong character set:

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex, bytes};
use unicode_normalization::UnicodeNormalization;

use super::mojibake_tables::*;

/// Repairs a text line by line until nothing changes.
pub(super) fn fix_text(text: &str) -> String {
    // Entities are kept from the first line that contains a `<`: the text is HTML then.
    let mut unescape = true;
    text.split_inclusive('\n')
        .map(|line| {
            unescape &= !line.contains('<');
            fix_line(line, unescape)
        })
        .collect()
}

fn fix_line(line: &str, unescape: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let mut fixed = if unescape { unescape_entities(&text).into_owned() } else { text.clone() };
        fixed = fix_encoding(fixed);
        fixed = simplify(&fix_c1_controls(&fixed));
        fixed = fixed.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        fixed = TERMINAL_ESCAPES.replace_all(&fixed, "").into_owned();
        fixed = fixed.chars().filter(|&character| !is_unwanted_control(character)).nfc().collect();
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

static TERMINAL_ESCAPES: LazyLock<Regex> = LazyLock::new(|| regex(r"\x1b\[(\d|;)*[a-zA-Z]"));

/// Entities with semicolon, including those that were upper-cased with their text.
fn unescape_entities(text: &str) -> Cow<'_, str> {
    static ENTITY: LazyLock<Regex> = LazyLock::new(|| regex("&#?[0-9A-Za-z]{1,24};"));
    let known = |entity: &str| {
        htmlize::ENTITIES.get(entity.as_bytes()).and_then(|characters| std::str::from_utf8(characters).ok())
    };
    ENTITY.replace_all(text, |captures: &Captures| {
        let entity = &captures[0];
        let unescaped = htmlize::unescape(entity);
        if entity.starts_with("&#") {
            return if unescaped.contains(';') { entity.into() } else { unescaped.into_owned() };
        }
        if let Some(characters) = known(entity) {
            return characters.into();
        }
        let lower = entity.to_lowercase();
        match known(&lower).filter(|_| lower.to_uppercase() == entity && unescaped == entity) {
            Some(characters) => characters.to_uppercase(),
            None => entity.into(),
        }
    })
}

/// Undoes wrong decodings, one at a time.
fn fix_encoding(mut text: String) -> String {
    while let Some(fixed) = fix_one_encoding(&text).filter(|fixed| *fixed != text) {
        text = fixed;
    }
    text
}

fn fix_one_encoding(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    ENCODINGS
        .iter()
        .find_map(|encoding| decode_utf8(repair_bytes(encoding.encode(text)?, encoding)))
        .or_else(|| Some(fix_embedded_mojibake(text)).filter(|fixed| fixed != text))
        .or_else(|| Some(fix_c1_controls(text)))
}

impl Encoding {
    /// The bytes that this encoding decodes to `text`, if there are any.
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |character: char| match character {
            '\u{fffd}' if self.sloppy => Some(0x1a),
            '\u{1a}' if self.sloppy => None,
            '\0'..='\x7f' => Some(character as u8),
            _ => self.high.chars().zip(0x80..=0xff).find_map(|(high, byte)| (high == character).then_some(byte)),
        };
        text.chars().map(byte).collect()
    }
}

/// Restores lost bytes of UTF-8: spaces that were 0xa0, and characters replaced by 0x1a.
fn repair_bytes(mut encoded: Vec<u8>, encoding: &Encoding) -> Vec<u8> {
    static SPACED: LazyLock<bytes::Regex> = LazyLock::new(|| {
        bytes_regex(
            r"[\xc2\xc3\xc5\xce\xd0\xd9] |[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] |\xf0 [\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf] [\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf] ",
        )
    });
    static LOSSY: LazyLock<bytes::Regex> = LazyLock::new(|| {
        bytes_regex(
            r"[\xc2-\xdf]\x1a|[\xc2-\xc3]\?|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a",
        )
    });
    if !encoding.spaces_are_spaces && SPACED.is_match(&encoded) {
        encoded = separate_a_grave(&encoded);
        let with_a0 = |captures: &bytes::Captures| -> Vec<u8> {
            captures[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect()
        };
        encoded = SPACED.replace_all(&encoded, with_a0).into_owned();
    }
    if encoding.sloppy {
        encoded = LOSSY.replace_all(&encoded, "\u{fffd}".as_bytes()).into_owned();
    }
    encoded
}

/// A space after 0xc3 is an "à" and a space, unless it belongs to one of a few words.
fn separate_a_grave(encoded: &[u8]) -> Vec<u8> {
    const CONTINUED: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut separated = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        separated.push(byte);
        rest = after;
        if byte == 0xc3
            && let [b' ', word @ ..] = after
            && !CONTINUED.iter().any(|continued| word.starts_with(continued))
        {
            separated.push(0xa0);
        }
    }
    separated
}

/// UTF-8, with characters beyond U+FFFF as surrogate pairs and Java's two-byte zero as well.
fn decode_utf8(encoded: Vec<u8>) -> Option<String> {
    static VARIANTS: LazyLock<bytes::Regex> =
        LazyLock::new(|| bytes_regex(r"\xc0\x80|\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]"));
    let standard = VARIANTS.replace_all(&encoded, |captures: &bytes::Captures| -> Vec<u8> {
        let &[_, high, middle, _, low, lowest] = &captures[0] else { return vec![0] };
        let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
        let code = 0x10000 + bits(high, 0x0f, 16) + bits(middle, 0x3f, 10) + bits(low, 0x0f, 6) + bits(lowest, 0x3f, 0);
        char::from_u32(code).map_or(Vec::new(), |character| character.to_string().into_bytes())
    });
    String::from_utf8(standard.into_owned()).ok()
}

/// Fixes the parts of a text that look like wrongly decoded UTF-8 if the whole does not.
fn fix_embedded_mojibake(text: &str) -> String {
    static MOJIBAKE: LazyLock<Regex> = LazyLock::new(|| {
        regex(&format!(
            "(?:[{FIRST_OF_2}][{CONTINUATION}]|[{FIRST_OF_3}][{CONTINUATION}]{{2}}|[{FIRST_OF_4}][{CONTINUATION}]{{3}})+"
        ))
    });
    static GARBLE: LazyLock<Regex> = LazyLock::new(|| regex(&format!("[{CONTINUATION_STRICT}]$")));
    let (mut fixed, mut copied, mut start) = (String::new(), 0, 0);
    while let Some(found) = MOJIBAKE.find_at(text, start) {
        let before = text[..found.start()].chars().next_back();
        if before.is_some_and(|character| GARBLE.is_match(character.encode_utf8(&mut [0; 4]))) {
            // Part of a longer garbled sequence: removing a few characters does not improve it.
            start = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if found.len() < text.len() && is_bad(found.as_str()) {
            fixed.push_str(&text[copied..found.start()]);
            fixed.push_str(&fix_encoding(found.as_str().to_owned()));
            copied = found.end();
        }
        start = found.end();
    }
    fixed.push_str(&text[copied..]);
    fixed
}

/// Replaces control characters of Latin-1 by the Windows-1252 characters at their positions.
fn fix_c1_controls(text: &str) -> String {
    let windows_1252: Vec<char> = ENCODINGS[1].high.chars().collect();
    text.chars()
        .map(|character| match character {
            '\u{80}'..='\u{9f}' => windows_1252[character as usize - 0x80],
            _ => character,
        })
        .collect()
}

/// Whether the text contains character pairs that are rare except in mojibake.
fn is_bad(text: &str) -> bool {
    static BAD_NEIGHBOURS: LazyLock<Regex> = LazyLock::new(|| {
        let patterns = [
            format!("[{C1}]"),
            format!(
                "[{BAD}{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}][{BAD}]"
            ),
            format!("[a-zA-Z][{LOWER_COMMON}{UPPER_COMMON}][{BAD}]"),
            format!(
                "[{BAD}][{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}]"
            ),
            format!("[{LOWER_ACCENTED}{LOWER_COMMON}{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{UPPER_ACCENTED}]"),
            format!("[{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{LOWER_ACCENTED}]"),
            format!("[{LOWER_ACCENTED}{BOX}{END_PUNCTUATION}][{CURRENCY}]"),
            format!(r"\s[{UPPER_ACCENTED}][{CURRENCY}]"),
            format!("[{UPPER_ACCENTED}{BOX}][{NUMERIC}{LAW}]"),
            format!(
                "[{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{CURRENCY}{END_PUNCTUATION}][{START_PUNCTUATION}][{NUMERIC}]"
            ),
            format!(
                "[{LOWER_ACCENTED}{UPPER_ACCENTED}{CURRENCY}{NUMERIC}{BOX}{LAW}][{END_PUNCTUATION}][{START_PUNCTUATION}]"
            ),
            format!("[{CURRENCY}{NUMERIC}{BOX}][{START_PUNCTUATION}]"),
            format!("[a-z][{UPPER_ACCENTED}][{START_PUNCTUATION}{CURRENCY}]"),
            format!("[{BOX}][{KAOMOJI}]"),
            format!(
                "[{LOWER_ACCENTED}{UPPER_ACCENTED}{CURRENCY}{NUMERIC}{START_PUNCTUATION}{END_PUNCTUATION}{LAW}][{BOX}]"
            ),
            format!("[{BOX}][{END_PUNCTUATION}]"),
            format!(r"[{LOWER_ACCENTED}{UPPER_ACCENTED}][{START_PUNCTUATION}{END_PUNCTUATION}]\w"),
            "[Œœ][^A-Za-z]".into(),
            format!("[{UPPER_ACCENTED}]°"),
            // Windows-1252
            format!(r"[ÂÃÎÐ][€œŠš¢£Ÿž\xa0\xad®©°·»{START_PUNCTUATION}{END_PUNCTUATION}–—´]"),
            "×[²³]".into(),
            format!(
                "[ØÙ][{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»][ØÙ][{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»]"
            ),
            "à[²µ¹¼½¾]".into(),
            // Mac OS Roman
            "√[±∂†≠®™´≤≥¥µø]".into(),
            "≈[°¢]".into(),
            "‚Ä[ìîïòôúùû†°¢π]".into(),
            "‚[âó][àä°ê]".into(),
            // Windows-1251
            "вЂ".into(),
            format!("[ВГРС][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°µ][ВГРС]"),
            "ГўВЂВ.[A-Za-z ]".into(),
            // Windows-1252 with "à", "á" and no-break spaces
            r"Ã[\xa0¡]".into(),
            r"[a-z]\s?[ÃÂ] ".into(),
            "^[ÃÂ] ".into(),
            format!("[a-z.,?!{END_PUNCTUATION}]Â[ {START_PUNCTUATION}{END_PUNCTUATION}]"),
            // Windows-1253
            r"β€[™\xa0Ά\xad®°]".into(),
            format!("[ΒΓΞΟ][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°][ΒΓΞΟ]"),
            // Windows-1257
            "ā€".into(),
        ];
        regex(&patterns.join("|"))
    });
    BAD_NEIGHBOURS.is_match(text)
}

/// Expands ligatures, normalises full-width and half-width forms, and straightens quotation marks.
fn simplify(text: &str) -> String {
    let mut simple = String::with_capacity(text.len());
    for character in text.chars() {
        let replacement = match character {
            'Ĳ' => "IJ",
            'ĳ' => "ij",
            'ŉ' => "'n",
            'Ǳ' => "DZ",
            'ǲ' => "Dz",
            'ǳ' => "dz",
            'Ǆ' => "DŽ",
            'ǅ' => "Dž",
            'ǆ' => "dž",
            'Ǉ' => "LJ",
            'ǈ' => "Lj",
            'ǉ' => "lj",
            'Ǌ' => "NJ",
            'ǋ' => "Nj",
            'ǌ' => "nj",
            'ﬀ' => "ff",
            'ﬁ' => "fi",
            'ﬂ' => "fl",
            'ﬃ' => "ffi",
            'ﬄ' => "ffl",
            'ﬅ' => "ſt",
            'ﬆ' => "st",
            '\u{3000}' => " ",
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
            '\u{201c}'..='\u{201f}' => "\"",
            '\u{ff01}'..='\u{ffef}' => {
                simple.extend(character.nfkc());
                continue;
            }
            _ => {
                simple.push(character);
                continue;
            }
        };
        simple.push_str(replacement);
    }
    simple
}

fn is_unwanted_control(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' | '\u{206a}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

fn bytes_regex(pattern: &str) -> bytes::Regex {
    bytes::RegexBuilder::new(pattern).unicode(false).build().expect("a pattern of this file")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repairs_the_examples_of_ftfy() {
        for (damaged, repaired) in [
            ("âœ” No problems", "✔ No problems"),
            ("The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.", "The Mona Lisa doesn't have eyebrows."),
            ("l’humanitÃ©", "l'humanité"),
            ("Ã\u{a0} perturber la rÃ©flexion", "à perturber la réflexion"),
            ("voilÃ  le travail", "voilà le travail"),
            ("â€œ like this â€\u{fffd}", "\" like this \u{fffd}"),
            ("схожий на Ð¡Ñ…Ð¾Ð¶Ð¸Ð¹", "схожий на Схожий"),
            ("P&EACUTE;REZ, P&eacute;rez", "PÉREZ, Pérez"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
            ("\u{1b}[36;44mI'm blue\u{1b}[0m", "I'm blue"),
            ("ﬂuﬃeﬆ", "fluffiest"),
            ("two\r\nlines\u{2028}and\u{feff} more", "two\nlines\nand more"),
        ] {
            assert_eq!(fix_text(damaged), repaired);
        }
    }

    #[test]
    fn leaves_sound_text_alone() {
        for text in
            ["", "IL Y MARQUÉ…", "50 % café – naïve", "日本語のテキスト 🐼", "&lt; stays beside <b>", "AT&T &bogus;"]
        {
            assert_eq!(fix_text(text), text);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in r"(\PC|[\x00-\u{ff}]|&#x?[0-9a-f]{1,8};?|[Ãâð\u{ed}ï][\u{80}-\u{bf}€œ�]{0,3}){0,60}") {
            prop_assert!(!fix_text(&text).contains(is_unwanted_control));
        }

        #[test]
        fn utf8_read_as_windows_1252_comes_back(word in "[àèéêîôûçäöüñ]{1,3}[a-z]{1,6}") {
            let misread: String = word
                .bytes()
                .map(|byte| if byte < 0x80 { byte.into() } else { ENCODINGS[1].high.chars().nth(usize::from(byte) - 0x80).unwrap() })
                .collect();
            prop_assert_eq!(fix_text(&misread), word);
        }
    }
}
