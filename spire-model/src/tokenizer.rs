//! CLIP's byte-pair encoding: prompts to token ids.
//!
//! Prompts are cleaned as in open_clip's `SimpleTokenizer`: mojibake repaired, HTML entities resolved, white space
//! collapsed, lower case. The text of a special token in a prompt is treated as ordinary text.

mod mojibake;
mod mojibake_tables;

use std::{
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use spire_core::bounded_read;
use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::embedded;

/// Context length of CLIP's text encoders, in tokens.
pub const CONTEXT_LENGTH: usize = 77;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const END_OF_WORD: &str = "</w>";

/// Matches contractions, words, single digits, and runs of other characters.
const WORDS: &str = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The names of the files in CLIP's `tokenizer/` folder. The merges determine the vocabulary.
const CLIP_FILES: [&str; 4] = ["merges.txt", "vocab.json", "special_tokens_map.json", "tokenizer_config.json"];

static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::from_clip_merges);

/// The files of CLIP's `tokenizer/` folder, by name; pretrained models are written with them.
pub fn clip_files() -> impl Iterator<Item = (&'static str, String)> {
    CLIP_FILES.into_iter().map(|name| (name, clip_file(name)))
}

/// The tiny model has CLIP's own tokenizer.
fn clip_file(name: &str) -> String {
    embedded::text(&format!("tokenizer/{name}"))
}

/// Turns prompts into token ids.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    words: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
}

impl Tokenizer {
    /// The tokenizer of OpenAI's CLIP, used by Stable Diffusion 1 and 2 and open_clip: 49408 ids, padded with the end
    /// token. Built at the first call.
    pub fn clip() -> &'static Self {
        &CLIP
    }

    /// Opens a tokenizer in the Hugging Face layout: a folder with `vocab.json` and `merges.txt`, or with
    /// `tokenizer.json`; or a folder that contains such a folder called `tokenizer`. The padding token is that of
    /// `special_tokens_map.json` or `tokenizer_config.json`, otherwise the end token.
    ///
    /// # Errors
    /// The files are missing or malformed, or aren't those of a CLIP tokenizer.
    pub fn from_folder(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let folder = if path.join("tokenizer").is_dir() { path.join("tokenizer") } else { path.to_owned() };
        let (vocab, merges, all) =
            (folder.join("vocab.json"), folder.join("merges.txt"), folder.join("tokenizer.json"));
        let bpe = if vocab.is_file() && merges.is_file() {
            let merges = read_merges(&merges)?;
            clip_bpe(read_json(&vocab)?, merges).map_err(|message| TokenizerError::invalid(&folder, message))?
        } else if all.is_file() {
            model_of(&read_json(&all)?).map_err(|message| TokenizerError::invalid(&all, message))?
        } else {
            return Err(TokenizerError::Missing { folder });
        };
        if bpe.end_of_word_suffix.as_deref() != Some(END_OF_WORD) {
            return Err(TokenizerError::invalid(&folder, "its words don't end with `</w>`, as CLIP's do"));
        }
        let maps = [
            read_settings(&folder.join("special_tokens_map.json"))?,
            read_settings(&folder.join("tokenizer_config.json"))?,
        ];
        let named = |key: &str, default: &str| {
            maps.iter().find_map(|map| token_text(map.get(key)?)).unwrap_or(default).to_owned()
        };
        let end = named("eos_token", END);
        let pad = named("pad_token", &end);
        Self::new(bpe, &named("bos_token", START), &end, &pad)
            .map_err(|message| TokenizerError::invalid(&folder, message))
    }

    /// Token ids of a prompt, from the start token to the end token; at most [`CONTEXT_LENGTH`].
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_to(text, CONTEXT_LENGTH)
    }

    /// Exactly `context_length` token ids: the prompt's, truncated so that the end token is last, then `pad_id`.
    pub fn encode_padded(&self, text: &str, context_length: usize, pad_id: u32) -> Vec<i64> {
        let mut ids: Vec<i64> = self.encode_to(text, context_length).into_iter().map(i64::from).collect();
        ids.resize(context_length, i64::from(pad_id));
        ids
    }

    /// The prompt in pieces of exactly `context_length` token ids each, at least one: every piece has a start token, as many of
    /// the prompt's tokens as fit, an end token, then `pad_id`.
    pub fn encode_in_chunks(&self, text: &str, context_length: usize, pad_id: u32) -> Vec<Vec<i64>> {
        let words = self.words_of(text);
        let piece = |words: &[u32]| {
            let ids = [&[self.start], words, &[self.end]].concat();
            let padding = std::iter::repeat(pad_id);
            ids.into_iter().chain(padding).take(context_length).map(i64::from).collect()
        };
        match words.len() {
            0 => vec![piece(&[])],
            _ => words.chunks(context_length.saturating_sub(2).max(1)).map(piece).collect(),
        }
    }

    /// The number of tokens of a prompt, with the start and the end token.
    pub fn count(&self, text: &str) -> usize {
        self.words_of(text).len() + 2
    }

    /// The id of the start token.
    pub fn start_id(&self) -> u32 {
        self.start
    }

    /// The id of the end token.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Replaces the padding token.
    pub fn with_pad_id(self, pad: u32) -> Self {
        Self { pad, ..self }
    }

    fn encode_to(&self, text: &str, context_length: usize) -> Vec<u32> {
        let mut ids = [&[self.start], &*self.words_of(text), &[self.end]].concat();
        if ids.len() > context_length {
            ids.truncate(context_length);
            ids.iter_mut().rev().take(1).for_each(|last| *last = self.end);
        }
        ids
    }

    /// The prompt's ids without start and end.
    fn words_of(&self, text: &str) -> Vec<u32> {
        let words = self.words.encode_fast(clean(text), false);
        let words = words.expect("byte-level BPE with an unknown token in its vocabulary encodes every text");
        words.get_ids().to_vec()
    }

    fn from_clip_merges() -> Self {
        let merges: Vec<(String, String)> = clip_file("merges.txt")
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(' '))
            .map(|(left, right)| (left.into(), right.into()))
            .collect();
        let bytes: Vec<String> = byte_alphabet().map(String::from).collect();
        let vocabulary = bytes
            .iter()
            .cloned()
            .chain(bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}")))
            .chain(merges.iter().map(|(left, right)| format!("{left}{right}")))
            .chain([START.into(), END.into()]);
        clip_bpe(vocabulary.zip(0..).collect(), merges)
            .and_then(|bpe| Self::new(bpe, START, END, END))
            .expect("the built-in merges are CLIP's")
    }

    fn new(bpe: BPE, start: &str, end: &str, pad: &str) -> Result<Self, String> {
        let unknown = bpe.unk_token.clone();
        let mut words = tokenizers::Tokenizer::new(bpe);
        let id = |token: &str| {
            words.token_to_id(token).ok_or_else(|| format!("its vocabulary lacks the special token `{token}`"))
        };
        let (start, end, pad) = (id(start)?, id(end)?, id(pad)?);
        unknown.as_deref().map(id).transpose()?;
        let split = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)
            .map_err(|error| error.to_string())?;
        let bytes = ByteLevel::new(false, false, false);
        words.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![split.into(), bytes.into()]))));
        Ok(Self { words, start, end, pad })
    }
}

fn clip_bpe(vocab: Vocab, merges: Vec<(String, String)>) -> Result<BPE, String> {
    check_merges(&vocab, &merges)?;
    let bpe = BPE::builder().vocab_and_merges(vocab, merges).unk_token(END.into());
    bpe.end_of_word_suffix(END_OF_WORD.into()).build().map_err(|error| error.to_string())
}

/// The model of a `tokenizer.json`. Nothing else of the file is used: words are split and cleaned as CLIP does.
fn model_of(tokenizer: &Value) -> Result<BPE, String> {
    /// Both forms of `merges`.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Pair(String, String),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: Vocab,
        merges: Vec<Merge>,
        continuing_subword_prefix: Option<String>,
    }
    let model = tokenizer.get("model").filter(|model| model.get("type").is_none_or(|kind| kind == "BPE"));
    let model = model.ok_or("its model is not a BPE, as CLIP's is")?;
    let Model { vocab, merges, continuing_subword_prefix } =
        Model::deserialize(model).map_err(|error| format!("its model: {error}"))?;
    if continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Err("its model has a `continuing_subword_prefix`, and CLIP's has none".into());
    }
    let pair = |merge| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Text(text) => split_merge(&text),
    };
    check_merges(&vocab, &merges.into_iter().map(pair).collect::<Result<Vec<_>, String>>()?)?;
    BPE::deserialize(model).map_err(|error| format!("its model: {error}"))
}

fn split_merge(line: &str) -> Result<(String, String), String> {
    let parts = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
    let (left, right) = parts.ok_or_else(|| format!("the merge {line:?} is not two tokens"))?;
    Ok((left.to_owned(), right.to_owned()))
}

/// Every merge gives a token of the vocabulary: the library takes that for granted.
fn check_merges(vocab: &Vocab, merges: &[(String, String)]) -> Result<(), String> {
    match merges.iter().find(|(left, right)| !vocab.contains_key(&format!("{left}{right}"))) {
        Some((left, right)) => Err(format!("its vocabulary lacks {left:?} and {right:?} merged")),
        None => Ok(()),
    }
}

/// The characters that represent the 256 bytes, in the order of CLIP's ids: printable bytes first.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    printable.clone().chain(('\u{100}'..).take(256 - printable.count()))
}

/// open_clip's cleaning: ftfy, two rounds of HTML entities, white space, lower case.
fn clean(text: &str) -> String {
    let repaired = mojibake::fix_text(text);
    let resolved = htmlize::unescape(htmlize::unescape(repaired));
    resolved.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The most bytes of a file: vocabularies have a few megabytes, and settings may hold a chat template.
const MOST_BYTES: u64 = 1 << 26;

fn read_bytes(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    bounded_read::read(path, MOST_BYTES).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, TokenizerError> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|error| TokenizerError::invalid(path, error))
}

fn read_settings(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    if path.is_file() { read_json(path) } else { Ok(Map::new()) }
}

/// The merges of a `merges.txt`, one a line, after a line with the version.
fn read_merges(path: &Path) -> Result<Vec<(String, String)>, TokenizerError> {
    let text = String::from_utf8(read_bytes(path)?).map_err(|error| TokenizerError::invalid(path, error))?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    lines.map(|line| split_merge(line).map_err(|message| TokenizerError::invalid(path, message))).collect()
}

/// A special token: its text, or an object with its text and settings.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A tokenizer can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The folder contains no tokenizer.
    #[error("no tokenizer in {folder}: it needs vocab.json and merges.txt, or tokenizer.json")]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// A file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The files aren't those of a CLIP tokenizer.
    #[error("{path} is not a CLIP tokenizer: {message}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        message: String,
    },
}

impl TokenizerError {
    fn invalid(path: &Path, message: impl ToString) -> Self {
        Self::Invalid { path: path.to_owned(), message: message.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn asset() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny/tokenizer")
    }

    #[derive(Deserialize)]
    struct Prompt {
        text: String,
        ids: Vec<u32>,
    }

    fn prompts(case: &str) -> Vec<Prompt> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(case);
        serde_json::from_str(&fs::read_to_string(folder.join("prompts.json")).unwrap()).unwrap()
    }

    #[test]
    fn encodes_as_open_clip_does() {
        let opened = Tokenizer::from_folder(asset()).unwrap();
        for Prompt { text, ids } in prompts("case-tokenizer") {
            assert_eq!(Tokenizer::clip().encode(&text), ids, "{text:?}");
            assert_eq!(opened.encode(&text), ids, "{text:?}");
        }
    }

    #[test]
    fn cleans_as_open_clip_does() {
        for Prompt { text, ids } in prompts("case-tokenizer-mojibake") {
            assert_eq!(Tokenizer::clip().encode(&text), ids, "{text:?}");
        }
    }

    #[test]
    fn the_built_in_vocabulary_is_the_asset() {
        let vocab: HashMap<String, u32> =
            serde_json::from_str(&fs::read_to_string(asset().join("vocab.json")).unwrap()).unwrap();
        assert_eq!(vocab.len(), 49408);
        for (token, id) in vocab {
            assert_eq!(Tokenizer::clip().words.token_to_id(&token), Some(id), "{token:?}");
        }
    }

    #[test]
    fn pads_with_the_token_that_the_folder_names() {
        assert_eq!(Tokenizer::clip().encode_padded("a", 5, 49407), [49406, 320, 49407, 49407, 49407]);
        assert_eq!(Tokenizer::clip().encode_padded("a b c d", 3, 0), [49406, 320, 49407]);
        assert_eq!(Tokenizer::clip().encode_padded("a", 0, 0), [0i64; 0]);
        let folder = tempfile::tempdir().unwrap();
        for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
            fs::copy(asset().join(file), folder.path().join(file)).unwrap();
        }
        assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().pad_id(), 49407);
        fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": "!"}"#).unwrap();
        assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().pad_id(), 0);
        fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": {"content": "[PAD]"}}"#).unwrap();
        assert!(Tokenizer::from_folder(folder.path()).unwrap_err().to_string().contains("[PAD]"));
    }

    #[test]
    fn a_single_file_tokenizer_gives_the_same_ids() {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::clip().words.save(folder.path().join("tokenizer.json"), false).unwrap();
        let opened = Tokenizer::from_folder(folder.path()).unwrap();
        let prompt = "Upsample to 6.0x; Deblur with sigma 2.9;";
        assert_eq!(opened.encode(prompt), Tokenizer::clip().encode(prompt));
    }

    #[test]
    fn says_what_a_folder_lacks() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Tokenizer::from_folder(folder.path()), Err(TokenizerError::Missing { .. })));
        fs::write(folder.path().join("vocab.json"), "{\"a\": 0}").unwrap();
        fs::write(folder.path().join("merges.txt"), "#version: 0.2\n").unwrap();
        assert!(Tokenizer::from_folder(folder.path()).unwrap_err().to_string().contains(START));
    }

    #[test]
    fn merges_must_give_tokens_of_the_vocabulary() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let error = || Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
        let model = |merges: &str, more: &str| {
            format!(r#"{{"model": {{"vocab": {{"a": 0, "b</w>": 1}}, "merges": {merges}{more}}}}}"#)
        };
        for merges in [r#"["a b</w>"]"#, r#"[["a", "b</w>"]]"#] {
            write("tokenizer.json", &model(merges, ""));
            assert!(error().contains(r#"lacks "a" and "b</w>" merged"#), "{}", error());
        }
        write("tokenizer.json", &model(r#"["a b c"]"#, ""));
        assert!(error().contains("not two tokens"), "{}", error());
        write("tokenizer.json", &model("[]", r###", "continuing_subword_prefix": "##""###));
        assert!(error().contains("continuing_subword_prefix"), "{}", error());
        write("tokenizer.json", r#"{"model": {"type": "Unigram", "vocab": []}}"#);
        assert!(error().contains("not a BPE"), "{}", error());
        write("vocab.json", r#"{"a": 0, "b": 1}"#);
        write("merges.txt", "#version: 0.2\na b\n");
        assert!(error().contains("merged"), "{}", error());
    }

    proptest! {
        #[test]
        fn every_text_starts_ends_and_fits(text in any::<String>()) {
            let ids = Tokenizer::clip().encode(&text);
            prop_assert!((2..=CONTEXT_LENGTH).contains(&ids.len()));
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (49406, 49407));
            prop_assert!(ids[1..ids.len() - 1].iter().all(|&id| id < 49406));
            prop_assert_eq!(Tokenizer::clip().encode(&text), ids);
        }

        #[test]
        fn mojibake_and_entities_do_not_panic(text in r"([Ã¢â€™œ\u{80}-\u{ff} ]|&#?x?[0-9a-z]{1,6};?|[<>&']){0,40}") {
            prop_assert!(Tokenizer::clip().encode(&text).len() <= CONTEXT_LENGTH);
        }
    }
}
