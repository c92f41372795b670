//! The pictures of `[[validate.pictures]]`: every validation restores the same ones from the same noise, so that their sheets
//! show what changed in the branch.

use std::path::Path;

use anyhow::{Context, Result};
use spire_core::Picture;
use spire_core::rng::rng;
use spire_core::sheet::{Note, Row, Sheet};
use spire_data::{degrade, prompt};
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::config::FixedPicture;

/// The most pixels of the longer side of a picture on a sheet.
const LONGEST: usize = 512;

/// The pictures, opened and degraded.
#[derive(Debug)]
pub(super) struct FixedPictures {
    pictures: Vec<(Request, Option<Picture>)>,
}

impl FixedPictures {
    /// Opens the pictures. A clean one is degraded as `spire degrade` does it. The initial noise of the n-th has seed n.
    ///
    /// # Errors
    /// A picture can't be read or degraded; the error names its key.
    pub fn open(sections: &[FixedPicture]) -> Result<Self> {
        let open = |(n, section): (usize, &FixedPicture)| {
            let picture = |path: &Path| Picture::open(path).map_err(anyhow::Error::from);
            let read = || {
                let clean = section.clean.as_deref().map(picture).transpose()?;
                let degraded = match (&section.degraded, &clean, &section.degradation) {
                    (Some(degraded), ..) => picture(degraded)?,
                    (None, Some(clean), Some(how)) => {
                        degrade::apply(&prompt::parse_steps(how)?, clean, &mut rng(0, "degrade", 0))?.0
                    }
                    _ => anyhow::bail!("no picture is named"),
                };
                let (semantic, restoration) = (section.semantic.clone(), section.restoration().to_owned());
                Ok((Request { degraded, semantic, restoration, seed: n as u64 }, clean))
            };
            read().with_context(|| format!("validate.pictures.{n}"))
        };
        Ok(Self { pictures: sections.iter().enumerate().map(open).collect::<Result<_>>()? })
    }

    /// A sheet of the restored pictures beside the degraded ones, and beside the clean ones where these are known. `None` if
    /// there are no pictures.
    ///
    /// # Errors
    /// As [`restore`].
    pub fn sheet(&self, base: &Base, control: &Control, sampling: &SamplingConfig) -> Result<Option<Sheet>> {
        if self.pictures.is_empty() {
            return Ok(None);
        }
        let clean = self.pictures.iter().any(|(_, clean)| clean.is_some()).then_some("clean");
        let mut sheet = Sheet::new(["degraded", "restored"].into_iter().chain(clean));
        for (request, clean) in &self.pictures {
            let restored = restore(base, control, sampling, std::slice::from_ref(request))?;
            let shown = std::iter::once(&request.degraded).chain(&restored).chain(clean);
            sheet.rows.push(Row {
                pictures: shown.map(|picture| degrade::resize::at_most(picture, LONGEST)).collect(),
                notes: vec![
                    Note::new("semantic prompt", &request.semantic),
                    Note::new("restoration prompt", &request.restoration),
                ],
            });
        }
        Ok(Some(sheet))
    }
}
