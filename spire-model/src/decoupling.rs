//! Which prompts each part attends to (paper section 3.3). Decoupled: the frozen UNet only to the semantic prompt, the control
//! branch only to the restoration prompt. The ablation gives both prompts to both.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::repeat_batch;

/// Which prompts the UNet and the control branch attend to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptRouting {
    /// Each to its own prompt: the paper's choice.
    #[default]
    Decoupled,
    /// Both to the tokens of both prompts, the semantic prompt's first. At initialisation the result differs from the frozen
    /// UNet's, because the UNet attends to tokens that it was not trained on.
    Joined,
    /// Both to the semantic prompt, as ControlNet was published; the restoration prompt is not read.
    Semantic,
}

impl PromptRouting {
    /// Number of tokens that each part attends to, if a prompt has `tokens`.
    pub fn tokens(self, tokens: usize) -> usize {
        match self {
            Self::Decoupled | Self::Semantic => tokens,
            Self::Joined => 2 * tokens,
        }
    }

    /// The states that the UNet and the control branch attend to, from the semantic prompts' `[passes · batch, tokens, width]`
    /// and the restoration prompts' `[batch, tokens, width]`. Joined, both are `[passes · batch, 2 · tokens, width]`; the
    /// branch then computes every guidance pass on its own, as with `Semantic`.
    pub fn route(self, semantic: Tensor<3>, restoration: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        match self {
            Self::Decoupled => (semantic, restoration),
            Self::Semantic => (semantic.clone(), semantic),
            Self::Joined => {
                let passes = semantic.dims()[0] / restoration.dims()[0];
                let both = Tensor::cat(vec![semantic, repeat_batch(restoration, passes)], 1);
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
    fn each_routing_attends_to_its_prompts() {
        let device = Device::flex();
        let [semantic, restoration] = [1.0, 2.0].map(|value| Tensor::<3>::full([2, 3, 4], value, &device));
        let (unet, control) = PromptRouting::Decoupled.route(semantic.clone(), restoration.clone());
        assert_eq!(unet.into_data(), semantic.clone().into_data());
        assert_eq!(control.into_data(), restoration.clone().into_data());
        let (unet, control) = PromptRouting::Joined.route(semantic.clone(), restoration.clone());
        assert_eq!(unet.dims(), [2, 6, 4]);
        assert_eq!(unet.clone().narrow(1, 0, 3).into_data(), semantic.clone().into_data());
        assert_eq!(unet.clone().narrow(1, 3, 3).into_data(), restoration.clone().into_data());
        assert_eq!(control.into_data(), unet.into_data());
        let (unet, control) = PromptRouting::Semantic.route(semantic.clone(), restoration);
        assert_eq!(unet.into_data(), semantic.clone().into_data());
        assert_eq!(control.into_data(), semantic.into_data());
        let routings = [PromptRouting::Decoupled, PromptRouting::Joined, PromptRouting::Semantic];
        assert_eq!(routings.map(|prompts| prompts.tokens(3)), [3, 6, 3]);
    }
}
