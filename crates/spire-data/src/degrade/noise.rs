//! Gaussian and Poisson noise, per colour or the same on all three, as in BasicSR's `degradations.py`.

use rand::RngExt;
use rand_distr::{Distribution, Poisson, StandardNormal};

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
    let bytes: Vec<u8> = if gray { luma(picture) } else { picture.data.iter().map(|&value| to_byte(value)).collect() };
    let mut present = [false; 256];
    bytes.iter().for_each(|&byte| present[usize::from(byte)] = true);
    let levels = present.iter().filter(|&&seen| seen).count().next_power_of_two() as f64;
    let counts: Vec<Option<Poisson<f64>>> =
        (0..256).map(|byte| Poisson::new(f64::from(byte) / 255.0 * levels).ok()).collect();
    let noise: Vec<f32> = bytes
        .iter()
        .map(|&byte| {
            let count = counts[usize::from(byte)].map_or(0.0, |poisson| poisson.sample(rng));
            scale * (count / levels - f64::from(byte) / 255.0) as f32
        })
        .collect();
    add(picture, &noise)
}

/// Adds noise for three planes, or that of one plane to all three.
fn add(picture: &Picture, noise: &[f32]) -> Picture {
    let data = picture.data.iter().zip(noise.iter().cycle());
    let data = data.map(|(value, noise)| (value + noise).clamp(0.0, 1.0)).collect();
    Picture { width: picture.width, height: picture.height, data }
}

/// ITU-R 601 luma in 8 bits, with torchvision's coefficients.
fn luma(picture: &Picture) -> Vec<u8> {
    let (red, green, blue) = (picture.plane(0), picture.plane(1), picture.plane(2));
    let pixels = red.iter().zip(green).zip(blue);
    pixels.map(|((r, g), b)| to_byte(0.2989 * r + 0.587 * g + 0.114 * b)).collect()
}

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
