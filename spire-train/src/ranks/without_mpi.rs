//! No other processes: the program was built without MPI.

use anyhow::{Result, bail};

use super::world::World;

/// Says so.
pub fn join() -> Result<Box<dyn World>> {
    bail!(
        "several processes were started, by mpirun or srun, and this program was built without MPI: they would all \
         write the same run; build with --features mpi, or start one"
    )
}
