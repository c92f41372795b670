//! Composition: which objects a scene holds and where.

use rand::RngExt;
use rand::seq::{IndexedRandom, index};
use serde::{Deserialize, Serialize};

use super::caption::{self, Wording};
use super::{Background, Colour, Kind, Lens, Object, Texture};
use crate::picture::Picture;
use crate::rng::Rng;

/// A scene as pure data: what is in it, where, and in which words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// One or two objects, in the order in which the caption names them. Two differ in kind and in colour.
    pub objects: Vec<Object>,
    /// What lies behind.
    pub background: Background,
    /// How it was photographed, of which the caption says nothing.
    #[serde(default)]
    pub lens: Lens,
    /// How the caption is put.
    pub wording: Wording,
    /// The scene in words, lower case.
    pub caption: String,
}

const TWO_OBJECTS: f64 = 0.4;
/// Radii in picture widths: a single object is 45 to 75 % across, each of two 34 to 43 %.
const SINGLE_RADIUS: (f32, f32) = (0.225, 0.375);
const PAIR_RADIUS: (f32, f32) = (0.17, 0.215);
/// The least distance to the picture's edge and, for two objects, to the line between their halves.
const MARGIN: f32 = 0.03;
/// How far a single object strays from the centre, and each of two across the axis that they lie on. The latter is small
/// enough for the spatial relation to be beyond doubt.
const SINGLE_STRAY: f32 = 0.12;
const PAIR_STRAY: f32 = 0.08;
/// At most this turn either way, in radians: a square must not look like a diamond, nor a cross like an x.
const ROTATION: f32 = 0.12;

impl Scene {
    /// Draws lots for everything.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let objects = if rng.random_bool(TWO_OBJECTS) { pair(rng) } else { vec![single(rng)] };
        let colours: Vec<_> = objects.iter().map(|object| object.colour).collect();
        let background = Background::random(rng, &colours);
        let wording = Wording::random(rng);
        let lens = Lens::random(rng);
        Self { objects, background, lens, wording, caption: String::new() }.captioned()
    }

    /// The picture, `size` × `size`.
    pub fn draw(&self, size: usize) -> Picture {
        let mut picture = self.background.draw(size);
        for object in &self.objects {
            object.draw_over(&mut picture);
        }
        self.lens.take(picture)
    }

    /// The same scene in focus and without grain.
    pub fn sharp(&self) -> Self {
        Self { lens: Lens::default(), ..self.clone() }
    }

    /// The scene in other words than its caption's.
    pub fn describe(&self, wording: Wording) -> String {
        caption::write(self, wording)
    }

    /// The same scene and wording with another kind of first object: the caption that a blurred picture might as well
    /// have, and the picture that would then be right.
    pub fn with_kind(&self, kind: Kind) -> Self {
        let mut scene = self.clone();
        if let Some(first) = scene.objects.first_mut() {
            first.kind = kind;
        }
        scene.captioned()
    }

    fn captioned(mut self) -> Self {
        self.caption = self.describe(self.wording);
        self
    }
}

fn single(rng: &mut Rng) -> Object {
    let radius = rng.random_range(SINGLE_RADIUS.0..=SINGLE_RADIUS.1);
    let stray = SINGLE_STRAY.min(0.5 - MARGIN - radius);
    let centre = [0.5 + rng.random_range(-stray..=stray), 0.5 + rng.random_range(-stray..=stray)];
    let kind = *Kind::ALL.choose(rng).expect("there are kinds");
    let colour = *Colour::ALL.choose(rng).expect("there are colours");
    object(rng, kind, colour, centre, radius)
}

/// Two objects, each in its own half of the picture, side by side or one above the other.
fn pair(rng: &mut Rng) -> Vec<Object> {
    let axis = rng.random_range(0..2);
    let first_half = rng.random_range(0..2);
    let kinds = index::sample(rng, Kind::ALL.len(), 2);
    let colours = index::sample(rng, Colour::ALL.len(), 2);
    let each = |i: usize| {
        let radius = rng.random_range(PAIR_RADIUS.0..=PAIR_RADIUS.1);
        let inset = radius + MARGIN;
        let along = if i == first_half { inset..=0.5 - inset } else { 0.5 + inset..=1.0 - inset };
        let mut centre = [0.5 + rng.random_range(-PAIR_STRAY..=PAIR_STRAY); 2];
        centre[axis] = rng.random_range(along);
        object(rng, Kind::ALL[kinds.index(i)], Colour::ALL[colours.index(i)], centre, radius)
    };
    [0, 1].map(each).into()
}

fn object(rng: &mut Rng, kind: Kind, colour: Colour, centre: [f32; 2], radius: f32) -> Object {
    let texture = *Texture::ALL.choose(rng).expect("there are textures");
    Object { kind, colour, texture, centre, radius, rotation: rng.random_range(-ROTATION..=ROTATION) }
}
