//! The inputs and weights of a measurement as safetensors, so that another program can compute the same.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use spire_core::atomic_write::write_atomic;
use spire_model::control::{Control, ControlConfig};
use spire_model::weights;

/// Named tensors in float32: name, shape, bytes.
#[derive(Default)]
pub(super) struct Dump(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Dump {
    pub fn add<const D: usize>(&mut self, name: impl Into<String>, tensor: &Tensor<D>) {
        let bytes = tensor.clone().into_data().convert::<f32>().iter::<f32>().flat_map(f32::to_le_bytes).collect();
        self.0.push((name.into(), tensor.dims().to_vec(), bytes));
    }

    /// Writes `inputs.safetensors`, and the branch in diffusers' layout as `control/`, into `folder`.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(self, folder: &Path, config: &ControlConfig, control: &Control) -> Result<()> {
        let branch = folder.join("control");
        std::fs::create_dir_all(&branch).with_context(|| format!("can't create {}", branch.display()))?;
        let views: Vec<_> = self
            .0
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<_>>()?;
        for (file, bytes) in [
            (folder.join("inputs.safetensors"), safetensors::serialize(views, None)?),
            (branch.join("config.json"), config.to_json()?),
            (branch.join("diffusion_pytorch_model.safetensors"), weights::to_bytes(control, DType::F32)?),
        ] {
            write_atomic(&file, &bytes)?;
        }
        Ok(())
    }
}
