//! Restoring picture files with a network that needs no prompt.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use spire_data::degrade::{Filter, resize};
use spire_model::feedforward::{Network, NetworkKind, Tiling};
use spire_model::weights::{checksum, weights_file};

use crate::files::{MOST_PIXELS, RestoredFile};
use crate::made_once::restore_once;

/// A network that is ready to restore.
#[derive(Debug)]
pub struct NetworkRestorer {
    network: Network,
    kind: NetworkKind,
    /// SHA-256 of the checkpoint.
    pub weights_sha256: String,
    tiling: Tiling,
}

/// Everything that a picture depends on that such a network restored: the JSON in its PNG.
#[derive(Debug, Serialize)]
struct NetworkProvenance {
    program: String,
    network: NetworkKind,
    weights_sha256: String,
    input_sha256: String,
    tile: usize,
    tile_overlap: usize,
    /// Width and height to which the restored picture was resized.
    #[serde(skip_serializing_if = "Option::is_none")]
    resized: Option<(usize, usize)>,
}

impl NetworkRestorer {
    /// SHA-256 of the checkpoint, a file or a folder with weights.
    ///
    /// # Errors
    /// It is missing, and the error says where it is published; or it can't be read.
    pub fn checksum(kind: NetworkKind, weights: &Path) -> Result<String> {
        ensure!(
            weights.exists(),
            "there is no checkpoint {}: {} publishes those of {kind}; save one under this name",
            weights.display(),
            kind.published()
        );
        let file = if weights.is_dir() { weights_file(weights)? } else { weights.to_owned() };
        checksum::of_file(&file).with_context(|| format!("can't read {}", file.display()))
    }

    /// Loads a checkpoint. `tile` is the side of the tiles of large pictures; if not set, the default.
    ///
    /// # Errors
    /// The device is unknown, or the checkpoint is missing or not of this kind.
    pub fn load(kind: NetworkKind, weights: &Path, tile: Option<usize>, device: &str) -> Result<Self> {
        let device = spire_model::device::device(device)?;
        let weights_sha256 = Self::checksum(kind, weights)?;
        let network = Network::load(kind, weights, &device)?;
        let Tiling { side, overlap } = Tiling::default();
        let side = tile.unwrap_or(side);
        // Small tiles would otherwise overlap entirely.
        let overlap = if side == 0 { overlap } else { overlap.min(side / 2) };
        Ok(Self { network, kind, weights_sha256, tiling: Tiling { side, overlap } })
    }

    /// How large pictures are split.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Width and height of the restored picture of a degraded one of `size`.
    pub fn restored_size(&self, size: (usize, usize)) -> (usize, usize) {
        self.network.restored_size(size)
    }

    /// Restores `input` to `output`, a picture in the format of its name. With a `size`, width and height, a restored picture of another size is
    /// resized to it. A result that exists with the same provenance is kept, unless `overwrite` is set.
    ///
    /// # Errors
    /// The picture can't be read, or the file can't be written.
    pub fn restore_file(
        &self,
        input: &Path,
        output: &Path,
        size: Option<(usize, usize)>,
        overwrite: bool,
    ) -> Result<RestoredFile> {
        let provenance = |input_sha256: String| NetworkProvenance {
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            network: self.kind,
            weights_sha256: self.weights_sha256.clone(),
            input_sha256,
            tile: self.tiling.side,
            tile_overlap: self.tiling.overlap,
            resized: size,
        };
        restore_once(input, output, overwrite, provenance, |degraded| {
            let (width, height) = self.restored_size((degraded.width, degraded.height));
            ensure!(
                width as f64 * height as f64 <= MOST_PIXELS,
                "{width} by {height} pixels, to which {} enlarges it, are more than can be restored",
                self.kind
            );
            let restored = self.network.restore(degraded, self.tiling)?;
            let Some((width, height)) = size.filter(|&size| size != (restored.width, restored.height)) else {
                return Ok(restored);
            };
            let mut resized = resize(&restored, width, height, Filter::BicubicAntialiased);
            resized.clamp();
            Ok(resized)
        })
    }
}
