//! Every kernel and its gradients agree with Burn's.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::module::{self, avg_pool2d, max_pool2d};
use burn::tensor::ops::{AttentionModuleOptions, AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData, activation};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use spire_kernels::{Window, Windows};

/// Normally distributed numbers. Not from Burn's generator: concurrent tests share it.
fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A sum weighted by fixed random numbers, so that every output has another gradient.
fn weighted(y: Tensor<4>, device: &Device) -> Tensor<1> {
    (y.clone() * random(y.dims(), 3, device)).sum()
}

#[track_caller]
fn assert_close<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let scale = b.clone().abs().max().into_scalar::<f32>().max(1.0);
    let difference = (a.clone() - b.clone()).abs().max().into_scalar::<f32>() / scale;
    assert!(difference < 2e-5, "{what}: {difference}");
}

fn check_convolution(conv: Conv2d, x_shape: [usize; 4], device: &Device) {
    let x = random(x_shape, 1, device).require_grad();
    let (ours, burns) = (spire_kernels::conv2d(&conv, x.clone()), conv.forward(x.clone()));
    assert_close(&ours, &burns, "output");
    let inner = spire_kernels::conv2d(&conv, x.clone().inner());
    assert_close(&inner, &burns.clone().inner(), "output without a graph");
    let onto = random(burns.dims(), 2, device);
    let added = spire_kernels::add_conv2d(onto.clone(), &conv, x.clone());
    assert_close(&added, &(onto.clone() + burns.clone()), "output added to a map");
    let alone = conv.valid();
    let added = spire_kernels::add_conv2d(onto.clone().inner(), &alone, x.clone().inner());
    assert_close(&added, &(onto + burns.clone()).inner(), "output added to a map without a graph");
    let (ours, burns) = (weighted(ours, device).backward(), weighted(burns, device).backward());
    let (a, b) = (x.grad(&ours).unwrap(), x.grad(&burns).unwrap());
    assert_close(&a, &b, "gradient of x");
    let weight = conv.weight.val();
    assert_close(&weight.grad(&ours).unwrap(), &weight.grad(&burns).unwrap(), "gradient of the weight");
    if let Some(bias) = &conv.bias {
        let bias = bias.val();
        assert_close(&bias.grad(&ours).unwrap(), &bias.grad(&burns).unwrap(), "gradient of the bias");
    }
}

#[test]
fn attention_equals_two_products() {
    let device = Device::flex().autodiff();
    for [batch, heads, queries, keys, depth] in [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 7, 4],
        [3, 1, 64, 9, 8],
        [1, 2, 33, 70, 5],
        [2, 1, 40, 5000, 3],
        [1, 2, 1500, 17, 6],
    ] {
        let draw = |length, seed| random([batch, length, heads * depth], seed, &device).require_grad();
        let inputs = [draw(queries, 1), draw(keys, 2), draw(keys, 4)];
        let [query, key, value] = inputs.clone();
        let ours = spire_kernels::attention(query.clone(), key.clone(), value.clone(), heads);
        let products = spire_kernels::attention_in_products(query.clone(), key.clone(), value.clone(), heads, None);
        assert_close(&ours, &products, "output");
        let split = |x: Tensor<3>, length| x.inner().reshape([batch, length, heads, depth]).swap_dims(1, 2);
        let (query, key, value) = (split(query, queries), split(key, keys), split(value, keys));
        let burns = module::attention(query, key, value, None, None, AttentionModuleOptions::default());
        let burns = burns.swap_dims(1, 2).reshape([batch, queries, heads * depth]);
        assert_close(&ours.clone().inner(), &burns, "output, beside Burn's");
        let weights = random(ours.dims(), 3, &device);
        let [ours, products] = [ours, products].map(|y| (y * weights.clone()).sum().backward());
        for (x, what) in inputs.iter().zip(["query", "key", "value"]) {
            assert_close(&x.grad(&ours).unwrap(), &x.grad(&products).unwrap(), what);
        }
    }
}

#[test]
fn attention_with_large_scores_is_finite() {
    let device = Device::flex();
    let x = random([1, 20, 8], 1, &device) * 1e4;
    let y = spire_kernels::attention(x.clone(), x.clone(), x.clone(), 1);
    // Exponentials of unshifted scores would overflow.
    assert!(y.clone().is_finite().all().into_scalar::<bool>());
    let products = spire_kernels::attention_in_products(x.clone(), x.clone(), x, 1, None);
    assert_close(&y, &products, "output");
}

fn check_norm(norm: &GroupNorm, x_shape: [usize; 4], silu: bool, device: &Device) {
    let x = (random(x_shape, 1, device) * 3.0 + 1.0).detach().require_grad();
    let burns = norm.forward(x.clone());
    let (ours, burns) = if silu {
        (spire_kernels::group_norm_silu(norm, x.clone()), activation::silu(burns))
    } else {
        (spire_kernels::group_norm(norm, x.clone()), burns)
    };
    assert_close(&ours, &burns, "output");
    let (ours, burns) = (weighted(ours, device).backward(), weighted(burns, device).backward());
    assert_close(&x.grad(&ours).unwrap(), &x.grad(&burns).unwrap(), "gradient of x");
    for (name, weight) in [("gamma", &norm.gamma), ("beta", &norm.beta)] {
        let weight = weight.as_ref().unwrap().val();
        assert_close(&weight.grad(&ours).unwrap(), &weight.grad(&burns).unwrap(), name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolutions_and_their_gradients_are_burns(
        batch in 1_usize..4,
        from in 1_usize..9,
        to in 1_usize..9,
        size in prop::array::uniform2(1_usize..14),
        kernel in prop::array::uniform2(1_usize..6),
        stride in prop::array::uniform2(1_usize..4),
        padding in prop::array::uniform4(0_usize..4),
        bias: bool,
    ) {
        let [top, left, bottom, right] = padding;
        prop_assume!(size[0] + top + bottom >= kernel[0] && size[1] + left + right >= kernel[1]);
        let device = Device::flex().autodiff();
        let conv = Conv2dConfig::new([from, to], kernel)
            .with_stride(stride)
            .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
            .with_bias(bias)
            .init(&device);
        check_convolution(conv, [batch, from, size[0], size[1]], &device);
    }

    #[test]
    fn pools_and_their_gradients_are_burns(
        batch in 1_usize..3,
        channels in 1_usize..4,
        size in prop::array::uniform2(1_usize..16),
        side in 1_usize..6,
        stride in 1_usize..4,
        padding in 0_usize..3,
        maximum: bool,
    ) {
        // Burn allows a padding of at most half a window.
        prop_assume!(2 * padding <= side && size.iter().all(|size| size + 2 * padding >= side));
        let device = Device::flex().autodiff();
        let x = random([batch, channels, size[0], size[1]], 1, &device).require_grad();
        let window = Window { side, stride, padding };
        let (sides, strides, paddings) = ([side; 2], [stride; 2], [padding; 2]);
        let pools = |x: Tensor<4>| {
            if maximum {
                let options = MaxPoolOptions::new(sides).with_stride(strides).with_padding(paddings);
                (spire_kernels::max_pool2d(x.clone(), window), max_pool2d(x, options))
            } else {
                let options = AvgPoolOptions::new(sides).with_stride(strides).with_padding(paddings);
                (spire_kernels::avg_pool2d(x.clone(), window), avg_pool2d(x, options.with_count_include_pad(false)))
            }
        };
        let (ours, burns) = pools(x.clone().inner());
        assert_close(&ours, &burns, "output");
        let (ours, burns) = pools(x.clone());
        let (ours, burns) = (weighted(ours, &device).backward(), weighted(burns, &device).backward());
        assert_close(&x.grad(&ours).unwrap(), &x.grad(&burns).unwrap(), "gradient of x");
    }

    #[test]
    fn normalisations_and_their_gradients_are_burns(
        batch in 1_usize..4,
        groups in 1_usize..5,
        inside in 1_usize..5,
        size in prop::array::uniform2(1_usize..20),
        silu: bool,
    ) {
        // A group of one element has no variance; Burn needs at least three elements.
        prop_assume!(inside * size[0] * size[1] > 2);
        let device = Device::flex().autodiff();
        let channels = groups * inside;
        let mut norm = GroupNormConfig::new(groups, channels).init(&device);
        let moved = |x: Tensor<1>| (x + random([channels], 2, &device)).detach().require_grad();
        norm.gamma = norm.gamma.map(|gamma| gamma.map(moved));
        norm.beta = norm.beta.map(|beta| beta.map(moved));
        check_norm(&norm, [batch, channels, size[0], size[1]], silu, &device);
    }
}

#[test]
fn large_convolutions_are_cut_into_tiles() {
    let device = Device::flex().autodiff();
    for (channels, kernel, stride, side) in [([48, 40], 3, 1, 61), ([3, 64], 3, 2, 97), ([200, 300], 1, 1, 33)] {
        let padding = PaddingConfig2d::Explicit(kernel / 2, kernel / 2, kernel / 2, kernel / 2);
        let conv = Conv2dConfig::new(channels, [kernel, kernel]).with_stride([stride, stride]).with_padding(padding);
        check_convolution(conv.init(&device), [2, channels[0], side, side - 1], &device);
    }
}

#[test]
fn groups_and_dilation_use_burn() {
    let device = Device::flex().autodiff();
    let grouped = Conv2dConfig::new([4, 8], [3, 3]).with_groups(2).init(&device);
    check_convolution(grouped, [1, 4, 9, 9], &device);
    let dilated = Conv2dConfig::new([4, 8], [3, 3]).with_dilation([2, 2]).init(&device);
    check_convolution(dilated, [1, 4, 9, 9], &device);
}

#[test]
fn activations_agree_over_their_whole_range() {
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (-40_000..40_000).map(|n| n as f32 * 5e-3).collect();
    let x = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, 1, 1, 80_000]).require_grad();
    type Function = fn(Tensor<4>) -> Tensor<4>;
    let pairs: [(Function, Function, &str); 2] =
        [(spire_kernels::silu, activation::silu, "silu"), (spire_kernels::gelu, activation::gelu, "gelu")];
    for (ours, burns, name) in pairs {
        let (ours, burns) = (ours(x.clone()), burns(x.clone()));
        let difference = (ours.clone() - burns.clone()).abs() / (burns.clone().abs() + 1.0);
        assert!(difference.max().into_scalar::<f32>() < 1e-6, "{name}");
        let gradients = [ours, burns].map(|y| x.grad(&y.sum().backward()).unwrap());
        let difference = (gradients[0].clone() - gradients[1].clone()).abs().max().into_scalar::<f32>();
        assert!(difference < 3e-6, "gradient of {name}: {difference}");
    }
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    let gradients = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()].map(|device| {
        let same = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let mut conv = Conv2dConfig::new([4, 4], [3, 3]).with_padding(same).with_bias(false).init(&device);
        conv.weight = conv.weight.map(|_| random([4, 4, 3, 3], 5, &device).require_grad());
        let norm = GroupNormConfig::new(2, 4).init(&device);
        let x = random([2, 4, 6, 6], 1, &device).require_grad();
        // Two operations, so that the input of the second is recomputed too.
        let y = spire_kernels::group_norm_silu(&norm, spire_kernels::gelu(spire_kernels::conv2d(&conv, x.clone())));
        let y = spire_kernels::silu(spire_kernels::group_norm(&norm, y));
        let gradients = weighted(y, &device).backward();
        (x.grad(&gradients).unwrap(), conv.weight.val().grad(&gradients).unwrap())
    });
    let [(x, weight), (x_again, weight_again)] = gradients;
    x.into_data().assert_eq(&x_again.into_data(), true);
    weight.into_data().assert_eq(&weight_again.into_data(), true);
}

#[test]
fn attention_in_windows_is_attention_by_operators() {
    let (alone, tracked) = (Device::flex(), Device::flex().autodiff());
    for (side, heads, depth, elsewhere) in [(2, 1, 3, -100.0), (4, 2, 5, f32::NEG_INFINITY), (7, 3, 4, -100.0)] {
        for shift in [0, 1, side / 2] {
            let windows = Windows { side, shift, heads, elsewhere };
            let shape = [2, 3 * side, 2 * side, 3 * heads * depth];
            let attended = |device| {
                let table = random([(2 * side - 1) * (2 * side - 1), heads], 2, device);
                spire_kernels::window_attention(random(shape, 1, device), table, windows)
            };
            // Under autodiff there is no kernel.
            assert_close(&attended(&alone), &attended(&tracked).inner(), &format!("{windows:?}"));
        }
    }
}

#[test]
fn linear_layers_agree() {
    let device = Device::flex();
    for (rows, from, to) in [(1, 1, 1), (700, 5, 9), (40, 64, 130)] {
        let linear = LinearConfig::new(from, to).init(&device);
        let x = random([2, 3, rows, from], 1, &device);
        let y = linear.forward(x.clone());
        assert_close(&spire_kernels::linear(&linear, x.clone()), &y, &format!("{from} to {to}"));
        let onto = random(y.dims(), 2, &device);
        let added = spire_kernels::add_linear(onto.clone(), &linear, x);
        assert_close(&added, &(onto + y), &format!("{from} to {to}, added to a map"));
    }
}
