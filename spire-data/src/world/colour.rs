//! The colours of objects.

use serde::{Deserialize, Serialize};

/// A colour that an object has and its caption names; all far apart in sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    White,
    Black,
}

/// How far the second colour of a texture lies from the first one, towards black (for black, towards white).
const TEXTURE_CONTRAST: f32 = 0.35;

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 8] =
        [Self::Red, Self::Orange, Self::Yellow, Self::Green, Self::Blue, Self::Purple, Self::White, Self::Black];

    /// The word in captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::White => "white",
            Self::Black => "black",
        }
    }

    /// sRGB in \[0, 1\].
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.86, 0.13, 0.12],
            Self::Orange => [0.97, 0.53, 0.08],
            Self::Yellow => [0.97, 0.87, 0.16],
            Self::Green => [0.13, 0.62, 0.22],
            Self::Blue => [0.13, 0.32, 0.88],
            Self::Purple => [0.55, 0.17, 0.68],
            Self::White => [0.97, 0.97, 0.97],
            Self::Black => [0.07, 0.07, 0.08],
        }
    }

    /// The second colour of a texture, sRGB in \[0, 1\].
    pub fn shade(self) -> [f32; 3] {
        let target = if self == Self::Black { 1.0 } else { 0.0 };
        self.rgb().map(|value| value + TEXTURE_CONTRAST * (target - value))
    }
}

/// Euclidean distance in sRGB.
pub(super) fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_far_apart_with_and_without_texture() {
        for (i, a) in Colour::ALL.into_iter().enumerate() {
            for b in &Colour::ALL[i + 1..] {
                assert!(distance(a.rgb(), b.rgb()) > 0.3, "{a:?} {b:?}");
                assert!(distance(a.shade(), b.shade()) > 0.2, "{a:?} {b:?}");
            }
        }
    }
}
