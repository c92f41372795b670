//! Cases of metrics.

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use spire_data::Picture;
use spire_model::clip::ClipFolder;
use spire_model::weights::weights_file;

use super::case::{Case, Outputs, Worst, compare, expected_names, relative_maximum};
use crate::arrays::{Array, Arrays};
use crate::clip_space::{ImageSpace, cosine, unit_length};
use crate::fid::{FidSpace, Resizing};
use crate::inception::FEATURES;
use crate::pillow::{self, Levels};
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

/// `in.clean.{i}` and `in.restored.{i}`, 8-bit `[height, width, 3]`, to `out.features.{resizing}.clean.{i}` and
/// `out.features.{resizing}.restored.{i}`, and to `out.fid.{resizing}` of all of them; `resizing` is `clean` or `legacy`.
pub fn fid(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let file = weights_file(&case.weights()?)?;
    let mut outputs = Outputs::new();
    for (name, resizing) in [("clean", Resizing::Clean), ("legacy", Resizing::Legacy)] {
        let space = FidSpace::load(&file, resizing, device)?;
        let mut sets = vec![];
        for set in ["clean", "restored"] {
            let mut statistics = FeatureStatistics::new(FEATURES);
            let prefix = format!("in.{set}.");
            for i in arrays.names().filter_map(|name| name.strip_prefix(&prefix)) {
                let picture = picture(&arrays, &format!("{prefix}{i}"))?;
                let features = case.timed(|| space.features(&[&picture])).remove(0);
                statistics.push(&features)?;
                let values = features.into_iter().map(f64::from).collect();
                outputs.insert(format!("out.features.{name}.{set}.{i}"), Array { shape: vec![FEATURES], values });
            }
            sets.push(statistics);
        }
        let distance = frechet_distance(&sets[0], &sets[1])?;
        outputs.insert(format!("out.fid.{name}"), Array::scalar(distance));
    }
    compare(&arrays, &outputs, &["out.features."], relative_maximum)
}

/// A whole CLIP: `in.image.{i}`, 8-bit `[height, width, 3]`, to `out.pixel_values.{i}` and, of length 1, `out.image_embeds.{i}`;
/// `in.input_ids` to `out.text_embeds`; and the cosines of each picture and all texts, `out.cosine.{i}`.
pub fn clip_score(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let clip = ClipFolder::open(&case.weights()?)?;
    let images = ImageSpace::load(&clip, device)?;
    let (text, config) = clip.text(device)?;
    let ([count, length], ids) = arrays.shaped::<2>("in.input_ids")?;
    ensure!(
        length <= config.max_position_embeddings && ids.iter().all(|&id| (0.0..config.vocab_size as f64).contains(&id)),
        "in.input_ids holds texts that are too long or ids that are not in the vocabulary"
    );
    let ids = arrays.integers("in.input_ids", device)?;
    let embeddings = case.timed(|| text.forward(ids)).text_embeds.context("no projection")?;
    let embeddings: Array = unit_length(embeddings).into();
    let texts: Vec<Vec<f32>> =
        embeddings.values.chunks(images.dimensions()).map(|row| row.iter().map(|&v| v as f32).collect()).collect();
    ensure!(texts.len() == count, "texts have another number of features than pictures");
    let mut outputs = Outputs::from([("out.text_embeds".to_owned(), embeddings)]);
    for i in arrays.names().filter_map(|name| name.strip_prefix("in.image.")) {
        let picture = picture(&arrays, &format!("in.image.{i}"))?;
        let side = images.preprocessing().side();
        let pixels = images.preprocessing().apply(&picture).into_iter().map(f64::from).collect();
        outputs.insert(format!("out.pixel_values.{i}"), Array { shape: vec![3, side, side], values: pixels });
        let features = case.timed(|| images.features(&[&picture])).remove(0);
        let cosines = texts.iter().map(|text| cosine(text, &features)).collect();
        outputs.insert(format!("out.cosine.{i}"), Array { shape: vec![count], values: cosines });
        let values = features.into_iter().map(f64::from).collect();
        outputs.insert(format!("out.image_embeds.{i}"), Array { shape: vec![images.dimensions()], values });
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.image.{i}`, 8-bit `[height, width, 3]`, to `out.levels.{i}`, resized as a picture of 8 bits, and `out.values.{i}`,
/// as three of unrounded values, both `[height, width, 3]`.
pub fn pillow_resize(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let mut outputs = Outputs::new();
    for i in arrays.names().filter_map(|name| name.strip_prefix("in.image.")) {
        let levels = Levels::of(&picture(&arrays, &format!("in.image.{i}"))?);
        let ([height, width, _], _) = arrays.shaped::<3>(&format!("out.levels.{i}"))?;
        ensure!(width > 0 && height > 0, "out.levels.{i} has no pixels");
        let interleaved = |planes: [Vec<f64>; 3]| Array {
            shape: vec![height, width, 3],
            values: (0..width * height).flat_map(|i| [planes[0][i], planes[1][i], planes[2][i]]).collect(),
        };
        let resized = levels.resized(width, height).planes.map(|plane| plane.into_iter().map(f64::from).collect());
        outputs.insert(format!("out.levels.{i}"), interleaved(resized));
        let values = levels.planes.map(|plane| {
            let values: Vec<f32> = plane.into_iter().map(f32::from).collect();
            let resized = pillow::resize(&values, (levels.width, levels.height), (width, height));
            resized.into_iter().map(f64::from).collect()
        });
        outputs.insert(format!("out.values.{i}"), interleaved(values));
    }
    compare(&arrays, &outputs, &[], relative_maximum)
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
