//! Cases of no-reference metrics.

use anyhow::{Context, Result};
use burn::tensor::Device;
use spire_data::Picture;

use super::case::{Case, Outputs, Worst, compare, relative_maximum};
use super::metrics::picture;
use crate::arrays::Array;
use crate::{ClipIqa, Maniqa, Musiq};

/// As [`judged`]; the features are the picture's token.
pub fn musiq(case: &Case, device: &Device) -> Result<Worst> {
    let musiq = Musiq::load(&case.weights()?, device)?;
    judged(case, |picture| {
        let features = musiq.features(picture)?;
        Ok((features.clone().into(), musiq.score_of(features)))
    })
}

/// As [`judged`]; the features are the picture's embedding.
pub fn clip_iqa(case: &Case, device: &Device) -> Result<Worst> {
    let clip_iqa = ClipIqa::load(&case.weights()?, device)?;
    judged(case, |picture| {
        let features = clip_iqa.features(picture)?;
        Ok((features.clone().into(), clip_iqa.score_of(features)))
    })
}

/// As [`judged`]; the features are the mean over the patches of each crop.
pub fn maniqa(case: &Case, device: &Device) -> Result<Worst> {
    let maniqa = Maniqa::load(&case.weights()?, device)?;
    judged(case, |picture| {
        let features = maniqa.features(picture)?;
        Ok((features.clone().mean_dim(1).squeeze_dim::<2>(1).into(), maniqa.score_of(features)))
    })
}

/// `in.image.{i}`, 8-bit `[height, width, 3]`, to `out.features.{i}`, the input of the last layer, and `out.score.{i}`.
fn judged(case: &Case, judge: impl Fn(&Picture) -> Result<(Array, f64)>) -> Result<Worst> {
    let arrays = case.arrays()?;
    let mut outputs = Outputs::new();
    for i in arrays.names().filter_map(|name| name.strip_prefix("in.image.")) {
        let image = picture(&arrays, &format!("in.image.{i}"))?;
        let (features, score) = case.timed(|| judge(&image)).with_context(|| format!("in.image.{i}"))?;
        outputs.insert(format!("out.features.{i}"), features);
        outputs.insert(format!("out.score.{i}"), Array::scalar(score));
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}
