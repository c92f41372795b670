//! Restores a picture with the small model that the library carries:
//! `cargo run --release -p spire-model --example restore [IN.png OUT.png]`.

use anyhow::Result;
use burn::tensor::Device;
use spire_core::Picture;
use spire_model::Pipeline;
use spire_model::restore::SamplingConfig;

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let degraded = match files.first() {
        Some(file) => Picture::open(file)?,
        None => Picture::filled(128, 128, [0.3, 0.5, 0.7]),
    };
    let sampling = SamplingConfig { steps: 10, ..SamplingConfig::default() };
    let pipeline = Pipeline::built_in(&Device::flex())?.with_sampling(sampling)?;
    let restored = pipeline.restore(&degraded, "a panda", "Deblur with sigma 2.0; Denoise", 0)?;
    println!("restored {}×{} pixels", restored.width, restored.height);
    if let Some(file) = files.get(1) {
        restored.save_png(file)?;
    }
    Ok(())
}
