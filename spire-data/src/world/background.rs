//! What lies behind the objects: a plain tone, a gradient, or a faint coarse pattern. Nothing here is random once chosen.

use std::f32::consts::{FRAC_PI_2, TAU};

use rand::RngExt;
use rand::seq::{IndexedRandom, index};
use serde::{Deserialize, Serialize};

use super::colour::{Colour, distance};
use crate::picture::Picture;
use crate::rng::Rng;

/// A muted colour for backgrounds, with words that no object's colour uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Tone {
    Grey,
    Cream,
    Tan,
    Pink,
    Lilac,
    Sky,
    Mint,
    Teal,
    Navy,
}

impl Tone {
    /// Every tone.
    pub const ALL: [Self; 9] =
        [Self::Grey, Self::Cream, Self::Tan, Self::Pink, Self::Lilac, Self::Sky, Self::Mint, Self::Teal, Self::Navy];

    /// The word in captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grey => "grey",
            Self::Cream => "cream",
            Self::Tan => "tan",
            Self::Pink => "pink",
            Self::Lilac => "lilac",
            Self::Sky => "sky",
            Self::Mint => "mint",
            Self::Teal => "teal",
            Self::Navy => "navy",
        }
    }

    /// sRGB in \[0, 1\].
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Grey => [0.58, 0.59, 0.61],
            Self::Cream => [0.95, 0.91, 0.78],
            Self::Tan => [0.78, 0.66, 0.50],
            Self::Pink => [0.93, 0.72, 0.78],
            Self::Lilac => [0.76, 0.68, 0.88],
            Self::Sky => [0.60, 0.78, 0.94],
            Self::Mint => [0.69, 0.88, 0.75],
            Self::Teal => [0.24, 0.54, 0.56],
            Self::Navy => [0.12, 0.17, 0.36],
        }
    }

    /// Whether an object of this colour, textured or not, stands out.
    fn sets_off(self, colour: Colour) -> bool {
        distance(self.rgb(), colour.rgb()) > 0.4 && distance(self.rgb(), colour.shade()) > 0.26
    }
}

/// A faint pattern over one tone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Horizontal waves.
    Wavy,
    /// Soft blobs.
    Mottled,
    /// Courses of bricks.
    Brick,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Self; 3] = [Self::Wavy, Self::Mottled, Self::Brick];

    /// The adjective in captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wavy => "wavy",
            Self::Mottled => "mottled",
            Self::Brick => "brick",
        }
    }

    /// Brightness in \[-1, 1\] at (`x`, `y`) in picture widths.
    fn height(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Wavy => (TAU * (y / 0.2 + 0.25 * (TAU * x / 0.5).sin())).sin(),
            Self::Mottled => {
                let a = (TAU * (x / 0.31 + 0.2 * (TAU * y / 0.9).sin())).sin();
                let b = (TAU * (y / 0.27 + 0.2 * (TAU * x / 0.7).sin())).sin();
                a * b
            }
            Self::Brick => {
                let row = (y / 0.18).floor();
                let column = x / 0.36 + 0.5 * row.rem_euclid(2.0);
                let to_joint = |cycle: f32| (cycle - cycle.round()).abs();
                let nearest = (0.18 * to_joint(y / 0.18)).min(0.36 * to_joint(column));
                (nearest / 0.016).min(2.0) - 1.0
            }
        }
    }
}

/// Brightness of a pattern, above and below its tone.
const PATTERN_AMPLITUDE: f32 = 0.04;

/// The background of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "style")]
pub enum Background {
    /// One tone all over.
    Plain {
        /// The tone.
        tone: Tone,
    },
    /// From one tone to another across the picture.
    Gradient {
        /// The tone at the left, at the top, or in the corner between.
        from: Tone,
        /// The tone at the other end.
        to: Tone,
        /// Direction in radians: 0 runs to the right, π/2 downwards.
        angle: f32,
    },
    /// A faint pattern over one tone.
    Patterned {
        /// The tone.
        tone: Tone,
        /// The pattern.
        pattern: Pattern,
        /// Where the pattern starts, in picture widths.
        offset: [f32; 2],
    },
}

impl Background {
    /// One that sets off objects of these colours.
    pub(super) fn random(rng: &mut Rng, colours: &[Colour]) -> Self {
        let tones = tones_behind(colours);
        let two = index::sample(rng, tones.len(), 2);
        let (tone, other) = (tones[two.index(0)], tones[two.index(1)]);
        match rng.random_range(0..3) {
            0 => Self::Plain { tone },
            1 => Self::Gradient { from: tone, to: other, angle: rng.random_range(0.0..=FRAC_PI_2) },
            _ => {
                let pattern = *Pattern::ALL.choose(rng).expect("there are patterns");
                Self::Patterned { tone, pattern, offset: [rng.random(), rng.random()] }
            }
        }
    }

    /// What captions call it, with its article: "a grey background", "a sky to navy gradient", "a teal brick background".
    pub fn name(&self) -> String {
        match self {
            Self::Plain { tone } => format!("a {} background", tone.name()),
            Self::Gradient { from, to, .. } => format!("a {} to {} gradient", from.name(), to.name()),
            Self::Patterned { tone, pattern, .. } => format!("a {} {} background", tone.name(), pattern.name()),
        }
    }

    /// A picture of `size` × `size` pixels.
    pub(super) fn draw(&self, size: usize) -> Picture {
        let place = |i: usize| (i as f32 + 0.5) / size as f32;
        match *self {
            Self::Plain { tone } => Picture::filled(size, size, tone.rgb()),
            Self::Gradient { from, to, angle } => {
                let (sin, cos) = angle.sin_cos();
                paint(size, |x, y| {
                    let t = (place(x) * cos + place(y) * sin) / (cos + sin);
                    std::array::from_fn(|c| from.rgb()[c] + t * (to.rgb()[c] - from.rgb()[c]))
                })
            }
            Self::Patterned { tone, pattern, offset } => paint(size, |x, y| {
                let light = PATTERN_AMPLITUDE * pattern.height(place(x) + offset[0], place(y) + offset[1]);
                tone.rgb().map(|value| (value + light).min(1.0))
            }),
        }
    }
}

/// The tones that objects of all these colours stand out from.
fn tones_behind(colours: &[Colour]) -> Vec<Tone> {
    Tone::ALL.into_iter().filter(|tone| colours.iter().all(|&colour| tone.sets_off(colour))).collect()
}

fn paint(size: usize, colour: impl Fn(usize, usize) -> [f32; 3]) -> Picture {
    let mut picture = Picture::filled(size, size, [0.0; 3]);
    for y in 0..size {
        for x in 0..size {
            for (channel, value) in colour(x, y).into_iter().enumerate() {
                picture.data[(channel * size + y) * size + x] = value;
            }
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_colours_have_tones_for_a_gradient() {
        for a in Colour::ALL {
            for b in Colour::ALL {
                let tones = tones_behind(&[a, b]);
                assert!(tones.len() >= 2, "{a:?} and {b:?} stand out from {tones:?} only");
            }
        }
    }

    #[test]
    fn patterns_are_faint_and_use_their_range() {
        for pattern in Pattern::ALL {
            let background = Background::Patterned { tone: Tone::Grey, pattern, offset: [0.3, 0.6] };
            let picture = background.draw(64);
            let (low, high) = picture.plane(0).iter().fold((1.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
            let tone = Tone::Grey.rgb()[0];
            assert!((0.03..=0.0401).contains(&(tone - low)), "{pattern:?} {low}");
            assert!((0.03..=0.0401).contains(&(high - tone)), "{pattern:?} {high}");
        }
    }

    #[test]
    fn a_gradient_runs_from_the_first_tone_to_the_second() {
        let background = Background::Gradient { from: Tone::Navy, to: Tone::Cream, angle: 0.7 };
        let red = background.draw(64);
        let red = red.plane(0);
        assert!((red[0] - Tone::Navy.rgb()[0]).abs() < 0.02);
        assert!((red[64 * 64 - 1] - Tone::Cream.rgb()[0]).abs() < 0.02);
        assert!(red.windows(2).enumerate().all(|(i, pair)| i % 64 == 63 || pair[1] > pair[0]));
    }
}
