//! Cases about metrics.

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use spire_data::Picture;

use super::case::{Case, Outputs, Worst, compare, expected_names, relative_maximum};
use crate::arrays::{Array, Arrays};
use crate::{Colours, Compared, FeatureStatistics, Lpips, frechet_distance, psnr, psnr_of, ssim, ssim_of};

/// `in.a` and `in.b`, `[rows, features]`, to `out.distance`.
pub fn frechet(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let statistics = |name: &str| -> Result<FeatureStatistics> {
        let ([_, features], values) = arrays.shaped::<2>(name)?;
        FeatureStatistics::of(values, features).context(name.to_owned())
    };
    let distance = frechet_distance(&statistics("in.a")?, &statistics("in.b")?)?;
    let outputs = Outputs::from([("out.distance".to_owned(), Array::scalar(distance))]);
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.reference.{i}` and `in.distorted.{i}`, 8-bit `[height, width, 3]`, to `out.psnr.{i}` and `out.ssim.{i}`, and where
/// they are there `out.psnr_y.{i}.{border}` and `out.ssim_y.{i}.{border}`, of the luma without so many pixels on each side.
pub fn psnr_ssim(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let mut outputs = Outputs::new();
    for pair in arrays.names().filter_map(|name| name.strip_prefix("in.reference.")) {
        let reference = picture(&arrays, &format!("in.reference.{pair}"))?;
        let distorted = picture(&arrays, &format!("in.distorted.{pair}"))?;
        let psnr = psnr(&reference, &distorted).with_context(|| format!("pair {pair}"))?;
        let ssim = ssim(&reference, &distorted).with_context(|| format!("pair {pair}"))?;
        outputs.insert(format!("out.psnr.{pair}"), Array::scalar(psnr));
        outputs.insert(format!("out.ssim.{pair}"), Array::scalar(ssim));
        let prefix = format!("out.psnr_y.{pair}.");
        for border in expected_names(&arrays).filter_map(|name| name.strip_prefix(&prefix)) {
            let cut = border.parse().with_context(|| format!("{prefix}{border}: the border is no number"))?;
            let compared = Compared { colours: Colours::Y, border: cut };
            let psnr = psnr_of(&reference, &distorted, compared).with_context(|| format!("pair {pair}"))?;
            let ssim = ssim_of(&reference, &distorted, compared).with_context(|| format!("pair {pair}"))?;
            outputs.insert(format!("out.psnr_y.{pair}.{border}"), Array::scalar(psnr));
            outputs.insert(format!("out.ssim_y.{pair}.{border}"), Array::scalar(ssim));
        }
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.x` and `in.y`, `[batch, 3, height, width]` in \[-1, 1\], to `out.distance` `[batch]`.
pub fn lpips(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let lpips = Lpips::load(&case.weights()?, device)?;
    let distance = lpips.distance(arrays.tensor("in.x", device)?, arrays.tensor("in.y", device)?)?;
    compare(&arrays, &Outputs::from([("out.distance".to_owned(), distance.into())]), &[], relative_maximum)
}

/// A picture from 8-bit levels, `[height, width, 3]`.
pub fn picture(arrays: &Arrays, name: &str) -> Result<Picture> {
    let ([height, width, channels], values) = arrays.shaped::<3>(name)?;
    ensure!(channels == 3, "{name} has {channels} channels, expected 3");
    ensure!(
        values.iter().all(|value| (0.0..=255.0).contains(value) && value.fract() == 0.0),
        "{name} holds values that are no 8-bit levels"
    );
    let mut picture = Picture::filled(width, height, [0.0; 3]);
    for (i, &value) in values.iter().enumerate() {
        picture.data[(i % 3) * width * height + i / 3] = (value / 255.0) as f32;
    }
    Ok(picture)
}
