//! `spire train --dry-run` with the real program.

mod common;

use std::fs;
use std::path::Path;

use common::{error, ok, spire};
use tempfile::TempDir;

/// The first number after `name` at the start of a line.
fn number(output: &str, name: &str) -> u64 {
    let line = output.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {output}"));
    line[name.len()..].split_whitespace().next().unwrap().parse().unwrap()
}

/// Numbers in a safetensors file, from its header.
fn stored(file: &str) -> u64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny").join(file);
    let bytes = fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensors().iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>() as u64).sum()
}

#[test]
fn a_dry_run_counts_the_numbers_in_the_weights_and_writes_nothing() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let set = format!("run.dir={}", dir.display());
    let output = ok(spire(&["train", "configs/tiny.toml", "--dry-run", "--set", &set]));
    assert!(!dir.exists());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);

    assert_eq!(number(&output, "text encoder"), stored("text_encoder/model.safetensors"));
    assert_eq!(number(&output, "image encoder"), stored("image_encoder/model.safetensors"));
    let trained = stored("control/diffusion_pytorch_model.safetensors");
    assert_eq!(number(&output, "trained"), trained);
    let vae = number(&output, "VAE encoder") + number(&output, "VAE decoder");
    assert_eq!(vae, stored("vae/diffusion_pytorch_model.safetensors"));
    let unet = number(&output, "UNet encoder") + number(&output, "UNet decoder");
    assert_eq!(unet, stored("unet/diffusion_pytorch_model.safetensors"));
    assert_eq!(number(&output, "total"), number(&output, "text encoder") + vae + unet + trained);
    for part in ["FLOPs, 64×64", "memory", "an image", "estimate"] {
        assert!(output.contains(part), "no {part} in {output}");
    }
}

#[test]
fn a_dry_run_rejects_what_a_run_would_reject() {
    let refused = |set: &str| error(spire(&["train", "configs/tiny.toml", "--dry-run", "--set", set]));
    assert!(refused("data.size=50").contains("multiple"));
    assert!(refused("model.base=no/such/model").contains("no/such/model"));
    assert!(refused("train.steps=0").contains("train.steps"));
    // The configuration has keys of a new branch.
    let both = refused("model.control=assets/tiny/control");
    assert!(both.contains("model.embedding_channels is for a new branch") && both.contains("remove one"), "{both}");
}
