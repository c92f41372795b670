//! Latents of clean pictures, encoded once if the picture is cut the same way every time.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};
use spire_data::loader::TrainingSample;
use spire_model::base::Base;
use spire_model::pictures;

/// Encodes clean pictures, and keeps the latents if asked to.
pub(super) struct Latents {
    /// By the picture's position in the source.
    kept: Option<HashMap<usize, Tensor<4>>>,
}

impl Latents {
    /// With `keep`, a picture that was encoded before is not encoded again. Use it only if crops do not change.
    pub fn new(keep: bool) -> Self {
        Self { kept: keep.then(HashMap::new) }
    }

    /// The latent of a sample's clean picture, `[1, channels, height / 8, width / 8]`.
    ///
    /// Pictures are encoded one at a time. A batch of another size may round differently, and after a resume the
    /// pictures that are still to be encoded fall into other batches.
    pub fn of(&mut self, base: &Base, sample: &TrainingSample, device: &Device) -> Tensor<4> {
        let encode = || base.encode_pictures(pictures::to_tensor([&sample.clean], device));
        match &mut self.kept {
            Some(kept) => kept.entry(sample.index).or_insert_with(encode).clone(),
            None => encode(),
        }
    }
}
