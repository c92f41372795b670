//! The reference bundles pass, and every kind of invalid bundle fails with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use spire_eval::verify::{CaseResult, Report, verify};
use tempfile::TempDir;

/// One case of every kind, with the folder of its weights.
const KINDS: [(&str, &str); 18] = [
    ("sd2/case-unet", "sd2/unet"),
    ("sd1/case-controlled-unet", "sd1/unet"),
    ("sd2/case-controlnet", "sd2/controlnet"),
    ("sd1/case-spire", "sd1"),
    ("case-controlnet-pipeline-guided", "controlnet-pipeline"),
    ("case-vae", "vae"),
    ("case-clip-text-quick_gelu", "clip-text-quick_gelu"),
    ("case-clip-vision-gelu", "clip-vision-gelu"),
    ("case-clip-score", "clip"),
    ("case-pillow-resize", ""),
    ("case-sampler-dpmpp2m-v_prediction", "scheduler-dpmpp2m-v_prediction"),
    ("case-add-noise", "scheduler-ddim-epsilon"),
    ("case-tokenizer", ""),
    ("case-frechet", ""),
    ("case-psnr-ssim", ""),
    ("case-blur-kernels", ""),
    ("case-blur-resize", ""),
    ("case-jpeg", ""),
];

/// Cases of metrics with large networks, with the folder of their weights. Each run takes seconds, so they have their
/// own test.
const QUALITY: [(&str, &str); 3] = [("case-musiq", "musiq"), ("case-clip-iqa", "clip-iqa"), ("case-maniqa", "maniqa")];

/// Cases of restoration by other authors' networks. Not all of their outputs have to be there.
const RESTORATION: [(&str, &str); 5] = [
    ("case-swinir-classical", "swinir-classical"),
    ("case-bsrnet-2", "bsrnet-2"),
    ("case-scunet-grey", "scunet-grey"),
    ("case-diffbir-1", "diffbir-1"),
    ("case-stablesr", "stablesr"),
];

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference")
}

fn run(folder: &Path) -> Report {
    verify(&[folder.to_owned()], &Device::default(), 0.0).unwrap()
}

fn run_one(folder: &Path) -> CaseResult {
    let mut report = run(folder);
    assert_eq!(report.rows.len(), 1, "{report}");
    report.rows.remove(0)
}

/// A modifiable copy of a case and its weights.
struct Copy {
    _root: TempDir,
    folder: PathBuf,
}

impl Copy {
    fn of(case: &str, weights: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy(&reference().join(case), &root.path().join(case));
        if !weights.is_empty() {
            copy(&reference().join(weights), &root.path().join(weights));
        }
        let folder = root.path().join(case);
        Self { _root: root, folder }
    }

    fn tensors(&self) -> Option<BTreeMap<String, Stored>> {
        let bytes = fs::read(self.folder.join("tensors.safetensors")).ok()?;
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = |view: TensorView| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        Some(file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect())
    }

    fn write(&self, tensors: &BTreeMap<String, Stored>) {
        let views = tensors.iter().map(|(name, stored)| {
            (name.as_str(), TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        fs::write(self.folder.join("tensors.safetensors"), bytes).unwrap();
    }

    fn describe(&self, toml: &str) {
        fs::write(self.folder.join("case.toml"), toml).unwrap();
    }
}

#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    /// Each value shifted by a twentieth of the largest; 8-bit levels are inverted.
    fn perturbed(&self) -> Self {
        let mut perturbed = self.clone();
        match self.dtype {
            Dtype::U8 => perturbed.bytes.iter_mut().for_each(|level| *level = 255 - *level),
            Dtype::F32 => {
                let (elements, _) = self.bytes.as_chunks::<4>();
                let values = elements.iter().map(|&bytes| f32::from_le_bytes(bytes));
                let largest = values.clone().fold(0.0, |largest: f32, value| largest.max(value.abs()));
                perturbed.bytes = values.flat_map(|value| (value + 0.05 * largest).to_le_bytes()).collect();
            }
            other => panic!("no reference bundle has outputs of {other:?}"),
        }
        perturbed
    }

    /// Without the last entry of the first dimension.
    fn shortened(&self) -> Self {
        let entry = self.bytes.len() / self.shape[0];
        let mut shortened = self.clone();
        shortened.shape[0] -= 1;
        shortened.bytes.truncate(entry * shortened.shape[0]);
        shortened
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        // Cases of a model family lie beside its weights; they are not copied.
        if entry.path().is_dir() && !entry.file_name().to_string_lossy().starts_with("case-") {
            copy(&entry.path(), &target);
        } else if entry.path().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn assert_failed(row: &CaseResult, reason: &str) {
    let error = row.error.as_deref().unwrap_or_default();
    assert!(!row.ok && error.contains(reason), "{}: expected {reason:?}, got {error:?}", row.path.display());
}

/// The failure must be about the tensors, not about the files around them: one of `reasons` occurs in the error.
fn assert_failed_because(row: &CaseResult, reasons: &[&str]) {
    let error = row.error.as_deref().unwrap_or_default();
    let found = reasons.iter().any(|reason| error.contains(reason));
    assert!(!row.ok && found, "{}: expected one of {reasons:?}, got {error:?}", row.path.display());
}

#[test]
fn every_reference_bundle_passes() {
    let report = run(&reference());
    assert!(report.passed(), "\n{report}");
    let kinds: BTreeSet<&str> = report.rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds.len(), KINDS.len() + QUALITY.len() + RESTORATION.len() + 1, "{kinds:?}");
}

#[test]
fn a_change_of_any_expected_output_fails() {
    for (case, weights) in KINDS {
        let copy = Copy::of(case, weights);
        let Some(tensors) = copy.tensors() else { continue };
        for (name, stored) in tensors.iter().filter(|(name, _)| name.starts_with("out.")) {
            let mut changed = tensors.clone();
            changed.insert(name.clone(), stored.perturbed());
            copy.write(&changed);
            assert_failed(&run_one(&copy.folder), &format!("{name} differs"));
        }
        let mut changed = tensors.clone();
        changed.insert("out.surprise".into(), tensors.values().next().unwrap().clone());
        copy.write(&changed);
        assert_failed(&run_one(&copy.folder), "out.surprise");
    }
}

#[test]
fn a_larger_tolerance_replaces_a_smaller_one() {
    let copy = Copy::of("case-vae", "vae");
    let mut tensors = copy.tensors().unwrap();
    let moved = tensors["out.mean"].perturbed();
    tensors.insert("out.mean".into(), moved);
    copy.write(&tensors);
    let with = |tolerance| verify(std::slice::from_ref(&copy.folder), &Device::default(), tolerance);
    for (tolerance, passes) in [(0.0, false), (1e-3, false), (0.1, true)] {
        let row = with(tolerance).unwrap().rows.remove(0);
        assert_eq!(row.ok, passes, "{tolerance}: {row:?}");
    }
    let asked = run_one(&copy.folder).tolerance;
    assert_eq!(with(asked / 2.0).unwrap().rows[0].tolerance, asked);
    for tolerance in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(with(tolerance).unwrap_err().to_string().contains("must be 0 or above"));
    }
}

#[test]
fn a_prompt_with_other_ids_fails() {
    let copy = Copy::of("case-tokenizer", "");
    let path = copy.folder.join("prompts.json");
    let prompts = fs::read_to_string(&path).unwrap();
    fs::write(&path, prompts.replacen("9709", "9710", 1)).unwrap();
    let row = run_one(&copy.folder);
    assert_failed(&row, "ids of \"Remove all degradation\"");
    assert_eq!(row.worst, 1.0);
}

#[test]
fn a_missing_tensor_is_named() {
    for (case, weights) in KINDS {
        let copy = Copy::of(case, weights);
        let Some(tensors) = copy.tensors() else { continue };
        for name in tensors.keys() {
            let mut fewer = tensors.clone();
            fewer.remove(name);
            copy.write(&fewer);
            let row = run_one(&copy.folder);
            // Only the control encoder's features may be missing from a bundle. Without its reference picture, a pair's
            // other tensors are reported.
            if name.starts_with("out.control.") {
                assert!(row.ok, "{case} without {name}: {:?}", row.error);
            } else if name.starts_with("out.jpeg.") {
                assert!(row.ok, "{case} tries the qualities that it has: {:?}", row.error);
            } else if let Some(pair) = name.strip_prefix("in.reference.") {
                assert_failed(&row, &format!("out.psnr.{pair}"));
            } else if let Some(image) = name.strip_prefix("in.image.") {
                assert_failed(&row, &format!(".{image} is not an output"));
            } else if name.starts_with("in.down.") {
                assert_failed(&row, "in.down.*");
            } else {
                assert_failed(&row, name);
            }
        }
        let inputs = tensors.iter().filter(|(name, _)| name.starts_with("in."));
        copy.write(&inputs.map(|(name, stored)| (name.clone(), stored.clone())).collect());
        assert_failed(&run_one(&copy.folder), "out.");
    }
}

#[test]
fn a_wrong_shape_fails() {
    for (case, weights) in KINDS {
        let copy = Copy::of(case, weights);
        let Some(tensors) = copy.tensors() else { continue };
        for (name, stored) in &tensors {
            let mut shortened = tensors.clone();
            shortened.insert(name.clone(), stored.shortened());
            copy.write(&shortened);
            // An output is compared by shape. Inputs that do not fit each other are named, or their shapes are.
            let reasons: &[&str] = if name.starts_with("out.") {
                &["has shape", "is empty"]
            } else {
                &[name, "in.", "out.", "shape", "size", "timesteps"]
            };
            assert_failed_because(&run_one(&copy.folder), reasons);

            // A timestep is one number, whatever its shape.
            if name != "in.timestep" || case == "case-add-noise" {
                let mut deeper = tensors.clone();
                let shape = stored.shape.iter().copied().chain([1]).collect();
                deeper.insert(name.clone(), Stored { shape, ..stored.clone() });
                copy.write(&deeper);
                assert_failed(&run_one(&copy.folder), "shape");
            }
        }
    }
}

#[test]
fn a_change_of_any_output_of_a_quality_metric_fails() {
    for (case, weights) in QUALITY {
        let copy = Copy::of(case, weights);
        let tensors = copy.tensors().unwrap();
        let mut changed = tensors.clone();
        changed.insert("out.score.0".into(), tensors["out.score.0"].perturbed());
        copy.write(&changed);
        assert_failed(&run_one(&copy.folder), "out.score.0 differs");
        for missing in ["in.image.0", "out.features.0"] {
            let mut fewer = tensors.clone();
            fewer.remove(missing);
            copy.write(&fewer);
            assert_failed(&run_one(&copy.folder), "out.features.0");
        }
        let mut grey = tensors.clone();
        let Stored { dtype, shape, bytes } = &tensors["in.image.0"];
        let first = bytes.iter().copied().step_by(3).collect();
        grey.insert("in.image.0".into(), Stored { dtype: *dtype, shape: vec![shape[0], shape[1], 1], bytes: first });
        copy.write(&grey);
        assert_failed(&run_one(&copy.folder), "in.image.0 has 1 channels");
    }
}

#[test]
fn a_change_of_a_restoration_fails() {
    for (case, weights) in RESTORATION {
        let copy = Copy::of(case, weights);
        let tensors = copy.tensors().unwrap();
        for (name, stored) in &tensors {
            let mut changed = tensors.clone();
            if name.starts_with("out.") {
                changed.insert(name.clone(), stored.perturbed());
                copy.write(&changed);
                assert_failed(&run_one(&copy.folder), &format!("{name} differs"));
            } else {
                changed.remove(name);
                copy.write(&changed);
                let missing = if name.starts_with("in.noise.") { "in.noise.*" } else { name };
                assert_failed(&run_one(&copy.folder), missing);
            }
        }
    }
}

#[test]
fn a_change_of_the_fid_fails() {
    let copy = Copy::of("case-fid", "inception");
    let mut tensors = copy.tensors().unwrap();
    // The features pass in another test; this one checks only the distances.
    tensors.retain(|name, _| !name.starts_with("out.features."));
    let clean = tensors["out.fid.clean"].clone();
    tensors.insert("out.fid.clean".into(), tensors["out.fid.legacy"].clone());
    copy.write(&tensors);
    assert_failed(&run_one(&copy.folder), "out.fid.clean differs");
    tensors.insert("out.fid.clean".into(), clean);
    tensors.retain(|name, _| !name.starts_with("in.restored."));
    copy.write(&tensors);
    assert_failed(&run_one(&copy.folder), "at least 2");
}

/// Otherwise a constant metric would pass.
#[test]
fn the_expected_scores_of_a_quality_metric_differ() {
    for cases in [&["case-musiq"][..], &["case-clip-iqa"], &["case-maniqa", "case-maniqa-enlarged"]] {
        let tensors = cases.iter().flat_map(|case| Copy::of(case, "").tensors().unwrap());
        let scores: Vec<f32> = tensors
            .filter(|(name, _)| name.starts_with("out.score."))
            .map(|(_, score)| f32::from_le_bytes(score.bytes[..4].try_into().unwrap()))
            .collect();
        let [one, other] = scores[..] else { panic!("{cases:?}: {scores:?}") };
        assert!((one - other).abs() > 0.03 * one.abs().max(other.abs()), "{cases:?}: {scores:?}");
    }
}

#[test]
fn nan_in_any_tensor_fails() {
    for (case, weights) in KINDS {
        let copy = Copy::of(case, weights);
        let Some(tensors) = copy.tensors() else { continue };
        for (name, stored) in tensors.iter().filter(|(_, stored)| stored.dtype == Dtype::F32) {
            let mut changed = tensors.clone();
            let bytes = f32::NAN.to_le_bytes().repeat(stored.bytes.len() / 4);
            changed.insert(name.clone(), Stored { bytes, ..stored.clone() });
            copy.write(&changed);
            let reasons: &[&str] = if name.starts_with("out.") {
                &["expects values that are not numbers"]
            } else {
                // A restoration says itself that it computes nothing but NaN.
                &[name, "differs by more than the tolerance", "NaN or infinite"]
            };
            assert_failed_because(&run_one(&copy.folder), reasons);
        }
    }
}

#[test]
fn ids_and_timesteps_out_of_range_are_rejected() {
    let copy = Copy::of("case-clip-text-quick_gelu", "clip-text-quick_gelu");
    let mut tensors = copy.tensors().unwrap();
    let ids = tensors.get_mut("in.input_ids").unwrap();
    ids.bytes[..8].copy_from_slice(&500_i64.to_le_bytes());
    copy.write(&tensors);
    assert_failed(&run_one(&copy.folder), "in.input_ids holds ids outside 0.0..500.0");

    let copy = Copy::of("case-add-noise", "scheduler-ddim-epsilon");
    let mut tensors = copy.tensors().unwrap();
    tensors.get_mut("in.timestep").unwrap().bytes[..8].copy_from_slice(&(-1_i64).to_le_bytes());
    copy.write(&tensors);
    assert_failed(&run_one(&copy.folder), "-1 is no timestep");
}

#[test]
fn the_error_names_what_is_wrong_in_a_description() {
    let copy = Copy::of("sd1/case-unet", "sd1/unet");
    for (toml, reason) in [
        ("", "missing field `kind`"),
        ("kind = \"unet\"", "missing field `tolerance`"),
        ("kind = \"unet\"\ntolerance = \"small\"", "invalid type"),
        ("kind = \"unet\"\ntolerance = -1.0", "must be 0 or above"),
        ("kind = \"unet\"\ntolerance = nan", "must be 0 or above"),
        ("kind = \"unet\"\ntolerance = inf", "must be 0 or above"),
        ("kind = ", "malformed"),
        ("kind = \"unett\"\ntolerance = 1e-4", "unknown kind \"unett\""),
        ("kind = \"unet\"\ntolerance = 1e-4", "key weights is missing"),
        ("kind = \"unet\"\ntolerance = 1e-4\nweights = \"../nowhere\"", "no folder"),
        ("kind = \"sampler\"\ntolerance = 1e-4\nweights = \"../unet\"", "scheduler_config.json"),
        ("kind = \"vae\"\ntolerance = 1e-4\nweights = \"../unet\"", "unet"),
    ] {
        copy.describe(toml);
        assert_failed(&run_one(&copy.folder), reason);
    }
    fs::write(copy.folder.join("case.toml"), [0xff, 0xfe]).unwrap();
    assert_failed(&run_one(&copy.folder), "case.toml can't be read");

    let copy = Copy::of("case-sampler-euler-epsilon", "scheduler-euler-epsilon");
    for (steps, reason) in [("", "key steps is missing"), ("steps = 0", "must be above 0"), ("steps = 7", "out.")] {
        copy.describe(&format!(
            "kind = \"sampler\"\ntolerance = 1e-4\nweights = \"../scheduler-euler-epsilon\"\n{steps}"
        ));
        assert_failed(&run_one(&copy.folder), reason);
    }
}

#[test]
fn damaged_files_are_named() {
    let copy = Copy::of("sd2/case-spire", "sd2");
    let (tensors, root) = (copy.folder.join("tensors.safetensors"), copy.folder.parent().unwrap());
    let weights = root.join("control/diffusion_pytorch_model.safetensors");
    let config = root.join("unet/config.json");
    for file in [tensors, weights, config] {
        let whole = fs::read(&file).unwrap();
        // Two bytes, because the last one may be a newline.
        for length in [0, 7, whole.len() / 2, whole.len() - 2] {
            fs::write(&file, &whole[..length]).unwrap();
            assert_failed(&run_one(&copy.folder), file.file_name().unwrap().to_str().unwrap());
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(run_one(&copy.folder).ok);
}

#[test]
fn one_failure_does_not_hide_the_rest() {
    let copy = Copy::of("sd1/case-spire", "sd1");
    let root = copy.folder.parent().unwrap();
    fs::create_dir(root.join("case-broken")).unwrap();
    fs::write(root.join("case-broken/case.toml"), "kind = 3").unwrap();
    let report = run(root);
    assert!(!report.passed());
    assert_eq!(report.rows.iter().map(|row| row.ok).collect::<Vec<_>>(), [false, true]);
    assert!(report.to_string().ends_with("1 of 2 cases passed"), "{report}");
}

#[test]
fn a_folder_without_cases_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let message = |folder: &Path| {
        verify(&[reference().join("case-frechet"), folder.to_owned()], &Device::default(), 0.0).unwrap_err().to_string()
    };
    assert!(message(empty.path()).contains("no case.toml here or below"));
    assert!(message(&empty.path().join("nowhere")).contains("no such folder"));
    assert!(verify(&[], &Device::default(), 0.0).is_err());
}
