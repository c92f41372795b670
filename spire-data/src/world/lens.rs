//! How a scene was photographed: out of focus, or on grainy film. Both belong to the clean picture, as bokeh does (paper,
//! introduction), and captions say nothing of them: whether softness and grain are to be taken away, a restoration prompt
//! alone can tell.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::degrade::blur::gaussian_blur;
use crate::degrade::noise::gaussian_noise;
use crate::picture::Picture;
use crate::rng::{Rng, rng};

/// What the camera does to a scene.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// Standard deviation of the Gaussian that spreads every point, in picture widths; 0: in focus.
    pub softness: f32,
    /// Standard deviation of the grain, of a picture in \[0, 1\]; 0: none.
    pub grain: f32,
    /// Decides the grain.
    pub seed: u64,
}

/// Each of the two befalls this share of the scenes, one regardless of the other.
const SHARE: f64 = 0.35;
/// 0.6 to 3.2 pixels of 64.
const SOFTNESS: (f32, f32) = (0.01, 0.05);
const GRAIN: (f32, f32) = (0.03, 0.2);

impl Lens {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let mut share = |(low, high): (f32, f32)| {
            let strength = rng.random_range(low..=high);
            if rng.random_bool(SHARE) { strength } else { 0.0 }
        };
        Self { softness: share(SOFTNESS), grain: share(GRAIN), seed: rng.random() }
    }

    /// The scene as the camera gives it.
    pub(super) fn take(&self, mut picture: Picture) -> Picture {
        if self.softness > 0.0 {
            picture = gaussian_blur(&picture, self.softness * picture.width as f32);
        }
        if self.grain > 0.0 {
            picture = gaussian_noise(&picture, self.grain, false, &mut rng(self.seed, "grain", 0));
        }
        picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> Picture {
        let data = (0..3 * 64 * 64).map(|i| if i % 64 < 32 { 0.3 } else { 0.7 }).collect();
        Picture { width: 64, height: 64, data }
    }

    #[test]
    fn in_focus_and_without_grain_nothing_changes() {
        assert_eq!(Lens::default().take(edge()), edge());
    }

    #[test]
    fn softness_spreads_an_edge_and_grain_has_its_strength() {
        let steepest = |softness: f32| {
            let picture = Lens { softness, ..Lens::default() }.take(edge());
            picture.plane(0).windows(2).map(|pair| pair[1] - pair[0]).fold(0.0_f32, f32::max)
        };
        assert!(steepest(0.0) > steepest(0.01) && steepest(0.01) > 2.0 * steepest(0.05));
        let grainy = Lens { grain: 0.05, seed: 3, ..Lens::default() }.take(edge());
        let square = |(a, b): (&f32, &f32)| (a - b).powi(2);
        let variance = grainy.data.iter().zip(edge().data.iter()).map(square).sum::<f32>() / grainy.data.len() as f32;
        assert!((variance.sqrt() - 0.05).abs() < 0.002, "{}", variance.sqrt());
    }

    #[test]
    fn about_a_third_of_the_scenes_is_soft_and_about_a_third_grainy() {
        let lenses: Vec<_> = (0..2000).map(|i| Lens::random(&mut rng(0, "lens", i))).collect();
        for strengths in [|lens: &Lens| lens.softness, |lens: &Lens| lens.grain] {
            let count = lenses.iter().filter(|lens| strengths(lens) > 0.0).count();
            assert!((640..760).contains(&count), "{count} of 2000");
        }
    }
}
