//! The metrics of an evaluation.

use serde::{Deserialize, Serialize};

use crate::lpips::Backbone;
use crate::public_weights::PublicWeights;
use crate::{clip_iqa, fid, maniqa, musiq};

/// A metric: a column of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Fréchet inception distance between the restored and the clean pictures.
    Fid,
    /// FID of square patches, for large pictures.
    PatchFid,
    /// Fréchet distance in the space of the configured CLIP. Not comparable with FID.
    ClipFrechet,
    /// Learned perceptual image patch similarity.
    Lpips,
    /// Peak signal-to-noise ratio.
    Psnr,
    /// Structural similarity.
    Ssim,
    /// Cosine of the restored and the clean picture's CLIP features.
    ClipI,
    /// Cosine of the restored picture's CLIP features and its caption's.
    ClipT,
    /// CLIP-IQA's quality score, 0 to 1, without reference.
    ClipIqa,
    /// MUSIQ's quality score, 0 to 100, without reference.
    Musiq,
    /// MANIQA's quality score, without reference.
    Maniqa,
    /// The fraction of the kinds named by the caption that the judge finds in the restored picture.
    Identity,
    /// Whether the judge finds the kind that the misleading caption names instead.
    WrongKind,
    /// Sharpness: the 99th percentile of the luma's gradient.
    Sharpness,
    /// Estimated standard deviation of the noise in the restored picture.
    Noise,
}

impl Metric {
    /// All metrics, in the order of the tables' columns.
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

    /// The published files that the metric reads in the folder `weights`; `lpips` is the network of LPIPS.
    pub fn public_weights(self, lpips: Backbone) -> Vec<PublicWeights> {
        match self {
            Self::Fid | Self::PatchFid => vec![fid::WEIGHTS],
            Self::Lpips => lpips.public_weights().to_vec(),
            Self::ClipIqa => vec![clip_iqa::WEIGHTS],
            Self::Musiq => vec![musiq::WEIGHTS],
            Self::Maniqa => vec![maniqa::WEIGHTS],
            _ => Vec::new(),
        }
    }

    /// The default metrics: without those for large pictures or special questions.
    pub fn usual() -> Vec<Self> {
        let special = [Self::PatchFid, Self::Identity, Self::WrongKind, Self::Sharpness, Self::Noise];
        Self::ALL.into_iter().filter(|metric| !special.contains(metric)).collect()
    }

    /// The metric's name.
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

    /// The name in configurations: `clip_i`.
    pub fn key(self) -> String {
        let named = serde_json::to_value(self).ok();
        named.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }

    /// Whether a picture has it, with its clean picture and its caption: not those of whole sets, nor that of pairs of
    /// words.
    pub fn is_of_one_picture(self) -> bool {
        !matches!(self, Self::Fid | Self::PatchFid | Self::ClipFrechet | Self::WrongKind)
    }

    /// Whether higher is better.
    pub fn rises(self) -> bool {
        !matches!(self, Self::Fid | Self::PatchFid | Self::ClipFrechet | Self::Lpips | Self::WrongKind | Self::Noise)
    }

    /// Number of decimals.
    pub fn decimals(self) -> usize {
        match self {
            Self::Fid | Self::PatchFid | Self::Psnr | Self::Musiq => 2,
            _ => 3,
        }
    }
}
