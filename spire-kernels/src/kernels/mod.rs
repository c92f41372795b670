//! The operations, and their dispatch to Burn's backends ([`ops`]).

pub mod attention;
mod attention_rows;
pub mod convolution;
pub mod elementwise;
mod exp;
pub mod group_norm;
pub mod inference;
mod linear;
mod narrow;
pub mod ops;
pub mod pool;
mod products;
mod scratch;
mod softmax;
pub mod update;
mod window_attention;
