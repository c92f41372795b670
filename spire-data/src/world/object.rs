//! One object of a scene: which kind, where, how large.

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::pictogram;
use crate::picture::Picture;

/// An object. Lengths are in picture widths, y points down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// The middle of its drawing.
    pub centre: [f32; 2],
    /// The longer side of its drawing.
    pub side: f32,
    /// Whether it is mirrored.
    pub flip: bool,
    /// Turn in radians, clockwise.
    pub rotation: f32,
}

/// Single objects up to this side are called small, those from the other on large.
const SMALL: f32 = 0.56;
const LARGE: f32 = 0.8;
/// From this distance to the centre on, an object is on the left or on the right.
const ASIDE: f32 = 0.09;
const NEAR_LEFT: f32 = -ASIDE;

impl Object {
    /// "small", "large", or nothing between.
    pub fn size_name(&self) -> Option<&'static str> {
        match self.side {
            ..SMALL => Some("small"),
            LARGE.. => Some("large"),
            _ => None,
        }
    }

    /// "on the left", "on the right", or nothing near the centre.
    pub fn side_name(&self) -> Option<&'static str> {
        match self.centre[0] - 0.5 {
            ..NEAR_LEFT => Some("on the left"),
            ASIDE.. => Some("on the right"),
            _ => None,
        }
    }

    /// Draws it over the picture.
    pub(super) fn draw_over(&self, picture: &mut Picture) {
        let pixels = picture.width as f32;
        let centre = self.centre.map(|place| place * pixels);
        pictogram::draw(self.kind, picture, centre, self.side * pixels, self.flip, self.rotation);
    }
}
