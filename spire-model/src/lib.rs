//! The models of text-driven image restoration, in Burn. [`Pipeline`] restores pictures in a few lines; the modules are
//! its parts.
//!
//! | module | content |
//! |---|---|
//! | [`clip`], [`tokenizer`] | CLIP's encoders and its tokenizer |
//! | [`vae`], [`unet`] | the frozen model's networks; [`nn`] has their blocks |
//! | [`base`] | the frozen model as a whole, from every layout in which it is published |
//! | [`control`], [`fusion`] | the trained control branch, and how its features modulate the UNet's |
//! | [`decoupling`], [`spire`] | which prompt each part reads, and the whole denoiser |
//! | [`scheduler`], [`guidance`] | noise schedules and samplers, classifier-free guidance |
//! | [`restore`] | the sampling loop, tiles, colour correction |
//! | [`feedforward`] | networks of other authors that restore without prompts |
//! | [`generative`] | models of other authors on Stable Diffusion: [`diffbir`], [`stablesr`] |
//! | [`published`] | sizes and checksums of the published files of others |
//! | [`builtin`], [`model_file`] | the models that the library carries; `model.toml` |
//! | [`weights`], [`cost`] | reading and writing weights; counting parameters and operations |
//!
//! Fields are named as the keys of diffusers' state dicts, so that weights load without a table of renames.

mod aggregation;
pub mod base;
mod bounds;
pub mod builtin;
pub mod clip;
pub mod control;
pub mod cost;
pub mod decoupling;
pub mod device;
pub mod diffbir;
mod embedded;
pub mod feedforward;
mod finite;
pub mod fusion;
pub mod generative;
pub mod guidance;
mod hub;
mod locate;
pub mod model_file;
pub mod nn;
pub mod pictures;
mod pipeline;
pub mod published;
pub mod restore;
pub mod scheduler;
pub mod spire;
pub mod stablesr;
mod task;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;

pub use pipeline::Pipeline;
pub use task::Task;
