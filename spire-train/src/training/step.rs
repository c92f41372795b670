//! One optimiser step: samples, forward and backward pass, update.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use spire_data::loader::TrainingSample;
use spire_model::control::Control;

use super::objective::DenoisingBatch;
use super::state::TrainingState;
use crate::config::RunConfig;
use crate::distributed::{bucket_layout, gradient_order, mean_gradients};
use crate::optim::backward::gradients;
use crate::optim::gradients::grad_norm;

impl TrainingState<'_> {
    /// The next `count` batches of `size` samples; `None` on all ranks if the run is interrupted and the source of one is
    /// blocked.
    pub fn batches(
        &mut self,
        size: usize,
        count: usize,
        interrupted: &AtomicBool,
    ) -> Result<Option<Vec<Vec<TrainingSample>>>> {
        let all = self.loader.batch_unless(interrupted, size * count)?;
        if self.ranks.any(all.is_none()) {
            self.loader.put_back(all.map_or(0, |all| all.len()));
            return Ok(None);
        }
        let mut samples = all.into_iter().flatten();
        Ok(Some((0..count).map(|_| samples.by_ref().take(size).collect()).collect()))
    }

    /// The network's inputs and targets for `batches`; the run's seed decides noise and timesteps.
    pub fn prepare(&mut self, batches: &[Vec<TrainingSample>], config: &RunConfig) -> Result<Vec<DenoisingBatch>> {
        let (seed, gamma) = (config.run.seed, config.train.min_snr_gamma);
        let inputs = batches.iter().map(|batch| {
            let latents = batch.iter().map(|sample| self.latents.of(&self.base, sample, &self.device));
            let latents = latents.collect::<Result<Vec<_>>>()?;
            DenoisingBatch::new(&self.base, &self.schedule, batch, latents, seed, gamma, &self.device)
        });
        inputs.collect()
    }

    /// Takes one step: forward and backward pass of all batches, clipping, AdamW, moving average. If the loss or a
    /// gradient is not finite, the weights stay as they are.
    ///
    /// Returns the mean loss over the batches of all ranks, and the global norm of its gradients before clipping.
    pub fn take_step(&mut self, batches: Vec<DenoisingBatch>, config: &RunConfig) -> Result<(f64, f64)> {
        let (unet, train) = (&self.base.unet, &config.train);
        let loss = |control: &Control, batch: DenoisingBatch| Ok(batch.loss(unet, control));
        let (ranks, control, how) = (self.ranks, &self.learner.module, config.computation());
        let (loss, gradients) = if ranks.count() == 1 {
            gradients(control, batches, how, loss)?
        } else {
            let buckets = match self.buckets.take() {
                Some(buckets) => buckets,
                None => {
                    let order = gradient_order(control, batches[0].clone(), how, loss)?;
                    bucket_layout(ranks, control, &order, train.bucket_megabytes * 1_000_000)
                }
            };
            mean_gradients(ranks, self.buckets.insert(buckets), control, batches, how, loss)?
        };
        let loss = self.ranks.mean(loss);
        let norm = self.ranks.agree("the norm of the gradients", grad_norm(&self.learner.module, &gradients))?;
        if loss.is_finite() && norm.is_finite() {
            self.learner.update(gradients, norm, train.ema_decay);
        }
        Ok((loss, norm))
    }
}
