//! What the backward pass adds to Burn's: gradient hooks, recomputed blocks, the kernels' derivatives.

mod block;
mod derivatives;
mod hooks;
mod recompute;

pub use block::block;
pub use hooks::{GradientHook, hooked, with_gradient_hook};
pub use recompute::Forward;
