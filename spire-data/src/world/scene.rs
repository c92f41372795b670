//! Composition: which objects a scene holds and where.

use rand::RngExt;
use rand::seq::{IndexedRandom, index};
use serde::{Deserialize, Serialize};

use super::caption::{self, Wording};
use super::pictogram::extent;
use super::{Ground, Kind, Object};
use crate::picture::Picture;
use crate::rng::Rng;

/// A scene as pure data: what is in it, where, and in which words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// One or two objects of different kinds, in the order in which the caption names them.
    pub objects: Vec<Object>,
    /// What lies behind.
    pub ground: Ground,
    /// How the caption is put.
    pub wording: Wording,
    /// The scene in words, lower case.
    pub caption: String,
}

const TWO_OBJECTS: f64 = 0.15;
/// The longer side of a single object, and of each of two, in picture widths.
const SINGLE_SIDE: (f32, f32) = (0.5, 0.9);
const PAIR_SIDE: (f32, f32) = (0.45, 0.5);
/// The least distance to the picture's edge.
const MARGIN: f32 = 0.02;
/// How far each of two objects strays across the axis that they lie on: too little to put their relation in doubt.
const PAIR_STRAY: f32 = 0.1;
/// At most this turn either way, in radians.
const ROTATION: f32 = 0.12;

impl Scene {
    /// Draws lots for everything.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let objects = if rng.random_bool(TWO_OBJECTS) { pair(rng) } else { vec![single(rng)] };
        let ground = Ground::random(rng);
        let wording = Wording::random(rng);
        Self { objects, ground, wording, caption: String::new() }.captioned()
    }

    /// The picture, `size` × `size`.
    pub fn draw(&self, size: usize) -> Picture {
        let mut picture = self.ground.draw(size);
        for object in &self.objects {
            object.draw_over(&mut picture);
        }
        picture
    }

    /// The kinds of its objects, in their order.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.objects.iter().map(|object| object.kind)
    }

    /// The scene in other words than its caption's.
    pub fn describe(&self, wording: Wording) -> String {
        caption::write(&self.objects, &self.ground, wording)
    }

    /// The same scene and wording with another kind of first object: the caption that a degraded picture might as well
    /// have, and the picture that would then be right.
    pub fn with_kind(&self, kind: Kind) -> Self {
        let mut scene = self.clone();
        if let Some(first) = scene.objects.first_mut() {
            first.kind = kind;
            first.centre = inside(first.centre, extent(kind), first.side);
        }
        scene.captioned()
    }

    fn captioned(mut self) -> Self {
        self.caption = self.describe(self.wording);
        self
    }
}

/// `centre`, moved by as little as keeps an object of this `extent` and `side` within the picture.
fn inside(centre: [f32; 2], extent: [f32; 2], side: f32) -> [f32; 2] {
    std::array::from_fn(|axis| {
        let half = (side * extent[axis] / 2.0).min(0.5);
        centre[axis].clamp(half, 1.0 - half)
    })
}

fn single(rng: &mut Rng) -> Object {
    let kind = *Kind::ALL.choose(rng).expect("there are kinds");
    let side = rng.random_range(SINGLE_SIDE.0..=SINGLE_SIDE.1);
    let centre = extent(kind).map(|extent| {
        let stray = (0.5 - MARGIN - side * extent / 2.0).max(0.0);
        0.5 + rng.random_range(-stray..=stray)
    });
    object(rng, kind, centre, side)
}

/// Two objects, each in its own half of the picture, side by side or one above the other.
fn pair(rng: &mut Rng) -> Vec<Object> {
    let axis = rng.random_range(0..2);
    let first_half = rng.random_range(0..2);
    let kinds = index::sample(rng, Kind::ALL.len(), 2);
    let each = |i: usize| {
        let side = rng.random_range(PAIR_SIDE.0..=PAIR_SIDE.1);
        let mut centre = [0.5 + rng.random_range(-PAIR_STRAY..=PAIR_STRAY); 2];
        centre[axis] = if i == first_half { 0.25 } else { 0.75 };
        object(rng, Kind::ALL[kinds.index(i)], centre, side)
    };
    [0, 1].map(each).into()
}

fn object(rng: &mut Rng, kind: Kind, centre: [f32; 2], side: f32) -> Object {
    Object { kind, centre, side, flip: rng.random(), rotation: rng.random_range(-ROTATION..=ROTATION) }
}
