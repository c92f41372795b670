//! Which of its machine's GPUs a rank computes on.

/// The device of the rank that has `local` others before it on its machine, where the configuration says `name`.
///
/// A name without a number stands for that rank's own GPU, counted over those that the launcher lets it see (`visible`, the
/// value of `CUDA_VISIBLE_DEVICES`): Slurm may show each rank one GPU alone. A name with a number is taken as it is.
pub fn of_rank(name: &str, local: usize, visible: Option<&str>) -> String {
    match name {
        "cuda" => match visible.map(|visible| visible.split(',').filter(|gpu| !gpu.is_empty()).count()) {
            Some(gpus @ 1..) => format!("cuda:{}", local % gpus),
            _ => format!("cuda:{local}"),
        },
        "vulkan" => format!("vulkan:{local}"),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::of_rank;

    #[test]
    fn a_gpu_without_a_number_is_the_ranks_own() {
        assert_eq!(of_rank("cuda", 3, None), "cuda:3");
        assert_eq!(of_rank("vulkan", 1, None), "vulkan:1");
        assert_eq!(of_rank("cuda:2", 1, None), "cuda:2");
        assert_eq!(of_rank("flex", 1, None), "flex");
    }

    #[test]
    fn only_gpus_that_a_rank_sees_are_counted() {
        assert_eq!(of_rank("cuda", 3, Some("5")), "cuda:0");
        assert_eq!(of_rank("cuda", 3, Some("4,5,6,7")), "cuda:3");
        assert_eq!(of_rank("cuda", 1, Some("")), "cuda:1");
    }
}
