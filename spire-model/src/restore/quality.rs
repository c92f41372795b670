//! Quality prompts: words for a good picture behind every semantic prompt, and words for a bad one as the negative prompt.

use serde::{Deserialize, Serialize};

/// A published pair of quality prompts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityPrompts {
    /// None.
    #[default]
    None,
    /// Those of SeeSR (<https://arxiv.org/abs/2311.16518>), `test_seesr.py`.
    SeeSr,
    /// The defaults of DiffBIR (<https://arxiv.org/abs/2308.15070>), `inference.py`.
    DiffBir,
}

impl QualityPrompts {
    /// The suffix of the semantic prompt.
    pub fn positive(self) -> &'static str {
        match self {
            Self::None => "",
            Self::SeeSr => "clean, high-resolution, 8k",
            Self::DiffBir => {
                "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - \
                 realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin pore \
                 detailing, hyper sharpness, perfect without deformations."
            }
        }
    }

    /// The negative prompt.
    pub fn negative(self) -> &'static str {
        match self {
            Self::None => "",
            Self::SeeSr => "dotted, noise, blur, lowres, smooth",
            Self::DiffBir => {
                "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, \
                 unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg \
                 artifacts, deformed, lowres, over-smooth."
            }
        }
    }
}

/// A prompt and its suffix, with a comma between them if neither is empty.
pub(super) fn with_suffix(prompt: &str, suffix: &str) -> String {
    let parts: Vec<&str> = [prompt, suffix].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::SamplingConfig;

    #[test]
    fn keys_take_precedence_over_the_preset() {
        let config = SamplingConfig { quality_prompts: QualityPrompts::SeeSr, ..SamplingConfig::default() };
        assert_eq!(config.quality(), ("clean, high-resolution, 8k", "dotted, noise, blur, lowres, smooth"));
        let own = SamplingConfig { negative: "grey".into(), ..config };
        assert_eq!(own.quality(), ("clean, high-resolution, 8k", "grey"));
        let written = own.clone().with_quality_written_out();
        assert_eq!((written.quality_prompts, written.quality()), (QualityPrompts::None, own.quality()));
        assert_eq!(SamplingConfig::default().quality(), ("", ""));
    }

    #[test]
    fn a_comma_joins_prompt_and_suffix() {
        assert_eq!(with_suffix("a panda", "8k"), "a panda, 8k");
        assert_eq!([with_suffix("", "8k"), with_suffix("a panda", "")], ["8k", "a panda"]);
    }
}
