//! Devices by name, chosen at run time among the backends that the program was built with; threads of the CPU's.

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;

use crate::weights::Precision;

/// The device called `flex` (the CPU), `cuda`, `cuda:1`, `vulkan`, `vulkan:1` or `wgpu`. GPUs are counted from 0; where there are
/// some of several kinds, Vulkan's are counted with discrete ones first.
///
/// # Errors
/// The name is unknown, the program was built without that backend, or the machine has no such GPU; the message says what to
/// do.
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
        _ if name.contains(',') => bail!("device \"{name}\": only spire train takes several"),
        _ => bail!("device \"{name}\" is unknown; choose flex, cuda:N, vulkan:N or wgpu"),
    }
}

/// That of a kind with a number. Asked for here: a device that is not there would end the program where it is first used.
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

/// What is settled before the first GPU is used.
///
/// Kernels are compiled, and the fastest of several found, when they are first needed; for a large model that takes many
/// minutes. What comes out is kept for the next program: in `target/environment` where there is a `Cargo.toml`, or else in the
/// user's cache folder, or where a `cubecl.toml` says.
///
/// All threads share one stream. Each would have its own, with memory of its own, and the threads of a training step come and
/// go: every step would leave its memory behind.
#[cfg(feature = "gpu")]
fn settle_gpus() {
    use burn::cubecl::config::streaming::StreamPolicy;
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    config.streaming.policy = StreamPolicy::Single;
    // Once for all devices.
    CubeClRuntimeConfig::try_set(config);
}

/// Whether the device computes in `precision`.
///
/// # Errors
/// It does not; the error begins with what `wanted` says asks for it. It may still keep such numbers:
/// Vulkan knows of bf16 conversions and dot products alone, and what is computed otherwise is garbage.
pub fn ensure_computes_in(precision: Precision, device: &Device, wanted: &str) -> Result<()> {
    ensure!(
        device.supports_dtype(precision.dtype()),
        "{wanted}: this device does not compute in {precision}; take f32"
    );
    Ok(())
}

/// Runs `compute` in a thread pool of its own, so that its operators do not wait for those of other threads' work: on a CPU
/// the operators of a small network are too short to be spread over the cores.
///
/// # Errors
/// Those of `compute`; the system gives no thread.
pub fn on_one_thread<T: Send>(compute: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build()?.install(compute)
}
