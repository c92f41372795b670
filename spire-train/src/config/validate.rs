//! `[validate]`: what a run measures and draws while it trains.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use spire_data::prompt;
use spire_eval::evaluation::{EvalConfig, Metric};
use spire_eval::lpips::Backbone;

/// `[validate]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidateSection {
    /// Held-out pictures that are restored and measured; 0 for none.
    pub samples: usize,
    /// Steps between two of these measurements, a multiple of `train.validate_every`, which it is by default. The last step
    /// is followed by one in any case.
    pub restore_every: Option<u64>,
    /// What is measured, as in an evaluation: metrics of single pictures, such as `psnr`, `lpips` and `clip_i`.
    pub metrics: Vec<Metric>,
    /// The metric by which the best checkpoint is chosen; by default the validation loss.
    pub best: Option<Metric>,
    /// Folder with the published weights of the metrics' networks, as in an evaluation.
    pub weights: PathBuf,
    /// The CLIP for CLIP-I and CLIP-T, as in an evaluation.
    pub clip: PathBuf,
    /// The judge for `identity`, as in an evaluation.
    pub judge: PathBuf,
    /// The network of LPIPS, `alex` or `vgg`.
    pub lpips: Backbone,
    /// Pictures that every validation restores, always from the same noise.
    pub pictures: Vec<FixedPicture>,
}

/// `[[validate.pictures]]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixedPicture {
    /// The degraded picture.
    pub degraded: Option<PathBuf>,
    /// The clean picture; without `degraded` it is degraded as `degradation` says.
    pub clean: Option<PathBuf>,
    /// What to do to `clean`, as a restoration prompt with all numbers: `Deblur with sigma 2.0` blurs it.
    pub degradation: Option<String>,
    /// The semantic prompt.
    pub semantic: String,
    /// The restoration prompt; by default `degradation`, or else `Remove all degradation`.
    pub restoration: Option<String>,
}

impl Default for ValidateSection {
    fn default() -> Self {
        let EvalConfig { weights, clip, judge, lpips, .. } = EvalConfig::default();
        Self {
            samples: 0,
            restore_every: None,
            metrics: vec![Metric::Psnr, Metric::Ssim],
            best: None,
            weights,
            clip,
            judge,
            lpips,
            pictures: vec![],
        }
    }
}

impl ValidateSection {
    /// Whether held-out pictures are measured when `done` steps are.
    pub(crate) fn measures_after(&self, done: u64, last: bool) -> bool {
        self.samples > 0 && (last || self.restore_every.is_none_or(|every| done.is_multiple_of(every)))
    }

    /// The configuration of the metrics' networks.
    pub(crate) fn scoring(&self) -> EvalConfig {
        EvalConfig {
            metrics: self.metrics.clone(),
            weights: self.weights.clone(),
            clip: self.clip.clone(),
            judge: self.judge.clone(),
            lpips: self.lpips,
            ..EvalConfig::default()
        }
    }

    /// Checks the section; a validation takes place every `validate_every` steps.
    ///
    /// # Errors
    /// A key is out of range or contradicts another; the error names it.
    pub(crate) fn check(&self, validate_every: u64) -> Result<()> {
        if let Some(every) = self.restore_every {
            ensure!(
                every > 0 && every.is_multiple_of(validate_every),
                "validate.restore_every = {every} must be a multiple of train.validate_every = {validate_every}"
            );
            ensure!(self.samples > 0, "validate.restore_every is set, but validate.samples = 0: nothing is restored");
        }
        if let Some(of_sets) = self.metrics.iter().find(|metric| !metric.is_of_one_picture()) {
            anyhow::bail!(
                "validate.metrics: {} is not measured of single pictures while a run trains: use spire eval",
                of_sets.key()
            );
        }
        ensure!(
            self.samples == 0 || !self.metrics.is_empty(),
            "validate.metrics is empty: there is nothing to measure"
        );
        if let Some(best) = self.best {
            ensure!(
                self.samples > 0 && self.metrics.contains(&best),
                "validate.best = \"{key}\" needs validate.samples above 0, and \"{key}\" in validate.metrics",
                key = best.key()
            );
        }
        self.pictures.iter().enumerate().try_for_each(|(i, picture)| picture.check(&format!("validate.pictures.{i}")))
    }
}

impl FixedPicture {
    fn check(&self, key: &str) -> Result<()> {
        match (&self.degraded, &self.clean, &self.degradation) {
            (Some(_), _, None) => {}
            (None, Some(_), Some(degradation)) => {
                prompt::parse_steps(degradation)
                    .map_err(|error| anyhow::anyhow!("{key}.degradation = \"{degradation}\": {error}"))?;
            }
            (Some(_), _, Some(_)) => anyhow::bail!("{key}: degraded is degraded already: remove degradation"),
            (None, Some(_), None) => anyhow::bail!("{key}: clean needs degradation, which says how it is degraded"),
            (None, None, _) => anyhow::bail!("{key}: name the picture: degraded, or clean with degradation"),
        }
        Ok(())
    }

    /// The restoration prompt.
    pub(crate) fn restoration(&self) -> &str {
        self.restoration.as_deref().or(self.degradation.as_deref()).unwrap_or(prompt::REMOVE_ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_is_named() {
        let checked = |change: fn(&mut ValidateSection)| {
            let mut section = ValidateSection::default();
            change(&mut section);
            section.check(10).map_err(|error| error.to_string())
        };
        assert_eq!(checked(|_| ()), Ok(()));
        for (expected, change) in [
            (
                "validate.restore_every = 15",
                (|section| (section.samples, section.restore_every) = (2, Some(15))) as fn(&mut ValidateSection),
            ),
            ("validate.samples = 0", |section| section.restore_every = Some(20)),
            ("validate.metrics: fid", |section| section.metrics = vec![Metric::Fid]),
            ("validate.best = \"lpips\"", |section| (section.samples, section.best) = (2, Some(Metric::Lpips))),
            ("validate.best = \"psnr\"", |section| section.best = Some(Metric::Psnr)),
            ("validate.pictures.0: name the picture", |section| section.pictures = vec![FixedPicture::default()]),
            ("validate.pictures.0: clean needs degradation", |section| {
                section.pictures = vec![FixedPicture { clean: Some("a.png".into()), ..FixedPicture::default() }];
            }),
            ("validate.pictures.0.degradation = \"Deblur\"", |section| {
                let (clean, degradation) = (Some("a.png".into()), Some("Deblur".into()));
                section.pictures = vec![FixedPicture { clean, degradation, ..FixedPicture::default() }];
            }),
        ] {
            let message = checked(change).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn pictures_are_measured_every_so_often_and_at_the_end() {
        let section = ValidateSection { samples: 3, restore_every: Some(20), ..ValidateSection::default() };
        let measured = |done, last| section.measures_after(done, last);
        assert_eq!([measured(10, false), measured(20, false), measured(30, true)], [false, true, true]);
        assert!(!ValidateSection::default().measures_after(20, true));
    }
}
