//! Encodes prompts to the states that the UNet and the control branch attend to.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use lru::LruCache;

use crate::clip::{ClipText, ClipTextConfig};
use crate::tokenizer::Tokenizer;

/// Default size of the cache of encoded prompts, in bytes.
const REMEMBERED: usize = 1_000_000_000;

/// A text encoder with its tokenizer and a cache of encoded prompts.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    text_encoder: ClipText,
    context_length: usize,
    device: Device,
    /// Size of one prompt's states in bytes.
    text_bytes: usize,
    /// Training encodes the same captions and restoration prompts repeatedly.
    seen: Mutex<LruCache<String, Tensor<2>>>,
}

impl PromptEncoder {
    /// Combines the two; prompts are truncated or padded to the encoder's `max_position_embeddings`.
    pub fn new(tokenizer: Tokenizer, text_encoder: ClipText, config: &ClipTextConfig, device: &Device) -> Self {
        let context_length = config.max_position_embeddings;
        let text_bytes = DType::F32.size() * context_length * config.hidden_size;
        let seen = Mutex::new(LruCache::new(texts(REMEMBERED, text_bytes)));
        Self { tokenizer, text_encoder, context_length, device: device.clone(), text_bytes, seen }
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

    /// The states of the prompts' tokens, in f32: `[prompts, context_length, width]`.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<3> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let states = prompts.iter().map(AsRef::as_ref).map(|prompt: &str| {
            // One at a time: states may round differently in batches of another size, and a run resumed from a
            // checkpoint must get the states of the original run.
            let encode = || {
                let states = self.text_encoder.forward(self.tokenize(&[prompt])).last_hidden_state;
                states.squeeze_dim(0).cast(DType::F32)
            };
            seen.get_or_insert_ref(prompt, encode).clone()
        });
        Tensor::stack(states.collect(), 0)
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
