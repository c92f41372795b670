//! Sums over the devices of this process that do not pass through the host's memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor};
use spire_model::device::{device, has_nccl, kind};

/// A sum that a device computes; gives its tensor, which later operations may use.
pub type PendingSum = Box<dyn FnOnce() -> Tensor<1>>;

/// Sums rows of numbers over the devices of this process (all-reduce). Each device belongs to one rank.
///
/// A device waits for the others, and nothing can end its wait. So a rank starts a sum only when all ranks are about to.
pub trait DeviceAllReduce: Send + Sync {
    /// Starts to sum `row` of the process's rank number `local` over all ranks, and returns at once. All ranks start the
    /// same sums in the same order.
    fn start(&self, local: usize, row: Tensor<1>) -> PendingSum;

    /// How long ranks may wait on their devices after another rank has failed.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Ends this process: a rank failed, has printed why, and others wait on their devices for it.
    fn abandon(&self) {
        std::process::exit(1)
    }
}

/// NVIDIA's library for sums over GPUs, through Burn.
struct Nccl {
    devices: Vec<Device>,
}

impl DeviceAllReduce for Nccl {
    /// Burn connects the devices at the first sum. The sum runs beside other work of the device.
    fn start(&self, _local: usize, row: Tensor<1>) -> PendingSum {
        let device = row.device();
        let sum = all_reduce(row, ReduceOperation::Sum, self.devices.clone());
        // Operations wait in a queue otherwise, to be fused with later ones.
        device.flush().expect("the sum has started");
        Box::new(move || sum.resolve())
    }
}

/// How the ranks of a process sum their gradients.
pub struct Choice {
    /// `None` for the host's memory.
    pub on_devices: Option<Arc<dyn DeviceAllReduce>>,
    /// The choice in words, and its reason if it is not obvious.
    pub words: String,
}

/// Chooses NCCL where all `devices` are different GPUs of CUDA, NCCL is installed and `wanted`; otherwise the host's
/// memory.
pub fn choose(devices: &[String], wanted: bool) -> Choice {
    let in_host_memory = |reason: &str| Choice { on_devices: None, words: format!("in the host's memory{reason}") };
    if let Some(reason) = obstacle(devices, wanted, has_nccl) {
        return in_host_memory(reason);
    }
    match devices.iter().map(|name| device(name)).collect() {
        Ok(devices) => Choice { on_devices: Some(Arc::new(Nccl { devices })), words: "by NCCL".into() },
        // The rank with this device reports what is wrong with it.
        Err(_) => in_host_memory(""),
    }
}

/// Why NCCL can't sum over `devices`, in words that follow "in the host's memory".
fn obstacle(devices: &[String], wanted: bool, installed: impl Fn(&str) -> bool) -> Option<&'static str> {
    if devices.iter().any(|name| kind(name) != "cuda") {
        return Some("");
    }
    let number =
        |name: &String| name.split_once(':').map_or("0", |(_, number)| number).trim_start_matches('0').to_owned();
    let different: BTreeSet<_> = devices.iter().map(number).collect();
    if !wanted {
        Some(" (train.nccl = false)")
    } else if different.len() < devices.len() {
        Some(" (a GPU is named twice, and NCCL takes each once)")
    } else if !installed(&devices[0]) {
        Some(" (NCCL is not installed: there is no libnccl.so)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why_not(names: &str, wanted: bool, installed: bool) -> Option<&'static str> {
        let names: Vec<_> = names.split(' ').map(str::to_owned).collect();
        obstacle(&names, wanted, |_| installed)
    }

    #[test]
    fn nccl_is_for_different_gpus_of_cuda() {
        for names in ["cuda:0 cuda:1", "cuda cuda:1", "cuda:3 cuda:2 cuda:10"] {
            assert_eq!(why_not(names, true, true), None, "{names}");
        }
        for names in ["flex flex", "cuda:0 flex", "cuda:0 vulkan:1"] {
            assert_eq!(why_not(names, true, true), Some(""), "{names}");
        }
        for names in ["cuda:0 cuda:0", "cuda cuda:0", "cuda:1 cuda:2 cuda:01"] {
            assert!(why_not(names, true, true).unwrap().contains("named twice"), "{names}");
        }
    }

    #[test]
    fn without_nccl_the_reason_is_said() {
        assert!(why_not("cuda:0 cuda:1", true, false).unwrap().contains("libnccl.so"));
        assert_eq!(why_not("cuda:0 cuda:1", false, true), Some(" (train.nccl = false)"));
        let choice = choose(&["flex".into(), "flex".into()], true);
        assert!(choice.on_devices.is_none() && choice.words == "in the host's memory");
    }
}
