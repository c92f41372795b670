//! Degradation operators agree with BasicSR, torch and libjpeg-turbo.

use std::path::PathBuf;

use image::RgbImage;
use safetensors::SafeTensors;
use spire_data::degrade::blur::blur_plane;
use spire_data::degrade::resize::resize_plane;
use spire_data::degrade::{Filter, Kernel, KernelSpec, jpeg_round_trip};

fn file(case: &str, name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(case).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn floats(tensors: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = tensors.tensor(name).unwrap();
    let values = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    (tensor.shape().to_vec(), values)
}

fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    let largest = want.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let worst = got.iter().zip(want).fold(0.0_f32, |worst, (got, want)| worst.max((got - want).abs()));
    println!("{name}: {:.2e}", worst / largest);
    assert!(worst <= tolerance * largest, "{name}: {}", worst / largest);
}

#[test]
fn kernels_agree_with_basicsr() {
    let specs: Vec<KernelSpec> = serde_json::from_slice(&file("case-blur-kernels", "kernels.json")).unwrap();
    let bytes = file("case-blur-kernels", "tensors.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(specs.len(), tensors.len());
    for (i, spec) in specs.iter().enumerate() {
        let (_, want) = floats(&tensors, &format!("out.kernel.{i}"));
        assert_close(&format!("kernel {i} {:?}", spec.kind), &spec.build().unwrap().weights, &want, 1e-5);
    }
}

#[test]
fn blur_and_resize_agree_with_torch() {
    let bytes = file("case-blur-resize", "tensors.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (shape, image) = floats(&tensors, "in.image");
    let (width, height) = (shape[3], shape[2]);
    let planes = || image.chunks_exact(width * height);

    let (kernel_shape, weights) = floats(&tensors, "in.kernel");
    let kernel = Kernel::new(kernel_shape[0], weights).unwrap();
    let blurred: Vec<f32> = planes().flat_map(|plane| blur_plane(plane, width, height, &kernel)).collect();
    assert_close("blurred", &blurred, &floats(&tensors, "out.blurred").1, 1e-5);

    for (name, filter) in [("area", Filter::Area), ("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        let (shape, want) = floats(&tensors, &format!("out.{name}"));
        let resized: Vec<f32> =
            planes().flat_map(|plane| resize_plane(plane, (width, height), shape[3], shape[2], filter)).collect();
        assert_close(name, &resized, &want, 1e-5);
    }
}

#[test]
fn jpeg_is_close_to_libjpeg_turbo() {
    let bytes = file("case-jpeg", "tensors.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let input = tensors.tensor("in.image").unwrap();
    let (width, height) = (input.shape()[3], input.shape()[2]);
    let area = width * height;
    for quality in [10, 30, 60, 95] {
        let want = tensors.tensor(&format!("out.jpeg.{quality}")).unwrap().data();
        let (mut squares, mut difference) = (0.0, 0.0);
        for (planes, want) in input.data().chunks_exact(3 * area).zip(want.chunks_exact(3 * area)) {
            let pixel = |x: u32, y: u32| [0, 1, 2].map(|c| planes[c * area + y as usize * width + x as usize]);
            let image = RgbImage::from_fn(width as u32, height as u32, |x, y| image::Rgb(pixel(x, y)));
            let decoded = jpeg_round_trip(&image, quality).unwrap();
            for (i, pixel) in decoded.pixels().enumerate() {
                for channel in 0..3 {
                    let want = f64::from(want[channel * area + i]);
                    squares += want.powi(2);
                    difference += (f64::from(pixel[channel]) - want).powi(2);
                }
            }
        }
        let relative = (difference / squares).sqrt();
        println!("jpeg {quality}: {relative:.4}");
        assert!(relative < 0.02, "quality {quality}: {relative}");
    }
}
