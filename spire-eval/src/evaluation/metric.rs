//! What is measured.

use serde::{Deserialize, Serialize};

/// A column of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Fréchet distance of the restored pictures' Inception features to the clean ones'.
    Fid,
    /// The same of squares cut out of the pictures, for large ones.
    PatchFid,
    /// The same in the space of the configured CLIP. Not FID.
    ClipFrechet,
    /// Learned perceptual distance.
    Lpips,
    /// Peak signal-to-noise ratio.
    Psnr,
    /// Structural similarity.
    Ssim,
    /// Cosine of the restored and the clean picture's CLIP features.
    ClipI,
    /// Cosine of the restored picture's CLIP features and its caption's.
    ClipT,
    /// How good the restored picture looks, as CLIP-IQA judges it.
    ClipIqa,
    /// As MUSIQ judges it, 0 to 100.
    Musiq,
    /// As MANIQA judges it.
    Maniqa,
    /// The share of the kinds that the caption names and that the judge finds in the restored picture.
    Identity,
    /// Whether the judge finds the kind that the degraded picture might as well show: the one that a mistaken caption names.
    WrongKind,
    /// How steep the restored picture is at its edges.
    Sharpness,
    /// Standard deviation of the noise that is in the restored picture.
    Noise,
}

impl Metric {
    /// All, in the order of the tables' columns.
    pub const ALL: [Self; 15] = [
        Self::Fid,
        Self::PatchFid,
        Self::ClipFrechet,
        Self::Lpips,
        Self::Psnr,
        Self::Ssim,
        Self::ClipI,
        Self::ClipT,
        Self::ClipIqa,
        Self::Musiq,
        Self::Maniqa,
        Self::Identity,
        Self::WrongKind,
        Self::Sharpness,
        Self::Noise,
    ];

    /// Those that are measured where an evaluation does not say which: not those for large pictures or for single questions.
    pub fn usual() -> Vec<Self> {
        let special = [Self::PatchFid, Self::Identity, Self::WrongKind, Self::Sharpness, Self::Noise];
        Self::ALL.into_iter().filter(|metric| !special.contains(metric)).collect()
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fid => "FID",
            Self::PatchFid => "patch FID",
            Self::ClipFrechet => "Fréchet (CLIP)",
            Self::Lpips => "LPIPS",
            Self::Psnr => "PSNR",
            Self::Ssim => "SSIM",
            Self::ClipI => "CLIP-I",
            Self::ClipT => "CLIP-T",
            Self::ClipIqa => "CLIP-IQA",
            Self::Musiq => "MUSIQ",
            Self::Maniqa => "MANIQA",
            Self::Identity => "identity",
            Self::WrongKind => "wrong kind",
            Self::Sharpness => "sharpness",
            Self::Noise => "noise",
        }
    }

    /// Whether more is better.
    pub fn rises(self) -> bool {
        !matches!(self, Self::Fid | Self::PatchFid | Self::ClipFrechet | Self::Lpips | Self::Noise)
    }

    /// Digits after the point.
    pub fn decimals(self) -> usize {
        match self {
            Self::Fid | Self::PatchFid | Self::Psnr | Self::Musiq => 2,
            _ => 3,
        }
    }
}
