//! Limits on the sizes in a `config.json`, far above those of any model: a wrong number must not fill the memory with layers
//! before the weights, which do not fit it, are compared.

use anyhow::{Result, ensure};

/// The most resolutions of a UNet, a VAE or an embedding. The largest known models have 5.
pub const MOST_RESOLUTIONS: usize = 12;

/// The most layers of one kind. The largest known models have 48.
pub const MOST_LAYERS: usize = 64;

/// The most channels of a feature, and the most tokens and pixels a side. The largest known models have 10240.
pub const MOST_CHANNELS: usize = 1 << 16;

/// Checks that no value of the setting `key` is above `most`.
///
/// # Errors
/// One is; the message names the setting.
pub fn check_at_most(key: &str, values: impl IntoIterator<Item = usize>, most: usize) -> Result<()> {
    for value in values {
        ensure!(value <= most, "{key} is {value}; the most are {most}");
    }
    Ok(())
}
