//! The second-order degradation process of Real-ESRGAN (Wang et al. 2021), with the settings published for x4.
//!
//! Two passes of blur, resize, noise and JPEG. The second ends with a sinc filter and the resize to the final size,
//! before or after JPEG. Two differences from the original: the clean picture is not sharpened first, because the
//! training target is not sharpened either; and JPEG is real JPEG, not a differentiable approximation.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::DegradeError;
use super::draw::{chance, choose, odd, uniform, whole};
use super::kernel::{KernelKind, KernelSpec};
use super::operation::{Course, Operation};
use super::resize::Filter;
use super::setting::{InvalidSetting, Section};
use crate::Picture;
use crate::rng::Rng;

/// Settings of the whole process; the defaults are those of `train_realesrnet_x4plus.yml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealEsrganConfig {
    /// The factor between the sizes of the clean and the degraded picture, before the latter is resized back.
    pub scale: usize,
    /// Sides of the blur kernels in pixels, `[low, high]`, both odd. Only odd sides are drawn. The final sinc filter has
    /// them too.
    pub kernel_size: [usize; 2],
    /// Sides of the second pass's blur kernels; by default `kernel_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_kernel_size: Option<[usize; 2]>,
    /// The first pass.
    pub first: OrderConfig<1>,
    /// Probability that the second pass blurs.
    pub second_blur_probability: f64,
    /// The second pass. Its resize factors are relative to the final size before resizing back.
    pub second: OrderConfig<2>,
    /// Probability of the final sinc filter.
    pub final_sinc_probability: f64,
}

/// Settings of one pass; the defaults of the two passes differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(deserialize = "OrderConfig<ORDER>: Default"))]
pub struct OrderConfig<const ORDER: usize> {
    /// Probability that the blur is a sinc filter.
    pub sinc_probability: f64,
    /// The probabilities of the other kernels: iso, aniso, generalized_iso, generalized_aniso, plateau_iso,
    /// plateau_aniso.
    pub kernel_probabilities: [f64; 6],
    /// Standard deviations of the blur in pixels, `[low, high]`.
    pub blur_sigma: [f64; 2],
    /// Exponent of the generalised kernels, `[low, high]` around 1; half of the time it is drawn below 1.
    pub generalized_beta: [f64; 2],
    /// Exponent of the plateau kernels, `[low, high]` around 1; half of the time it is drawn below 1.
    pub plateau_beta: [f64; 2],
    /// Probabilities of enlarging, reducing and keeping the size.
    pub resize_probabilities: [f64; 3],
    /// The smallest and the largest resize factor, around 1.
    pub resize_factor: [f64; 2],
    /// Probability that the noise is Gaussian; otherwise it is Poisson.
    pub gaussian_noise_probability: f64,
    /// Standard deviation of Gaussian noise in 8-bit levels, `[low, high]`.
    pub noise_sigma: [f64; 2],
    /// Scale of Poisson noise, `[low, high]`; 1 is the physical strength.
    pub poisson_scale: [f64; 2],
    /// Probability that the noise is the same in all channels.
    pub gray_noise_probability: f64,
    /// JPEG quality, `[low, high]` within 1 to 100.
    pub jpeg_quality: [u8; 2],
}

impl Default for RealEsrganConfig {
    fn default() -> Self {
        Self {
            scale: 4,
            kernel_size: [7, 21],
            second_kernel_size: None,
            first: OrderConfig::default(),
            second_blur_probability: 0.8,
            second: OrderConfig::default(),
            final_sinc_probability: 0.8,
        }
    }
}

impl Default for OrderConfig<1> {
    fn default() -> Self {
        Self {
            sinc_probability: 0.1,
            kernel_probabilities: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
            blur_sigma: [0.2, 3.0],
            generalized_beta: [0.5, 4.0],
            plateau_beta: [1.0, 2.0],
            resize_probabilities: [0.2, 0.7, 0.1],
            resize_factor: [0.15, 1.5],
            gaussian_noise_probability: 0.5,
            noise_sigma: [1.0, 30.0],
            poisson_scale: [0.05, 3.0],
            gray_noise_probability: 0.4,
            jpeg_quality: [30, 95],
        }
    }
}

impl Default for OrderConfig<2> {
    fn default() -> Self {
        Self {
            sinc_probability: 0.1,
            kernel_probabilities: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
            blur_sigma: [0.2, 1.5],
            generalized_beta: [0.5, 4.0],
            plateau_beta: [1.0, 2.0],
            resize_probabilities: [0.3, 0.4, 0.3],
            resize_factor: [0.3, 1.2],
            gaussian_noise_probability: 0.5,
            noise_sigma: [1.0, 25.0],
            poisson_scale: [0.05, 2.5],
            gray_noise_probability: 0.4,
            jpeg_quality: [30, 95],
        }
    }
}

impl RealEsrganConfig {
    /// Degrades `clean`; also returns the operations used. The picture keeps its size and stays in \[0, 1\].
    pub(crate) fn degrade(&self, clean: &Picture, rng: &mut Rng) -> Result<(Picture, Vec<Operation>), DegradeError> {
        let mut course = Course::of(clean);
        course.apply(self.first.blur(self.kernel_size, rng), rng)?;
        let factor = self.first.factor(rng);
        course.apply(Operation::Rescale { factor, filter: Filter::random(rng) }, rng)?;
        course.apply(self.first.noise(rng), rng)?;
        course.apply(self.first.jpeg(rng), rng)?;

        if chance(self.second_blur_probability, rng) {
            course.apply(self.second.blur(self.second_kernel_size.unwrap_or(self.kernel_size), rng), rng)?;
        }
        let factor = self.second.factor(rng) / self.scale as f64;
        let scaled = |size: usize| ((size as f64 * factor) as usize).max(1);
        let (width, height) = (scaled(clean.width), scaled(clean.height));
        course.apply(Operation::Resize { width, height, filter: Filter::random(rng) }, rng)?;
        course.apply(self.second.noise(rng), rng)?;

        if chance(0.5, rng) {
            self.shrink_and_ring(&mut course, clean, rng)?;
            course.apply(self.second.jpeg(rng), rng)?;
        } else {
            course.apply(self.second.jpeg(rng), rng)?;
            self.shrink_and_ring(&mut course, clean, rng)?;
        }

        // The picture is rounded to 8 bits, as a file would be, before it is resized back.
        course.picture = Picture::from_rgb8(&course.picture.to_rgb8());
        let back = Operation::Resize { width: clean.width, height: clean.height, filter: Filter::Bicubic };
        course.apply(back, rng)?;
        course.picture.clamp();
        Ok((course.picture, course.done))
    }

    /// Resizes to the final size and applies the final sinc filter.
    fn shrink_and_ring(&self, course: &mut Course, clean: &Picture, rng: &mut Rng) -> Result<(), DegradeError> {
        let scale = self.scale.max(1);
        let (width, height) = ((clean.width / scale).max(1), (clean.height / scale).max(1));
        course.apply(Operation::Resize { width, height, filter: Filter::random(rng) }, rng)?;
        if chance(self.final_sinc_probability, rng) {
            let size = odd(self.kernel_size, rng);
            course.apply(sinc(size, [PI / 3.0, PI], rng), rng)?;
        }
        Ok(())
    }

    pub(super) fn validate(&self) -> Result<(), InvalidSetting> {
        let section = Section("degradation.real_esrgan");
        section.check("scale", &self.scale, self.scale >= 1, "at least 1")?;
        let sizes = [("kernel_size", Some(self.kernel_size)), ("second_kernel_size", self.second_kernel_size)];
        for (key, size) in sizes.into_iter().filter_map(|(key, size)| Some((key, size?))) {
            section.range(key, size, [1, 101])?;
            let odd = size.iter().all(|size| !size.is_multiple_of(2));
            section.check(key, &size, odd, "two odd numbers")?;
        }
        self.first.validate(&Section("degradation.real_esrgan.first"))?;
        section.probability("second_blur_probability", self.second_blur_probability)?;
        self.second.validate(&Section("degradation.real_esrgan.second"))?;
        section.probability("final_sinc_probability", self.final_sinc_probability)
    }
}

impl<const ORDER: usize> OrderConfig<ORDER> {
    fn blur(&self, size: [usize; 2], rng: &mut Rng) -> Operation {
        let size = odd(size, rng);
        if chance(self.sinc_probability, rng) {
            let lowest = if size < 13 { PI / 3.0 } else { PI / 5.0 };
            return sinc(size, [lowest, PI], rng);
        }
        let kinds = [
            KernelKind::Iso,
            KernelKind::Aniso,
            KernelKind::GeneralizedIso,
            KernelKind::GeneralizedAniso,
            KernelKind::PlateauIso,
            KernelKind::PlateauAniso,
        ];
        let kind = choose(kinds, self.kernel_probabilities, rng);
        let [low, high] = match kind {
            KernelKind::PlateauIso | KernelKind::PlateauAniso => self.plateau_beta,
            _ => self.generalized_beta,
        };
        Operation::Blur(KernelSpec {
            kind,
            size,
            sigma_x: uniform(self.blur_sigma, rng),
            sigma_y: uniform(self.blur_sigma, rng),
            theta: uniform([-PI, PI], rng),
            beta: if chance(0.5, rng) { uniform([low, 1.0], rng) } else { uniform([1.0, high], rng) },
        })
    }

    fn factor(&self, rng: &mut Rng) -> f64 {
        let [smallest, largest] = self.resize_factor;
        let range = choose([[1.0, largest], [smallest, 1.0], [1.0, 1.0]], self.resize_probabilities, rng);
        uniform(range, rng)
    }

    fn noise(&self, rng: &mut Rng) -> Operation {
        let gray = chance(self.gray_noise_probability, rng);
        if chance(self.gaussian_noise_probability, rng) {
            Operation::GaussianNoise { sigma: (uniform(self.noise_sigma, rng) / 255.0) as f32, gray }
        } else {
            Operation::PoissonNoise { scale: uniform(self.poisson_scale, rng) as f32, gray }
        }
    }

    fn jpeg(&self, rng: &mut Rng) -> Operation {
        Operation::Jpeg { quality: whole(self.jpeg_quality, rng) }
    }

    fn validate(&self, section: &Section) -> Result<(), InvalidSetting> {
        let around_one = |key, [low, high]: [f64; 2], least: f64| {
            let good = least <= low && low <= 1.0 && (1.0..=100.0).contains(&high);
            section.check(key, &[low, high], good, &format!("[low, high] with {least} <= low <= 1 <= high <= 100"))
        };
        section.probability("sinc_probability", self.sinc_probability)?;
        section.probabilities("kernel_probabilities", self.kernel_probabilities)?;
        section.range("blur_sigma", self.blur_sigma, [0.01, 1000.0])?;
        around_one("generalized_beta", self.generalized_beta, 0.01)?;
        around_one("plateau_beta", self.plateau_beta, 0.01)?;
        section.probabilities("resize_probabilities", self.resize_probabilities)?;
        around_one("resize_factor", self.resize_factor, 0.01)?;
        section.probability("gaussian_noise_probability", self.gaussian_noise_probability)?;
        section.range("noise_sigma", self.noise_sigma, [0.0, 255.0])?;
        section.range("poisson_scale", self.poisson_scale, [0.0, 100.0])?;
        section.probability("gray_noise_probability", self.gray_noise_probability)?;
        section.range("jpeg_quality", self.jpeg_quality, [1, 100])
    }
}

fn sinc(size: usize, cutoff: [f64; 2], rng: &mut Rng) -> Operation {
    let theta = uniform(cutoff, rng);
    Operation::Blur(KernelSpec { kind: KernelKind::Sinc, size, sigma_x: 1.0, sigma_y: 1.0, theta, beta: 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng;

    #[test]
    fn any_size_works_for_many_draws() {
        let config = RealEsrganConfig::default();
        for (index, (width, height)) in [(64, 64), (1, 1), (3, 50), (2, 2), (9, 9)].into_iter().enumerate() {
            let clean = Picture::filled(width, height, [0.0, 0.5, 1.0]);
            for repeat in 0..40 {
                let mut rng = rng(repeat, "test", index as u64);
                let (degraded, _) = config.degrade(&clean, &mut rng).unwrap();
                assert_eq!((degraded.width, degraded.height, degraded.data.len()), (width, height, clean.data.len()));
                assert!(degraded.data.iter().all(|value| (0.0..=1.0).contains(value)));
            }
        }
    }

    #[test]
    fn detail_below_the_scale_is_lost() {
        let mut clean = Picture::filled(64, 64, [0.2; 3]);
        clean.data.iter_mut().step_by(2).for_each(|value| *value = 0.8);
        let contrast = |picture: &Picture| picture.data.windows(2).map(|pair| (pair[0] - pair[1]).abs()).sum::<f32>();
        for index in 0..10 {
            let (degraded, done) = RealEsrganConfig::default().degrade(&clean, &mut rng(0, "test", index)).unwrap();
            assert!((9..=11).contains(&done.len()), "{done:?}");
            assert!(contrast(&degraded) < 0.5 * contrast(&clean));
        }
    }

    #[test]
    fn setting_one_key_of_the_second_pass_keeps_its_other_defaults() {
        let config: RealEsrganConfig = serde_json::from_str(r#"{"second": {"jpeg_quality": [50, 60]}}"#).unwrap();
        assert_eq!(config.second, OrderConfig { jpeg_quality: [50, 60], ..OrderConfig::<2>::default() });
        assert_eq!(config.second.blur_sigma, [0.2, 1.5]);
        assert_eq!(config.first.blur_sigma, [0.2, 3.0]);
    }

    #[test]
    fn the_second_pass_may_have_kernels_of_its_own_size() {
        let clean = Picture::filled(40, 40, [0.2, 0.5, 0.7]);
        let config = RealEsrganConfig {
            kernel_size: [21, 21],
            second_kernel_size: Some([7, 11]),
            second_blur_probability: 1.0,
            final_sinc_probability: 0.0,
            ..RealEsrganConfig::default()
        };
        let mut seconds = vec![];
        for index in 0..40 {
            let (_, done) = config.degrade(&clean, &mut rng(0, "test", index)).unwrap();
            let sizes: Vec<usize> = done
                .iter()
                .filter_map(|operation| match operation {
                    Operation::Blur(kernel) => Some(kernel.size),
                    _ => None,
                })
                .collect();
            let [first, second] = sizes[..] else { panic!("{sizes:?}") };
            assert_eq!(first, 21);
            seconds.push(second);
        }
        seconds.sort_unstable();
        seconds.dedup();
        assert_eq!(seconds, [7, 9, 11]);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let check = |change: fn(&mut RealEsrganConfig)| {
            let mut config = RealEsrganConfig::default();
            change(&mut config);
            config.validate().unwrap_err().key
        };
        assert_eq!(RealEsrganConfig::default().validate(), Ok(()));
        assert_eq!(check(|config| config.scale = 0), "degradation.real_esrgan.scale");
        assert_eq!(check(|config| config.kernel_size = [7, 20]), "degradation.real_esrgan.kernel_size");
        assert_eq!(
            check(|config| config.second_kernel_size = Some([7, 12])),
            "degradation.real_esrgan.second_kernel_size"
        );
        assert_eq!(check(|config| config.first.resize_factor[0] = 1.2), "degradation.real_esrgan.first.resize_factor");
        assert_eq!(
            check(|config| config.second.kernel_probabilities[0] = 0.9),
            "degradation.real_esrgan.second.kernel_probabilities"
        );
    }
}
