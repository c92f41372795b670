//! The validation loss.

use anyhow::Result;
use spire_core::progress::PhaseProgress;

use super::latents::Latents;
use super::objective::DenoisingBatch;
use super::state::TrainingState;
use crate::config::RunConfig;

/// The moving average's loss on held-out samples, with the same timesteps and noise in every validation. The ranks
/// share the samples.
///
/// # Errors
/// Too many held-out pictures are broken.
pub(super) fn validation_loss(state: &TrainingState, config: &RunConfig) -> Result<f64> {
    let count = config.evaluate.validation_samples as u64;
    let (base, device, branch) = (&state.base, &state.device, state.branch(config));
    let mut total = 0.0;
    let progress =
        state.ranks.is_first().then(|| PhaseProgress::new("validation", state.ranks.share(count).count() as u64));
    for n in state.ranks.share(count) {
        let sample = state.held_out.sample(n)?;
        let latent = Latents::keeping(0).of(base, &sample, device)?;
        let seed = config.evaluate.seed;
        let batch = DenoisingBatch::new(base, &state.schedule, &[sample], vec![latent], seed, None, device)?;
        total += f64::from(batch.loss(&base.unet, &branch).into_scalar::<f32>());
        progress.iter().for_each(|progress| progress.advance(""));
    }
    Ok(state.ranks.sum(total) / count as f64)
}
