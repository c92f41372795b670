//! Stands in for `mpi.rs` in a build without the feature `mpi`.

use anyhow::{Result, bail};

use super::communicator::Communicator;

/// Always fails: this build has no MPI.
pub fn join() -> Result<Box<dyn Communicator>> {
    bail!(
        "mpirun or srun started several processes, but this program was built without MPI, and all of them would write the \
         same run; build it with --features mpi, or start one process"
    )
}
