//! The GPU of a rank on its machine.

/// The device of a rank. `name` is the configuration's device, `local` the number of ranks before this one on its
/// machine.
///
/// A GPU name without a number (`cuda`) means GPU number `local`, modulo the number of GPUs that the launcher lets the
/// rank see (`visible`, the value of `CUDA_VISIBLE_DEVICES`): Slurm may show each rank only one. A name with a number
/// is kept.
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
    fn a_gpu_without_a_number_takes_the_local_rank() {
        assert_eq!(of_rank("cuda", 3, None), "cuda:3");
        assert_eq!(of_rank("vulkan", 1, None), "vulkan:1");
        assert_eq!(of_rank("cuda:2", 1, None), "cuda:2");
        assert_eq!(of_rank("flex", 1, None), "flex");
    }

    #[test]
    fn only_visible_gpus_are_counted() {
        assert_eq!(of_rank("cuda", 3, Some("5")), "cuda:0");
        assert_eq!(of_rank("cuda", 3, Some("4,5,6,7")), "cuda:3");
        assert_eq!(of_rank("cuda", 1, Some("")), "cuda:1");
    }
}
