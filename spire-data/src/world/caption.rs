//! Captions: what a scene shows, in one of several phrasings, all lower case.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::ground::Ground;
use super::object::Object;
use crate::rng::Rng;

/// The sentences; `{it}` stands for the objects and where they are.
pub const TEMPLATES: [&str; 5] = ["{it}", "a photo of {it}", "a picture of {it}", "an image of {it}", "there is {it}"];

/// How a scene is put into words. The default is the plainest: "a lion left of a tree".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    /// Which of [`TEMPLATES`], counted from 0, starting again after the last.
    pub template: usize,
    /// Which of the ways to say a spatial relation, counted alike.
    pub relation: usize,
    /// Whether the place is named.
    pub place: bool,
    /// Whether a single object that is notably small or large is called so.
    pub size: bool,
    /// Whether it is said that a single object is on the left or on the right.
    pub side: bool,
    /// Whether it is said that the background is blurred.
    pub blur: bool,
}

impl Wording {
    /// Everything that a caption can say.
    pub const FULL: Self = Self { template: 0, relation: 0, place: true, size: true, side: true, blur: true };

    pub(super) fn random(rng: &mut Rng) -> Self {
        Self {
            template: rng.random_range(0..TEMPLATES.len()),
            relation: rng.random_range(0..Relation::PHRASES),
            place: rng.random_bool(0.8),
            size: rng.random_bool(0.5),
            side: rng.random_bool(0.5),
            blur: rng.random_bool(0.5),
        }
    }
}

/// Where one object is as seen from another.
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

    /// Where `subject` is as seen from `object`, along the axis that separates them most.
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
            Self::LeftOf => ["left of", "to the left of"],
            Self::RightOf => ["right of", "to the right of"],
            Self::Above => ["above", "over"],
            Self::Below => ["below", "under"],
        }
    }
}

/// `objects` in front of `ground`, in these words.
pub(super) fn write(objects: &[Object], ground: &Ground, wording: Wording) -> String {
    let mut it = match objects {
        [subject, object] => {
            let relation = Relation::between(subject, object).phrases()[wording.relation % Relation::PHRASES];
            format!("{} {relation} {}", subject.kind.with_article(), object.kind.with_article())
        }
        objects => objects.iter().map(|object| single(object, wording)).collect::<Vec<_>>().join(" and "),
    };
    if wording.place {
        it = format!("{it} {}", ground.place.phrase());
    }
    if wording.blur && ground.blur > 0.0 {
        it.push_str(", the background blurred");
    }
    TEMPLATES[wording.template % TEMPLATES.len()].replace("{it}", &it)
}

/// "an owl", "a large owl on the left".
fn single(object: &Object, wording: Wording) -> String {
    let noun = match object.size_name().filter(|_| wording.size) {
        Some(size) => format!("a {size} {}", object.kind.name()),
        None => object.kind.with_article(),
    };
    match object.side_name().filter(|_| wording.side) {
        Some(side) => format!("{noun} {side}"),
        None => noun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Kind, Place};

    const OWL: Object = Object { kind: Kind::Owl, centre: [0.3, 0.5], side: 0.5, flip: false, rotation: 0.0 };
    const GROUND: Ground = Ground { place: Place::Bamboo, offset: [0.0; 2], light: 0.0, horizon: 0.4, blur: 0.03 };

    #[test]
    fn one_object_in_several_wordings() {
        let plain = Wording::default();
        assert_eq!(write(&[OWL], &GROUND, plain), "an owl");
        assert_eq!(write(&[OWL], &GROUND, Wording { place: true, ..plain }), "an owl by the bamboo");
        assert_eq!(
            write(&[OWL], &GROUND, Wording { template: 1, ..Wording::FULL }),
            "a photo of a small owl on the left by the bamboo, the background blurred"
        );
        let middle = Object { centre: [0.5; 2], side: 0.7, ..OWL };
        let sharp = Ground { blur: 0.0, ..GROUND };
        assert_eq!(write(&[middle], &sharp, Wording::FULL), "an owl by the bamboo");
    }

    #[test]
    fn two_objects_have_a_relation_and_no_size() {
        let tree = Object { kind: Kind::Tree, centre: [0.75, 0.5], ..OWL };
        let sharp = Ground { blur: 0.0, ..GROUND };
        assert_eq!(write(&[OWL, tree], &sharp, Wording::FULL), "an owl left of a tree by the bamboo");
        let other = Wording { relation: 1, ..Wording::default() };
        assert_eq!(write(&[tree, OWL], &sharp, other), "a tree to the right of an owl");
    }
}
