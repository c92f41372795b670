//! Restoration guidance: in each step, the picture that is predicted moves towards the first stage's, less where that one has
//! edges. It trades detail for fidelity.

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::pixels::shifted;

/// The original code multiplies its scale by this.
const UNIT: f64 = 3000.0;

/// Red, green and blue in a grey picture, as in the original code.
const GREY: [f32; 3] = [0.2989, 0.5870, 0.1140];

/// Settings of the guidance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RestorationGuidance {
    /// Length of the moves; 0 for none.
    pub scale: f64,
    /// Whether edges of the first stage's picture weigh less.
    #[serde(default = "yes")]
    pub weighted: bool,
    /// Guides at timesteps below this.
    #[serde(default = "beyond_the_noisiest")]
    pub start: usize,
    /// Guides at timesteps from this on.
    #[serde(default)]
    pub stop: usize,
    /// Moves in each step.
    #[serde(default = "once")]
    pub repeat: usize,
}

fn yes() -> bool {
    true
}

fn beyond_the_noisiest() -> usize {
    1000
}

fn once() -> usize {
    1
}

impl RestorationGuidance {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.scale.is_finite(), "restoration_guidance.scale must be a number");
        ensure!((1..=1000).contains(&self.repeat), "restoration_guidance.repeat must be from 1 to 1000");
        Ok(())
    }

    /// Whether a timestep is guided.
    pub fn guides(&self, timestep: usize) -> bool {
        (self.stop..self.start).contains(&timestep)
    }

    /// `clean`, the predicted latent of one picture, after the moves towards `target` `[1, 3, height, width]` in \[-1, 1\].
    /// `rescale` multiplies each move; `decode` maps latents to pictures in \[-1, 1\].
    ///
    /// # Errors
    /// The decoder has no gradient.
    pub fn guide(
        &self,
        mut clean: Tensor<4>,
        target: &Tensor<4>,
        rescale: f64,
        decode: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        let weight = self.weighted.then(|| flatness(target.clone().add_scalar(1.0).div_scalar(2.0)));
        let values: usize = target.dims()[1..].iter().product();
        for _ in 0..self.repeat {
            let latent = clean.clone().autodiff().require_grad();
            let error = decode(latent.clone()) - target.clone();
            let squares = match &weight {
                Some(weight) => error.square() * weight.clone(),
                None => error.square(),
            };
            let loss = squares.sum().div_scalar(values as f64);
            let gradient = latent.grad(&loss.backward()).context("the VAE's decoder has no gradient")?;
            clean = clean - gradient.mul_scalar(UNIT * self.scale * rescale);
        }
        Ok(clean)
    }
}

/// 1 where a picture in \[0, 1\] is flat, 0 at strong edges: `[1, 1, height, width]`, equal in squares of two by two pixels.
fn flatness(picture: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = picture.dims();
    let grey = Tensor::<1>::from_floats(GREY, &picture.device()).reshape([1, 3, 1, 1]);
    let grey = (picture * grey).sum_dim(1);
    // Sobel's operator: a difference across, smoothed along, with the edge repeated.
    let slope = |axis: usize| {
        let along = 5 - axis;
        let smoothed = shifted(&grey, along, -1) + grey.clone().mul_scalar(2.0) + shifted(&grey, along, 1);
        shifted(&smoothed, axis, -1) - shifted(&smoothed, axis, 1)
    };
    let edges = (slope(2).square() + slope(3).square()).sqrt();
    let squares = edges.reshape([height / 2, 2, width / 2, 2]).sum_dim(1).sum_dim(3).tanh();
    let squares = squares.expand([height / 2, 2, width / 2, 2]).reshape([1, 1, height, width]);
    squares.neg().add_scalar(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn edges_weigh_less_than_flat_parts() {
        let values: Vec<f32> = (0..3 * 8 * 8).map(|i| if i % 8 < 4 { 0.0 } else { 1.0 }).collect();
        let picture = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 8, 8]), &Device::flex());
        let row: Vec<f32> = flatness(picture).slice([0..1, 0..1, 3..4, 0..8]).into_data().iter::<f32>().collect();
        assert!(row[0] == 1.0 && row[7] == 1.0 && row[3] < 0.01 && row[4] < 0.01, "{row:?}");
    }

    #[test]
    fn moves_come_closer_to_the_target() {
        let device = Device::flex();
        let guidance = RestorationGuidance { scale: 0.005, weighted: false, start: 1000, stop: 0, repeat: 3 };
        let target = Tensor::<4>::full([1, 3, 2, 2], 0.5, &device);
        let distance = |clean: Tensor<4>| (clean - target.clone()).square().sum().into_scalar::<f32>();
        let clean = Tensor::<4>::zeros([1, 3, 2, 2], &device);
        let guided = guidance.guide(clean.clone(), &target, 0.1, |latent| latent).unwrap();
        assert!(distance(guided) < 0.5 * distance(clean));
        assert!(guidance.guides(999) && guidance.guides(0));
        let late = RestorationGuidance { start: 500, stop: 100, ..guidance };
        assert!(!late.guides(500) && late.guides(100) && !late.guides(99));
    }
}
