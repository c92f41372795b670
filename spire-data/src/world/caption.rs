//! Captions: a scene in words, in one of several phrasings, all lower case.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::scene::Scene;
use crate::rng::Rng;

/// The sentences; `{it}` stands for the objects and `{ground}` for the background.
pub const TEMPLATES: [&str; 12] = [
    "{it}",
    "a photo of {it}",
    "a picture of {it}",
    "an image of {it}",
    "there is {it}",
    "this is {it}",
    "{it} on {ground}",
    "{it} in front of {ground}",
    "a photo of {it} on {ground}",
    "a picture of {it} against {ground}",
    "on {ground} there is {it}",
    "{ground} with {it}",
];

/// How a scene is put into words. The default is the plainest: "a red striped star above a blue ring".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    /// Which of [`TEMPLATES`], counted from 0, starting again after the last.
    pub template: usize,
    /// Which of the ways to say a spatial relation, counted alike.
    pub relation: usize,
    /// Whether a single object that is notably small or large is called so.
    pub size: bool,
}

impl Wording {
    pub(super) fn random(rng: &mut Rng) -> Self {
        Self {
            template: rng.random_range(0..TEMPLATES.len()),
            relation: rng.random_range(0..Relation::PHRASES),
            size: rng.random(),
        }
    }
}

/// Where one object lies as seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    const PHRASES: usize = 2;

    /// Where `subject` lies as seen from `object`, along the axis that separates them most.
    pub fn between(subject: &Object, object: &Object) -> Self {
        let [dx, dy] = [0, 1].map(|axis| subject.centre[axis] - object.centre[axis]);
        match (dx.abs() > dy.abs(), dx < 0.0, dy < 0.0) {
            (true, true, _) => Self::LeftOf,
            (true, false, _) => Self::RightOf,
            (false, _, true) => Self::Above,
            (false, _, false) => Self::Below,
        }
    }

    fn phrases(self) -> [&'static str; Self::PHRASES] {
        match self {
            Self::LeftOf => ["to the left of", "left of"],
            Self::RightOf => ["to the right of", "right of"],
            Self::Above => ["above", "over"],
            Self::Below => ["below", "under"],
        }
    }
}

/// The scene in these words.
pub(super) fn write(scene: &Scene, wording: Wording) -> String {
    let it = match scene.objects.as_slice() {
        [subject, object] => {
            let relation = Relation::between(subject, object).phrases()[wording.relation % Relation::PHRASES];
            format!("{} {relation} {}", noun_phrase(subject, None), noun_phrase(object, None))
        }
        objects => {
            let size = |object: &Object| if wording.size { object.size_name() } else { None };
            objects.iter().map(|object| noun_phrase(object, size(object))).collect::<Vec<_>>().join(" and ")
        }
    };
    TEMPLATES[wording.template % TEMPLATES.len()].replace("{it}", &it).replace("{ground}", &scene.background.name())
}

/// "an orange star", "a small red striped letter a".
fn noun_phrase(object: &Object, size: Option<&str>) -> String {
    let mut words = Vec::from_iter(size);
    words.push(object.colour.name());
    if object.texture != super::Texture::Plain {
        words.push(object.texture.name());
    }
    words.push(object.kind.name());
    let article = if words[0].starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Background, Colour, Kind, Lens, Pattern, Texture, Tone, World, WorldConfig};

    fn scene(objects: Vec<Object>) -> Scene {
        let background = Background::Patterned { tone: Tone::Teal, pattern: Pattern::Brick, offset: [0.0; 2] };
        let (lens, wording) = (Lens::default(), Wording::default());
        Scene { objects, background, lens, wording, caption: String::new() }
    }

    const STAR: Object = Object {
        kind: Kind::Star,
        colour: Colour::Orange,
        texture: Texture::Plain,
        centre: [0.5, 0.25],
        radius: 0.2,
        rotation: 0.0,
    };

    #[test]
    fn one_object_in_several_wordings() {
        let scene = scene(vec![STAR]);
        assert_eq!(scene.describe(Wording::default()), "an orange star");
        assert_eq!(scene.describe(Wording { size: true, ..Wording::default() }), "a small orange star");
        let on = Wording { template: 8, ..Wording::default() };
        assert_eq!(scene.describe(on), "a photo of an orange star on a teal brick background");
        assert_eq!(scene.describe(Wording { template: 8 + TEMPLATES.len(), ..on }), scene.describe(on));
    }

    #[test]
    fn two_objects_have_a_relation_and_no_size() {
        let letter = Object { kind: Kind::LetterA, texture: Texture::Checked, centre: [0.55, 0.75], ..STAR };
        let size = Wording { size: true, ..Wording::default() };
        assert_eq!(scene(vec![STAR, letter]).describe(size), "an orange star above an orange checked letter a");
        let under = Wording { relation: 1, ..size };
        assert_eq!(scene(vec![letter, STAR]).describe(under), "an orange checked letter a under an orange star");
    }

    #[test]
    fn captions_name_every_object_in_about_ten_words() {
        let world = World::new(WorldConfig::default());
        let mut words = 0;
        for scene in (0..2000).map(|index| world.scene(index)) {
            for object in &scene.objects {
                let texture = if object.texture == Texture::Plain { "" } else { object.texture.name() };
                let named = [object.colour.name(), texture, object.kind.name()];
                let named = named.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
                assert!(scene.caption.contains(&named), "{named} in {}", scene.caption);
            }
            assert_eq!(scene.caption, scene.describe(scene.wording));
            assert!(scene.caption.chars().all(|c| c == ' ' || c.is_ascii_lowercase()), "{}", scene.caption);
            words += scene.caption.split(' ').count();
        }
        assert!((8.0..13.0).contains(&(words as f32 / 2000.0)), "{words} words in 2000 captions");
    }
}
