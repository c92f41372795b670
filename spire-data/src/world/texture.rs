//! The textures that fill objects: two colours, told apart by a pattern that is coarse enough to survive a factor 8.

use std::f32::consts::FRAC_1_SQRT_2;

use serde::{Deserialize, Serialize};

/// How an object is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Texture {
    /// One colour.
    Plain,
    /// Diagonal stripes.
    Striped,
    /// Dots on a diagonal grid.
    Dotted,
    /// A chequerboard.
    Checked,
}

/// The period of stripes and dots is half of the object's radius, but at least this many picture widths: 6.4 pixels of 64.
const FINEST_PERIOD: f32 = 0.1;
/// The radius of dots and the period of the chequerboard, in periods.
const DOT_RADIUS: f32 = 0.3;
const CHECK_PERIOD: f32 = 1.5;

impl Texture {
    /// Every texture.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Striped, Self::Dotted, Self::Checked];

    /// The word in captions; a plain fill goes unmentioned.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Striped => "striped",
            Self::Dotted => "dotted",
            Self::Checked => "checked",
        }
    }

    /// How much of the second colour shows at (`u`, `v`), in \[0, 1\], for an object of this `radius`. Lengths are in
    /// picture widths, coordinates start at the object's centre; edges are smoothed over one `pixel` (1 / size).
    pub(super) fn shade(self, u: f32, v: f32, radius: f32, pixel: f32) -> f32 {
        let period = (radius / 2.0).max(FINEST_PERIOD);
        let covered = |inside: f32| (0.5 + inside / pixel).clamp(0.0, 1.0);
        let (falling, rising) = ((u + v) * FRAC_1_SQRT_2, (u - v) * FRAC_1_SQRT_2);
        match self {
            Self::Plain => 0.0,
            Self::Striped => covered(inside_band(falling, period)),
            Self::Dotted => {
                let to_dot = |x: f32| x - period * (x / period).round();
                covered(DOT_RADIUS * period - to_dot(falling).hypot(to_dot(rising)))
            }
            Self::Checked => {
                let [column, row] = [u, v].map(|x| covered(inside_band(x, CHECK_PERIOD * period)));
                column * (1.0 - row) + row * (1.0 - column)
            }
        }
    }
}

/// How deep `x` lies within bands that are half a period wide, the first from 0 on; negative between them.
fn inside_band(x: f32, period: f32) -> f32 {
    let cycle = x / period - 0.25;
    (0.25 - (cycle - cycle.round()).abs()) * period
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_start_at_zero_and_take_half_of_the_period() {
        for (x, deep) in [(0.0, 0.0), (0.25, 0.25), (0.5, 0.0), (0.75, -0.25), (1.25, 0.25), (-0.25, -0.25)] {
            assert!((inside_band(x, 1.0) - deep).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn every_texture_but_plain_shows_both_colours() {
        for texture in Texture::ALL {
            let grid = (0..64 * 64).map(|i| ((i % 64) as f32 / 64.0, (i / 64) as f32 / 64.0));
            let mean = grid.map(|(u, v)| texture.shade(u, v, 0.25, 1.0 / 64.0)).sum::<f32>() / 4096.0;
            match texture {
                Texture::Plain => assert_eq!(mean, 0.0),
                _ => assert!((0.2..0.6).contains(&mean), "{texture:?} {mean}"),
            }
        }
    }
}
