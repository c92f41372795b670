//! One reference case: reading `case.toml`, and comparing computed with expected outputs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use spire_model::feedforward::Tiling;

use crate::arrays::{Array, Arrays};

/// A folder with inputs and outputs of a reference implementation.
#[derive(Debug)]
pub struct Case {
    pub folder: PathBuf,
    pub kind: String,
    pub tolerance: f64,
    weights: Option<PathBuf>,
    steps: Option<usize>,
    tile: Option<usize>,
    tile_overlap: Option<usize>,
    seconds: Cell<f64>,
}

/// `case.toml`. Other keys document the origin of the numbers and are ignored.
#[derive(Deserialize)]
struct Description {
    kind: String,
    tolerance: f64,
    weights: Option<PathBuf>,
    steps: Option<usize>,
    tile: Option<usize>,
    tile_overlap: Option<usize>,
}

/// The output with the largest difference.
#[derive(Debug)]
pub struct Worst {
    pub name: String,
    pub difference: f64,
}

/// The computed outputs, by the reference's names.
pub type Outputs = BTreeMap<String, Array>;

/// Checks that a tolerance is valid.
pub fn check_tolerance(tolerance: f64) -> Result<()> {
    ensure!(tolerance >= 0.0 && tolerance.is_finite(), "tolerance = {tolerance} must be 0 or above, and finite");
    Ok(())
}

impl Case {
    pub fn open(folder: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(folder.join("case.toml")).context("case.toml can't be read")?;
        let Description { kind, tolerance, weights, steps, tile, tile_overlap } =
            toml::from_str(&text).context("case.toml is malformed")?;
        check_tolerance(tolerance).context("case.toml")?;
        let folder = folder.to_owned();
        Ok(Self { folder, kind, tolerance, weights, steps, tile, tile_overlap, seconds: Cell::new(0.0) })
    }

    /// The folder with the case's model or scheduler.
    pub fn weights(&self) -> Result<PathBuf> {
        let weights = self.weights.as_ref().context("case.toml: key weights is missing")?;
        let folder = self.folder.join(weights);
        ensure!(folder.is_dir(), "case.toml: weights: no folder {}", folder.display());
        Ok(folder)
    }

    /// The number of sampling steps.
    pub fn steps(&self) -> Result<usize> {
        let steps = self.steps.context("case.toml: key steps is missing")?;
        ensure!(steps > 0, "case.toml: steps must be above 0");
        Ok(steps)
    }

    /// The tiles of a restoration.
    pub fn tiling(&self) -> Result<Tiling> {
        let side = self.tile.context("case.toml: key tile is missing")?;
        let overlap = self.tile_overlap.context("case.toml: key tile_overlap is missing")?;
        Ok(Tiling { side, overlap })
    }

    /// Runs `compute` and adds its time to [`Self::seconds`], without the time for reading weights and inputs.
    pub fn timed<T>(&self, compute: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let output = compute();
        self.seconds.set(self.seconds.get() + start.elapsed().as_secs_f64());
        output
    }

    /// The total time of [`Self::timed`] calls, in seconds.
    pub fn seconds(&self) -> f64 {
        self.seconds.get()
    }

    pub fn arrays(&self) -> Result<Arrays> {
        Arrays::open(self.folder.join("tensors.safetensors"))
    }

    /// Reads the keys of `case.toml` that only cases of this kind have.
    pub fn settings<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let text = std::fs::read_to_string(self.folder.join("case.toml")).context("case.toml can't be read")?;
        toml::from_str(&text).context("case.toml")
    }

    /// Reads a JSON file of the case.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.folder.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}: can't be read", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{}: is malformed", path.display()))
    }
}

/// Names of the expected outputs, sorted.
pub fn expected_names(arrays: &Arrays) -> impl Iterator<Item = &str> {
    arrays.names().filter(|name| name.starts_with("out."))
}

/// Compares every `out.*` of `arrays` with the output of the same name.
///
/// Outputs whose names start with an entry of `optional` may be absent from `arrays`. All other outputs must be
/// expected, and all expected outputs must have been computed.
pub fn compare(
    arrays: &Arrays,
    outputs: &Outputs,
    optional: &[&str],
    measure: fn(&[f64], &[f64]) -> f64,
) -> Result<Worst> {
    for name in outputs.keys() {
        let may_lack = optional.iter().any(|prefix| name.starts_with(prefix));
        ensure!(
            may_lack || expected_names(arrays).any(|expected| expected == name),
            "no tensor {name} to compare with"
        );
    }
    let mut worst: Option<Worst> = None;
    for name in expected_names(arrays) {
        let want = arrays.get(name)?;
        let got = outputs.get(name).with_context(|| format!("{name} is not an output of this kind"))?;
        ensure!(got.shape == want.shape, "{name} has shape {:?}, computed was {:?}", want.shape, got.shape);
        ensure!(!want.values.iter().any(|value| value.is_nan()), "{name} expects values that are not numbers");
        let difference = measure(&got.values, &want.values);
        if worst.as_ref().is_none_or(|worst| difference > worst.difference) {
            worst = Some(Worst { name: name.to_owned(), difference });
        }
    }
    worst.context("no tensor out.* to compare with")
}

/// `max|got − want| / max|want|`; infinite if `got` has a NaN.
pub fn relative_maximum(got: &[f64], want: &[f64]) -> f64 {
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let difference = largest(&mut got.iter().zip(want).map(|(&got, &want)| difference(got, want)));
    let scale = largest(&mut want.iter().map(|value| value.abs()).filter(|value| value.is_finite()));
    quotient(difference, scale)
}

/// Root mean square of `got − want` over that of `want`; infinite if `got` has a NaN.
pub fn relative_root_mean_square(got: &[f64], want: &[f64]) -> f64 {
    let differences: f64 = got.iter().zip(want).map(|(&got, &want)| difference(got, want).powi(2)).sum();
    let squares: f64 = want.iter().map(|want| want.powi(2)).sum();
    quotient(differences.sqrt(), squares.sqrt())
}

/// 0 for equal infinities, infinite for NaN: `f64::max` would ignore NaN.
fn difference(got: f64, want: f64) -> f64 {
    let difference = if got == want { 0.0 } else { (got - want).abs() };
    if difference.is_nan() { f64::INFINITY } else { difference }
}

fn quotient(difference: f64, scale: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_expected_value() {
        assert_eq!(relative_maximum(&[1.0, -3.0], &[1.0, -4.0]), 0.25);
        assert_eq!(relative_root_mean_square(&[3.0, 3.0], &[3.0, 4.0]), 0.2);
        assert_eq!(relative_maximum(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative_maximum(&[1e-9], &[0.0]), f64::INFINITY);
    }

    #[test]
    fn nan_is_infinitely_far() {
        assert_eq!(relative_maximum(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_root_mean_square(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_maximum(&[f64::INFINITY, 1.0], &[f64::INFINITY, 1.0]), 0.0);
        assert_eq!(relative_maximum(&[f64::INFINITY, 1.0], &[2.0, 1.0]), f64::INFINITY);
    }
}
