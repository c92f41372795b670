//! Each degradation operator on a 512×512 picture, and the whole pipelines: `cargo bench -p spire-data`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use spire_data::Picture;
use spire_data::degrade::noise::{gaussian_noise, poisson_noise};
use spire_data::degrade::{
    DegradationConfig, Filter, KernelKind, KernelSpec, blur::blur, blur::gaussian_blur, jpeg_round_trip, resize,
};
use spire_data::rng::rng;
use spire_data::world::{World, WorldConfig};

const SIDE: usize = 512;

fn picture() -> Picture {
    World::new(WorldConfig { size: SIDE, ..WorldConfig::default() }).scene(0).draw(SIDE)
}

fn operators(bench: &mut Criterion) {
    let picture = picture();
    let kernel = |kind, size| {
        KernelSpec { kind, size, sigma_x: 2.0, sigma_y: 1.0, theta: 0.7, beta: 1.0 }.build().expect("a sound kernel")
    };
    for size in [7, 21] {
        for (name, kind) in [("iso", KernelKind::Iso), ("aniso", KernelKind::Aniso), ("sinc", KernelKind::Sinc)] {
            let kernel = kernel(kind, size);
            bench.bench_function(&format!("blur {name} {size}"), |b| b.iter(|| blur(black_box(&picture), &kernel)));
        }
    }
    bench.bench_function("gaussian blur sigma 3", |b| b.iter(|| gaussian_blur(black_box(&picture), 3.0)));
    for (name, filter) in [("area", Filter::Area), ("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        for side in [SIDE / 4, SIDE * 5 / 4] {
            bench.bench_function(&format!("resize {name} to {side}"), |b| {
                b.iter(|| resize(black_box(&picture), side, side, filter));
            });
        }
    }
    bench.bench_function("gaussian noise", |b| {
        let mut rng = rng(0, "bench", 0);
        b.iter(|| gaussian_noise(black_box(&picture), 0.1, false, &mut rng));
    });
    bench.bench_function("poisson noise", |b| {
        let mut rng = rng(0, "bench", 1);
        b.iter(|| poisson_noise(black_box(&picture), 1.0, false, &mut rng));
    });
    let bytes = picture.to_rgb8();
    bench.bench_function("jpeg quality 60", |b| b.iter(|| jpeg_round_trip(black_box(&bytes), 60)));
}

fn pipelines(bench: &mut Criterion) {
    let picture = picture();
    for (name, share) in [("parameterized", 1.0), ("real-esrgan", 0.0)] {
        let config = DegradationConfig { parameterized_share: share, ..DegradationConfig::default() };
        let mut n = 0;
        bench.bench_function(&format!("pipeline {name}"), |b| {
            b.iter(|| {
                n += 1;
                config.degrade(black_box(&picture), &mut rng(0, "bench", n))
            });
        });
    }
}

criterion_group!(benches, operators, pipelines);
criterion_main!(benches);
