//! From prompts to the states that the UNet and the control branch attend to.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::clip::{ClipText, ClipTextConfig};
use crate::tokenizer::Tokenizer;

/// A text encoder with its tokenizer; what it once encoded it remembers.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    text_encoder: ClipText,
    context_length: usize,
    device: Device,
    /// Training repeats few restoration prompts and many captions; both are computed once.
    seen: Mutex<HashMap<String, Tensor<2>>>,
}

impl PromptEncoder {
    /// Joins the two; texts are cut or padded to the encoder's `max_position_embeddings`.
    pub fn new(tokenizer: Tokenizer, text_encoder: ClipText, config: &ClipTextConfig, device: &Device) -> Self {
        let context_length = config.max_position_embeddings;
        Self { tokenizer, text_encoder, context_length, device: device.clone(), seen: Mutex::default() }
    }

    /// From a folder with `tokenizer/` and `text_encoder/`.
    ///
    /// # Errors
    /// Unreadable, or weights that do not fit the configuration.
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

    /// What the UNet attends to, in 32 bits: `[prompts, context_length, width]`.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<3> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let states = prompts.iter().map(AsRef::as_ref).map(|prompt: &str| {
            // One at a time: in a batch of another size a state may round differently, and a run that goes on from a
            // checkpoint must find the states of the run that wrote it.
            let encode = || {
                let states = self.text_encoder.forward(self.tokenize(&[prompt])).last_hidden_state;
                states.squeeze_dim(0).cast(DType::F32)
            };
            seen.entry(prompt.to_owned()).or_insert_with(encode).clone()
        });
        Tensor::stack(states.collect(), 0)
    }
}
