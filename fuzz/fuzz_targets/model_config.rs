//! A model's `config.json`: a configuration is an error, or a network of bounded size whose parameters can be listed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_model::clip::{ClipTextConfig, ClipVisionConfig};
use spire_model::control::ControlConfig;
use spire_model::device::device;
use spire_model::scheduler::SchedulerConfig;
use spire_model::unet::{UNet, UNetConfig};
use spire_model::vae::{Vae, VaeConfig};
use spire_model::weights::parameters;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "scheduler_config.json"] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let device = device("flex").unwrap();
    // A network is described, not allocated.
    if let Ok(config) = UNetConfig::read(dir.path())
        && let Ok(unet) = UNet::new(&config, &device)
    {
        assert!(!parameters(&unet).is_empty());
    }
    if let Ok(config) = VaeConfig::read(dir.path())
        && let Ok(vae) = Vae::new(&config, &device)
    {
        assert!(!parameters(&vae).is_empty());
    }
    let _ = ControlConfig::read(dir.path());
    let _ = ClipTextConfig::read(dir.path());
    let _ = ClipVisionConfig::read(dir.path());
    let _ = SchedulerConfig::from_file(dir.path());
});
