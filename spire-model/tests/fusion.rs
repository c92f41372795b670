//! Properties of the control branch: it starts as the identity, every weight of it gets a gradient, and no frozen
//! weight changes.

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use burn_store::ModuleSnapshot;
use rand::RngExt;
use rand_distr::StandardNormal;
use spire_core::rng::rng;
use spire_model::control::{Conditioning, ConditioningEmbedding, ConditioningRange, Control, ControlConfig};
use spire_model::decoupling::PromptRouting;
use spire_model::fusion::Fusion;
use spire_model::spire::{DenoiserInputs, Spire, predict};
use spire_model::unet::{UNet, UNetConfig};
use spire_model::weights::{self, Precision};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/sd1/unet")
}

struct Inputs {
    sample: Tensor<4>,
    timestep: Tensor<1>,
    semantic: Tensor<3>,
    restoration: Tensor<3>,
    degraded: Tensor<4>,
}

/// The `n`-th tensor of normally distributed numbers. Not from Burn's generator: concurrent tests share it.
fn normal<const D: usize>(n: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let mut rng = rng(0, "fusion", n);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.sample(StandardNormal)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn inputs() -> Inputs {
    let device = Device::flex();
    Inputs {
        sample: normal(0, [2, 4, 8, 8], &device),
        timestep: Tensor::from_floats([3.0, 700.0], &device),
        semantic: normal(1, [2, 7, 24], &device),
        restoration: normal(2, [2, 7, 24], &device),
        degraded: Tensor::random([2, 3, 64, 64], Distribution::Uniform(0.0, 1.0), &device),
    }
}

fn forward(unet: &UNet, control: &Control, x: &Inputs) -> Tensor<4> {
    let (sample, timestep) = (x.sample.clone(), x.timestep.clone());
    let embedded = control.embed(x.degraded.clone());
    let (semantic, restoration) = (x.semantic.clone(), x.restoration.clone());
    predict(unet, control, DenoiserInputs { sample, timestep, semantic, restoration, embedded })
}

/// Every fusion with every way in which e(y) enters.
const BRANCHES: [(Fusion, Conditioning); 6] = [
    (Fusion::ModulateSkip, Conditioning::Concat),
    (Fusion::ModulateSkip, Conditioning::Add),
    (Fusion::ModulateSkipAndUp, Conditioning::Concat),
    (Fusion::ModulateSkipAndUp, Conditioning::Add),
    (Fusion::Add, Conditioning::Concat),
    (Fusion::Add, Conditioning::Add),
];

fn config((fusion, conditioning): (Fusion, Conditioning)) -> ControlConfig {
    let unet = UNetConfig::read(&folder()).unwrap();
    ControlConfig::with_conditioning(&unet, fusion, conditioning, vec![4, 8, 8, 8])
}

fn branch(of: (Fusion, Conditioning), unet: &UNet, device: &Device) -> Control {
    Control::from_unet(&config(of), unet, device).unwrap()
}

#[test]
fn at_initialisation_the_model_is_the_frozen_unet_bit_for_bit() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let x = inputs();
    let frozen = unet.forward(x.sample.clone(), x.timestep.clone(), x.semantic.clone()).into_data();
    for of in BRANCHES {
        let fused = forward(&unet, &branch(of, &unet, &device), &x).into_data();
        let bits = |data: &burn::tensor::TensorData| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(&fused) == bits(&frozen), "{of:?}");
        // Under autodiff Burn composes some operators from others, which round differently.
        let tracked = forward(&unet, &branch(of, &unet, &device.clone().autodiff()), &x).inner().into_data();
        tracked.assert_approx_eq::<f32>(&frozen, burn::tensor::Tolerance::absolute(1e-4));
    }
}

#[test]
fn the_branch_starts_as_the_unets_encoder() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let x = inputs();
    let time = unet.embed_time(x.timestep.clone());
    let expected = unet.encode(x.sample.clone(), &time, &x.restoration);
    let control = branch(BRANCHES[0], &unet, &device);
    let found = control.features(x.sample, x.timestep, x.restoration, control.embed(x.degraded));
    for (expected, found) in expected.down.into_iter().zip(found.down) {
        expected.into_data().assert_approx_eq::<f32>(&found.into_data(), burn::tensor::Tolerance::absolute(1e-5));
    }
}

/// Names of parameters whose gradient is missing or zero everywhere.
fn without_gradient(control: &Control, gradients: &GradientsParams) -> Vec<String> {
    struct Visitor<'a> {
        gradients: &'a GradientsParams,
        path: Vec<String>,
        without: Vec<String>,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let largest = self.gradients.get::<D>(param.id).map(|g| g.abs().max().into_scalar::<f32>());
            if largest.unwrap_or(0.0) == 0.0 {
                self.without.push(self.path.join("."));
            }
        }
    }
    let mut visitor = Visitor { gradients, path: vec![], without: vec![] };
    control.visit(&mut visitor);
    visitor.without
}

fn values(module: &impl ModuleSnapshot) -> Vec<(String, Vec<u8>)> {
    module.collect(None, None, true).into_iter().map(|t| (t.name.clone(), t.to_bytes().unwrap().to_vec())).collect()
}

#[test]
fn every_control_weight_has_a_gradient_after_two_steps_and_no_frozen_weight_changes() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let before = values(&unet);
    for fusion in BRANCHES {
        let mut control = branch(fusion, &unet, &device.clone().autodiff());
        let mut optimizer = SgdConfig::new().init();
        let mut never: Option<Vec<String>> = None;
        // e(y) passes weights that start at zero, and so do the fusion layers after them: its gradient is nonzero only
        // after two updates.
        for _ in 0..=2 {
            let loss = forward(&unet, &control, &inputs()).square().mean();
            let gradients = GradientsParams::from_grads(loss.backward(), &control);
            let without = without_gradient(&control, &gradients);
            never = Some(match never {
                None => without,
                Some(never) => never.into_iter().filter(|name| without.contains(name)).collect(),
            });
            control = optimizer.step(0.1, control, gradients);
        }
        assert_eq!(never.unwrap(), Vec::<String>::new(), "{fusion:?}");
    }
    assert_eq!(values(&unet), before);
    struct Frozen;
    impl ModuleVisitor for Frozen {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert!(!param.val().is_autodiff());
        }
    }
    unet.visit(&mut Frozen);
}

#[test]
fn guidance_passes_in_one_batch_equal_separate_passes() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let x = inputs();
    let other = normal(3, [2, 7, 24], &device);
    for of in BRANCHES {
        for prompts in [PromptRouting::Decoupled, PromptRouting::Joined, PromptRouting::Semantic] {
            let config = ControlConfig { prompts, ..config(of) };
            let control = noisy(Control::from_unet(&config, &unet, &device).unwrap());
            let told = |semantic: &Tensor<3>| {
                let inputs = DenoiserInputs {
                    sample: x.sample.clone(),
                    timestep: x.timestep.clone(),
                    semantic: semantic.clone(),
                    restoration: x.restoration.clone(),
                    embedded: control.embed(x.degraded.clone()),
                };
                predict(&unet, &control, inputs)
            };
            let both = told(&Tensor::cat(vec![x.semantic.clone(), other.clone()], 0));
            let one_by_one = Tensor::cat(vec![told(&x.semantic), told(&other)], 0);
            assert_eq!(both.dims(), [4, 4, 8, 8]);
            let tolerance = burn::tensor::Tolerance::absolute(1e-5);
            both.into_data().assert_approx_eq::<f32>(&one_by_one.into_data(), tolerance);
        }
    }
}

#[test]
fn the_scale_leads_from_the_frozen_unet_to_the_branch_and_beyond() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let x = inputs();
    let frozen = unet.forward(x.sample.clone(), x.timestep.clone(), x.semantic.clone());
    for fusion in BRANCHES {
        let control = noisy(branch(fusion, &unet, &device));
        let scaled = |scale| forward(&unet, &control.clone().with_scale(scale), &x);
        assert!(scaled(0.0).into_data() == frozen.clone().into_data(), "{fusion:?}");
        assert!(scaled(1.0).into_data() == forward(&unet, &control, &x).into_data(), "{fusion:?}");
        let effect = |scale| (scaled(scale) - frozen.clone()).abs().mean().into_scalar::<f32>();
        let effects = [0.0, 0.25, 0.5, 1.0, 2.0].map(effect);
        assert!(effects.is_sorted_by(|weak, strong| weak < strong), "{fusion:?}: {effects:?}");
    }
}

/// What a configuration does not say is as in the files of earlier versions and of diffusers.
#[test]
fn the_configuration_says_how_the_embedding_enters() {
    for of in BRANCHES {
        let text = config(of).to_json().unwrap();
        let read: ControlConfig = serde_json::from_slice(&text).unwrap();
        assert_eq!((read.fusion(), read.conditioning()), of);
        let control_net = of == (Fusion::Add, Conditioning::Add);
        assert_eq!(read.class_name == "ControlNetModel", control_net);
        let usual = control_net || (of.0 != Fusion::Add && of.1 == Conditioning::Concat);
        assert_eq!(String::from_utf8(text).unwrap().contains("\"conditioning\""), !usual, "{of:?}");
    }
}

#[test]
fn a_branch_reads_pictures_in_the_range_of_its_configuration() {
    let device = Device::flex();
    let picture = inputs().degraded;
    let unet = UNetConfig::read(&folder()).unwrap();
    let new = ControlConfig::for_unet(&unet, Fusion::ModulateSkip, vec![4, 8, 8, 8]);
    let old = ControlConfig { conditioning_range: None, ..new.clone() };
    let control_net = ControlConfig::for_unet(&unet, Fusion::Add, vec![4, 8, 8, 8]);
    let range_of = |config: &ControlConfig| {
        let read: ControlConfig = serde_json::from_slice(&config.to_json().unwrap()).unwrap();
        assert_eq!(&read.conditioning_range, &config.conditioning_range);
        read.conditioning_range()
    };
    assert_eq!(range_of(&new), ConditioningRange::Unit);
    assert_eq!(range_of(&old), ConditioningRange::Symmetric);
    assert_eq!(range_of(&control_net), ConditioningRange::Unit);
    assert!(String::from_utf8(new.to_json().unwrap()).unwrap().contains("\"conditioning_range\""));
    let text = |range: &str| format!("{{\"conditioning_range\": {range}}}");
    assert!(serde_json::from_str::<ControlConfig>(&text("[-1.0, 1]")).is_ok());
    let error = serde_json::from_str::<ControlConfig>(&text("[0, 255]")).unwrap_err().to_string();
    assert!(error.contains("conditioning_range"), "{error}");

    // ControlNet's last convolution of e(y) is zero, so the others have to show it.
    let control = noisy(Control::new(&new, &device).unwrap());
    let same = |a: Tensor<4>, b: Tensor<4>| a.into_data() == b.into_data();
    assert!(same(control.embed(picture.clone()), control.embed_values(picture.clone())));
    let control = control.with_range(ConditioningRange::Symmetric);
    let symmetric = picture.clone().mul_scalar(2.0).sub_scalar(1.0);
    assert!(same(control.embed(picture.clone()), control.embed_values(symmetric)));
    assert!(!same(control.embed(picture.clone()), control.embed_values(picture)));
}

#[test]
fn an_embedding_that_was_fitted_to_the_other_range_computes_the_same_inside_the_picture() {
    let device = Device::flex();
    let picture = inputs().degraded;
    let symmetric = picture.clone().mul_scalar(2.0).sub_scalar(1.0);
    let fitted = ConditioningEmbedding::fresh(&[4, 8, 8, 8], 4, &device).unwrap();
    let (one, other) = (ConditioningRange::Symmetric, ConditioningRange::Unit);
    let converted = fitted.clone().for_range(one, other);
    let difference = |a: Tensor<4>, b: Tensor<4>| {
        // The convolutions carry the border's difference three positions inwards from the top left, two from the bottom right.
        let inside = |x: Tensor<4>| x.slice([0..2, 0..4, 3..6, 3..6]);
        (inside(a) - inside(b)).abs().max().into_scalar::<f32>()
    };
    let expected = fitted.forward(symmetric.clone());
    assert!(difference(expected.clone(), converted.forward(picture.clone())) < 1e-4);
    assert!(difference(expected.clone(), fitted.forward(picture)) > 1e-2);
    let back = converted.for_range(other, one);
    assert!((back.forward(symmetric) - expected).abs().max().into_scalar::<f32>() < 1e-4);
}

#[test]
fn a_converted_embedding_is_trained_like_any_other() {
    let device = Device::flex().autodiff();
    let unet = UNet::load(&folder(), &Device::flex()).unwrap();
    let fitted = ConditioningEmbedding::fresh(&[4, 8, 8, 8], 4, &device).unwrap();
    let control = branch(BRANCHES[0], &unet, &device).with_embedding(fitted, ConditioningRange::Symmetric);
    let loss = control.embed(inputs().degraded).square().mean();
    let gradients = GradientsParams::from_grads(loss.backward(), &control);
    let without = without_gradient(&control, &gradients);
    assert!(!without.iter().any(|name| name.starts_with("controlnet_cond_embedding")), "{without:?}");
}

/// With random values in the zero-initialised layers too, so that the fusion has an effect.
fn noisy(control: Control) -> Control {
    struct Noise {
        n: u64,
    }
    impl ModuleMapper for Noise {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.n += 1;
            param.map(|value| value.clone() + normal(self.n, value.dims(), &value.device()) * 0.05)
        }
    }
    control.map(&mut Noise { n: 100 })
}

#[test]
fn the_frozen_encoder_leaves_no_graph() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let control = branch(BRANCHES[0], &unet, &device.autodiff());
    let x = inputs();
    let time = unet.embed_time(x.timestep.clone());
    let frozen = unet.encode(x.sample.clone(), &time, &x.semantic);
    assert!(frozen.down.iter().chain([&frozen.mid]).all(|feature| !feature.is_autodiff()));
    let (fused, _) =
        control.fuse(frozen, control.features(x.sample, x.timestep, x.restoration, control.embed(x.degraded)));
    assert!(fused.down.iter().chain([&fused.mid]).all(Tensor::is_tracked));
}

#[test]
fn a_branch_in_bf16_predicts_nearly_the_same() {
    let spire = Spire::load(&folder().join(".."), &Device::flex()).unwrap();
    let x = inputs();
    let expected = forward(&spire.unet, &spire.control, &x);
    let rounded = forward(&spire.unet, &weights::cast(spire.control, Precision::Bf16), &x);
    assert_eq!(rounded.dtype(), DType::F32);
    let error = (rounded - expected.clone()).abs().max().into_scalar::<f32>();
    let largest = expected.abs().max().into_scalar::<f32>();
    assert!(error > 0.0 && error < 0.02 * largest, "{error} of {largest}");
}

#[test]
fn the_embedding_preserves_the_picture_s_contrast() {
    let device = Device::flex();
    device.seed(3);
    let embedding = ConditioningEmbedding::fresh(&[16, 32, 96, 256], 4, &device).unwrap();
    // Sixteen pictures of one colour each.
    let colours = Tensor::<4>::random([16, 3, 1, 1], Distribution::Normal(0.0, 1.0), &device).expand([16, 3, 64, 64]);
    let embedded = embedding.forward(colours);
    assert_eq!(embedded.dims(), [16, 4, 8, 8]);
    let deviation = embedded.var(0).mean().sqrt().into_scalar::<f32>();
    assert!((0.2..5.0).contains(&deviation), "{deviation}");
    assert!(ConditioningEmbedding::fresh(&[], 4, &device).is_err());
}

#[test]
fn a_branch_takes_an_embedding_and_still_starts_as_the_identity() {
    let device = Device::flex();
    let unet = UNet::load(&folder(), &device).unwrap();
    let x = inputs();
    let frozen = unet.forward(x.sample.clone(), x.timestep.clone(), x.semantic.clone()).into_data();
    let embedding = ConditioningEmbedding::fresh(&[4, 8, 8, 8], 4, &device).unwrap();
    let given = values(&embedding);
    for of in BRANCHES {
        let control = branch(of, &unet, &device).with_embedding(embedding.clone(), ConditioningRange::Unit);
        forward(&unet, &control, &x).into_data().assert_eq(&frozen, true);
        for (name, value) in values(&control) {
            let Some(name) = name.strip_prefix("controlnet_cond_embedding.") else { continue };
            let taken = given.iter().any(|(given, other)| given == name && *other == value);
            let zero = value.iter().all(|byte| *byte == 0);
            // The last convolution before an addition starts at zero.
            let stays_zero = of.1 == Conditioning::Add && name.starts_with("conv_out");
            assert!(if stays_zero { zero } else { taken }, "{of:?}: {name}");
        }
    }
}
