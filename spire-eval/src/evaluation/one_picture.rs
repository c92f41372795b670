//! The scores of a single restored picture, for a run that trains.

use std::collections::BTreeMap;

use anyhow::Result;
use spire_data::Picture;

use super::measurement::{FeatureSpace, Measurement};
use super::metric::Metric;
use super::scorer::{Scorer, Subject};
use crate::clip_space::cosine;
use crate::judge::identity;

impl Scorer {
    /// The scores of `restored`, by the configured metrics [of one picture](Metric::is_of_one_picture). A picture without a
    /// caption has no CLIP-T; one whose caption names no kind has no identity.
    ///
    /// # Errors
    /// The sizes differ, or a picture is too small for a metric.
    pub fn score_picture(&self, restored: Picture, clean: Picture, caption: &str) -> Result<BTreeMap<Metric, f64>> {
        let subject = |picture, clean, judged| Subject { picture, clean, judged };
        let measured = self.measure(&[subject(restored, Some(clean.clone()), true), subject(clean, None, false)])?;
        let row = |which: usize, space: FeatureSpace| {
            measured.get(which).and_then(|found: &Measurement| found.features.get(&space)).map(|row| &row.0)
        };
        let mut scores: BTreeMap<Metric, f64> = measured.first().map(|found| found.values.clone()).unwrap_or_default();
        if let (Some(restored), Some(clean)) = (row(0, FeatureSpace::Clip), row(1, FeatureSpace::Clip)) {
            scores.insert(Metric::ClipI, cosine(clean, restored));
            if let Some(text) = self.caption(caption)? {
                scores.insert(Metric::ClipT, cosine(&text, restored));
            }
        }
        let (asked, _) = self.kinds(caption);
        if let Some(logits) = row(0, FeatureSpace::Judge).filter(|_| !asked.is_empty()) {
            scores.insert(Metric::Identity, identity(&asked, &self.found(logits, asked.len())));
        }
        scores.retain(|metric, _| self.has(*metric));
        Ok(scores)
    }
}
