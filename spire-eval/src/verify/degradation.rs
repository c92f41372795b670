//! Cases of degradation operators.

use anyhow::{Context, Result, ensure};
use spire_data::Picture;
use spire_data::degrade::blur::blur_plane;
use spire_data::degrade::jpeg;
use spire_data::degrade::kernel::{Kernel, KernelSpec};
use spire_data::degrade::resize::{Filter, resize_plane};

use super::case::{Case, Outputs, Worst, compare, expected_names, relative_maximum, relative_root_mean_square};
use crate::arrays::Array;

/// `kernels.json`, a list of parameters, to `out.kernel.{i}`, `[size, size]`.
pub fn blur_kernels(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let specs: Vec<KernelSpec> = case.json("kernels.json")?;
    let mut outputs = Outputs::new();
    for (i, spec) in specs.iter().enumerate() {
        let name = format!("out.kernel.{i}");
        // Check the size first: a kernel of an unexpected size could need any amount of memory.
        let (shape, _) = arrays.shaped::<2>(&name)?;
        ensure!(shape == [spec.size; 2], "{name} has shape {shape:?}, kernels.json says size {}", spec.size);
        let kernel = spec.build().with_context(|| format!("kernels.json, entry {i}"))?;
        outputs.insert(name, Array { shape: shape.to_vec(), values: widened(&kernel.weights).collect() });
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.image`, `[batch, channels, height, width]`, filtered with `in.kernel` to `out.blurred`, and resized to the size of
/// each of `out.area`, `out.bilinear`, `out.bicubic` and, where it is there, `out.bicubic_antialiased`.
pub fn blur_resize(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let ([batch, channels, height, width], values) = arrays.shaped::<4>("in.image")?;
    let image: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let planes = || image.chunks_exact(height * width);
    let ([rows, columns], weights) = arrays.shaped::<2>("in.kernel")?;
    ensure!(rows == columns, "in.kernel is of {rows} by {columns}, expected a square");
    let kernel = Kernel::new(rows, weights.iter().map(|&weight| weight as f32).collect())?;

    let mut outputs = Outputs::new();
    let blurred = planes().flat_map(|plane| widened(&blur_plane(plane, width, height, &kernel)).collect::<Vec<_>>());
    let shape = vec![batch, channels, height, width];
    outputs.insert("out.blurred".to_owned(), Array { shape, values: blurred.collect() });

    let mut filters =
        vec![("out.area", Filter::Area), ("out.bilinear", Filter::Bilinear), ("out.bicubic", Filter::Bicubic)];
    if expected_names(&arrays).any(|name| name == "out.bicubic_antialiased") {
        filters.push(("out.bicubic_antialiased", Filter::BicubicAntialiased));
    }
    for (name, filter) in filters {
        let ([_, _, to_height, to_width], _) = arrays.shaped::<4>(name)?;
        let resized = planes().flat_map(|plane| {
            widened(&resize_plane(plane, (width, height), to_width, to_height, filter)).collect::<Vec<_>>()
        });
        let shape = vec![batch, channels, to_height, to_width];
        outputs.insert(name.to_owned(), Array { shape, values: resized.collect() });
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.image`, 8-bit `[batch, 3, height, width]`, through JPEG of quality q to `out.jpeg.{q}`. Encoders differ in
/// rounding, so the measure is the relative root mean square of all pixels.
pub fn jpeg(case: &Case) -> Result<Worst> {
    let arrays = case.arrays()?;
    let (shape, values) = arrays.shaped::<4>("in.image")?;
    let [_, channels, height, width] = shape;
    ensure!(channels == 3, "in.image has {channels} channels, expected 3");
    ensure!(
        values.iter().all(|value| (0.0..=255.0).contains(value) && value.fract() == 0.0),
        "in.image holds values that are no 8-bit levels"
    );
    let pictures: Vec<Picture> = values
        .chunks_exact(3 * height * width)
        .map(|levels| Picture { width, height, data: levels.iter().map(|&level| (level / 255.0) as f32).collect() })
        .collect();

    let mut outputs = Outputs::new();
    for name in expected_names(&arrays) {
        let quality = name.strip_prefix("out.jpeg.").and_then(|quality| quality.parse().ok());
        let quality: u8 = quality
            .filter(|quality| (1..=100).contains(quality))
            .with_context(|| format!("{name} is not out.jpeg.{{quality}}, quality from 1 to 100"))?;
        let mut decoded = Vec::with_capacity(values.len());
        for picture in &pictures {
            let picture = jpeg::jpeg(picture, quality)?;
            decoded.extend(picture.data.iter().map(|&value| f64::from((value * 255.0).round())));
        }
        outputs.insert(name.to_owned(), Array { shape: shape.to_vec(), values: decoded });
    }
    compare(&arrays, &outputs, &[], relative_root_mean_square)
}

fn widened(values: &[f32]) -> impl Iterator<Item = f64> {
    values.iter().map(|&value| value.into())
}
