//! How `spire restore` samples: stochastic samplers, given noise, quality prompts, tiles of the VAE, 16 bits.

#[allow(dead_code, reason = "not every helper is needed here")]
mod common;
#[path = "common/latents.rs"]
mod latents;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{command, error, ok};
use latents::write_latents;
use spire_core::picture::Depth;
use spire_core::picture_file;
use spire_data::{Picture, png_text};
use spire_restore::provenance::Provenance;
use tempfile::TempDir;

const SCENE: &str = "tests/pictures/scene.png";

fn restore(input: &str, output: &Path, options: &[&str]) -> Output {
    command(&["restore", input, "-o", output.to_str().unwrap(), "--steps", "3"]).args(options).output().unwrap()
}

#[test]
fn a_stochastic_sampler_repeats_with_its_seed_alone_and_in_a_batch() {
    let scratch = TempDir::new().unwrap();
    let bytes = |name: &str, options: &[&str]| {
        let file = scratch.path().join(name);
        ok(restore(SCENE, &file, options));
        fs::read(&file).unwrap()
    };
    let mut pictures = vec![];
    for sampler in ["ddim", "ddpm", "dpm++2m-sde", "euler-a"] {
        let options = ["--sampler", sampler, "--semantic", "a panda", "--seed", "8"];
        let first = bytes(&format!("{sampler}-1.png"), &options);
        assert_eq!(first, bytes(&format!("{sampler}-2.png"), &options), "{sampler}");
        let other = [&options[..4], &["--seed", "9"]].concat();
        assert_ne!(first, bytes(&format!("{sampler}-3.png"), &other), "{sampler}");
        pictures.push(Picture::open(scratch.path().join(format!("{sampler}-1.png"))).unwrap());

        // In a batch with others, a picture has the same noise; it may round differently.
        let several = scratch.path().join(format!("{sampler}.png"));
        ok(restore(SCENE, &several, &[&options[..4], &["--seed", "7", "--variants", "2"]].concat()));
        let eighth = Picture::open(scratch.path().join(format!("{sampler}-seed8.png"))).unwrap();
        let apart = eighth.data.iter().zip(&pictures[pictures.len() - 1].data).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) <= 1.5 / 255.0, "{sampler}");
    }
    for (i, picture) in pictures.iter().enumerate() {
        assert!(pictures[..i].iter().all(|other| other != picture), "two samplers make the same picture");
    }
}

#[test]
fn the_initial_noise_may_be_given() {
    let scratch = TempDir::new().unwrap();
    let (given, other) = (scratch.path().join("a.safetensors"), scratch.path().join("b.safetensors"));
    // 70×66 pixels are padded to 96×96.
    write_latents(&given, 1, [1, 24, 12, 12]);
    write_latents(&other, 2, [1, 24, 8, 8]);
    let restored = |name: &str, options: &[&str]| {
        let file = scratch.path().join(name);
        ok(restore(SCENE, &file, options));
        file
    };
    let latents = ["--latents", given.to_str().unwrap()];
    let first = restored("first.png", &latents);
    let seeded = restored("seeded.png", &[&latents[..], &["--seed", "5"]].concat());
    assert_eq!(Picture::open(&first).unwrap(), Picture::open(&seeded).unwrap(), "the seed draws nothing");
    assert_ne!(Picture::open(&first).unwrap(), Picture::open(restored("drawn.png", &[])).unwrap());
    assert!(Provenance::read(&first).unwrap().latents_sha256.is_some());
    assert!(ok(restore(SCENE, &first, &latents)).contains("exists already"));

    let wrong = error(restore(SCENE, &scratch.path().join("w.png"), &["--latents", other.to_str().unwrap()]));
    assert!(wrong.contains("[1, 24, 8, 8]") && wrong.contains("[1, 24, 12, 12]"), "{wrong}");
    let missing = error(restore(SCENE, &scratch.path().join("w.png"), &["--latents", "no-such.safetensors"]));
    assert!(missing.contains("no-such.safetensors"), "{missing}");
}

#[test]
fn quality_prompts_are_a_suffix_and_a_negative_prompt() {
    let scratch = TempDir::new().unwrap();
    let restored = |name: &str, options: &[&str]| {
        let file = scratch.path().join(name);
        ok(restore(SCENE, &file, options));
        Picture::open(&file).unwrap()
    };
    let preset = restored("preset.png", &["--semantic", "a panda", "--quality-prompts", "seesr"]);
    let words = ["--positive", "clean, high-resolution, 8k", "--negative", "dotted, noise, blur, lowres, smooth"];
    assert_eq!(preset, restored("words.png", &[&["--semantic", "a panda"], &words[..]].concat()));
    let whole = ["--semantic", "a panda, clean, high-resolution, 8k"];
    assert_eq!(preset, restored("whole.png", &[&whole[..], &words[2..]].concat()));
    assert_ne!(preset, restored("plain.png", &["--semantic", "a panda"]));
}

#[test]
fn the_vae_has_tiles_of_its_own() {
    let scratch = TempDir::new().unwrap();
    let restored = |name: &str, options: &[&str]| {
        let file = scratch.path().join(name);
        ok(restore(SCENE, &file, options));
        Picture::open(&file).unwrap()
    };
    let whole = restored("whole.png", &["--tile", "0"]);
    assert_eq!(whole, restored("same.png", &["--tile", "0", "--vae-tile", "0"]));
    let tiled = restored("tiled.png", &["--tile", "0", "--vae-tile", "48"]);
    assert_ne!(whole, tiled);
    // The latent is the same, so that only the seams of the decoding differ.
    let mean = whole.data.iter().zip(&tiled.data).map(|(a, b)| (a - b).abs()).sum::<f32>() / whole.data.len() as f32;
    let both = restored("both.png", &["--tile", "48"]);
    let apart = whole.data.iter().zip(&both.data).map(|(a, b)| (a - b).abs()).sum::<f32>() / whole.data.len() as f32;
    assert!(mean < apart, "{mean} {apart}");
}

#[test]
fn a_png_has_16_bits_where_its_input_had_them() {
    let scratch = TempDir::new().unwrap();
    let data = (0..3 * 64 * 64).map(|i| (i * 37 % 65_536) as f32 / 65_535.0).collect();
    let deep = Picture { width: 64, height: 64, data };
    let alpha: Vec<f32> = (0..64 * 64).map(|i| (i % 65_536) as f32 / 65_535.0).collect();
    let (opaque, clear) = (scratch.path().join("deep.png"), scratch.path().join("clear.png"));
    fs::write(&opaque, png_text::encode_in(Depth::Sixteen, &deep, None, &[]).unwrap()).unwrap();
    fs::write(&clear, png_text::encode_in(Depth::Sixteen, &deep, Some(&alpha), &[]).unwrap()).unwrap();
    let decoded = |path: &Path| Picture::decode(&fs::read(path).unwrap(), path).unwrap();
    for (input, depth) in
        [(opaque.to_str().unwrap(), Depth::Sixteen), (clear.to_str().unwrap(), Depth::Sixteen), (SCENE, Depth::Eight)]
    {
        let output = scratch.path().join("restored.png");
        ok(restore(input, &output, &["--overwrite"]));
        let restored = decoded(&output);
        assert_eq!(restored.depth, depth, "{input}");
        assert!(picture_file::read_note(&output, "spire").is_some());
        if depth == Depth::Sixteen {
            let between = |value: &&f32| (**value * 255.0 - (**value * 255.0).round()).abs() > 0.01;
            assert!(restored.picture.data.iter().filter(between).count() > 1000, "values between the levels of 8 bits");
        }
    }
    let output = scratch.path().join("restored.png");
    ok(restore(clear.to_str().unwrap(), &output, &["--overwrite"]));
    assert_eq!(decoded(&output).alpha, Some(alpha));
    // JPEG has 8 bits.
    ok(restore(opaque.to_str().unwrap(), &scratch.path().join("restored.jpg"), &[]));
}
