//! Latents of clean pictures: computed beforehand, or encoded once if the picture is cut the same way every time.

use std::collections::HashMap;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use spire_data::loader::TrainingSample;
use spire_model::base::Base;
use spire_model::pictures;

use crate::encoding;

/// Bytes of a number of a latent.
const NUMBER: usize = 4;

/// Encodes clean pictures, and keeps the latents if asked to.
pub(super) struct Latents {
    /// By the picture's position in the source.
    kept: HashMap<usize, Tensor<4>>,
    /// Bytes that may still be kept.
    room: usize,
}

impl Latents {
    /// Keeps up to `bytes` of latents: a picture that was encoded before is not encoded again. Use 0 if crops change.
    ///
    /// The first latents stay, and those for which there is no room are computed again. Dropping the least recently used
    /// would be worse: every pass has all pictures in another order, so that many would be dropped just before their next
    /// use.
    pub fn keeping(bytes: usize) -> Self {
        Self { kept: HashMap::new(), room: bytes }
    }

    /// The latent that a sample's prompts ask for, that of its clean picture or of its other target, `[1, channels, height / 8,
    /// width / 8]`.
    ///
    /// Pictures are encoded one at a time. A batch of another size may round differently, and after a resume the
    /// pictures that are still to be encoded fall into other batches.
    ///
    /// # Errors
    /// What was computed beforehand is no latent.
    ///
    /// # Panics
    /// If nothing was computed beforehand and the base does not hold its VAE.
    pub fn of(&mut self, base: &Base, sample: &TrainingSample, device: &Device) -> Result<Tensor<4>> {
        let encode = |picture| base.encode_pictures(pictures::to_tensor([picture], device));
        if let Some(target) = &sample.target {
            return Ok(encode(target));
        }
        if let Some(encoded) = &sample.encoded {
            return Ok(encoding::tensor::<3>(&encoded.latent, device)?.unsqueeze_dim(0));
        }
        if let Some(latent) = self.kept.get(&sample.index) {
            return Ok(latent.clone());
        }
        let latent = encode(&sample.clean);
        let bytes = NUMBER * latent.shape().num_elements();
        if bytes <= self.room {
            self.room -= bytes;
            self.kept.insert(sample.index, latent.clone());
        }
        Ok(latent)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spire_data::degrade::DegradationConfig;
    use spire_data::loader::{DataConfig, Samples};
    use spire_model::weights::Precision;

    use super::*;

    #[test]
    fn latents_are_kept_up_to_the_bound_and_are_the_same_beyond_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let device = Device::flex();
        let base = Base::load(&folder, Precision::F32, &device).unwrap();
        let samples = Samples::open(DataConfig::default(), DegradationConfig::default(), 1).unwrap();
        let samples: Vec<TrainingSample> = (0..3).map(|n| samples.sample(n).unwrap()).collect();
        let numbers = Latents::keeping(0).of(&base, &samples[0], &device).unwrap().shape().num_elements();
        let latents = |bytes: usize| {
            let mut latents = Latents::keeping(bytes);
            let twice =
                samples.iter().chain(&samples).map(|sample| latents.of(&base, sample, &device).unwrap().into_data());
            (twice.collect::<Vec<_>>(), latents.kept.len())
        };
        let (expected, none) = latents(0);
        assert_eq!(none, 0);
        for (bytes, kept) in [(4 * numbers - 1, 0), (4 * numbers, 1), (2 * 4 * numbers + 5, 2), (usize::MAX, 3)] {
            let (found, count) = latents(bytes);
            assert_eq!(count, kept, "{bytes} bytes");
            found.iter().zip(&expected).for_each(|(found, expected)| found.assert_eq(expected, true));
        }
    }
}
