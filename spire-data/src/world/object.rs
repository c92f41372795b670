//! One object of a scene: what it is, where it lies, how it is drawn.

use serde::{Deserialize, Serialize};
use tiny_skia::{FillRule, Mask, Transform};

use super::{Colour, Kind, Texture};
use crate::picture::Picture;

/// An object. Lengths are in picture widths, so that a scene can be drawn at any size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its first colour, the one that captions name.
    pub colour: Colour,
    /// How it is filled.
    pub texture: Texture,
    /// Its centre, x to the right and y down from the top left corner.
    pub centre: [f32; 2],
    /// Radius of the circle around the centre that it fills.
    pub radius: f32,
    /// Clockwise turn in radians.
    pub rotation: f32,
}

/// The radii from which captions may call an object small or large.
const SMALL: f32 = 0.265;
const LARGE: f32 = 0.335;

impl Object {
    /// "small", "large", or neither.
    pub fn size_name(&self) -> Option<&'static str> {
        match self.radius {
            radius if radius <= SMALL => Some("small"),
            radius if radius >= LARGE => Some("large"),
            _ => None,
        }
    }

    /// Draws it over a square picture. Only coverage comes from 8 bits; colours stay `f32`, so that nothing shows bands.
    pub(super) fn draw_over(&self, picture: &mut Picture) {
        let size = picture.width;
        let Some(mut mask) = Mask::new(size as u32, size as u32) else { return };
        let (sin, cos) = self.rotation.sin_cos();
        let scale = self.radius * size as f32;
        let [left, top] = self.centre.map(|place| place * size as f32);
        let place = Transform::from_row(scale * cos, scale * sin, -scale * sin, scale * cos, left, top);
        mask.fill_path(&self.kind.outline(), FillRule::EvenOdd, true, place);

        let pixel = 1.0 / size as f32;
        let (colour, shade) = (self.colour.rgb(), self.colour.shade());
        for (i, &coverage) in mask.data().iter().enumerate().filter(|(_, coverage)| **coverage > 0) {
            let x = ((i % size) as f32 + 0.5) * pixel - self.centre[0];
            let y = ((i / size) as f32 + 0.5) * pixel - self.centre[1];
            let shaded = self.texture.shade(x * cos + y * sin, y * cos - x * sin, self.radius, pixel);
            let opacity = f32::from(coverage) / 255.0;
            for channel in 0..3 {
                let fill = colour[channel] + shaded * (shade[channel] - colour[channel]);
                let value = &mut picture.data[channel * size * size + i];
                *value += opacity * (fill - *value);
            }
        }
    }
}
