//! How good a restored picture is, and whether this implementation computes what the references compute.
//!
//! Metrics: [`psnr`] and [`ssim`] compare two pictures, [`lpips`] compares them as a network sees them, [`frechet`]
//! compares two sets of pictures by their features. [`evaluation`] measures
//! methods on benchmarks. [`verify`] holds every operator and network to reference bundles.

pub mod arrays;
pub mod clip_space;
pub mod evaluation;
pub mod frechet;
pub mod lpips;
mod pixels;
pub mod psnr;
pub mod ssim;
pub mod verify;

pub use frechet::{FeatureStatistics, FrechetError, frechet_distance};
pub use lpips::Lpips;
pub use pixels::{Colours, Compared, MetricError};
pub use psnr::{psnr, psnr_of};
pub use ssim::{ssim, ssim_of};
