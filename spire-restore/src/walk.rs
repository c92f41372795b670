//! A walk through prompts: one picture restored with prompts that change step by step (paper, Figures 6, 7, 8 and 10).

use anyhow::{Result, ensure};
use serde::Serialize;
use spire_core::Picture;
use spire_data::prompt::{self, Fragment, Step};
use spire_eval::{noise_level, sharpness};
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::restorer::Restorer;

/// The most pictures of a walk: one sheet shows all of them.
const MOST_PICTURES: usize = 1000;

/// One picture of a walk.
#[derive(Clone, Debug, Serialize)]
pub struct WalkPicture {
    /// The title below it.
    pub title: String,
    /// The semantic prompt.
    pub semantic: String,
    /// The restoration prompt; `None` for the degraded picture itself.
    pub restoration: Option<String>,
    /// As [`sharpness()`] measures it.
    pub sharpness: f64,
    /// As [`noise_level()`] measures it.
    pub noise_level: f64,
    /// The picture.
    #[serde(skip)]
    pub picture: Picture,
}

/// A grid of pictures.
#[derive(Clone, Debug, Serialize)]
pub struct Walk {
    /// Pictures per row.
    pub columns: usize,
    /// Row after row.
    pub cells: Vec<WalkPicture>,
}

/// Which prompts change along a walk.
#[derive(Clone, Debug)]
pub enum Path {
    /// A grid of strengths: "Denoise with sigma …" in the columns, "Deblur with sigma …" in the rows. 0 leaves the
    /// request out.
    Strengths {
        /// Sigma of each column, for values in \[0, 1\].
        denoise: Vec<f32>,
        /// Sigma of each row, in pixels.
        deblur: Vec<f32>,
        /// The semantic prompt.
        semantic: String,
    },
    /// A row of semantic prompts.
    Semantics {
        /// The prompt of each column; a prompt may be empty.
        prompts: Vec<String>,
        /// The restoration prompt.
        restoration: String,
    },
}

impl Path {
    /// The number of columns, and the prompts of every picture, row after row. A picture without a request is the
    /// degraded one.
    ///
    /// # Errors
    /// There are no steps, or a number is out of range.
    pub fn stops(&self) -> Result<(usize, Vec<Stop>)> {
        match self {
            Self::Strengths { denoise, deblur, semantic } => {
                ensure!(!denoise.is_empty() && !deblur.is_empty(), "a walk needs at least one strength each way");
                let pictures = denoise.len() * deblur.len();
                ensure!(
                    pictures <= MOST_PICTURES,
                    "a walk of {pictures} pictures is too long: at most {MOST_PICTURES}"
                );
                for (name, values, most) in [("denoise", denoise, 1.0), ("deblur", deblur, 100.0)] {
                    let wrong = values.iter().find(|value| !(0.0..=most).contains(*value));
                    ensure!(wrong.is_none(), "{name} {} is not from 0 to {most}", wrong.copied().unwrap_or_default());
                }
                let stop = |blur: f32, noise: f32| {
                    let steps = [Step::Blur { sigma: blur }, Step::Noise { sigma: noise }].map(Step::rounded);
                    let requested: Vec<Fragment> =
                        steps.into_iter().filter(|step| step.number() > 0.0).map(Fragment::Numbered).collect();
                    let restoration = (!requested.is_empty()).then(|| prompt::write(&requested));
                    let title = restoration.clone().unwrap_or_else(|| "degraded".to_owned());
                    Stop { title, semantic: semantic.clone(), restoration }
                };
                let rows = deblur.iter().flat_map(|&blur| denoise.iter().map(move |&noise| stop(blur, noise)));
                Ok((denoise.len(), rows.collect()))
            }
            Self::Semantics { prompts, restoration } => {
                ensure!(!prompts.is_empty(), "a walk needs at least one semantic prompt");
                let degraded = Stop { title: "degraded".to_owned(), semantic: String::new(), restoration: None };
                let stop = |prompt: &String| Stop {
                    title: format!("“{prompt}”"),
                    semantic: prompt.clone(),
                    restoration: Some(restoration.clone()),
                };
                Ok((prompts.len() + 1, std::iter::once(degraded).chain(prompts.iter().map(stop)).collect()))
            }
        }
    }
}

/// A picture of the walk before it is restored.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The title below it.
    pub title: String,
    /// The semantic prompt.
    pub semantic: String,
    /// The restoration prompt; `None` for the degraded picture itself.
    pub restoration: Option<String>,
}

/// Restores `degraded` at every stop of `path`, from the same initial noise, `batch_size` at a time.
///
/// # Errors
/// The path is invalid, or the picture can't be restored.
pub fn walk(
    restorer: &Restorer,
    sampling: &SamplingConfig,
    degraded: &Picture,
    path: &Path,
    seed: u64,
    batch_size: usize,
) -> Result<Walk> {
    let (columns, stops) = path.stops()?;
    let request = |stop: &Stop| {
        let restoration = stop.restoration.clone()?;
        Some(Request { degraded: degraded.clone(), semantic: stop.semantic.clone(), restoration, seed })
    };
    let requests: Vec<Request> = stops.iter().filter_map(request).collect();
    let mut restored = vec![];
    for batch in requests.chunks(batch_size.max(1)) {
        restored.extend(restore(&restorer.base, &restorer.control, sampling, batch)?);
    }
    let mut restored = restored.into_iter();
    let cells = stops.into_iter().map(|Stop { title, semantic, restoration }| {
        let made = if restoration.is_some() { restored.next() } else { None };
        let picture = made.unwrap_or_else(|| degraded.clone());
        let (sharpness, noise_level) = (sharpness(&picture), noise_level(&picture));
        WalkPicture { title, semantic, restoration, sharpness, noise_level, picture }
    });
    Ok(Walk { columns, cells: cells.collect() })
}

impl Walk {
    /// The pictures with their captions, for [`grid`](spire_core::sheet::grid).
    pub fn captioned(&self) -> Vec<(Picture, String)> {
        let caption = |cell: &WalkPicture| {
            (
                cell.picture.clone(),
                format!("{}\nsharpness {:.3}, noise {:.3}", cell.title, cell.sharpness, cell.noise_level),
            )
        };
        self.cells.iter().map(caption).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_become_prompts_and_zero_is_the_degraded_picture() {
        let path = Path::Strengths { denoise: vec![0.0, 0.06], deblur: vec![0.0, 3.0], semantic: "a star".into() };
        let (columns, stops) = path.stops().unwrap();
        let prompts: Vec<Option<&str>> = stops.iter().map(|stop| stop.restoration.as_deref()).collect();
        assert_eq!(columns, 2);
        let expected = [
            None,
            Some("Denoise with sigma 0.06"),
            Some("Deblur with sigma 3.0"),
            Some("Deblur with sigma 3.0; Denoise with sigma 0.06"),
        ];
        assert_eq!(prompts, expected);
        for (denoise, message) in [
            (vec![], "at least one strength"),
            (vec![-0.1], "denoise -0.1 is not from 0 to 1"),
            (vec![f32::NAN], "denoise NaN is not from 0 to 1"),
            (vec![2.0], "denoise 2 is not from 0 to 1"),
        ] {
            let path = Path::Strengths { denoise, deblur: vec![1.0], semantic: String::new() };
            let error = path.stops().map(|(columns, _)| columns).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
