//! The memory that a run needs, in bytes.

use spire_model::cost::Cost;

use super::DryRun;
use super::parts::{Part, PartKind};

/// Bytes of a float32 number. Everything but the frozen model is float32.
const F32: u64 = 4;
/// AdamW keeps two moments for each parameter.
const MOMENTS: u64 = 2;

/// Bytes that a part of the model needs in training.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub average: u64,
    pub activations: u64,
}

impl Memory {
    /// In the order of the table.
    pub fn columns(self) -> [u64; 5] {
        [self.weights, self.gradients, self.optimizer, self.average, self.activations]
    }
}

impl DryRun {
    /// Batches that are in memory at the same time.
    pub(super) fn in_flight(&self) -> u64 {
        self.config.train_threads().min(self.config.train.accumulate) as u64
    }

    /// Numbers that the forward pass of a part keeps for the backward pass.
    fn kept(&self, cost: &Cost) -> u64 {
        cost.kept - if self.config.train.gradient_checkpointing { cost.recomputed } else { 0 }
    }

    /// Bytes of each part during a step.
    ///
    /// Batches that are computed in parallel have their own gradients, beside the sum over earlier batches. If the
    /// branch computes in 16 bits, each of them also has its own copy of the weights, and the sum, in float32, is
    /// separate from the first batch's gradients too.
    pub(super) fn memory(&self) -> Vec<(&'static str, Memory)> {
        let (train, held) = (&self.config.train, self.held());
        let frozen = self.config.model.precision.dtype().size() as u64;
        let images = self.in_flight() * train.batch_size as u64;
        let (own, compute) = (F32, self.config.model.control_precision.dtype().size() as u64);
        let copied = compute != own;
        let sums = u64::from(copied || train.accumulate > self.config.train_threads());
        let memory = |Part { kind, cost, .. }: Part| {
            let is_held = match kind {
                PartKind::VaeEncoder | PartKind::VaeDecoder => held.vae,
                PartKind::TextEncoder => held.text,
                _ => true,
            };
            if !is_held {
                return (kind.name(), Memory::default());
            }
            if !kind.is_trained() {
                let (weights, activations) = (frozen * cost.parameters, frozen * self.kept(&cost) * images);
                return (kind.name(), Memory { weights, activations, ..Memory::default() });
            }
            let (weights, computed) = (own * cost.parameters, compute * cost.parameters);
            let memory = Memory {
                weights: weights + if copied { computed * self.in_flight() } else { 0 },
                gradients: computed * self.in_flight() + weights * sums,
                optimizer: MOMENTS * weights,
                average: weights,
                activations: compute * self.kept(&cost) * images,
            };
            (kind.name(), memory)
        };
        let tower =
            self.image_encoder.map(|count| ("image encoder", Memory { weights: F32 * count, ..Memory::default() }));
        self.parts().into_iter().map(memory).chain(tower).collect()
    }

    /// Bytes of the largest block that gradient checkpointing recomputes, while it does.
    pub(super) fn recomputed(&self) -> u64 {
        let model = &self.config.model;
        let bytes = |Part { kind, cost, .. }: Part| {
            let precision = if kind.is_trained() { model.control_precision } else { model.precision };
            let number = precision.dtype().size() as u64;
            number * cost.largest_recomputed * self.config.train.batch_size as u64
        };
        self.in_flight() * self.parts().into_iter().map(bytes).max().unwrap_or(0)
    }

    /// What is kept of the data, with its bytes.
    pub(super) fn caches(&self) -> Vec<(String, u64)> {
        let (train, data, text) = (&self.config.train, &self.config.data, &self.base.text);
        let samples = train.steps.saturating_mul(train.samples_per_step() as u64);
        let pictures = self.pictures.min(samples);
        let side = (data.size / self.base.vae.downscale()) as u64;
        let latent = F32 * side * side * self.base.vae.latent_channels as u64;
        let text = F32 * (text.max_position_embeddings * text.hidden_size) as u64;
        // The Real-ESRGAN pipeline has a single prompt; the parameterised one may draw a new prompt for every sample.
        let prompts = (samples as f64 * self.config.degradation.parameterized_share) as u64;
        let mut caches = vec![];
        let (latents, room) = (pictures.saturating_mul(latent), self.config.kept_latent_bytes() as u64);
        if room > 0 {
            let bounded = if latents > room { ", as many as model.latent_cache_megabytes holds" } else { "" };
            caches.push((format!("latents of {pictures} pictures{bounded}"), latents.min(room)));
        }
        // Encoded states are read with each sample.
        let captions =
            if self.encoded.as_ref().is_some_and(|encoded| encoded.model.text.is_some()) { 0 } else { pictures };
        let prompts = if self.config.data.source.is_paired() { 0 } else { prompts };
        let (states, bound) = ((captions + prompts).saturating_mul(text), self.config.model.text_cache_bytes() as u64);
        let bounded = if states > bound { ", as many as model.text_cache_megabytes holds" } else { "" };
        caches.push((
            format!("states of at most {captions} captions and {prompts} restoration prompts{bounded}"),
            states.min(bound),
        ));
        let picture = F32 * 3 * (data.size * data.size) as u64;
        caches.push((format!("{} samples prepared ahead", data.prefetch), 2 * picture * data.prefetch as u64));
        caches
    }
}

#[cfg(test)]
mod tests {
    use crate::speed::dry_run::tests::tiny;

    #[test]
    fn memory_grows_with_the_batches_of_a_step() {
        let held = |overrides: &[&str]| {
            let parts = tiny(overrides).unwrap().memory();
            let (_, fusion) = parts.into_iter().find(|(name, _)| *name == "branch: fusion").unwrap();
            fusion
        };
        let one = held(&["train.accumulate=1", "train.threads=1", "train.batch_size=4"]);
        assert_eq!(one.gradients, one.weights);
        assert_eq!(one.optimizer, 2 * one.weights);
        let two = held(&["train.accumulate=2", "train.threads=2", "train.batch_size=4"]);
        assert_eq!((two.activations, two.gradients), (2 * one.activations, 2 * one.gradients));
        // The sum of the first two batches' gradients, and the gradients of the other two.
        let four = held(&["train.accumulate=4", "train.threads=2", "train.batch_size=4"]);
        assert_eq!((four.activations, four.gradients), (2 * one.activations, 3 * one.gradients));
    }

    #[test]
    fn gradient_checkpointing_keeps_only_the_inputs_of_blocks() {
        let counted = |on: bool| tiny(&[&format!("train.gradient_checkpointing={on}"), "train.threads=1"]).unwrap();
        let (all, some) = (counted(false), counted(true));
        for ((name, all), (_, some)) in all.memory().into_iter().zip(some.memory()) {
            match name {
                "UNet decoder" | "branch: embedding" | "branch: encoder" => {
                    assert!(2 * some.activations < all.activations, "{name}");
                    assert!(name == "branch: encoder" || some.activations > 0, "{name}");
                }
                _ => assert_eq!(some.activations, all.activations, "{name}"),
            }
        }
        // One block of many.
        let encoder = all.memory().into_iter().find(|(name, _)| *name == "branch: encoder").unwrap().1;
        assert!(some.recomputed() > 0 && some.recomputed() < encoder.activations, "{}", some.recomputed());
    }

    #[test]
    fn half_precision_halves_only_the_frozen_parts() {
        let (full, half) = (tiny(&[]).unwrap().memory(), tiny(&["model.precision=bf16"]).unwrap().memory());
        for ((name, full), (_, half)) in full.into_iter().zip(half) {
            let trained = name.starts_with("branch") || name == "image encoder";
            assert_eq!(full.weights, if trained { half.weights } else { 2 * half.weights }, "{name}");
        }
    }

    #[test]
    fn a_branch_in_half_precision_keeps_its_weights_in_float32() {
        let one = ["train.accumulate=1", "train.threads=1"];
        let full = tiny(&one).unwrap().memory();
        let half = tiny(&[one.as_slice(), &["model.control_precision=bf16"]].concat()).unwrap().memory();
        for ((name, full), (_, half)) in full.into_iter().zip(half).filter(|((name, _), _)| name.starts_with("branch"))
        {
            assert_eq!(2 * half.weights, 3 * full.weights, "{name}");
            assert_eq!(2 * half.gradients, 3 * full.gradients, "{name}");
            assert_eq!((half.optimizer, half.average), (full.optimizer, full.average), "{name}");
            assert_eq!(2 * half.activations, full.activations, "{name}");
        }
    }
}
