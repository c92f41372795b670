//! A matrix as a picture.

use burn::tensor::Tensor;
use image::RgbImage;

/// The values of `matrix` `[rows, columns]` as grey values, from the least in black to the greatest in white.
pub fn heat_map(matrix: Tensor<2>) -> RgbImage {
    let [rows, columns] = matrix.dims();
    let values: Vec<f32> = matrix.into_data().iter::<f32>().collect();
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    RgbImage::from_fn(columns as u32, rows as u32, |x, y| {
        let value = values[y as usize * columns + x as usize];
        image::Rgb([(255.0 * (value - low) / (high - low).max(f32::MIN_POSITIVE)) as u8; 3])
    })
}
