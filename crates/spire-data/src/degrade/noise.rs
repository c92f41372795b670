//! Gaussian and Poisson noise, per colour or the same on all three, as in BasicSR's `degradations.py`.

use rand::RngExt;
use rand_distr::StandardNormal;

use super::simd::vectorized;
use crate::Picture;
use crate::rng::Rng;

/// Adds Gaussian noise of standard deviation `sigma` (on a \[0, 1\] picture) and clamps to \[0, 1\]. `gray` noise is
/// the same on the three colours.
pub fn gaussian_noise(picture: &Picture, sigma: f32, gray: bool, rng: &mut Rng) -> Picture {
    let mut normal = || sigma * rng.sample::<f32, _>(StandardNormal);
    let drawn = if gray { picture.width * picture.height } else { picture.data.len() };
    let noise: Vec<f32> = std::iter::repeat_with(&mut normal).take(drawn).collect();
    add(picture, &noise)
}

/// Adds `scale` times the noise of counting photons and clamps to \[0, 1\]. `gray` noise is the same on the three
/// colours and follows the luma.
///
/// The picture is rounded to 8 bits, and a value is counted as `value * levels` photons, `levels` being the number of
/// different values in it, rounded up to a power of two.
pub fn poisson_noise(picture: &Picture, scale: f32, gray: bool, rng: &mut Rng) -> Picture {
    let bytes: Vec<u8> =
        vectorized(|| if gray { luma(picture) } else { picture.data.iter().map(|&value| to_byte(value)).collect() });
    let mut present = [false; 256];
    bytes.iter().for_each(|&byte| present[usize::from(byte)] = true);
    let levels = present.iter().filter(|&&seen| seen).count().next_power_of_two() as f64;
    let table = |byte: usize| present[byte].then(|| Counts::new(byte as f64 / 255.0 * levels));
    let counts: Vec<Option<Counts>> = (0..256).map(table).collect();
    let noise: Vec<f32> = bytes
        .iter()
        .map(|&byte| {
            let count = counts[usize::from(byte)].as_ref().map_or(0.0, |counts| counts.draw(rng.random()));
            scale * (f64::from(count) / levels - f64::from(byte) / 255.0) as f32
        })
        .collect();
    add(picture, &noise)
}

/// The Poisson distribution of one mean as a table: a picture has few means and many draws.
struct Counts {
    lowest: usize,
    /// Probability of at most `lowest + i`.
    cumulative: Vec<f32>,
    /// Where to start looking for each 64th of the probability.
    guide: [u16; GUIDES],
}

const GUIDES: usize = 64;

impl Counts {
    /// Of a mean from 0 to 256. Counts that come once in 10¹⁵ draws are left out.
    fn new(mean: f64) -> Self {
        let mode = mean as usize;
        let reach = (9.0 * mean.sqrt()) as usize + 20;
        let lowest = mode.saturating_sub(reach);
        // Relative to the most likely count, by the recursion p(k + 1) = p(k) · mean / (k + 1).
        let mut below = vec![];
        let mut relative = 1.0;
        for count in (lowest..mode).rev() {
            relative *= (count + 1) as f64 / mean;
            below.push(relative);
        }
        let mut probabilities: Vec<f64> = below.into_iter().rev().chain([1.0]).collect();
        relative = 1.0;
        for count in mode + 1..=mode + reach {
            relative *= mean / count as f64;
            probabilities.push(relative);
        }
        let total: f64 = probabilities.iter().sum();
        let mut sum = 0.0;
        let mut cumulative: Vec<f32> = probabilities
            .into_iter()
            .map(|probability| {
                sum += probability / total;
                sum as f32
            })
            .collect();
        // A draw below 1 always finds its count.
        *cumulative.last_mut().expect("the mode at least") = 1.0;
        let first = |share: f32| cumulative.partition_point(|&probability| probability <= share) as u16;
        let guide = std::array::from_fn(|i| first(i as f32 / GUIDES as f32));
        Self { lowest, cumulative, guide }
    }

    /// The count for `uniform` in \[0, 1).
    fn draw(&self, uniform: f32) -> f32 {
        let mut i = usize::from(self.guide[(uniform * GUIDES as f32) as usize]);
        while self.cumulative[i] <= uniform {
            i += 1;
        }
        (self.lowest + i) as f32
    }
}

/// Adds noise for three planes, or that of one plane to all three.
fn add(picture: &Picture, noise: &[f32]) -> Picture {
    let mut noisy = picture.clone();
    for part in noisy.data.chunks_exact_mut(noise.len().max(1)) {
        part.iter_mut().zip(noise).for_each(|(value, noise)| *value = (*value + noise).clamp(0.0, 1.0));
    }
    noisy
}

/// ITU-R 601 luma in 8 bits, with torchvision's coefficients.
#[inline(always)]
fn luma(picture: &Picture) -> Vec<u8> {
    let (red, green, blue) = (picture.plane(0), picture.plane(1), picture.plane(2));
    let pixels = red.iter().zip(green).zip(blue);
    pixels.map(|((r, g), b)| to_byte(0.2989 * r + 0.587 * g + 0.114 * b)).collect()
}

#[inline(always)]
fn to_byte(value: f32) -> u8 {
    (value * 255.0).round_ties_even().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng;

    fn noise_of(noisy: &Picture, picture: &Picture) -> Vec<f64> {
        noisy.data.iter().zip(&picture.data).map(|(a, b)| f64::from(a - b)).collect()
    }

    fn deviation(values: &[f64]) -> f64 {
        (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
    }

    fn planes_agree(noise: &[f64]) -> bool {
        let area = noise.len() / 3;
        (0..area).all(|i| (noise[i] - noise[area + i]).abs() < 1e-6 && (noise[i] - noise[2 * area + i]).abs() < 1e-6)
    }

    #[test]
    fn gaussian_noise_has_its_sigma() {
        let picture = Picture::filled(64, 64, [0.5; 3]);
        for gray in [false, true] {
            let noise = noise_of(&gaussian_noise(&picture, 0.06, gray, &mut rng(0, "test", 0)), &picture);
            assert!((deviation(&noise) - 0.06).abs() < 0.003, "{}", deviation(&noise));
            assert_eq!(planes_agree(&noise), gray);
        }
    }

    #[test]
    fn poisson_noise_has_the_variance_of_counting() {
        let mut picture = Picture::filled(64, 64, [0.4; 3]);
        for (i, value) in picture.data.iter_mut().take(60).enumerate() {
            *value = i as f32 / 255.0;
        }
        // 61 different values, and about 20 different lumas.
        for (gray, levels) in [(false, 64.0_f64), (true, 32.0)] {
            let noise = noise_of(&poisson_noise(&picture, 0.5, gray, &mut rng(0, "test", 1)), &picture);
            let want = 0.5 * (0.4 / levels).sqrt();
            let got = deviation(&noise[2 * 64 * 64 + 60..]);
            assert!((got - want).abs() < 0.05 * want, "gray {gray}: {got} and {want}");
            if gray {
                let area = 64 * 64;
                assert!((60..area).all(|i| (noise[i] - noise[area + i]).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn the_table_is_the_poisson_distribution() {
        for mean in [0.0_f64, 0.01, 1.0, 3.7, 40.0, 256.0] {
            let counts = Counts::new(mean);
            let draws = 200_000;
            let drawn: Vec<f64> = (0..draws).map(|i| f64::from(counts.draw((i as f32 + 0.5) / draws as f32))).collect();
            let average = drawn.iter().sum::<f64>() / f64::from(draws);
            let variance = drawn.iter().map(|count| (count - average).powi(2)).sum::<f64>() / f64::from(draws);
            assert!((average - mean).abs() < 1e-3 * mean.max(0.1), "{mean}: mean {average}");
            assert!((variance - mean).abs() < 5e-3 * mean.max(0.1), "{mean}: variance {variance}");
            let none = drawn.iter().filter(|&&count| count == 0.0).count() as f64 / f64::from(draws);
            assert!((none - (-mean).exp()).abs() < 1e-4, "{mean}: {none}");
            assert!(counts.draw(1.0_f32.next_down()).is_finite());
        }
    }

    #[test]
    fn black_stays_black_under_poisson_noise() {
        let black = Picture::filled(8, 8, [0.0; 3]);
        assert_eq!(poisson_noise(&black, 3.0, false, &mut rng(0, "test", 2)), black);
    }

    #[test]
    fn values_stay_in_range() {
        let white = Picture::filled(16, 16, [1.0; 3]);
        for noisy in [
            gaussian_noise(&white, 0.3, true, &mut rng(0, "test", 3)),
            poisson_noise(&white, 3.0, true, &mut rng(0, "test", 4)),
        ] {
            assert!(noisy.data.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }
}
