//! A small world that the program draws itself: captioned scenes of one or two objects, without end, from a seed.
//!
//! [`shape`], [`colour`] and [`texture`] make up an [`object`], objects over a [`background`] make a [`scene`], a [`lens`]
//! takes its picture, and [`caption`] puts it into words.

pub mod background;
pub mod caption;
pub mod colour;
pub mod lens;
pub mod object;
pub mod scene;
pub mod shape;
pub mod texture;

pub use background::{Background, Pattern, Tone};
pub use caption::{Relation, TEMPLATES, Wording};
pub use colour::Colour;
pub use lens::Lens;
pub use object::Object;
pub use scene::Scene;
pub use shape::Kind;
pub use texture::Texture;

use serde::{Deserialize, Serialize};

use crate::rng::rng;

/// Which scenes there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Width and height of the pictures in pixels. Textures are meant for 64 and up.
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
            assert!((0.75 * fair..1.25 * fair).contains(&count), "{item:?}: {count}, where {fair} is fair");
        }
    }

    #[test]
    fn everything_occurs_about_equally_often() {
        let scenes: Vec<_> = scenes(2000).collect();
        let objects = || scenes.iter().flat_map(|scene| &scene.objects);
        assert_even(&Kind::ALL, objects().map(|object| object.kind));
        assert_even(&Colour::ALL, objects().map(|object| object.colour));
        assert_even(&Texture::ALL, objects().map(|object| object.texture));
        assert_even(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], scenes.iter().map(|scene| scene.wording.template));
        let relation = |scene: &Scene| Some(Relation::between(scene.objects.first()?, scene.objects.get(1)?));
        use Relation::{Above, Below, LeftOf, RightOf};
        assert_even(&[LeftOf, RightOf, Above, Below], scenes.iter().filter_map(relation));
        let pairs = scenes.iter().filter(|scene| scene.objects.len() == 2).count();
        assert!((700..900).contains(&pairs), "{pairs} of 2000");
    }

    #[test]
    fn objects_lie_inside_apart_and_as_the_caption_says() {
        for scene in scenes(2000) {
            for Object { centre, radius, .. } in &scene.objects {
                assert!(centre.iter().all(|place| (0.029..0.971).contains(&(place - radius))), "{scene:?}");
                assert!(centre.iter().all(|place| (0.029..0.971).contains(&(place + radius))), "{scene:?}");
            }
            let [a, b] = scene.objects.as_slice() else { continue };
            let [dx, dy] = [0, 1].map(|axis| b.centre[axis] - a.centre[axis]);
            assert!(dx.hypot(dy) > a.radius + b.radius + 0.05, "{scene:?}");
            let says = |words: [&str; 2]| words.iter().any(|word| scene.caption.contains(&format!(" {word} ")));
            let (along, across) = if says(["to the left of", "left of"]) {
                (dx, dy)
            } else if says(["to the right of", "right of"]) {
                (-dx, dy)
            } else if says(["above", "over"]) {
                (dy, dx)
            } else {
                assert!(says(["below", "under"]), "no relation in {}", scene.caption);
                (-dy, dx)
            };
            assert!(along > 0.35 && across.abs() < 0.2, "{scene:?}");
        }
    }

    #[test]
    fn objects_stand_out_within_their_circle_and_nowhere_else() {
        for scene in scenes(200).map(|scene| scene.sharp()) {
            let (picture, ground) = (scene.draw(64), scene.background.draw(64));
            for i in 0..64 * 64 {
                let [x, y] = [i % 64, i / 64].map(|place| (place as f32 + 0.5) / 64.0);
                let outside =
                    |object: &Object| (x - object.centre[0]).hypot(y - object.centre[1]) - object.radius > 1.0 / 64.0;
                let same = (0..3).all(|channel| picture.plane(channel)[i] == ground.plane(channel)[i]);
                assert!(same || !scene.objects.iter().all(outside), "{} {i}", scene.caption);
            }
            let gap = |i: &usize| (0..3).map(|c| (picture.plane(c)[*i] - ground.plane(c)[*i]).abs()).sum::<f32>();
            let seen = (0..64 * 64).filter(|i| gap(i) > 0.2).count() as f32;
            let least = scene.objects.iter().map(|object| 0.75 * (64.0 * object.radius).powi(2)).sum::<f32>();
            assert!(seen > least, "{}: {seen} of {least} pixels", scene.caption);
        }
    }

    #[test]
    fn scenes_stay_the_same_from_version_to_version() {
        // Means and not bytes: the sines of other machines may differ in the last bit.
        let pinned = [
            ("an image of a green checked pentagon over a yellow checked ring", 0.79144),
            ("an image of an orange dotted arrow to the left of a red striped letter a", 0.51062),
            ("on a tan to sky gradient there is a blue striped letter o", 0.67143),
            ("an image of a black striped cross to the right of an orange square", 0.43421),
            ("this is an orange dotted arrow to the left of a purple striped star", 0.51181),
            ("a photo of a black striped heart", 0.56571),
            ("a picture of a black checked triangle against a cream background", 0.80713),
            ("on a tan brick background there is a small yellow dotted letter o", 0.66085),
        ];
        for (scene, (caption, mean)) in scenes(8).zip(pinned) {
            let picture = scene.sharp().draw(64);
            let drawn = picture.data.iter().sum::<f32>() / picture.data.len() as f32;
            assert_eq!(scene.caption, caption);
            assert!((drawn - mean).abs() < 1e-4, "{caption}: {drawn}, not {mean}");
        }
    }

    #[test]
    fn another_kind_changes_the_first_object_and_its_word() {
        for scene in scenes(50) {
            let other = scene.with_kind(Kind::Hexagon);
            let old = scene.objects[0].kind.name();
            assert_eq!(other.caption, scene.caption.replacen(old, "hexagon", 1));
            assert_eq!((other.objects[0].centre, other.background), (scene.objects[0].centre, scene.background));
            assert_eq!(other.draw(64) == scene.draw(64), scene.objects[0].kind == Kind::Hexagon);
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
