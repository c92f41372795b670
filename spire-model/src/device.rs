//! Devices by name, among the backends that the program was built with; CPU threads.

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;

use crate::weights::Precision;

/// Parses the name of a device: `flex` (the CPU), `cuda`, `cuda:1`, `vulkan`, `vulkan:1` or `wgpu`. GPUs are counted
/// from 0; Vulkan counts discrete GPUs first.
///
/// # Errors
/// The name is unknown, the program was built without that backend, or the machine has no such GPU; the message says
/// what to do.
pub fn device(name: &str) -> Result<Device> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) if !name.contains(',') => match index.parse::<usize>() {
            Ok(index) => (backend, index),
            Err(_) => bail!("device \"{name}\": \"{index}\" is not a device number"),
        },
        _ => (name, 0),
    };
    match backend {
        "flex" | "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => gpu(name, burn::tensor::DeviceType::Cuda, index),
        #[cfg(feature = "vulkan")]
        "vulkan" => gpu(name, burn::tensor::DeviceType::Vulkan, index),
        #[cfg(feature = "wgpu")]
        "wgpu" => gpu(name, burn::tensor::DeviceType::Wgpu, index),
        #[allow(unreachable_patterns)] // Where all of them are built in.
        "cuda" | "vulkan" | "wgpu" => {
            let _ = index;
            bail!("device \"{name}\": this program was built without it; build with --features {backend}")
        }
        _ if name.contains(',') => bail!(
            "device \"{name}\" names several, and here one is expected; an evaluation names them in devices = [\"cuda:0\", \"cuda:1\"]"
        ),
        _ => bail!("device \"{name}\" is unknown; choose flex, cuda:N, vulkan:N or wgpu"),
    }
}

/// The GPU number `index` of a kind. Checked here, because the first use of a missing device would abort the program.
#[cfg(feature = "gpu")]
fn gpu(name: &str, kind: burn::tensor::DeviceType, index: usize) -> Result<Device> {
    settle_gpus();
    let devices = Device::enumerate(kind);
    match (devices.get(index), devices.len()) {
        (Some(device), _) => Ok(device.clone()),
        (None, 0) => bail!("device \"{name}\": this machine has none, or no driver for one"),
        (None, count) => bail!("device \"{name}\": this machine has {count}, counted from 0"),
    }
}

/// Whether CUDA devices can sum and copy between each other without the host's memory: whether the loader finds NCCL's
/// library for `name`, one of them.
#[cfg(feature = "cuda")]
pub fn has_nccl(name: &str) -> bool {
    use burn::cubecl::Device as CubeDevice;
    use burn::cubecl::cuda::CudaDevice;

    let index = name.split_once(':').map_or(Ok(0), |(_, index)| index.parse());
    let exists = device(name).is_ok();
    index.is_ok_and(|index| exists && CubeDevice::Cuda(CudaDevice { index }).client().has_device_transport())
}

/// Whether CUDA devices can sum between each other: never in a program without them.
#[cfg(not(feature = "cuda"))]
pub fn has_nccl(_name: &str) -> bool {
    false
}

/// Whether this is the CPU, with autodiff or without.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// The kind of a device, without its number: `cuda` of `cuda:1`.
pub fn kind(name: &str) -> &str {
    match name.split_once(':').map_or(name, |(kind, _)| kind) {
        "cpu" => "flex",
        kind => kind,
    }
}

/// Global GPU settings, made before the first GPU is used.
///
/// Kernels are compiled and tuned at their first use, which takes many minutes for a large model. The results are
/// cached for later runs: in `target/environment` if there is a `Cargo.toml`, else in the user's cache folder, or where
/// a `cubecl.toml` says.
///
/// All threads share one stream. By default each has its own stream with its own memory pool, and the short-lived
/// threads of every training step would leak theirs.
#[cfg(feature = "gpu")]
fn settle_gpus() {
    use burn::cubecl::config::streaming::StreamPolicy;
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    config.streaming.policy = StreamPolicy::Single;
    // Set once for all devices.
    CubeClRuntimeConfig::try_set(config);
}

/// Checks that the device computes in `precision`.
///
/// # Errors
/// It does not; the error starts with `wanted`, which says what asks for the precision. Storing the type may still
/// work: Vulkan supports only conversions and dot products of bf16, and other operations return garbage.
pub fn ensure_computes_in(precision: Precision, device: &Device, wanted: &str) -> Result<()> {
    ensure!(
        device.supports_dtype(precision.dtype()),
        "{wanted}: this device does not compute in {precision}; take f32"
    );
    Ok(())
}

/// How many computations run at the same time on one of `devices` devices, where a configuration asks for `threads`. 0 leaves it to the
/// program: one computation on a GPU; on a CPU, one for each core that the device has for itself.
pub fn threads(threads: usize, on_cpu: bool, devices: usize) -> usize {
    match (threads, on_cpu) {
        (0, true) => (rayon::current_num_threads() / devices.max(1)).max(1),
        (0, false) => 1,
        _ => threads,
    }
}

/// Runs one of `parallel` computations that run at the same time, those of other devices included. It has its share of the cores, in a
/// thread pool of its own, so that its operators do not wait for other work: on a CPU, the operators of a small network are too short
/// for several cores. If it is the only one, its operators use all cores.
///
/// # Errors
/// As `compute`; or the system cannot start a thread.
pub fn on_cores<T: Send>(parallel: usize, compute: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match parallel {
        // From outside the pool, each operator would wake one of its threads, and wait for it.
        ..=1 => rayon::scope(|_| compute()),
        _ => {
            let own = (rayon::current_num_threads() / parallel).max(1);
            rayon::ThreadPoolBuilder::new().num_threads(own).build()?.install(compute)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_threads_are_one_a_core_on_a_cpu_and_one_on_a_gpu() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| {
            let of_devices = [1, 2, 3, 9].map(|devices| threads(0, true, devices));
            assert_eq!(of_devices, [4, 2, 1, 1]);
            assert_eq!((threads(0, false, 1), threads(3, true, 1), threads(3, false, 2)), (1, 3, 3));
            let cores = |parallel| on_cores(parallel, || Ok(rayon::current_num_threads())).unwrap();
            assert_eq!([1, 2, 3, 9].map(cores), [4, 2, 1, 1]);
        });
    }
}
