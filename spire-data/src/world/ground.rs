//! What lies behind the objects: eighteen places in plain colours, gradients and mild texture. Nothing here is random
//! once it is chosen.

use std::f32::consts::TAU;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use crate::degrade::blur::gaussian_blur;
use crate::picture::Picture;
use crate::rng::Rng;

/// The place of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Place {
    BlueSky,
    EveningSky,
    NightSky,
    Meadow,
    AutumnMeadow,
    Sand,
    Snow,
    Water,
    WhiteWall,
    GreyWall,
    RedWall,
    YellowWall,
    GreenWall,
    BlueWall,
    PinkWall,
    Wood,
    DarkWood,
    Bamboo,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 18] = [
        Self::BlueSky,
        Self::EveningSky,
        Self::NightSky,
        Self::Meadow,
        Self::AutumnMeadow,
        Self::Sand,
        Self::Snow,
        Self::Water,
        Self::WhiteWall,
        Self::GreyWall,
        Self::RedWall,
        Self::YellowWall,
        Self::GreenWall,
        Self::BlueWall,
        Self::PinkWall,
        Self::Wood,
        Self::DarkWood,
        Self::Bamboo,
    ];

    /// Where an object is, in captions: "by the bamboo".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::BlueSky => "under a blue sky",
            Self::EveningSky => "under an evening sky",
            Self::NightSky => "under a night sky",
            Self::Meadow => "on a meadow",
            Self::AutumnMeadow => "on an autumn meadow",
            Self::Sand => "on the sand",
            Self::Snow => "in the snow",
            Self::Water => "by the water",
            Self::WhiteWall => "in front of a white wall",
            Self::GreyWall => "in front of a grey wall",
            Self::RedWall => "in front of a red wall",
            Self::YellowWall => "in front of a yellow wall",
            Self::GreenWall => "in front of a green wall",
            Self::BlueWall => "in front of a blue wall",
            Self::PinkWall => "in front of a pink wall",
            Self::Wood => "in front of wooden planks",
            Self::DarkWood => "in front of dark planks",
            Self::Bamboo => "by the bamboo",
        }
    }

    /// Its two colours, sRGB in \[0, 1\]: of a sky the top and the horizon; of a landscape what is above the horizon and
    /// what is below; of a wall, planks and bamboo the surface and its joints.
    fn colours(self) -> [[f32; 3]; 2] {
        let hex = |rgb: u32| [16, 8, 0].map(|shift| (rgb >> shift & 0xff) as f32 / 255.0);
        let [a, b] = match self {
            Self::BlueSky => [0x5fa8e6, 0xc4e2f6],
            Self::EveningSky => [0x8a6fb5, 0xf7b98a],
            Self::NightSky => [0x141a3c, 0x35467c],
            Self::Meadow => [0xbfe0f5, 0x7fb95c],
            Self::AutumnMeadow => [0xe9e3d0, 0xc9a24e],
            Self::Sand => [0xa9d8f0, 0xe8d3a0],
            Self::Snow => [0xaec6dd, 0xf2f6fa],
            Self::Water => [0xd3e9f2, 0x3f8fb8],
            Self::WhiteWall => [0xe9e7e2, 0xcfccc4],
            Self::GreyWall => [0x8f949b, 0x787c83],
            Self::RedWall => [0xb4685a, 0x99574b],
            Self::YellowWall => [0xe8cf83, 0xd0b768],
            Self::GreenWall => [0x86ad8a, 0x6f9673],
            Self::BlueWall => [0x7d9bc7, 0x6683b0],
            Self::PinkWall => [0xe3b3bd, 0xcd99a5],
            Self::Wood => [0xc79a66, 0x9a7146],
            Self::DarkWood => [0x6d4b34, 0x4c3323],
            Self::Bamboo => [0xa5c45f, 0x5b8236],
        };
        [hex(a), hex(b)]
    }
}

/// The background of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ground {
    /// The place.
    pub place: Place,
    /// Where its texture starts, in picture widths.
    pub offset: [f32; 2],
    /// Added to all values: the light differs a little from scene to scene.
    pub light: f32,
    /// Height of the horizon of a landscape, in picture heights from the top.
    pub horizon: f32,
    /// Standard deviation of the Gaussian that blurs it behind sharp objects (bokeh), in picture widths; 0: none.
    pub blur: f32,
}

/// This share of the backgrounds is out of focus,
const BLURRED: f64 = 0.3;
/// by 1.3 to 2.6 pixels of 64.
const BLUR: (f32, f32) = (0.02, 0.04);
const LIGHT: f32 = 0.04;
const HORIZON: (f32, f32) = (0.28, 0.5);
/// Brightness of texture, above and below the colour.
const TEXTURE: f32 = 0.035;

impl Ground {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let place = *Place::ALL.choose(rng).expect("there are places");
        let blur = rng.random_range(BLUR.0..=BLUR.1);
        Self {
            place,
            offset: [rng.random(), rng.random()],
            light: rng.random_range(-LIGHT..=LIGHT),
            horizon: rng.random_range(HORIZON.0..=HORIZON.1),
            blur: if rng.random_bool(BLURRED) { blur } else { 0.0 },
        }
    }

    /// A picture of `size` × `size` pixels.
    pub(super) fn draw(&self, size: usize) -> Picture {
        let mut picture = Picture::filled(size, size, [0.0; 3]);
        let place = |i: usize| (i as f32 + 0.5) / size as f32;
        for y in 0..size {
            for x in 0..size {
                let colour = self.colour(place(x), place(y), 1.0 / size as f32);
                for (channel, value) in colour.into_iter().enumerate() {
                    picture.data[(channel * size + y) * size + x] = (value + self.light).clamp(0.0, 1.0);
                }
            }
        }
        if self.blur > 0.0 { gaussian_blur(&picture, self.blur * size as f32) } else { picture }
    }

    /// The colour at (`x`, `y`) in picture widths; edges are smoothed over one `pixel`.
    fn colour(&self, x: f32, y: f32, pixel: f32) -> [f32; 3] {
        let [first, second] = self.place.colours();
        let [u, v] = [x + self.offset[0], y + self.offset[1]];
        // What of the second colour shows, and how much brighter the texture makes it.
        let (share, bright) = match self.place {
            Place::BlueSky | Place::EveningSky | Place::NightSky => (y, 0.7 * TEXTURE * clouds(u, v)),
            Place::Meadow | Place::AutumnMeadow => {
                let below = covered(y - self.horizon, pixel);
                (below, below * TEXTURE * (wave(v, 0.21) + 0.8 * wave(u + 0.1 * wave(v, 0.3), 0.13) - 1.2 * (1.0 - y)))
            }
            Place::Sand | Place::Snow => {
                let below = covered(y - self.horizon - 0.02 * wave(u, 0.8), pixel);
                (below, below * TEXTURE * wave(v + 0.04 * wave(u, 0.7), 0.22))
            }
            Place::Water => {
                let below = covered(y - self.horizon, pixel);
                (below, below * 1.4 * TEXTURE * wave(v + 0.025 * wave(u, 0.33), 0.16))
            }
            Place::Wood | Place::DarkWood => {
                let grain = wave(v + 0.06 * wave(u, 1.3), 0.083);
                (0.8 * joint(v, 0.25, 0.012, pixel), 0.6 * TEXTURE * (grain + (TAU * (v / 0.25).floor() * 0.37).sin()))
            }
            Place::Bamboo => {
                let stalk = 0.17;
                let across = (u / stalk).rem_euclid(1.0) - 0.5;
                let node = joint(v + 0.31 * (u / stalk).floor(), 0.42, 0.014, pixel);
                let gap = covered(across.abs() - 0.41, pixel / stalk);
                (gap.max(0.75 * node), TEXTURE * (1.5 - 10.0 * (across + 0.1).powi(2)))
            }
            _ => {
                let row = (v / 0.16).floor();
                let bricks = joint(v, 0.16, 0.01, pixel).max(joint(u + 0.16 * row.rem_euclid(2.0), 0.32, 0.01, pixel));
                (0.5 * bricks, TEXTURE * (1.0 - 2.0 * y))
            }
        };
        std::array::from_fn(|c| first[c] + share * (second[c] - first[c]) + bright)
    }
}

/// A sine of this period.
fn wave(x: f32, period: f32) -> f32 {
    (TAU * x / period).sin()
}

/// Soft blobs in \[-1, 1\].
fn clouds(u: f32, v: f32) -> f32 {
    wave(u + 0.12 * wave(v, 0.9), 0.62) * wave(v + 0.08 * wave(u, 0.7), 0.41)
}

/// 0 before an edge and 1 behind it, smoothed over one `pixel`.
fn covered(inside: f32, pixel: f32) -> f32 {
    (0.5 + inside / pixel).clamp(0.0, 1.0)
}

/// 1 within `half` of a multiple of `period`, else 0, smoothed over one `pixel`.
fn joint(x: f32, period: f32, half: f32, pixel: f32) -> f32 {
    let distance = (x / period - (x / period).round()).abs() * period;
    covered(half - distance, pixel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(place: Place) -> Ground {
        Ground { place, offset: [0.3, 0.6], light: 0.0, horizon: 0.4, blur: 0.0 }
    }

    #[test]
    fn places_differ_from_one_another() {
        let pictures = Place::ALL.map(|place| ground(place).draw(64));
        for (i, a) in pictures.iter().enumerate() {
            for (b, other) in pictures.iter().zip(Place::ALL).skip(i + 1) {
                let gap = a.data.iter().zip(b.data.iter()).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                let gap = (gap / a.data.len() as f32).sqrt();
                assert!(gap > 0.05, "{:?} and {other:?}: {gap}", Place::ALL[i]);
            }
        }
    }

    #[test]
    fn a_landscape_has_its_horizon_where_it_says() {
        let picture = ground(Place::Water).draw(64);
        let green = picture.plane(1);
        let steepest = (1..64).max_by(|&a, &b| {
            let step = |y: usize| (green[64 * y] - green[64 * (y - 1)]).abs();
            step(a).total_cmp(&step(b))
        });
        assert!((24..=27).contains(&steepest.unwrap()), "{steepest:?}");
    }

    #[test]
    fn a_blurred_ground_has_weaker_edges_and_the_same_mean() {
        let sharp = ground(Place::Bamboo).draw(64);
        let soft = Ground { blur: 0.03, ..ground(Place::Bamboo) }.draw(64);
        let edges = |picture: &Picture| picture.plane(1).windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum::<f32>();
        assert!(edges(&soft) < 0.8 * edges(&sharp), "{} {}", edges(&soft), edges(&sharp));
        let mean = |picture: &Picture| picture.data.iter().sum::<f32>() / picture.data.len() as f32;
        assert!((mean(&soft) - mean(&sharp)).abs() < 0.02);
    }
}
