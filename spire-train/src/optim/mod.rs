//! Optimisation: gradients, AdamW, the learning-rate schedule and the moving average of the weights.

pub mod adamw;
pub mod backward;
pub mod ema;
pub mod gradients;
pub mod learning_rate;
