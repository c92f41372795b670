//! Encodes prompts to the states that the UNet and the control branch attend to.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::clip::{ClipText, ClipTextConfig};
use crate::tokenizer::Tokenizer;

/// Default size of the cache of encoded prompts, in bytes.
const REMEMBERED: usize = 1_000_000_000;

/// How prompts are encoded that have more tokens than the text encoder reads at once.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LongPrompts {
    /// Tokens beyond the limit are cut off, as in diffusers' pipelines.
    #[default]
    Truncate,
    /// Pieces that fit are encoded one by one and their states joined, as in the long-prompt pipelines for Stable
    /// Diffusion.
    Chunk,
}

/// A text encoder with its tokenizer and a cache of encoded prompts.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    /// `None` while it is not in memory: then only prompts whose states are known can be encoded.
    text_encoder: Option<ClipText>,
    context_length: usize,
    device: Device,
    long: LongPrompts,
    /// Whether the warning about a prompt that is cut off was given.
    warned: AtomicBool,
    /// Size of one prompt's states in bytes.
    text_bytes: usize,
    /// Training encodes the same captions and restoration prompts repeatedly.
    seen: Mutex<LruCache<String, Tensor<2>>>,
}

impl PromptEncoder {
    /// Combines the two. Prompts are padded to the encoder's `max_position_embeddings`, and cut off if they are longer.
    pub fn new(tokenizer: Tokenizer, text_encoder: ClipText, config: &ClipTextConfig, device: &Device) -> Self {
        Self { text_encoder: Some(text_encoder), ..Self::without_tower(tokenizer, config, device) }
    }

    /// As [`Self::new`], with the text encoder to be set later.
    pub(super) fn without_tower(tokenizer: Tokenizer, config: &ClipTextConfig, device: &Device) -> Self {
        let context_length = config.max_position_embeddings;
        let text_bytes = DType::F32.size() * context_length * config.hidden_size;
        let seen = Mutex::new(LruCache::new(texts(REMEMBERED, text_bytes)));
        let (device, long, warned) = (device.clone(), LongPrompts::Truncate, AtomicBool::new(false));
        Self { tokenizer, text_encoder: None, context_length, device, long, warned, text_bytes, seen }
    }

    /// Whether the text encoder is in memory.
    pub(super) fn has_tower(&self) -> bool {
        self.text_encoder.is_some()
    }

    /// Takes a text encoder into memory, or frees it.
    pub(super) fn set_tower(&mut self, text_encoder: Option<ClipText>) {
        self.text_encoder = text_encoder;
    }

    /// Chooses what happens to long prompts.
    pub fn set_long_prompts(&mut self, long: LongPrompts) {
        self.long = long;
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Limits the cache to `bytes`; it keeps the most recently used prompts, at least one.
    pub fn keep_at_most(&mut self, bytes: usize) {
        let texts = texts(bytes, self.text_bytes);
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).resize(texts);
    }

    /// Loads a folder with `tokenizer/` and `text_encoder/`.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let encoder = folder.join("text_encoder");
        Ok(Self::new(
            Tokenizer::from_folder(folder.join("tokenizer"))?,
            ClipText::load(&encoder, device)?,
            &ClipTextConfig::read(&encoder)?,
            device,
        ))
    }

    /// Token ids, padded: `[prompts, context_length]`.
    pub fn tokenize<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<2, Int> {
        let pad_id = self.tokenizer.pad_id();
        let ids: Vec<i64> = prompts
            .iter()
            .flat_map(|prompt| self.tokenizer.encode_padded(prompt.as_ref(), self.context_length, pad_id))
            .collect();
        Tensor::from_data(TensorData::new(ids, [prompts.len(), self.context_length]), &self.device)
    }

    /// The states of the prompts' tokens, in f32: `[prompts, tokens, width]`. `tokens` is the context length; with
    /// [`LongPrompts::Chunk`] it is as many times that as the longest prompt has pieces, and shorter prompts are followed by
    /// empty ones.
    ///
    /// # Panics
    /// If the text encoder is not in memory, for a prompt that was not encoded before.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<3> {
        self.encode_known(prompts.iter().map(|prompt| (prompt.as_ref(), None)))
    }

    /// As [`Self::encode`] of prompts some of whose states, `[tokens, width]`, are known.
    ///
    /// # Panics
    /// If the text encoder is not in memory, for a prompt whose states are not known.
    pub fn encode_known<'a>(&self, prompts: impl IntoIterator<Item = (&'a str, Option<Tensor<2>>)>) -> Tensor<3> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let states = prompts.into_iter().map(|(prompt, known)| match known {
            Some(states) => states,
            // One at a time: states may round differently in batches of another size, and a run resumed from a
            // checkpoint must get the states of the original run.
            None => seen.get_or_insert_ref(prompt, || self.states(prompt)).clone(),
        });
        let mut states: Vec<Tensor<2>> = states.collect();
        let longest = states.iter().map(|states| states.dims()[0]).max().unwrap_or(0);
        if states.iter().any(|states| states.dims()[0] < longest) {
            let empty = seen.get_or_insert_ref("", || self.states("")).clone();
            for states in &mut states {
                let missing = (longest - states.dims()[0]) / self.context_length;
                let parts = std::iter::once(states.clone()).chain(std::iter::repeat_n(empty.clone(), missing));
                *states = Tensor::cat(parts.collect(), 0);
            }
        }
        Tensor::stack(states, 0)
    }

    /// The states of one prompt, `[tokens, width]`, which are not kept.
    ///
    /// # Panics
    /// If the text encoder is not in memory.
    pub fn states(&self, prompt: &str) -> Tensor<2> {
        let text_encoder = self.text_encoder.as_ref().expect("who encodes new prompts holds the text encoder");
        let encode = |ids: Tensor<2, Int>| {
            let states = text_encoder.forward(ids).last_hidden_state;
            states.squeeze_dim(0).cast(DType::F32)
        };
        match self.long {
            LongPrompts::Truncate => {
                self.warn_if_long(prompt);
                encode(self.tokenize(&[prompt]))
            }
            LongPrompts::Chunk => {
                let length = self.context_length;
                let pieces = self.tokenizer.encode_in_chunks(prompt, length, self.tokenizer.pad_id());
                let encode = |ids| encode(Tensor::from_data(TensorData::new(ids, [1, length]), &self.device));
                Tensor::cat(pieces.into_iter().map(encode).collect(), 0)
            }
        }
    }

    fn warn_if_long(&self, prompt: &str) {
        if self.warned.load(Ordering::Relaxed) {
            return;
        }
        let count = self.tokenizer.count(prompt);
        if count > self.context_length && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a prompt has {count} tokens, and the text encoder reads the first {}: the rest of it, and of every \
                 prompt as long, is cut off; model.long_prompts = \"chunk\" keeps it. The prompt: {prompt}",
                self.context_length
            );
        }
    }
}

/// Number of prompts of `text_bytes` each that fit into `bytes`, at least one.
fn texts(bytes: usize, text_bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes / text_bytes).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_do_not_depend_on_the_size_of_the_cache() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let mut encoder = PromptEncoder::load(&folder, &Device::flex()).unwrap();
        let prompts = ["a panda", "a zebra", "a panda", "", "Deblur with sigma 3.0", "a panda"];
        let expected = encoder.encode(&prompts).into_data();
        assert_eq!(encoder.seen.lock().unwrap().len(), 4);
        for (bytes, remembered) in [(2 * encoder.text_bytes, 2), (0, 1)] {
            encoder.keep_at_most(bytes);
            for _ in 0..2 {
                encoder.encode(&prompts).into_data().assert_eq(&expected, true);
                assert_eq!(encoder.seen.lock().unwrap().len(), remembered);
            }
        }
        assert!(!encoder.encode(&prompts).is_autodiff());
    }

    #[test]
    fn a_long_prompt_is_cut_off_or_encoded_in_pieces() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let mut encoder = PromptEncoder::load(&folder, &Device::flex()).unwrap();
        let length = encoder.context_length;
        // One token a word.
        let first = vec!["red"; length - 2].join(" ");
        let long = format!("{first} a panda");
        assert_eq!(encoder.tokenizer.count(&long), length + 2);
        let cut = encoder.encode(&[&long]);
        cut.into_data().assert_eq(&encoder.encode(&[&first]).into_data(), true);
        assert!(encoder.warned.load(Ordering::Relaxed));

        encoder.set_long_prompts(LongPrompts::Chunk);
        let whole = encoder.encode(&[long.as_str(), "a zebra"]);
        assert_eq!(whole.dims()[..2], [2, 2 * length]);
        let part =
            |row: usize, piece: usize| whole.clone().narrow(0, row, 1).narrow(1, piece * length, length).into_data();
        for (row, pieces) in [(0, [first.as_str(), "a panda"]), (1, ["a zebra", ""])] {
            for (i, prompt) in pieces.into_iter().enumerate() {
                part(row, i).assert_eq(&encoder.encode(&[prompt]).into_data(), true);
            }
        }
        // A batch of short prompts is as without chunks.
        assert_eq!(encoder.encode(&["a zebra", "a panda"]).dims()[1], length);
    }

    #[test]
    fn the_small_model_distinguishes_strengths() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let encoder = PromptEncoder::load(&folder, &Device::flex()).unwrap();
        let apart = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|prompt| encoder.encode(&[prompt]));
            let size = one.clone().square().sum().into_scalar::<f32>();
            ((one - other).square().sum().into_scalar::<f32>() / size).sqrt()
        };
        for [weak, strong] in
            [["Deblur with sigma 0.5", "Deblur with sigma 3.0"], ["Denoise with sigma 0.02", "Denoise with sigma 0.25"]]
        {
            assert!(apart(weak, strong) > 0.3, "{weak}: {}", apart(weak, strong));
        }
        let [weak, middle, strong] = ["0.5", "1.5", "3.0"].map(|sigma| format!("Deblur with sigma {sigma}"));
        assert!(apart(&weak, &middle) < apart(&weak, &strong) && apart(&middle, &strong) < apart(&weak, &strong));
    }
}
