//! The recipes for Stable Diffusion in `configs/` pass a dry run with models of the real shapes.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use spire_core::settings;
use spire_model::control::{Control, ControlConfig};
use spire_model::fusion::Fusion;
use spire_model::unet::UNetConfig;
use spire_model::weights::{Formula, parameters};
use spire_train::config::RunConfig;
use spire_train::speed::dry_run;
use tempfile::TempDir;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(drop).unwrap()
        }
    }
}

/// What the recipes need, at the real shapes but with generated weights and one picture.
struct Needed(TempDir);

impl Needed {
    fn new() -> Self {
        let needed = Self(tempfile::tempdir().unwrap());
        for model in ["sd15", "sd21"] {
            copy(&repository("tests/layouts").join(model), &needed.path(model));
            copy(&repository("assets/tiny/tokenizer"), &needed.path(model).join("tokenizer"));
        }
        needed.write_branch();
        fs::create_dir(needed.path("pictures")).unwrap();
        fs::copy(repository("tests/pictures/scene.png"), needed.path("pictures/scene.png")).unwrap();
        let annotations = r#"{"images": [{"id": 1, "file_name": "scene.png"}],
            "annotations": [{"id": 1, "image_id": 1, "caption": "a scene"}]}"#;
        fs::write(needed.path("captions.json"), annotations).unwrap();
        needed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A trained branch of Stable Diffusion 2.1.
    fn write_branch(&self) {
        let unet = UNetConfig::read(&self.path("sd21/unet")).unwrap();
        let config = ControlConfig::for_unet(&unet, Fusion::ModulateSkip, vec![16, 32, 96, 256]);
        let control = Control::new(&config, &Device::flex()).unwrap();
        let tensors = parameters(&control).into_iter().map(|parameter| (parameter.name, parameter.shape)).collect();
        let formula = Formula { formula: "splitmix64".into(), seed: 1, gain: 1.0, tensors };
        fs::create_dir(self.path("control")).unwrap();
        fs::write(self.path("control/config.json"), config.to_json().unwrap()).unwrap();
        let file = self.path("control/diffusion_pytorch_model.formula.json");
        fs::write(file, serde_json::to_vec(&formula).unwrap()).unwrap();
    }

    /// The recipe with its paths replaced; everything else is as in the file.
    fn recipe(&self, name: &str, base: &str) -> RunConfig {
        let mut config: RunConfig = settings::load(&repository(&format!("configs/{name}.toml")), &[]).unwrap();
        config.run.dir = self.path("run");
        // A build without a GPU.
        config.run.device = "flex".into();
        config.model.base = self.path(base);
        config.model.control = config.model.control.map(|_| self.path("control"));
        let held_out = config.evaluate.source.as_mut().expect("a recipe has pictures of its own to evaluate with");
        for source in [&mut config.data.source, held_out] {
            source.path = source.path.as_ref().map(|_| self.path("pictures"));
            source.images = source.images.as_ref().map(|_| self.path("pictures"));
            source.annotations = source.annotations.as_ref().map(|_| self.path("captions.json"));
        }
        config
    }
}

#[test]
fn every_recipe_passes_a_dry_run_at_the_real_shapes() {
    let needed = Needed::new();
    // Parameters that are trained, and samples of a step on all ranks.
    for (name, base, ranks, trained, batch) in [
        ("spire-sd15", "sd15", 8, "372041940", 256),
        ("spire-sd21", "sd21", 8, "374991060", 256),
        ("spire-sd21-24gb", "sd21", 1, "374991060", 32),
        ("controlnet-sr", "sd21", 8, "364228240", 256),
        ("finetune-stablesr", "sd21", 8, "374991060", 192),
    ] {
        let config = needed.recipe(name, base);
        assert_eq!(config.train.batch_size * config.train.accumulate * ranks, batch, "{name}");
        assert_eq!(config.data.size, 512, "{name}");
        let tables = dry_run(config).unwrap_or_else(|error| panic!("{name}: {error:#}")).to_string();
        let line = tables.lines().find(|line| line.starts_with("trained")).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(trained), "{name}: {tables}");
        assert!(tables.contains("FLOPs, 512×512"), "{name}: {tables}");
    }
    assert!(!needed.path("run").exists());
}
