//! Data-parallel training: several ranks hold the same weights, and each computes its share of every step's samples.
//!
//! Ranks are threads of one process if the configuration names several devices. They are processes if `mpirun` or
//! `srun` started them; these communicate over MPI (feature `mpi`). Each of several processes may have several devices. A
//! single process with a single device is the only rank, and then this module costs nothing.

mod all_reduce;
mod buckets;
mod communicator;
mod device;
mod device_sum;
mod each_device;
mod gradient_queue;
mod launcher;
#[cfg_attr(not(feature = "mpi"), path = "without_mpi.rs")]
mod mpi;
mod ranks;
#[cfg(test)]
mod stand_in;
mod threads;

pub(crate) use all_reduce::{bucket_layout, gradient_order, mean_gradients};
pub(crate) use buckets::Buckets;
pub use launcher::ensure_single_process;
pub use ranks::{Ranks, with_launched_processes};
