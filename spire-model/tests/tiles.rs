//! Restoring in tiles compared with restoring the whole picture, with the built-in model.

use std::path::Path;

use burn::tensor::Device;
use spire_data::Picture;
use spire_data::world::{World, WorldConfig};
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::restore::{Request, SamplingConfig, restore};
use spire_model::weights::Precision;

/// Larger than the model's 64 by 64: tiles begin at columns 0, 48, 96 and 144.
const SIZE: (usize, usize) = (208, 128);

fn scene(number: u64) -> Picture {
    let (width, height) = SIZE;
    let side = width.max(height);
    World::new(WorldConfig { size: side, ..WorldConfig::default() }).scene(number).draw(side).crop(0, 0, width, height)
}

/// Mean absolute difference between neighbouring columns.
fn steps(picture: &Picture) -> Vec<f64> {
    (1..picture.width)
        .map(|x| {
            let sum: f64 =
                picture.data.chunks_exact(picture.width).map(|row| f64::from((row[x] - row[x - 1]).abs())).sum();
            sum / (3 * picture.height) as f64
        })
        .collect()
}

fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    -10.0 * (squares / a.len() as f64).log10()
}

#[test]
fn tiles_agree_with_the_whole_and_leave_no_seams() {
    let device = Device::flex();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
    let base = Base::load(&tiny, Precision::F32, &device).unwrap();
    let control = Control::load(&tiny.join("control"), &device).unwrap();
    let restored = |scene: &Picture, tile: usize| {
        // A few steps starting from the picture: the tiny model is trained on 64 by 64 and would invent content in a
        // larger picture from pure noise.
        let config =
            SamplingConfig { steps: 10, strength: 0.3, guidance_scale: 1.0, tile: Some(tile), ..Default::default() };
        let request = Request {
            degraded: scene.clone(),
            semantic: String::new(),
            restoration: "Remove all degradation".into(),
            seed: 1,
        };
        restore(&base, &control, &config, &[request]).unwrap().remove(0)
    };
    // Summed over scenes, because a single one may show an edge at a tile's border.
    let mut steps = vec![0.0; SIZE.0 - 1];
    for scene in (3..19).map(scene) {
        let (whole, tiled) = (restored(&scene, 0), restored(&scene, 64));
        assert_eq!((tiled.width, tiled.height), SIZE);
        // Attention and normalisation cover the picture or the tile, so the results differ slightly.
        let agreement = psnr(&whole.data, &tiled.data);
        assert!(agreement > 22.0, "{agreement} dB");
        for (sum, step) in steps.iter_mut().zip(self::steps(&tiled)) {
            *sum += step;
        }
    }
    // The difference at a tile's border is not larger than those around it.
    for border in [48, 64, 96, 112, 144, 160] {
        let at = |x: usize| steps[x - 1];
        let around = (1..=4).flat_map(|i| [at(border - i), at(border + i)]).fold(0.0, f64::max);
        assert!(at(border) < 1.2 * around, "column {border}: {} beside {around}", at(border));
    }
}
