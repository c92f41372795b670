//! Range checks of settings.

use std::fmt::Debug;

use thiserror::Error;

/// A setting that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key} = {value}: must be {allowed}")]
pub struct InvalidSetting {
    /// The full key, such as `degradation.parameterized.blur_sigma`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The values that are allowed.
    pub allowed: String,
}

/// Names the section that the checked keys are in.
pub(crate) struct Section<'a>(pub(crate) &'a str);

impl Section<'_> {
    pub(crate) fn probability(&self, key: &str, value: f64) -> Result<(), InvalidSetting> {
        self.check(key, &value, (0.0..=1.0).contains(&value), "from 0 to 1")
    }

    pub(crate) fn probabilities<const N: usize>(&self, key: &str, values: [f64; N]) -> Result<(), InvalidSetting> {
        let each = values.iter().all(|value| (0.0..=1.0).contains(value));
        let sum = (values.iter().sum::<f64>() - 1.0).abs() < 1e-6;
        self.check(key, &values, each && sum, "from 0 to 1 each, with sum 1")
    }

    /// `[low, high]` with `least <= low <= high <= most`.
    pub(crate) fn range<T: Copy + PartialOrd + Debug>(
        &self,
        key: &str,
        [low, high]: [T; 2],
        [least, most]: [T; 2],
    ) -> Result<(), InvalidSetting> {
        let allowed = format!("[low, high] with {least:?} <= low <= high <= {most:?}");
        self.check(key, &[low, high], least <= low && low <= high && high <= most, &allowed)
    }

    pub(crate) fn check(&self, key: &str, value: &dyn Debug, good: bool, allowed: &str) -> Result<(), InvalidSetting> {
        if good {
            return Ok(());
        }
        let key = format!("{}.{key}", self.0);
        Err(InvalidSetting { key, value: format!("{value:?}"), allowed: allowed.to_owned() })
    }
}
