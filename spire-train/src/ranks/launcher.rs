//! How many processes the launcher started, from what it leaves in their environment.

use anyhow::{Result, ensure};

/// Set by launchers to the number of processes: Open MPI's `mpirun`; MPICH's, Intel's and Slurm's PMI; MVAPICH; `srun`.
/// Slurm's counts the step's tasks: `SLURM_NTASKS` is there in a job script too, which is one process.
const COUNTS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// What a launcher said.
pub struct Launched {
    /// 1 where nobody said anything.
    pub processes: usize,
    /// The variable that says it, with its value.
    pub said_by: String,
}

/// What the launcher of this process said.
pub fn launched() -> Launched {
    read(|name| std::env::var(name).ok())
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Launched {
    let mut said = COUNTS.iter().filter_map(|name| Some((name, variable(name)?.parse().ok()?)));
    match said.next() {
        Some((name, processes)) => Launched { processes, said_by: format!("{name}={processes}") },
        None => Launched { processes: 1, said_by: String::new() },
    }
}

/// That this process is the only one of its kind, as all commands but `train` need it.
///
/// # Errors
/// A launcher started several.
pub fn ensure_alone(command: &str) -> Result<()> {
    let Launched { processes, said_by } = launched();
    ensure!(
        processes == 1,
        "{command} is one process, and {processes} were started ({said_by}): start it without mpirun or srun, or with -n 1"
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
    fn launchers_say_how_many_processes_they_start() {
        assert_eq!(processes(&[]), 1);
        assert_eq!(processes(&[("OMPI_COMM_WORLD_SIZE", "4")]), 4);
        assert_eq!(processes(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), 2);
        assert_eq!(processes(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "3")]), 8);
    }

    #[test]
    fn a_job_script_is_one_process_and_mpirun_in_it_says_its_own_number() {
        assert_eq!(processes(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), 1);
        assert_eq!(processes(&[("OMPI_COMM_WORLD_SIZE", "8"), ("SLURM_STEP_NUM_TASKS", "2")]), 8);
        assert_eq!(processes(&[("PMI_SIZE", "many"), ("SLURM_STEP_NUM_TASKS", "2")]), 2);
    }
}
