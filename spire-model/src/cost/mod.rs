//! The cost of the networks, computed from their configurations without allocating them: parameters, floating-point
//! operations, and activations that a training step keeps for its backward pass.
//!
//! Each part is traversed in the order of computation. Tests compare the parameters with the networks' own, and the
//! operations with PyTorch's `FlopCounterMode` (`scripts/reference/flops.py`).

mod blocks;
mod control;
mod text;
mod unet;
mod vae;

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use blocks::Counter;
pub use control::{ControlCost, control};
pub use text::text_encoder;
pub use unet::{UNetCost, unet};
pub use vae::{vae_decoder, vae_encoder};

/// Height and width.
pub type Size = [usize; 2];

/// The cost of one part of a model, for one image or prompt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    /// Number of parameters.
    pub parameters: u64,
    /// Floating-point operations of the forward pass; a multiply-add counts as two. Convolutions, linear layers and
    /// attention products count; normalisations and elementwise operations do not.
    pub forward: u64,
    /// Floating-point operations of the backward pass of a training step, in which only the control branch is trained.
    pub backward: u64,
    /// Elements that the forward pass of a training step keeps for the backward pass. An estimate: it models what
    /// Burn's autodiff keeps for each operator, and ignores tensors without spatial extent.
    pub kept: u64,
    /// Elements among them that gradient checkpointing does not keep.
    pub recomputed: u64,
    /// Elements that the largest recomputed part keeps temporarily.
    pub largest_recomputed: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            forward: self.forward + other.forward,
            backward: self.backward + other.backward,
            kept: self.kept + other.kept,
            recomputed: self.recomputed + other.recomputed,
            // One part is recomputed at a time.
            largest_recomputed: self.largest_recomputed.max(other.largest_recomputed),
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use burn::module::Module;
    use burn::tensor::Device;
    use serde_json::Value;

    use super::*;
    use crate::clip::{ClipText, ClipTextConfig};
    use crate::control::{Conditioning, Control, ControlConfig};
    use crate::fusion::Fusion;
    use crate::nn::PerBlock;
    use crate::unet::{UNet, UNetConfig};
    use crate::vae::{Vae, VaeConfig};
    use crate::weights::parameters;

    const FUSIONS: [(Fusion, &str); 3] = [
        (Fusion::ModulateSkip, "modulate_skip"),
        (Fusion::ModulateSkipAndUp, "modulate_skip_and_up"),
        (Fusion::Add, "add"),
    ];

    struct Shapes {
        unet: UNetConfig,
        vae: VaeConfig,
        text: ClipTextConfig,
    }

    fn tests() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
    }

    /// The models of `tests/flops.json`.
    fn models() -> [(&'static str, Shapes); 3] {
        let reference = tests().join("reference");
        let small = |unet: &str| Shapes {
            unet: UNetConfig::read(&reference.join(unet).join("unet")).unwrap(),
            vae: VaeConfig::read(&reference.join("vae")).unwrap(),
            text: ClipTextConfig::read(&reference.join("clip-text-gelu")).unwrap(),
        };
        let sd15 = Shapes {
            unet: UNetConfig { cross_attention_dim: PerBlock::All(768), ..UNetConfig::default() },
            vae: VaeConfig::default(),
            text: ClipTextConfig {
                hidden_size: 768,
                intermediate_size: 3072,
                num_attention_heads: 12,
                ..ClipTextConfig::default()
            },
        };
        [("sd1", small("sd1")), ("sd2", small("sd2")), ("sd15", sd15)]
    }

    fn count<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> u64 {
        let wanted = parameters(module).into_iter().filter(|parameter| wanted(&parameter.name));
        wanted.map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum()
    }

    #[test]
    fn parameters_agree_with_the_networks() {
        let device = &Device::flex();
        for (name, Shapes { unet: unet_config, vae, text }) in models() {
            let counted = unet(&unet_config, [8, 8], 7);
            let network = UNet::new(&unet_config, device).unwrap();
            let of_decoder =
                |name: &str| ["up_blocks", "conv_norm_out", "conv_out"].iter().any(|p| name.starts_with(p));
            assert_eq!(counted.decoder.parameters, count(&network, of_decoder), "{name}");
            assert_eq!(counted.encoder.parameters, count(&network, |name| !of_decoder(name)), "{name}");

            let network = Vae::new(&vae, device).unwrap();
            let of_decoder = |name: &str| name.starts_with("decoder") || name.starts_with("post_quant");
            assert_eq!(vae_decoder(&vae, [8, 8]).parameters, count(&network, of_decoder), "{name}");
            assert_eq!(vae_encoder(&vae, [64, 64]).parameters, count(&network, |name| !of_decoder(name)), "{name}");

            let network = ClipText::new(&text, device).unwrap();
            assert_eq!(text_encoder(&text).parameters, count(&network, |_| true), "{name}");

            let branches =
                FUSIONS.iter().flat_map(|(fusion, _)| [Conditioning::Concat, Conditioning::Add].map(|c| (*fusion, c)));
            for (fusion, conditioning) in branches {
                let config =
                    ControlConfig::with_conditioning(&unet_config, fusion, conditioning, vec![16, 32, 96, 256]);
                let (counted, network) = (control(&config, [8, 8], 7), Control::new(&config, device).unwrap());
                let of_embedding = |name: &str| name.starts_with("controlnet_cond_embedding");
                let of_fusion = |name: &str| {
                    ["modulation_", "controlnet_down_blocks", "controlnet_mid_block"]
                        .iter()
                        .any(|p| name.starts_with(p))
                };
                let of_encoder = |name: &str| !of_embedding(name) && !of_fusion(name);
                assert_eq!(counted.embedding.parameters, count(&network, of_embedding), "{name} {fusion:?}");
                assert_eq!(counted.fusion.parameters, count(&network, of_fusion), "{name} {fusion:?}");
                assert_eq!(counted.encoder.parameters, count(&network, of_encoder), "{name} {fusion:?}");
            }
        }
    }

    /// The counts agree with PyTorch's on diffusers' and transformers' networks: `scripts/reference/flops.py`.
    #[test]
    fn operations_agree_with_pytorch() {
        let counted: Value = serde_json::from_slice(&std::fs::read(tests().join("flops.json")).unwrap()).unwrap();
        for (name, Shapes { unet: unet_config, vae, text }) in models() {
            let torch = &counted[name];
            let size = [0, 1].map(|i| torch["size"][i].as_u64().unwrap() as usize);
            let tokens = text.max_position_embeddings;
            let frozen = unet(&unet_config, size, tokens);
            assert_eq!((frozen.encoder + frozen.decoder).forward, torch["unet"], "{name}");
            assert_eq!(vae_decoder(&vae, size).forward, torch["vae_decoder"], "{name}");
            assert_eq!(vae_encoder(&vae, size.map(|side| 8 * side)).forward, torch["vae_encoder"], "{name}");
            assert_eq!(text_encoder(&text).forward, torch["text"], "{name}");
            for (fusion, key) in FUSIONS {
                let torch = &torch["steps"][key];
                let config = ControlConfig::for_unet(&unet_config, fusion, vec![16, 32, 96, 256]);
                let branch = control(&config, size, tokens).total();
                let step = frozen.encoder + frozen.decoder + branch;
                assert_eq!(branch.parameters, torch["parameters"], "{name} {key}");
                assert_eq!(step.forward, torch["forward"], "{name} {key}");
                assert_eq!(step.backward, torch["backward"], "{name} {key}");
            }
        }
    }

    /// The fusion layers of paper Table 7, relative to ControlNet's branch, at Stable Diffusion 1.5's shapes.
    #[test]
    fn modulating_the_skips_adds_three_percent_to_controlnet() {
        let [_, _, (_, Shapes { unet, .. })] = models();
        let branch = |fusion| {
            let config = ControlConfig::for_unet(&unet, fusion, vec![16, 32, 96, 256]);
            control(&config, [64, 64], 77).total().parameters as f64
        };
        let relative = branch(Fusion::ModulateSkip) / branch(Fusion::Add);
        assert_eq!(format!("{relative:.2}"), "1.03");
    }
}
