//! The number of processes that `mpirun` or `srun` started, from the environment variables that they set.

use anyhow::{Result, ensure};

/// Variables that hold the number of processes: Open MPI's `mpirun`; MPICH's, Intel's and Slurm's PMI; MVAPICH; `srun`.
/// `SLURM_NTASKS` is no use: it is also set in a job script, which is one process.
const COUNTS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// How this process was launched.
pub struct Launched {
    /// The number of processes; 1 without a launcher.
    pub processes: usize,
    /// The variable that holds it, as `NAME=VALUE`; empty without a launcher.
    pub source: String,
}

/// How this process was launched.
pub fn launched() -> Launched {
    read(|name| std::env::var(name).ok())
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Launched {
    let mut counts = COUNTS.iter().filter_map(|name| Some((name, variable(name)?.parse().ok()?)));
    match counts.next() {
        Some((name, processes)) => Launched { processes, source: format!("{name}={processes}") },
        None => Launched { processes: 1, source: String::new() },
    }
}

/// Fails if a launcher started several processes. All commands except `train` run as one process.
///
/// # Errors
/// A launcher started several processes.
pub fn ensure_single_process(command: &str) -> Result<()> {
    let Launched { processes, source } = launched();
    ensure!(
        processes == 1,
        "{command} runs as one process, but {processes} were started ({source}): start it without mpirun or srun, or with -n 1"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(set: &[(&str, &str)]) -> usize {
        read(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())).processes
    }

    #[test]
    fn each_launcher_is_recognised() {
        assert_eq!(processes(&[]), 1);
        assert_eq!(processes(&[("OMPI_COMM_WORLD_SIZE", "4")]), 4);
        assert_eq!(processes(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), 2);
        assert_eq!(processes(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "3")]), 8);
    }

    #[test]
    fn a_job_script_is_one_process_and_mpirun_inside_it_counts_its_own() {
        assert_eq!(processes(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), 1);
        assert_eq!(processes(&[("OMPI_COMM_WORLD_SIZE", "8"), ("SLURM_STEP_NUM_TASKS", "2")]), 8);
        assert_eq!(processes(&[("PMI_SIZE", "many"), ("SLURM_STEP_NUM_TASKS", "2")]), 2);
    }
}
