//! Gaussian and Poisson noise, per channel or grey, as in BasicSR's `degradations.py`.

use rand::RngExt;
use rand_distr::StandardNormal;

use super::simd::vectorized;
use crate::Picture;
use crate::buffer::Buffer;
use crate::rng::Rng;

/// Adds Gaussian noise of standard deviation `sigma` (for values in \[0, 1\]) and clamps to \[0, 1\]. `gray` noise is
/// the same in all channels.
pub fn gaussian_noise(picture: &Picture, sigma: f32, gray: bool, rng: &mut Rng) -> Picture {
    let mut normal = || sigma * rng.sample::<f32, _>(StandardNormal);
    let drawn = if gray { picture.width * picture.height } else { picture.data.len() };
    let mut noise = Buffer::with_capacity(drawn);
    noise.extend(std::iter::repeat_with(&mut normal).take(drawn));
    add(picture, &noise)
}

/// Adds `scale` times Poisson (shot) noise and clamps to \[0, 1\]. `gray` noise is the same in all channels and
/// computed from the luma.
///
/// The picture is rounded to 8 bits. The Poisson mean of a value is `value * levels`, where `levels` is the number of
/// distinct values in the picture, rounded up to a power of two.
pub fn poisson_noise(picture: &Picture, scale: f32, gray: bool, rng: &mut Rng) -> Picture {
    let bytes: Vec<u8> =
        vectorized(|| if gray { luma(picture) } else { picture.data.iter().map(|&value| to_byte(value)).collect() });
    let mut present = [false; 256];
    bytes.iter().for_each(|&byte| present[usize::from(byte)] = true);
    let levels = present.iter().filter(|&&seen| seen).count().next_power_of_two() as f64;
    let table = |byte: usize| if present[byte] { Counts::new(byte as f64 / 255.0 * levels) } else { Counts::NONE };
    let counts: Vec<Counts> = (0..256).map(table).collect();
    let mut noise = Buffer::with_capacity(bytes.len());
    noise.extend(bytes.iter().map(|&byte| {
        let count = counts[usize::from(byte)].draw(rng.random());
        scale * (count / levels as f32 - f32::from(byte) / 255.0)
    }));
    add(picture, &noise)
}

/// The Poisson distribution of one mean as an alias table (Walker 1977, Vose 1991). A picture has few distinct means
/// and needs many draws.
struct Counts {
    /// The count that column 0 stands for.
    lowest: f32,
    /// Each column covers 1/256 of the probability: its own count up to a threshold (the low 24 bits), and the count of
    /// another column (the high 8 bits) above it.
    columns: [u32; 256],
}

impl Counts {
    /// A table for values that do not occur.
    const NONE: Self = Self { lowest: 0.0, columns: [0; 256] };

    /// The table for a mean from 0 to 256. Counts with a probability below 10⁻⁹ are left out.
    fn new(mean: f64) -> Self {
        // The lower tail is at most as long as a normal distribution's; above the mean the 256 columns reach beyond the
        // upper tail.
        let lowest = (mean - 6.0 * mean.sqrt()).max(0.0) as usize;
        let mode = mean as usize - lowest;
        // Probabilities relative to the mode, by the recursion p(k + 1) = p(k) · mean / (k + 1).
        let mut shares = [0.0; 256];
        shares[mode] = 1.0;
        for i in (0..mode).rev() {
            shares[i] = shares[i + 1] * (lowest + i + 1) as f64 / mean;
        }
        for i in mode + 1..256 {
            shares[i] = shares[i - 1] * mean / (lowest + i) as f64;
        }
        let total: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share *= 256.0 / total);
        Self { lowest: lowest as f32, columns: aliases(shares) }
    }

    /// The count for a uniformly distributed `uniform`.
    fn draw(&self, uniform: u32) -> f32 {
        let column = uniform >> 24;
        let entry = self.columns[column as usize];
        let chosen = if uniform & FRACTION < entry & FRACTION { column } else { entry >> 24 };
        self.lowest + chosen as f32
    }
}

/// The bits of a draw that are compared with a column's threshold; the others select the column.
const FRACTION: u32 = (1 << 24) - 1;

/// Builds the alias table of `shares`, whose sum is 256: each column below 1 is filled up from one above 1.
fn aliases(mut shares: [f64; 256]) -> [u32; 256] {
    let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..256).partition(|&column| shares[column] < 1.0);
    // A column of exactly 1 is its own alias.
    let mut columns: [u32; 256] = std::array::from_fn(|column| (column as u32) << 24);
    while let (Some(poor), Some(&rich)) = (low.pop(), high.last()) {
        let threshold = (shares[poor] * f64::from(FRACTION + 1)) as u32;
        columns[poor] = (rich as u32) << 24 | threshold.min(FRACTION);
        shares[rich] -= 1.0 - shares[poor];
        if shares[rich] < 1.0 {
            high.pop();
            low.push(rich);
        }
    }
    columns
}

/// Adds three planes of noise, or one plane of noise to all channels.
fn add(picture: &Picture, noise: &[f32]) -> Picture {
    let mut noisy = picture.clone();
    vectorized(|| {
        for part in noisy.data.chunks_exact_mut(noise.len().max(1)) {
            part.iter_mut().zip(noise).for_each(|(value, noise)| *value = (*value + noise).clamp(0.0, 1.0));
        }
    });
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
    fn poisson_noise_has_the_poisson_variance() {
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
            let draws = 1 << 20;
            let drawn: Vec<f64> = (0..draws).map(|i| f64::from(counts.draw((i << 12) + (1 << 11)))).collect();
            let average = drawn.iter().sum::<f64>() / f64::from(draws);
            let variance = drawn.iter().map(|count| (count - average).powi(2)).sum::<f64>() / f64::from(draws);
            assert!((average - mean).abs() < 1e-3 * mean.max(0.1), "{mean}: mean {average}");
            assert!((variance - mean).abs() < 5e-3 * mean.max(0.1), "{mean}: variance {variance}");
            let none = drawn.iter().filter(|&&count| count == 0.0).count() as f64 / f64::from(draws);
            assert!((none - (-mean).exp()).abs() < 1e-4, "{mean}: {none}");
        }
    }

    #[test]
    fn poisson_noise_leaves_black_unchanged() {
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
