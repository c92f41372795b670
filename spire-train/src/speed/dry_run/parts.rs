//! The parts of the model, what each costs, and how often it computes.

use spire_model::cost::{ControlCost, Cost, UNetCost};
use spire_model::decoupling::PromptRouting;
use spire_model::restore::SamplingConfig;

/// A part of the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartKind {
    TextEncoder,
    VaeEncoder,
    VaeDecoder,
    UNetEncoder,
    UNetDecoder,
    BranchEmbedding,
    BranchEncoder,
    BranchFusion,
}

impl PartKind {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text encoder",
            Self::VaeEncoder => "VAE encoder",
            Self::VaeDecoder => "VAE decoder",
            Self::UNetEncoder => "UNet encoder",
            Self::UNetDecoder => "UNet decoder",
            Self::BranchEmbedding => "branch: embedding",
            Self::BranchEncoder => "branch: encoder",
            Self::BranchFusion => "branch: fusion",
        }
    }

    /// Whether it belongs to the control branch; all other parts are frozen.
    pub fn is_trained(self) -> bool {
        matches!(self, Self::BranchEmbedding | Self::BranchEncoder | Self::BranchFusion)
    }

    /// Whether it belongs to the denoiser, UNet and branch, which computes in every step.
    pub fn is_denoiser(self) -> bool {
        self.is_trained() || matches!(self, Self::UNetEncoder | Self::UNetDecoder)
    }
}

/// A part with its costs for one image or text.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub kind: PartKind,
    pub cost: Cost,
    /// How often it computes for a training image.
    pub training_passes: u64,
    /// How often it computes for a restored image.
    pub restoration_passes: u64,
}

/// The costs of the model, part by part.
#[derive(Debug)]
pub struct Costs {
    pub text: Cost,
    pub vae_encoder: Cost,
    pub vae_decoder: Cost,
    pub unet: UNetCost,
    pub control: ControlCost,
}

impl Costs {
    /// The parts, in the order of the tables. `prompts` are those of the branch.
    pub fn parts(&self, prompts: PromptRouting, sampling: &SamplingConfig) -> Vec<Part> {
        // Guidance has a conditional and an unconditional pass.
        let guidance = if sampling.guidance_scale == 1.0 { 1 } else { 2 };
        let from_picture = sampling.starts_from_picture();
        // As in the sampling loop: this share of the steps, at least one.
        let steps = ((sampling.steps as f64 * sampling.strength) as u64).max(1);
        let branch = match prompts {
            // The branch does not read the semantic prompt: both passes of guidance share its features.
            PromptRouting::Decoupled => steps,
            PromptRouting::Joined | PromptRouting::Semantic => steps * guidance,
        };
        let part =
            |kind, cost, training_passes, restoration_passes| Part { kind, cost, training_passes, restoration_passes };
        vec![
            part(PartKind::TextEncoder, self.text, 2, 1 + guidance),
            part(PartKind::VaeEncoder, self.vae_encoder, 1, u64::from(from_picture)),
            part(PartKind::VaeDecoder, self.vae_decoder, 0, 1),
            part(PartKind::UNetEncoder, self.unet.encoder, 1, steps * guidance),
            part(PartKind::UNetDecoder, self.unet.decoder, 1, steps * guidance),
            part(PartKind::BranchEmbedding, self.control.embedding, 1, 1),
            part(PartKind::BranchEncoder, self.control.encoder, 1, branch),
            part(PartKind::BranchFusion, self.control.fusion, 1, branch),
        ]
    }
}
