//! One optimiser step: samples, forward and backward pass, update.

use anyhow::Result;
use burn::optim::GradientsParams;
use spire_data::loader::TrainingSample;
use spire_model::control::Control;

use super::objective::DenoisingBatch;
use super::state::TrainingState;
use crate::config::RunConfig;
use crate::distributed::{bucket_layout, gradient_order, mean_gradients};
use crate::optim::backward::gradients;
use crate::optim::ema;
use crate::optim::gradients::grad_norm;

impl TrainingState<'_> {
    /// The next `count` batches of `size` samples.
    pub fn batches(&mut self, size: usize, count: usize) -> Result<Vec<Vec<TrainingSample>>> {
        (0..count).map(|_| Ok(self.loader.batch(size)?)).collect()
    }

    /// The network's inputs and targets for `batches`; the run's seed decides noise and timesteps.
    pub fn prepare(&mut self, batches: &[Vec<TrainingSample>], config: &RunConfig) -> Result<Vec<DenoisingBatch>> {
        let (seed, gamma) = (config.run.seed, config.train.min_snr_gamma);
        let inputs = batches.iter().map(|batch| {
            let latents = batch.iter().map(|sample| self.latents.of(&self.base, sample, &self.device)).collect();
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
        let (ranks, control, how) = (self.ranks, &self.control, config.computation());
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
        let norm = self.ranks.agree("the norm of the gradients", grad_norm(&self.control, &gradients))?;
        if loss.is_finite() && norm.is_finite() {
            self.update(gradients, norm, train.ema_decay);
        }
        Ok((loss, norm))
    }

    fn update(&mut self, gradients: GradientsParams, norm: f64, ema_decay: f64) {
        self.control = self.optimizer.step(self.step, self.control.clone(), gradients, norm);
        let decay = ema::decay_at(ema_decay, self.step);
        self.average = ema::update(self.average.clone(), &self.control, decay);
    }
}
