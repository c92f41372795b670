//! A module that learns: its weights, their moving average, the optimiser; and how a checkpoint stores them.

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::DType;
use spire_model::weights::{self, Precision, Tensors, fill};

use super::adamw::{Optimizer, OptimizerSettings};
use super::ema;
use super::gradients::{number_parameters, weight_norm};
use crate::checkpoint::Checkpoint;

/// The moving average in a checkpoint. It has diffusers' name, so that a checkpoint with a `config.json` opens as a part of
/// a model.
pub const AVERAGE: &str = "diffusion_pytorch_model.safetensors";
const WEIGHTS: &str = "training.safetensors";
const OPTIMIZER: &str = "optimizer.burnpack";

/// Weights whose root mean square is above this are lost. In networks that work it is below 10.
const LARGEST_ROOT_MEAN_SQUARE: f64 = 1000.0;

/// The state of a module in training, between two steps.
pub struct Learner<M: Module> {
    /// The trained weights.
    pub module: M,
    /// Their moving average, on a device without autodiff. It samples and is evaluated.
    pub average: M,
    /// AdamW.
    pub optimizer: Optimizer,
    /// Optimiser steps done.
    pub step: u64,
}

impl<M: Module> Learner<M> {
    /// The start of a training of `module`, whose parameters require gradients.
    pub fn new(module: M, settings: OptimizerSettings) -> Self {
        let module = number_parameters(module);
        Self { average: module.valid(), module, optimizer: Optimizer::new(settings), step: 0 }
    }

    /// This learner with the state of `checkpoint`.
    ///
    /// # Errors
    /// A file is missing or damaged, or does not fit the module.
    pub fn resumed(self, checkpoint: &Checkpoint) -> Result<Self> {
        let origin = checkpoint.dir.display().to_string();
        let read = |name: &str| Tensors::from_bytes(checkpoint.read(name)?, &origin);
        Ok(Self {
            module: number_parameters(fill(self.module, read(WEIGHTS)?, Precision::F32)?),
            average: number_parameters(fill(self.average, read(AVERAGE)?, Precision::F32)?),
            optimizer: self.optimizer.with_bytes(checkpoint.read(OPTIMIZER)?).context(origin.clone())?,
            step: checkpoint.step,
        })
    }

    /// Changes the weights by one step of AdamW, and their moving average. `norm` is the global norm of `gradients`.
    pub fn update(&mut self, gradients: GradientsParams, norm: f64, ema_decay: f64) {
        self.module = self.optimizer.step(self.step, self.module.clone(), gradients, norm);
        let decay = ema::decay_at(ema_decay, self.step);
        self.average = ema::update(self.average.clone(), &self.module, decay);
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate(self.step)
    }

    /// Checks that the weights and their average are finite, and not absurdly large.
    ///
    /// # Errors
    /// They are not; the message says how large they are.
    pub fn check(&self) -> Result<()> {
        check(&self.module, "the weights")?;
        check(&self.average, "the weights' moving average")
    }

    /// The files of a checkpoint, each made when the iterator reaches it.
    pub fn files(&self) -> impl Iterator<Item = Result<(&'static str, Vec<u8>)>> {
        [AVERAGE, WEIGHTS, OPTIMIZER].into_iter().map(|name| {
            let bytes = match name {
                AVERAGE => weights::to_bytes(&self.average, DType::F32)?,
                WEIGHTS => weights::to_bytes(&self.module, DType::F32)?,
                _ => self.optimizer.to_bytes()?,
            };
            Ok((name, bytes))
        })
    }
}

fn check<M: Module>(module: &M, what: &str) -> Result<()> {
    let root_mean_square = weight_norm(module) / (module.num_params().max(1) as f64).sqrt();
    ensure!(
        root_mean_square <= LARGEST_ROOT_MEAN_SQUARE,
        "{what} are lost: their root mean square is {root_mean_square:.3e}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CheckpointStore;
    use crate::optim::learning_rate::{LearningRate, Schedule};
    use burn::module::Param;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tensor};

    fn learner() -> Learner<Linear> {
        let learning_rate = LearningRate {
            base: 0.1,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            total_steps: 10,
            final_ratio: 0.0,
            power: 1.0,
            cycles: 1,
        };
        let settings = OptimizerSettings {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        };
        Learner::new(LinearConfig::new(3, 2).init(&Device::flex().autodiff()), settings)
    }

    fn take_steps(learner: &mut Learner<Linear>, count: u64) {
        for _ in 0..count {
            let x = Tensor::<2>::ones([1, 3], &Device::flex()) * (learner.step + 1) as f64;
            let gradients = learner.module.forward(x).square().mean().backward();
            let gradients = GradientsParams::from_grads(gradients, &learner.module);
            learner.update(gradients, 0.5, 0.9);
            learner.step += 1;
        }
    }

    fn values(learner: &Learner<Linear>) -> [Vec<f32>; 2] {
        [&learner.module, &learner.average].map(|module| module.weight.val().into_data().iter::<f32>().collect())
    }

    #[test]
    fn a_learner_from_a_checkpoint_continues_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path().join("checkpoints"), 1);
        let mut whole = learner();
        take_steps(&mut whole, 2);
        store.save(whole.step, whole.files(), None).unwrap();
        let mut resumed = learner().resumed(&store.latest().unwrap().unwrap()).unwrap();
        assert_eq!((resumed.step, values(&resumed)), (2, values(&whole)));
        for learner in [&mut whole, &mut resumed] {
            take_steps(learner, 2);
        }
        assert_eq!(values(&resumed), values(&whole));
    }

    #[test]
    fn weights_that_are_lost_are_found() {
        let mut learner = learner();
        learner.check().unwrap();
        for lost in [f32::NAN, f32::INFINITY, 1e28, 1e5] {
            let weight = Tensor::<2>::ones([3, 2], &Device::flex());
            let weight = weight.slice_fill([0..1, 0..1], lost);
            learner.average.weight = Param::from_tensor(weight);
            let error = learner.check().unwrap_err().to_string();
            assert!(error.contains("moving average are lost"), "{error}");
        }
    }
}
