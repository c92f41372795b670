//! Networks of other authors that restore a picture in one pass, without a prompt: SwinIR, BSRNet and SCUNet.

mod architecture;
mod network;
mod pictures;
pub(crate) mod rrdbnet;
mod scunet;
mod swinir;

pub use network::{Network, NetworkKind};
pub use pictures::Tiling;
