//! A restoration that is watched step by step, with the built-in model.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use spire_data::Picture;
use spire_data::world::{World, WorldConfig};
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::restore::{Request, SamplingConfig, restore, restore_watched};
use spire_model::scheduler::SamplerKind;
use spire_model::weights::Precision;

fn difference(one: &Picture, other: &Picture) -> f32 {
    assert_eq!((one.width, one.height), (other.width, other.height));
    one.data.iter().zip(other.data.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn watching_shows_each_step_and_changes_nothing() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
    let base = Base::load(&tiny, Precision::F32, &Device::flex()).unwrap();
    let control = Control::load(&tiny.join("control"), &Device::flex()).unwrap();
    // 40 by 28 is padded to the model's multiples: the pictures of a step have the padding removed.
    let degraded = World::new(WorldConfig::default()).scene(3).draw(64).crop(8, 8, 40, 28);
    let request = |seed| Request {
        degraded: degraded.clone(),
        semantic: "a panda".into(),
        restoration: "Remove all degradation".into(),
        seed,
    };
    let requests = [request(1), request(2)];
    for sampler in SamplerKind::ALL {
        let config = SamplingConfig { sampler, steps: 4, ..Default::default() };
        let expected = restore(&base, &control, &config, &requests).unwrap();
        let (mut seen, mut predicted) = (vec![], vec![]);
        let watched = restore_watched(&base, &control, &config, &requests, &mut |step| {
            seen.push((step.done, step.steps));
            predicted.push(step.predicted());
            ControlFlow::Continue(())
        });
        assert_eq!(watched.unwrap().unwrap(), expected, "{sampler}");
        assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        for (i, expected) in expected.iter().enumerate() {
            let [first, last] = [0, 3].map(|step: usize| difference(&predicted[step][i], expected));
            // The last step of every sampler ends close to the clean picture that it predicts.
            assert!(last < 0.1 && last < first, "{sampler}: {first}, then {last}");
        }

        let mut calls = 0;
        let stopped = restore_watched(&base, &control, &config, &requests, &mut |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(stopped.unwrap().is_none());
        assert_eq!(calls, 2, "{sampler} stops at the step that is told to stop");
    }
}

#[test]
fn a_start_from_the_picture_counts_only_the_steps_taken() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
    let base = Base::load(&tiny, Precision::F32, &Device::flex()).unwrap();
    let control = Control::load(&tiny.join("control"), &Device::flex()).unwrap();
    let config = SamplingConfig { steps: 8, strength: 0.5, ..Default::default() };
    let degraded = World::new(WorldConfig::default()).scene(3).draw(64);
    let request = Request { degraded, semantic: String::new(), restoration: "Deblur".into(), seed: 0 };
    let mut seen = vec![];
    let watched = restore_watched(&base, &control, &config, &[request], &mut |step| {
        seen.push((step.done, step.steps));
        ControlFlow::Continue(())
    });
    assert!(watched.unwrap().is_some());
    assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)]);
}
