//! Optimisation: gradients, AdamW, the learning-rate schedule, the moving average of the weights, and a module with all of
//! these.

pub mod adamw;
pub mod backward;
pub mod ema;
pub mod gradients;
pub mod learner;
pub mod learning_rate;
