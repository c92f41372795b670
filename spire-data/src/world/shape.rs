//! The kinds of objects and their outlines.

use std::f32::consts::{PI, TAU};

use serde::{Deserialize, Serialize};
use tiny_skia::{Path, PathBuilder};

/// What an object is. Some grow alike under blur: disc, pentagon and hexagon; star, diamond and triangle; and among the
/// letters E and F, A and H, C and O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    Disc,
    Square,
    Diamond,
    Triangle,
    Pentagon,
    Hexagon,
    Star,
    Cross,
    Ring,
    Heart,
    Crescent,
    Arrow,
    LetterA,
    LetterC,
    LetterE,
    LetterF,
    LetterH,
    LetterO,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Disc,
        Self::Square,
        Self::Diamond,
        Self::Triangle,
        Self::Pentagon,
        Self::Hexagon,
        Self::Star,
        Self::Cross,
        Self::Ring,
        Self::Heart,
        Self::Crescent,
        Self::Arrow,
        Self::LetterA,
        Self::LetterC,
        Self::LetterE,
        Self::LetterF,
        Self::LetterH,
        Self::LetterO,
    ];

    /// The noun in captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Square => "square",
            Self::Diamond => "diamond",
            Self::Triangle => "triangle",
            Self::Pentagon => "pentagon",
            Self::Hexagon => "hexagon",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Ring => "ring",
            Self::Heart => "heart",
            Self::Crescent => "crescent",
            Self::Arrow => "arrow",
            Self::LetterA => "letter a",
            Self::LetterC => "letter c",
            Self::LetterE => "letter e",
            Self::LetterF => "letter f",
            Self::LetterH => "letter h",
            Self::LetterO => "letter o",
        }
    }

    /// The outline within the unit circle, y down, to be filled by the even-odd rule.
    pub(super) fn outline(self) -> Path {
        let mut path = PathBuilder::new();
        match self {
            Self::Disc => path.push_circle(0.0, 0.0, 0.92),
            Self::Square => polygon(&mut path, [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]),
            Self::Diamond => polygon(&mut path, [(0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)]),
            Self::Triangle => polygon(&mut path, corners(3, |_| 1.0)),
            Self::Pentagon => polygon(&mut path, corners(5, |_| 1.0)),
            Self::Hexagon => polygon(&mut path, corners(6, |_| 0.97)),
            Self::Star => polygon(&mut path, corners(10, |i| if i % 2 == 0 { 1.0 } else { 0.43 })),
            Self::Cross => {
                let (long, wide) = (0.95, 0.29);
                let arm = [(-wide, -wide), (-wide, -long), (wide, -long)];
                let quarter = |turns: usize| {
                    arm.map(|(x, y)| match turns {
                        0 => (x, y),
                        1 => (-y, x),
                        2 => (-x, -y),
                        _ => (y, -x),
                    })
                };
                polygon(&mut path, (0..4).flat_map(quarter));
            }
            Self::Ring => {
                path.push_circle(0.0, 0.0, 0.95);
                path.push_circle(0.0, 0.0, 0.52);
            }
            Self::Heart => {
                path.move_to(0.0, 0.95);
                path.cubic_to(-0.57, 0.52, -0.9, 0.2, -0.9, -0.22);
                path.cubic_to(-0.9, -0.9, -0.2, -0.9, 0.0, -0.38);
                path.cubic_to(0.2, -0.9, 0.9, -0.9, 0.9, -0.22);
                path.cubic_to(0.9, 0.2, 0.57, 0.52, 0.0, 0.95);
                path.close();
            }
            Self::Crescent => {
                // Two circles through the horns (0.35, ±0.9): the unit one, and one further right.
                let horn = 0.9_f32.atan2(0.35);
                let outer = arc((0.0, 0.0), (0.966, 0.966), horn, TAU - horn);
                let (centre, radius) = (0.65, 0.95);
                let bite = 0.9_f32.atan2(0.35 - centre);
                let inner = arc((centre, 0.0), (radius, radius), TAU - bite, bite);
                polygon(&mut path, outer.chain(inner));
            }
            Self::Arrow => polygon(
                &mut path,
                [(-0.95, -0.25), (0.1, -0.25), (0.1, -0.75), (0.97, 0.0), (0.1, 0.75), (0.1, 0.25), (-0.95, 0.25)],
            ),
            Self::LetterA => {
                let right = [(0.17, -0.72), (0.69, 0.72), (0.33, 0.72), (0.24, 0.46)];
                let left = right.iter().rev().map(|&(x, y)| (-x, y));
                polygon(&mut path, right.into_iter().chain(left));
                polygon(&mut path, [(0.0, -0.26), (0.15, 0.17), (-0.15, 0.17)]);
            }
            Self::LetterC => {
                let (outer, inner) = ((0.68, 0.95), (0.34, 0.6));
                let gap = 0.22 * PI;
                let forth = arc((0.0, 0.0), outer, gap, TAU - gap);
                let back = arc((0.0, 0.0), inner, TAU - gap, gap);
                polygon(&mut path, forth.chain(back));
            }
            Self::LetterE => {
                let arm =
                    |y: f32, reach: f32| [(-0.24, y - 0.15), (reach, y - 0.15), (reach, y + 0.15), (-0.24, y + 0.15)];
                let arms = [arm(-0.63, 0.56), arm(0.0, 0.42), arm(0.63, 0.56)].concat();
                let stem = [(-0.58, 0.78), (-0.58, -0.78)];
                polygon(&mut path, arms.into_iter().chain(stem));
            }
            Self::LetterF => {
                let arm =
                    |y: f32, reach: f32| [(-0.24, y - 0.15), (reach, y - 0.15), (reach, y + 0.15), (-0.24, y + 0.15)];
                let arms = [arm(-0.63, 0.56), arm(0.0, 0.42)].concat();
                let stem = [(-0.24, 0.78), (-0.58, 0.78), (-0.58, -0.78)];
                polygon(&mut path, arms.into_iter().chain(stem));
            }
            Self::LetterH => {
                let right = [(0.26, -0.15), (0.26, -0.78), (0.6, -0.78), (0.6, 0.78), (0.26, 0.78), (0.26, 0.15)];
                let left = right.map(|(x, y)| (-x, -y));
                polygon(&mut path, right.into_iter().chain(left));
            }
            Self::LetterO => {
                polygon(&mut path, arc((0.0, 0.0), (0.68, 0.95), 0.0, TAU));
                polygon(&mut path, arc((0.0, 0.0), (0.34, 0.6), 0.0, TAU));
            }
        }
        path.finish().expect("every kind draws a finite outline")
    }
}

fn polygon(path: &mut PathBuilder, points: impl IntoIterator<Item = (f32, f32)>) {
    for (i, (x, y)) in points.into_iter().enumerate() {
        if i == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    path.close();
}

/// `count` points around the centre, clockwise from the top, the i-th at distance `radius(i)`.
fn corners(count: usize, radius: impl Fn(usize) -> f32) -> impl Iterator<Item = (f32, f32)> {
    (0..count).map(move |i| {
        let (sin, cos) = (TAU * i as f32 / count as f32).sin_cos();
        (radius(i) * sin, -radius(i) * cos)
    })
}

/// Points along an ellipse, close enough to pass for a curve.
fn arc(centre: (f32, f32), radius: (f32, f32), from: f32, to: f32) -> impl Iterator<Item = (f32, f32)> {
    const STEPS: usize = 48;
    (0..=STEPS).map(move |i| {
        let (sin, cos) = (from + (to - from) * i as f32 / STEPS as f32).sin_cos();
        (centre.0 + radius.0 * cos, centre.1 + radius.1 * sin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_skia::{FillRule, Mask, Transform};

    const SIZE: usize = 64;

    /// Coverage of `kind` in the middle, with a unit circle of this many pixels.
    fn coverage(kind: Kind, radius: f32) -> Vec<f32> {
        let mut mask = Mask::new(SIZE as u32, SIZE as u32).unwrap();
        let place = Transform::from_row(radius, 0.0, 0.0, radius, 32.0, 32.0);
        mask.fill_path(&kind.outline(), FillRule::EvenOdd, true, place);
        mask.data().iter().map(|&byte| f32::from(byte) / 255.0).collect()
    }

    fn blur(mut plane: Vec<f32>) -> Vec<f32> {
        for _ in 0..20 {
            for stride in [1, SIZE] {
                let old = plane.clone();
                for i in stride..old.len() - stride {
                    plane[i] = (old[i - stride] + old[i] + old[i + stride]) / 3.0;
                }
            }
        }
        plane
    }

    fn gap(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    }

    #[test]
    fn outlines_fill_the_unit_circle_and_stay_inside() {
        for kind in Kind::ALL {
            let plane = coverage(kind, 28.0);
            let reach = |i: usize| ((i % SIZE) as f32 - 31.5).hypot((i / SIZE) as f32 - 31.5);
            let far = (0..plane.len()).filter(|&i| plane[i] > 0.0).map(reach).fold(0.0, f32::max);
            assert!((24.0..29.0).contains(&far), "{kind:?} reaches {far} of 28 pixels");
            let area = plane.iter().sum::<f32>() / (28.0 * 28.0);
            assert!((0.9..3.0).contains(&area), "{kind:?} has area {area}");
        }
    }

    #[test]
    fn kinds_differ_and_some_grow_alike_under_blur() {
        // As large as the smallest objects of a scene of 64 pixels.
        let sharp = Kind::ALL.map(|kind| coverage(kind, 11.0));
        for (i, a) in sharp.iter().enumerate() {
            for (b, other) in sharp.iter().zip(Kind::ALL).skip(i + 1) {
                assert!(gap(a, b) > 3.5, "{:?} and {other:?}: {}", Kind::ALL[i], gap(a, b));
            }
        }
        use Kind::{Diamond, Disc, Hexagon, Pentagon, Star, Triangle};
        for alike in [[Disc, Pentagon], [Disc, Hexagon], [Pentagon, Hexagon], [Diamond, Star], [Triangle, Star]] {
            let [a, b] = alike.map(|kind| coverage(kind, 11.0));
            let sharp = gap(&a, &b);
            assert!(gap(&blur(a), &blur(b)) < 0.2 * sharp, "{alike:?}");
        }
    }
}
