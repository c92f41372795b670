//! Restorations on one thread and on several, with the built-in model.

use burn::tensor::Device;
use rayon::ThreadPoolBuilder;
use spire_data::world::{World, WorldConfig};
use spire_model::Pipeline;
use spire_model::restore::{Request, SamplingConfig, restore};

#[test]
fn pictures_do_not_depend_on_the_number_of_threads() {
    let Pipeline { base, control, sampling } = Pipeline::built_in(&Device::flex()).unwrap();
    let world = World::new(WorldConfig::default());
    let request = |n| Request {
        degraded: world.scene(n).draw(96),
        semantic: "a panda".into(),
        restoration: "Remove all degradation".into(),
        seed: n,
    };
    // One picture alone, whose guidance passes are the rows of a batch; and rows that threads cannot share evenly.
    for pictures in [1, 3] {
        let requests: Vec<_> = (0..pictures).map(request).collect();
        let config = SamplingConfig { steps: 3, ..sampling.clone() };
        let [alone, shared] = [1, 4].map(|threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| restore(&base, &control, &config, &requests).unwrap())
        });
        assert!(alone == shared, "{pictures} pictures differ");
    }
}
