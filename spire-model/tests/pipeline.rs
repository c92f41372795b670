//! The pipeline loads the built-in model by name and from a run folder, and both restore the same picture.

use std::fs;

use burn::tensor::Device;
use spire_core::Picture;
use spire_model::model_file::{FILE_NAME, ModelFile};
use spire_model::restore::SamplingConfig;
use spire_model::{Pipeline, builtin};

#[test]
fn a_run_folder_restores_like_the_built_in_model() {
    let device = Device::flex();
    let sampling = SamplingConfig { steps: 2, guidance_scale: 1.0, ..SamplingConfig::default() };
    let built_in = Pipeline::load("tiny", "tiny/control", &device).unwrap().with_sampling(sampling.clone()).unwrap();

    let run = tempfile::tempdir().unwrap();
    let control = run.path().join("control");
    fs::create_dir(&control).unwrap();
    for entry in fs::read_dir(builtin::folder(builtin::TINY).unwrap().join("control")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), control.join(entry.file_name())).unwrap();
    }
    assert!(Pipeline::open(run.path(), &device).unwrap_err().to_string().contains(FILE_NAME));
    let model = ModelFile {
        base: builtin::TINY.into(),
        variant: None,
        long_prompts: Default::default(),
        precision: Default::default(),
        control_precision: Default::default(),
        sampling,
        trained: Default::default(),
    };
    fs::write(run.path().join(FILE_NAME), model.to_toml().unwrap()).unwrap();
    let opened = Pipeline::open(run.path(), &device).unwrap();

    let degraded = Picture::filled(50, 40, [0.2, 0.5, 0.8]);
    let restored = built_in.restore(&degraded, "a panda", "Denoise", 3).unwrap();
    assert_eq!((restored.width, restored.height), (50, 40));
    assert_eq!(opened.restore(&degraded, "a panda", "Denoise", 3).unwrap(), restored);
    assert_ne!(opened.restore(&degraded, "a panda", "Denoise", 4).unwrap(), restored);
}
