//! The illustrated world: captioned scenes of pictograms in front of simple places, without end, from a seed.
//!
//! A [`kind`] has a drawing (`pictogram.rs`) and makes up an [`object`]; objects in front of a [`ground`] make a [`scene`], and
//! [`caption`] puts it into words.

pub mod caption;
pub mod ground;
pub mod kind;
pub mod object;
mod pictogram;
pub mod scene;

pub use caption::{Relation, TEMPLATES, Wording};
pub use ground::{Ground, Place};
pub use kind::{Group, Kind};
pub use object::Object;
pub use scene::Scene;

use serde::{Deserialize, Serialize};

use crate::rng::rng;

/// Which scenes there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Width and height of the pictures in pixels, 64 and up: smaller, objects can't be recognised.
    pub size: usize,
    /// How many scenes make up the data set.
    pub count: u64,
    /// Another seed is another world.
    pub seed: u64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { size: 64, count: 100_000, seed: 0 }
    }
}

/// The scenes of one seed. Nothing is stored: a scene is made when it is asked for, the same every time.
#[derive(Clone, Debug)]
pub struct World {
    /// Which scenes there are.
    pub config: WorldConfig,
}

impl World {
    /// The world of this configuration.
    pub fn new(config: WorldConfig) -> Self {
        Self { config }
    }

    /// Scene `index`. Those from `count` on exist too, and are free for use as held-out scenes.
    pub fn scene(&self, index: u64) -> Scene {
        Scene::random(&mut rng(self.config.seed, "world", index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::hash::Hash;

    fn scenes(count: u64) -> impl Iterator<Item = Scene> {
        let world = World::new(WorldConfig::default());
        (0..count).map(move |index| world.scene(index))
    }

    #[test]
    fn a_scene_depends_on_seed_and_index_alone() {
        let world = World::new(WorldConfig { seed: 7, ..WorldConfig::default() });
        let (five, six) = (world.scene(5), world.scene(6));
        assert_eq!(world.scene(5), five);
        assert_eq!(world.scene(5).draw(64), five.draw(64));
        assert_ne!(six, five);
        assert_ne!(World::new(WorldConfig::default()).scene(5), five);
    }

    fn assert_even<T: Hash + Eq + std::fmt::Debug>(all: &[T], seen: impl Iterator<Item = T>) {
        let mut counts = HashMap::new();
        for item in seen {
            *counts.entry(item).or_insert(0) += 1;
        }
        let fair = counts.values().sum::<usize>() as f32 / all.len() as f32;
        for item in all {
            let count = counts.get(item).copied().unwrap_or(0) as f32;
            assert!((0.7 * fair..1.3 * fair).contains(&count), "{item:?}: {count}, where {fair} is fair");
        }
    }

    #[test]
    fn everything_occurs_about_equally_often() {
        let scenes: Vec<_> = scenes(6000).collect();
        assert_even(&Kind::ALL, scenes.iter().flat_map(|scene| &scene.objects).map(|object| object.kind));
        assert_even(&Place::ALL, scenes.iter().map(|scene| scene.ground.place));
        assert_even(&[0, 1, 2, 3, 4], scenes.iter().map(|scene| scene.wording.template));
        let relation = |scene: &Scene| Some(Relation::between(scene.objects.first()?, scene.objects.get(1)?));
        use Relation::{Above, Below, LeftOf, RightOf};
        assert_even(&[LeftOf, RightOf, Above, Below], scenes.iter().filter_map(relation));
        let pairs = scenes.iter().filter(|scene| scene.objects.len() == 2).count();
        assert!((800..1000).contains(&pairs), "{pairs} of 6000");
    }

    #[test]
    fn captions_name_every_object_in_order() {
        for scene in scenes(2000) {
            let kinds: Vec<_> = scene.objects.iter().map(|object| object.kind).collect();
            assert_eq!(Kind::named_in(&scene.caption), kinds, "{}", scene.caption);
            assert_eq!(scene.caption, scene.describe(scene.wording));
            let plain = |c: char| c == ' ' || c == ',' || c.is_ascii_lowercase();
            assert!(scene.caption.chars().all(plain), "{}", scene.caption);
        }
    }

    #[test]
    fn objects_lie_inside() {
        for scene in scenes(2000).flat_map(|scene| [scene.with_kind(Kind::Lion), scene]) {
            for Object { kind, centre, side, .. } in &scene.objects {
                for (place, extent) in centre.iter().zip(pictogram::extent(*kind)) {
                    let half = side * extent / 2.0;
                    assert!(place - half > -0.001 && place + half < 1.001, "{scene:?}");
                }
            }
        }
    }

    #[test]
    fn objects_stand_out_from_their_ground() {
        for scene in scenes(300) {
            let (picture, ground) = (scene.draw(64), scene.ground.draw(64));
            let gap = |i: &usize| (0..3).map(|c| (picture.plane(c)[*i] - ground.plane(c)[*i]).abs()).sum::<f32>();
            let seen = (0..64 * 64).filter(|i| gap(i) > 0.2).count() as f32;
            let least: f32 = scene.objects.iter().map(|object| 0.1 * (64.0 * object.side).powi(2)).sum();
            assert!(seen > least, "{}: {seen} of {least} pixels", scene.caption);
        }
    }

    #[test]
    fn another_kind_changes_the_first_object_and_its_word() {
        for scene in scenes(50) {
            let other = scene.with_kind(Kind::Lion);
            assert_eq!(Kind::named_in(&other.caption)[0], Kind::Lion);
            assert_eq!((other.objects[0].side, other.ground), (scene.objects[0].side, scene.ground));
            assert_eq!(other.with_kind(scene.objects[0].kind).caption, scene.caption);
            assert_eq!(other.draw(64) == scene.draw(64), scene.objects[0].kind == Kind::Lion);
        }
    }

    #[test]
    fn scenes_survive_json_and_any_size_can_be_drawn() {
        for scene in scenes(100) {
            let json = serde_json::to_string(&scene).unwrap();
            assert_eq!(serde_json::from_str::<Scene>(&json).unwrap(), scene);
        }
        let scene = scenes(1).next().unwrap();
        for size in [0, 1, 7, 200] {
            assert_eq!(scene.draw(size).data.len(), 3 * size * size);
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let message = serde_json::from_str::<WorldConfig>(r#"{"sede": 1}"#).unwrap_err().to_string();
        assert!(message.contains("sede") && message.contains("seed"), "{message}");
    }
}
