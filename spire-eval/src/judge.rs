//! The judge: a small classifier that says which kinds of the illustrated world a picture shows.
//!
//! It is fitted on clean scenes alone and appears in no loss and no guidance, so that it is an independent witness where the
//! identity of a restored object is in question.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_data::Picture;
use spire_data::degrade::{Filter, resize};
use spire_data::world::Kind;
use spire_kernels::{conv2d, group_norm_silu};
use spire_model::{pictures, weights};

/// Its sizes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct JudgeConfig {
    /// Side of the pictures that it was fitted on, in pixels; others are resized to it.
    pub image_size: usize,
    /// Channels of its convolutions; each but the first halves the size.
    pub channels: Vec<usize>,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// The kinds, in the order of its outputs.
    pub kinds: Vec<String>,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            channels: vec![16, 32, 64, 96, 128],
            norm_num_groups: 8,
            kinds: Kind::ALL.map(|kind| kind.name().to_owned()).into(),
        }
    }
}

/// Convolutions of 3×3, each with group normalisation and SiLU, the mean over the positions, one linear layer.
#[derive(Module, Debug)]
pub struct Judge {
    convolutions: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
    head: Linear,
}

impl Judge {
    /// With fresh weights.
    ///
    /// # Errors
    /// The sizes do not fit together.
    pub fn new(config: &JudgeConfig, device: &Device) -> Result<Self> {
        let JudgeConfig { channels, norm_num_groups: groups, kinds, .. } = config;
        ensure!(!channels.is_empty() && !kinds.is_empty(), "a judge needs \"channels\" and \"kinds\"");
        ensure!(
            *groups > 0 && channels.iter().all(|width| *width > 0 && width.is_multiple_of(*groups)),
            "\"channels\" {channels:?} can't be split into {groups} groups"
        );
        let from = |i: usize| if i == 0 { 3 } else { channels[i - 1] };
        let convolution = |(i, &to): (usize, &usize)| {
            let stride = if i == 0 { 1 } else { 2 };
            Conv2dConfig::new([from(i), to], [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Ok(Self {
            convolutions: channels.iter().enumerate().map(convolution).collect(),
            norms: channels.iter().map(|&width| GroupNormConfig::new(*groups, width).init(device)).collect(),
            head: LinearConfig::new(channels[channels.len() - 1], kinds.len()).init(device),
        })
    }

    /// Logits `[batch, kinds]` of pictures `[batch, 3, height, width]` in \[-1, 1\].
    pub fn forward(&self, pictures: Tensor<4>) -> Tensor<2> {
        let mut x = pictures;
        for (convolution, norm) in self.convolutions.iter().zip(&self.norms) {
            x = group_norm_silu(norm, conv2d(convolution, x));
        }
        let [batch, channels, _, _] = x.dims();
        self.head.forward(x.mean_dims(&[2, 3]).reshape([batch, channels]))
    }
}

/// A fitted judge.
#[derive(Debug)]
pub struct KindJudge {
    judge: Judge,
    size: usize,
    kinds: Vec<Kind>,
    device: Device,
}

impl KindJudge {
    /// `judge` with the sizes of `config`.
    ///
    /// # Errors
    /// `config.kinds` names one that the world does not have.
    pub fn new(judge: Judge, config: &JudgeConfig, device: &Device) -> Result<Self> {
        let known = |name: &String| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            kind.with_context(|| format!("the judge knows \"{name}\", which is no kind of the illustrated world"))
        };
        let kinds = config.kinds.iter().map(known).collect::<Result<_>>()?;
        Ok(Self { judge, size: config.image_size, kinds, device: device.clone() })
    }

    /// The judge in `folder`: `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// A file is missing, unreadable or of other sizes.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let config: JudgeConfig = weights::read_config(folder, "config.json")?;
        Self::new(weights::load(Judge::new(&config, device)?, folder)?, &config, device)
    }

    /// The kinds in each picture, the likeliest first: as many as `counts` asks for.
    pub fn kinds<'a>(&self, pictures: impl IntoIterator<Item = &'a Picture>, counts: &[usize]) -> Vec<Vec<Kind>> {
        let logits = self.logits(pictures);
        logits.iter().zip(counts).map(|(logits, &count)| self.likeliest(logits, count)).collect()
    }

    /// A value for each kind, in the order of the judge's outputs, for each picture.
    pub fn logits<'a>(&self, pictures: impl IntoIterator<Item = &'a Picture>) -> Vec<Vec<f32>> {
        let own: Vec<Picture> = pictures.into_iter().map(|picture| self.resized(picture)).collect();
        if own.is_empty() {
            return Vec::new();
        }
        let logits = self.judge.forward(pictures::to_tensor(&own, &self.device)).into_data();
        logits.iter::<f32>().collect::<Vec<_>>().chunks_exact(self.kinds.len()).map(<[f32]>::to_vec).collect()
    }

    /// The `count` likeliest kinds, the likeliest first.
    pub fn likeliest(&self, logits: &[f32], count: usize) -> Vec<Kind> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.into_iter().take(count).map(|i| self.kinds[i]).collect()
    }

    fn resized(&self, picture: &Picture) -> Picture {
        match (picture.width, picture.height) == (self.size, self.size) {
            true => picture.clone(),
            false => resize(picture, self.size, self.size, Filter::Area),
        }
    }
}

/// The share of `asked` that `found` has, in \[0, 1\]; 1 where nothing is asked for.
pub fn identity(asked: &[Kind], found: &[Kind]) -> f64 {
    if asked.is_empty() {
        return 1.0;
    }
    asked.iter().filter(|kind| found.contains(kind)).count() as f64 / asked.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_the_share_of_the_kinds_asked_for() {
        assert_eq!(identity(&[Kind::Lion], &[Kind::Lion]), 1.0);
        assert_eq!(identity(&[Kind::Lion], &[Kind::Tiger]), 0.0);
        assert_eq!(identity(&[Kind::Lion, Kind::Tree], &[Kind::Tree, Kind::Horse]), 0.5);
    }

    #[test]
    fn kinds_are_as_many_as_asked_for_and_any_size_is_judged() {
        let (config, device) = (JudgeConfig::default(), Device::flex());
        let judge = KindJudge::new(Judge::new(&config, &device).unwrap(), &config, &device).unwrap();
        let pictures = [Picture::filled(64, 64, [0.2; 3]), Picture::filled(48, 80, [0.9; 3])];
        let kinds = judge.kinds(&pictures, &[1, 2]);
        assert_eq!(kinds.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        assert!(judge.kinds([], &[]).is_empty());
    }

    #[test]
    fn sizes_and_kinds_that_do_not_fit_are_errors() {
        let device = Device::flex();
        let odd = JudgeConfig { channels: vec![12], ..JudgeConfig::default() };
        assert!(Judge::new(&odd, &device).unwrap_err().to_string().contains("8 groups"));
        let strange = JudgeConfig { kinds: vec!["unicorn".into()], ..JudgeConfig::default() };
        let error = KindJudge::new(Judge::new(&strange, &device).unwrap(), &strange, &device).unwrap_err();
        assert!(error.to_string().contains("unicorn"), "{error}");
    }
}
