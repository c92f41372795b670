//! Quality metrics, evaluations, and the verification against reference implementations.
//!
//! Metrics: [`mod@psnr`] and [`mod@ssim`] compare two pictures by pixels, [`lpips`] by the features of a network. [`frechet`]
//! compares two sets of pictures by the features of [`fid`] or [`clip_space`]. [`clip_iqa`], [`musiq`] and [`maniqa`]
//! need no reference. [`evaluation`] measures methods on test sets. [`verify`] compares every operator and network with
//! reference bundles.

mod arrays;
mod checkpoint;
pub mod clip_iqa;
mod clip_pixels;
pub mod clip_space;
pub mod evaluation;
pub mod fid;
pub mod frechet;
mod inception;
pub mod judge;
pub mod lpips;
pub mod maniqa;
pub mod musiq;
pub mod noise_level;
mod pillow;
mod pixels;
pub mod psnr;
mod public_weights;
pub mod sharpness;
pub mod ssim;
pub mod verify;

pub use clip_iqa::ClipIqa;
pub use frechet::{FeatureStatistics, FrechetError, frechet_distance};
pub use lpips::Lpips;
pub use maniqa::Maniqa;
pub use musiq::Musiq;
pub use noise_level::noise_level;
pub use pixels::{Colours, Compared, MetricError};
pub use psnr::{psnr, psnr_of};
pub use sharpness::sharpness;
pub use ssim::{ssim, ssim_of};
