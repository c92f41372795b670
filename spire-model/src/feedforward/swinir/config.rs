//! The sizes of a SwinIR, read off its checkpoint.

use anyhow::{Context, Result, ensure};

use crate::feedforward::architecture::count;
use crate::weights::Tensors;

/// The largest factor by which a published SwinIR enlarges pictures or folds pixels into channels.
const LARGEST_FACTOR: usize = 8;

/// The sizes of a SwinIR.
#[derive(Clone, Debug, PartialEq)]
pub struct SwinIrConfig {
    /// Channels of the picture: 3, or 1 for grey pictures.
    pub channels: usize,
    /// Factor by which blocks of pixels are first folded into channels; 1 for none.
    pub unshuffle: usize,
    /// Width of the features.
    pub width: usize,
    /// Blocks of each layer.
    pub depths: Vec<usize>,
    /// Heads of each layer.
    pub heads: Vec<usize>,
    /// Side of a window.
    pub window: usize,
    /// Width inside the feed-forward networks.
    pub inner: usize,
    /// Whether each layer ends in three convolutions with a narrow middle instead of one (SwinIR-L).
    pub three_convs: bool,
    /// How the features become a picture.
    pub reconstruction: Reconstruction,
    /// The largest value of a pixel inside the network.
    pub range: f64,
}

/// How the features become a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconstruction {
    /// Convolutions to more channels that are rearranged to pixels, of these factors (classical super-resolution);
    /// `features` is their width.
    PixelShuffle {
        /// Width of the enlarged features.
        features: usize,
        /// The factor of each step, 2 or 3.
        factors: Vec<usize>,
    },
    /// One such convolution, to the picture's channels (lightweight super-resolution).
    PixelShuffleDirect {
        /// The factor.
        factor: usize,
    },
    /// Each pixel doubled, then a convolution, `doublings` times (real-world super-resolution).
    NearestConv {
        /// Width of the enlarged features.
        features: usize,
        /// Number of doublings.
        doublings: usize,
    },
    /// What is to be added to the picture (denoising, JPEG).
    Residual,
}

impl SwinIrConfig {
    /// The sizes of the network that the tensors belong to, by its official names. The name of the task is not needed:
    /// it shows in the shapes, except the range of the pixels. That is 255 for windows of 7, which only the official
    /// models for JPEG have, else 1.
    ///
    /// # Errors
    /// The tensors are not those of a SwinIR, or of one that was never published.
    pub fn recognise(tensors: &Tensors) -> Result<Self> {
        let first = if tensors.has("conv_first.1.") { "conv_first.1.weight" } else { "conv_first.weight" };
        let [width, inputs, ..] = tensors.shape::<4>(first)?;
        ensure!(!tensors.has("absolute_pos_embed"), "absolute position embeddings are not supported");
        let depths = count(tensors, |i| format!("layers.{i}."), 0)
            .map(|i| count(tensors, |j| format!("layers.{i}.residual_group.blocks.{j}."), 0).count())
            .collect::<Vec<_>>();
        ensure!(!depths.is_empty(), "there is no tensor layers.0.*");
        let block = |layer: usize| format!("layers.{layer}.residual_group.blocks.0");
        let table = |layer| tensors.shape::<2>(&format!("{}.attn.relative_position_bias_table", block(layer)));
        let window = window(table(0)?[0])?;
        let heads = (0..depths.len()).map(|layer| Ok(table(layer)?[1])).collect::<Result<Vec<_>>>()?;
        for &heads in &heads {
            ensure!(heads > 0 && width % heads == 0, "{width} channels can't be split among {heads} heads");
        }
        let [inner, _] = tensors.shape::<2>(&format!("{}.mlp.fc1.weight", block(0)))?;

        let (channels, unshuffle) = if tensors.has("conv_first.1.") {
            let [channels, ..] = tensors.shape::<4>("conv_last.weight")?;
            (channels, square_root(inputs, channels).context("conv_first folds no square of pixels into channels")?)
        } else {
            (inputs, 1)
        };
        ensure!([1, 3].contains(&channels), "pictures of {channels} channels are not supported, but of 1 and 3");
        Ok(Self {
            channels,
            unshuffle,
            width,
            depths,
            heads,
            window,
            inner,
            three_convs: tensors.has("conv_after_body.0."),
            reconstruction: Reconstruction::recognise(tensors, channels)?,
            range: if window == 7 { 255.0 } else { 1.0 },
        })
    }
}

impl Reconstruction {
    /// The factor between the sides of the picture and of the features.
    pub(super) fn factor(&self) -> usize {
        match self {
            Self::PixelShuffle { factors, .. } => factors.iter().product(),
            Self::PixelShuffleDirect { factor } => *factor,
            Self::NearestConv { doublings, .. } => 1 << doublings,
            Self::Residual => 1,
        }
    }

    fn recognise(tensors: &Tensors, channels: usize) -> Result<Self> {
        if tensors.has("conv_up1.") {
            let [features, ..] = tensors.shape::<4>("conv_up1.weight")?;
            let doublings = count(tensors, |i| format!("conv_up{i}."), 1).count();
            ensure!(1 << doublings <= LARGEST_FACTOR, "{doublings} convolutions conv_up* enlarge too far");
            Ok(Self::NearestConv { features, doublings })
        } else if tensors.has("conv_before_upsample.") {
            let [features, ..] = tensors.shape::<4>("conv_before_upsample.0.weight")?;
            let steps = count(tensors, |i| format!("upsample.{}.", 2 * i), 0);
            let factor = |i| square_root(tensors.shape::<4>(&format!("upsample.{}.weight", 2 * i))?[0], features);
            let factors = steps.map(factor).collect::<Result<Vec<_>>>()?;
            ensure!(factors.iter().product::<usize>() <= LARGEST_FACTOR, "upsample.* enlarge too far: {factors:?}");
            Ok(Self::PixelShuffle { features, factors })
        } else if tensors.has("upsample.") {
            let factor = square_root(tensors.shape::<4>("upsample.0.weight")?[0], channels)?;
            Ok(Self::PixelShuffleDirect { factor })
        } else {
            Ok(Self::Residual)
        }
    }
}

/// The side of windows with this many relative positions, (2 · side − 1)².
fn window(positions: usize) -> Result<usize> {
    let across = positions.isqrt();
    ensure!(
        across.pow(2) == positions && across % 2 == 1 && across > 1,
        "no window has {positions} relative positions"
    );
    Ok(across.div_ceil(2))
}

/// The factor of a rearrangement between `many` and `few` channels.
fn square_root(many: usize, few: usize) -> Result<usize> {
    let factor = (many / few.max(1)).isqrt();
    ensure!(
        factor > 0 && factor <= LARGEST_FACTOR && factor.pow(2) * few == many,
        "{many} channels are not {few} times a square of at most {LARGEST_FACTOR} by {LARGEST_FACTOR} pixels"
    );
    Ok(factor)
}
