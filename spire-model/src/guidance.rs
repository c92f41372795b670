//! Classifier-free guidance on the semantic prompt (Ho & Salimans 2022, <https://arxiv.org/abs/2207.12598>; paper section
//! 3.1): `ε = ε(y, cr, "") + w·(ε(y, cr, cs) − ε(y, cr, ""))`. A negative prompt may replace the empty one.
//!
//! Both passes go through the network as one batch, the unconditional samples first.

use burn::tensor::Tensor;

use crate::base::PromptEncoder;

/// The semantic prompts of a batch, encoded for the passes that guidance needs.
#[derive(Clone, Debug)]
pub(crate) struct GuidedPrompts {
    /// `[passes · batch, tokens, width]`.
    pub states: Tensor<3>,
    /// w, or `None` where one pass is enough.
    scale: Option<f64>,
}

impl GuidedPrompts {
    /// Guidance changes nothing if `scale` is 1 or every prompt equals the negative one: then there is one pass, else two.
    pub fn new(encoder: &PromptEncoder, semantic: &[String], negative: &str, scale: f64) -> Self {
        if scale == 1.0 || semantic.iter().all(|prompt| prompt == negative) {
            return Self { states: encoder.encode(semantic), scale: None };
        }
        // Together, so that both passes have as many tokens.
        let conditional = semantic.iter().map(String::as_str);
        let both: Vec<&str> = std::iter::repeat_n(negative, semantic.len()).chain(conditional).collect();
        Self { states: encoder.encode(&both), scale: Some(scale) }
    }

    /// The guided prediction `[batch, channels, height, width]` from the network's output for `states`,
    /// `[passes · batch, channels, height, width]`.
    pub fn combine(&self, output: Tensor<4>) -> Tensor<4> {
        let Some(scale) = self.scale else { return output };
        let passes = output.chunk(2, 0);
        classifier_free(passes[0].clone(), passes[1].clone(), scale)
    }
}

/// The states of a batch's prompts for the two passes of guidance, each `[batch, tokens, width]`.
#[derive(Clone, Debug)]
pub struct PromptStates {
    /// Of the prompts.
    pub conditional: Tensor<3>,
    /// Of the negative prompts; `None` for one pass, without guidance.
    pub unconditional: Option<Tensor<3>>,
}

/// `unconditional + scale·(conditional − unconditional)`, all of one shape.
pub fn classifier_free(unconditional: Tensor<4>, conditional: Tensor<4>, scale: f64) -> Tensor<4> {
    unconditional.clone() + (conditional - unconditional).mul_scalar(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn guidance_extrapolates_from_the_unconditional_prediction() {
        let full = |value| Tensor::<4>::full([1, 1, 1, 1], value, &Device::flex());
        for (scale, expected) in [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)] {
            assert_eq!(classifier_free(full(1.0), full(3.0), scale).into_scalar::<f32>(), expected);
        }
    }
}
