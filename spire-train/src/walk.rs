//! Walks through prompts: one picture restored with prompts that change step by step (the paper's Figures 6, 7, 8 and 10).

use anyhow::{Result, ensure};
use serde::Serialize;
use spire_data::Picture;
use spire_data::prompt::{self, Fragment, Step};
use spire_eval::{noise_level, sharpness};
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::restore_files::Restorer;

/// One picture of a walk.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What stands under it.
    pub title: String,
    /// What the model was told the picture shows.
    pub semantic: String,
    /// What it was told to undo; `None` for the degraded picture itself.
    pub restoration: Option<String>,
    /// See [`sharpness`].
    pub sharpness: f64,
    /// See [`noise_level`].
    pub noise_level: f64,
    /// The picture.
    #[serde(skip)]
    pub picture: Picture,
}

/// A grid of pictures.
#[derive(Clone, Debug, Serialize)]
pub struct Walk {
    /// Pictures a row.
    pub columns: usize,
    /// Row after row.
    pub cells: Vec<Cell>,
}

/// What changes along a walk.
#[derive(Clone, Debug)]
pub enum Path {
    /// Columns: "Denoise with sigma …"; rows: "Deblur with sigma …"; 0 stands for no such request.
    Strengths {
        /// Of the columns, on an image in \[0, 1\].
        denoise: Vec<f32>,
        /// Of the rows, in pixels.
        deblur: Vec<f32>,
        /// What the picture shows.
        semantic: String,
    },
    /// One row: what the picture shows.
    Semantics {
        /// Of the columns; may be empty.
        prompts: Vec<String>,
        /// What is undone.
        restoration: String,
    },
}

impl Path {
    /// The prompts of each cell, row after row, and how many there are in a row. Without a request a cell is the degraded
    /// picture.
    ///
    /// # Errors
    /// There are no steps, or a number is out of range.
    fn cells(&self) -> Result<(usize, Vec<Stop>)> {
        match self {
            Self::Strengths { denoise, deblur, semantic } => {
                ensure!(!denoise.is_empty() && !deblur.is_empty(), "a walk needs at least one strength each way");
                for (name, values, most) in [("denoise", denoise, 1.0), ("deblur", deblur, 100.0)] {
                    let wrong = values.iter().find(|value| !(0.0..=most).contains(*value));
                    ensure!(wrong.is_none(), "{name} {} is not from 0 to {most}", wrong.copied().unwrap_or_default());
                }
                let stop = |blur: f32, noise: f32| {
                    let steps = [Step::Blur { sigma: blur }, Step::Noise { sigma: noise }].map(Step::rounded);
                    let asked: Vec<Fragment> =
                        steps.into_iter().filter(|step| step.number() > 0.0).map(Fragment::Numbered).collect();
                    let restoration = (!asked.is_empty()).then(|| prompt::write(&asked));
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

/// A cell before its picture is made.
struct Stop {
    title: String,
    semantic: String,
    restoration: Option<String>,
}

/// Restores `degraded` at every stop of the path, from the same noise, `batch_size` at a time.
///
/// # Errors
/// The path makes no sense, or the picture can't be restored.
pub fn walk(
    restorer: &Restorer,
    sampling: &SamplingConfig,
    degraded: &Picture,
    path: &Path,
    seed: u64,
    batch_size: usize,
) -> Result<Walk> {
    let (columns, stops) = path.cells()?;
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
        Cell { title, semantic, restoration, sharpness, noise_level, picture }
    });
    Ok(Walk { columns, cells: cells.collect() })
}

impl Walk {
    /// The pictures with their captions, for [`grid`](crate::sheet::grid).
    pub fn captioned(&self) -> Vec<(Picture, String)> {
        let caption = |cell: &Cell| {
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
    fn strengths_become_prompts_and_nothing_asked_is_the_degraded_picture() {
        let path = Path::Strengths { denoise: vec![0.0, 0.06], deblur: vec![0.0, 3.0], semantic: "a star".into() };
        let (columns, stops) = path.cells().unwrap();
        let prompts: Vec<Option<&str>> = stops.iter().map(|stop| stop.restoration.as_deref()).collect();
        assert_eq!(columns, 2);
        let expected = [
            None,
            Some("Denoise with sigma 0.06"),
            Some("Deblur with sigma 3.0"),
            Some("Deblur with sigma 3.0; Denoise with sigma 0.06"),
        ];
        assert_eq!(prompts, expected);
        for wrong in [vec![], vec![-0.1], vec![f32::NAN], vec![2.0]] {
            let path = Path::Strengths { denoise: wrong, deblur: vec![1.0], semantic: String::new() };
            assert!(path.cells().is_err());
        }
    }
}
