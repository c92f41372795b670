//! The models of text-driven image restoration, in Burn: CLIP ([`clip`]), the VAE ([`vae`]), the UNet ([`unet`]), the
//! control branch ([`control`]), which prompt reaches which ([`decoupling`]), its fusion with the UNet ([`fusion`], [`spire`]), noise schedules and samplers
//! ([`scheduler`]), and their weights in diffusers' layout ([`weights`]).
//!
//! Fields are named as the keys of diffusers' state dicts, so that weights load without a table of renames.

pub mod base;
pub mod clip;
pub mod control;
pub mod cost;
pub mod decoupling;
pub mod device;
pub mod fusion;
pub mod guidance;
mod hub;
pub mod nn;
pub mod pictures;
pub mod restore;
pub mod scheduler;
pub mod spire;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;
