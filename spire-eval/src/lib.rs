//! How good a restored picture is, and whether this implementation computes what the references compute.
//!
//! Metrics: [`psnr`] and [`ssim`] compare two pictures, [`lpips`] compares them as a network sees them, [`frechet`]
//! compares two sets of pictures by their features, [`fid`] or those of [`clip_space`]; [`clip_iqa`], [`musiq`] and [`maniqa`]
//! judge a picture by itself. [`evaluation`] measures methods on benchmarks. [`verify`] holds every operator and network to
//! reference bundles.

pub mod arrays;
mod checkpoint;
pub mod clip_iqa;
pub mod clip_pixels;
pub mod clip_space;
pub mod evaluation;
pub mod fid;
pub mod frechet;
pub mod inception;
pub mod judge;
pub mod lpips;
pub mod maniqa;
pub mod musiq;
pub mod noise_level;
pub mod pillow;
mod pixels;
pub mod psnr;
pub mod public_weights;
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
