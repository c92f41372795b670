//! Which prompt speaks to which part (paper section 3.3). Decoupled, the frozen UNet reads the semantic prompt alone and the
//! control branch the restoration prompt alone; the ablation gives both to both.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::repeat_batch;

/// The prompts that each part attends to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompts {
    /// Each part its own: the paper's choice.
    #[default]
    Decoupled,
    /// Both parts the tokens of both, the semantic prompt's first. At initialisation this is not the frozen UNet: it attends to
    /// tokens that it has never met.
    Joined,
}

impl Prompts {
    /// How many tokens each part attends to, where a prompt has `tokens`.
    pub fn tokens(self, tokens: usize) -> usize {
        match self {
            Self::Decoupled => tokens,
            Self::Joined => 2 * tokens,
        }
    }

    /// What the UNet and what the control branch attend to: from the states of the semantic prompts `[halves · batch, tokens,
    /// width]` and of the restoration prompts `[batch, tokens, width]`; joined, each is `[halves · batch, 2 · tokens, width]`.
    pub fn route(self, semantic: Tensor<3>, restoration: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        match self {
            Self::Decoupled => (semantic, restoration),
            Self::Joined => {
                let halves = semantic.dims()[0] / restoration.dims()[0];
                let both = Tensor::cat(vec![semantic, repeat_batch(restoration, halves)], 1);
                (both.clone(), both)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn each_part_has_its_own_prompt_or_both_have_both() {
        let device = Device::flex();
        let [semantic, restoration] = [1.0, 2.0].map(|value| Tensor::<3>::full([2, 3, 4], value, &device));
        let (unet, control) = Prompts::Decoupled.route(semantic.clone(), restoration.clone());
        assert_eq!(unet.into_data(), semantic.clone().into_data());
        assert_eq!(control.into_data(), restoration.clone().into_data());
        let (unet, control) = Prompts::Joined.route(semantic.clone(), restoration.clone());
        assert_eq!(unet.dims(), [2, 6, 4]);
        assert_eq!(unet.clone().narrow(1, 0, 3).into_data(), semantic.into_data());
        assert_eq!(unet.clone().narrow(1, 3, 3).into_data(), restoration.into_data());
        assert_eq!(control.into_data(), unet.into_data());
        assert_eq!([Prompts::Decoupled, Prompts::Joined].map(|prompts| prompts.tokens(3)), [3, 6]);
    }
}
