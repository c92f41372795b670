//! Conversion between pictures and tensors.

use burn::tensor::{Device, Tensor, TensorData};
use spire_core::Picture;

/// A tensor `[batch, 3, height, width]` in \[-1, 1\], as the VAE reads it, from pictures of one size.
///
/// # Panics
/// If there are no pictures or their sizes differ.
pub fn to_tensor<'a>(pictures: impl IntoIterator<Item = &'a Picture>, device: &Device) -> Tensor<4> {
    batch(pictures, |value| value * 2.0 - 1.0, device)
}

/// A tensor `[batch, 3, height, width]` in \[0, 1\], as the control branch reads it, from pictures of one size.
///
/// # Panics
/// If there are no pictures or their sizes differ.
pub fn to_unit_tensor<'a>(pictures: impl IntoIterator<Item = &'a Picture>, device: &Device) -> Tensor<4> {
    batch(pictures, |value| value, device)
}

fn batch<'a>(
    pictures: impl IntoIterator<Item = &'a Picture>,
    convert: impl Fn(f32) -> f32,
    device: &Device,
) -> Tensor<4> {
    let pictures: Vec<_> = pictures.into_iter().collect();
    let (width, height) = (pictures[0].width, pictures[0].height);
    let mut values = Vec::with_capacity(pictures.len() * 3 * width * height);
    for picture in &pictures {
        assert_eq!((picture.width, picture.height), (width, height), "pictures of a batch have one size");
        values.extend(picture.data.iter().map(|&value| convert(value)));
    }
    Tensor::from_data(TensorData::new(values, [pictures.len(), 3, height, width]), device)
}

/// One picture per batch entry of a tensor `[batch, 3, height, width]` in \[0, 1\], not clamped.
pub(crate) fn from_unit_tensor(tensor: Tensor<4>) -> Vec<Picture> {
    let [_, channels, height, width] = tensor.dims();
    let values: Vec<f32> = tensor.into_data().convert::<f32>().iter::<f32>().collect();
    values
        .chunks_exact(channels * height * width)
        .map(|values| Picture { width, height, data: values.to_vec().into() })
        .collect()
}

/// One picture in \[0, 1\] per batch entry of a tensor `[batch, 3, height, width]` in \[-1, 1\].
pub fn from_tensor(tensor: Tensor<4>) -> Vec<Picture> {
    let [_, channels, height, width] = tensor.dims();
    let values: Vec<f32> = tensor.into_data().convert::<f32>().iter::<f32>().collect();
    values
        .chunks_exact(channels * height * width)
        .map(|values| Picture {
            width,
            height,
            data: values.iter().map(|value| ((value + 1.0) / 2.0).clamp(0.0, 1.0)).collect(),
        })
        .collect()
}
