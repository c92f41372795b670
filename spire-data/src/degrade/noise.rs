//! Gaussian and Poisson noise, per colour or the same on all three, as in BasicSR's `degradations.py`.

use rand::RngExt;
use rand_distr::StandardNormal;

use super::simd::vectorized;
use crate::Picture;
use crate::buffer::Buffer;
use crate::rng::Rng;

/// Adds Gaussian noise of standard deviation `sigma` (on a \[0, 1\] picture) and clamps to \[0, 1\]. `gray` noise is
/// the same on the three colours.
pub fn gaussian_noise(picture: &Picture, sigma: f32, gray: bool, rng: &mut Rng) -> Picture {
    let mut normal = || sigma * rng.sample::<f32, _>(StandardNormal);
    let drawn = if gray { picture.width * picture.height } else { picture.data.len() };
    let mut noise = Buffer::with_capacity(drawn);
    noise.extend(std::iter::repeat_with(&mut normal).take(drawn));
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
    let table = |byte: usize| if present[byte] { Counts::new(byte as f64 / 255.0 * levels) } else { Counts::NONE };
    let counts: Vec<Counts> = (0..256).map(table).collect();
    let mut noise = Buffer::with_capacity(bytes.len());
    noise.extend(bytes.iter().map(|&byte| {
        let count = counts[usize::from(byte)].draw(rng.random());
        scale * (count / levels as f32 - f32::from(byte) / 255.0)
    }));
    add(picture, &noise)
}

/// The Poisson distribution of one mean as an alias table (Walker 1977, Vose 1991): a picture has few means and many draws.
struct Counts {
    /// The count of the first column.
    lowest: f32,
    /// Each column stands for a 256th of the probability, and holds its own count up to a threshold (the low 24 bits) and
    /// that of another column (the high 8) from there on.
    columns: [u32; 256],
}

impl Counts {
    /// Of a value that is not drawn.
    const NONE: Self = Self { lowest: 0.0, columns: [0; 256] };

    /// Of a mean from 0 to 256. Counts that come less than once in 10⁹ draws are left out.
    fn new(mean: f64) -> Self {
        // Below, the tail is that of a normal distribution or shorter; above, the columns reach farther than it.
        let lowest = (mean - 6.0 * mean.sqrt()).max(0.0) as usize;
        let mode = mean as usize - lowest;
        // Relative to the most likely count, by the recursion p(k + 1) = p(k) · mean / (k + 1).
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

    /// The count for `uniform`, every value of which is as likely.
    fn draw(&self, uniform: u32) -> f32 {
        let column = uniform >> 24;
        let entry = self.columns[column as usize];
        let chosen = if uniform & FRACTION < entry & FRACTION { column } else { entry >> 24 };
        self.lowest + chosen as f32
    }
}

/// The bits of a draw, and of a column's threshold, that are not the number of a column.
const FRACTION: u32 = (1 << 24) - 1;

/// Columns of equal height that hold `shares`, whose sum is 256: each that is too low is filled up from one that is too high.
fn aliases(mut shares: [f64; 256]) -> [u32; 256] {
    let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..256).partition(|&column| shares[column] < 1.0);
    // A full column is its own alias.
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

/// Adds noise for three planes, or that of one plane to all three.
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
