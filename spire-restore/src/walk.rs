//! A walk through prompts: one picture restored with prompts that change step by step (paper, Figures 6, 7, 8 and 10).

use anyhow::{Result, ensure};
use serde::Serialize;
use spire_core::Picture;
use spire_data::prompt::{self, Fragment, Step, StepKind};
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

/// The numbers that a walk requests of one degradation; 0 leaves the request out.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The degradation.
    pub kind: StepKind,
    /// Sigma in pixels of a blur, factor of a downsampling, sigma of noise for values in \[0, 1\], quality of JPEG.
    pub numbers: Vec<f32>,
}

/// Which prompts change along a walk.
#[derive(Clone, Debug)]
pub enum Path {
    /// A grid of strengths.
    Strengths {
        /// What changes from row to row; `None` for a single row.
        rows: Option<Axis>,
        /// What changes from column to column.
        columns: Axis,
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

impl Axis {
    /// The request for `number` of it; `None` for 0.
    fn step(&self, number: f32) -> Option<Step> {
        let step = match self.kind {
            StepKind::Blur => Step::Blur { sigma: number },
            StepKind::Downsample => Step::Downsample { factor: number },
            StepKind::Noise => Step::Noise { sigma: number },
            StepKind::Jpeg => Step::Jpeg { quality: number.round() as u8 },
        };
        Some(step.rounded()).filter(|step| step.number() > 0.0)
    }

    fn check(&self) -> Result<()> {
        let name = task(self.kind);
        ensure!(!self.numbers.is_empty(), "a walk needs at least one number of {name}");
        let [least, most] = match self.kind {
            StepKind::Noise => [0.0, 1.0],
            StepKind::Downsample => [1.0, 100.0],
            StepKind::Blur | StepKind::Jpeg => [0.0, 100.0],
        };
        let wrong = self.numbers.iter().find(|&&number| number != 0.0 && !(least..=most).contains(&number));
        ensure!(wrong.is_none(), "{name} {} is not 0 or from {least} to {most}", wrong.copied().unwrap_or_default());
        Ok(())
    }
}

/// The name of what a prompt asks for, as commands and the interface for programs have it.
fn task(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Blur => "deblur",
        StepKind::Downsample => "upsample",
        StepKind::Noise => "denoise",
        StepKind::Jpeg => "dejpeg",
    }
}

/// The axes of the four tasks, in the order of a prompt. An axis without numbers is not part of a walk.
pub fn axes(deblur: Vec<f32>, upsample: Vec<f32>, denoise: Vec<f32>, dejpeg: Vec<f32>) -> [Axis; 4] {
    [
        Axis { kind: StepKind::Blur, numbers: deblur },
        Axis { kind: StepKind::Downsample, numbers: upsample },
        Axis { kind: StepKind::Noise, numbers: denoise },
        Axis { kind: StepKind::Jpeg, numbers: dejpeg },
    ]
}

impl Path {
    /// The grid over the one or two of `axes` that have numbers: the first one's in the rows, the second one's in the
    /// columns; a single one's in the columns. `None` if none has numbers.
    ///
    /// # Errors
    /// More than two have numbers.
    pub fn over(axes: [Axis; 4], semantic: String) -> Result<Option<Self>> {
        let mut given: Vec<Axis> = axes.into_iter().filter(|axis| !axis.numbers.is_empty()).collect();
        ensure!(
            given.len() < 3,
            "a walk has rows and columns: give numbers of two of deblur, upsample, denoise and dejpeg, not of {}",
            given.len()
        );
        let columns = given.pop();
        Ok(columns.map(|columns| Self::Strengths { rows: given.pop(), columns, semantic }))
    }

    /// The number of columns, and the prompts of every picture, row after row. A picture without a request is the
    /// degraded one.
    ///
    /// # Errors
    /// There are no steps, or a number is out of range.
    pub fn stops(&self) -> Result<(usize, Vec<Stop>)> {
        match self {
            Self::Strengths { rows, columns, semantic } => {
                rows.iter().chain([columns]).try_for_each(Axis::check)?;
                let row_count = rows.as_ref().map_or(1, |rows| rows.numbers.len());
                let pictures = row_count * columns.numbers.len();
                ensure!(
                    pictures <= MOST_PICTURES,
                    "a walk of {pictures} pictures is too long: at most {MOST_PICTURES}"
                );
                let stop = |row: usize, column: usize| {
                    let of_row = rows.as_ref().and_then(|rows| rows.step(rows.numbers[row]));
                    let steps = of_row.into_iter().chain(columns.step(columns.numbers[column]));
                    let requested: Vec<Fragment> = steps.map(Fragment::Numbered).collect();
                    let restoration = (!requested.is_empty()).then(|| prompt::write(&requested));
                    let title = restoration.clone().unwrap_or_else(|| "degraded".to_owned());
                    Stop { title, semantic: semantic.clone(), restoration }
                };
                let per_row = columns.numbers.len();
                Ok((per_row, (0..pictures).map(|n| stop(n / per_row, n % per_row)).collect()))
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

    fn prompts(numbers: [&[f32]; 4]) -> Result<(usize, Vec<Option<String>>)> {
        let [deblur, upsample, denoise, dejpeg] = numbers.map(<[f32]>::to_vec);
        let path = Path::over(axes(deblur, upsample, denoise, dejpeg), "a star".into())?;
        let (columns, stops) = path.unwrap().stops()?;
        Ok((columns, stops.into_iter().map(|stop| stop.restoration).collect()))
    }

    #[test]
    fn strengths_become_prompts_and_zero_is_the_degraded_picture() {
        let expected = [
            None,
            Some("Denoise with sigma 0.06".to_owned()),
            Some("Deblur with sigma 3.0".to_owned()),
            Some("Deblur with sigma 3.0; Denoise with sigma 0.06".to_owned()),
        ];
        assert_eq!(prompts([&[0.0, 3.0], &[], &[0.0, 0.06], &[]]).unwrap(), (2, expected.into()));
        let (columns, row) = prompts([&[], &[2.0], &[], &[10.0, 20.4]]).unwrap();
        assert_eq!((columns, row[1].as_deref()), (2, Some("Upsample to 2.0x; Dejpeg with quality 20")));
        assert_eq!(prompts([&[], &[], &[], &[0.0, 20.0]]).unwrap().1[0], None);
        assert!(Path::over(axes(vec![], vec![], vec![], vec![]), String::new()).unwrap().is_none());
    }

    #[test]
    fn numbers_out_of_range_and_a_third_axis_are_errors() {
        for (numbers, message) in [
            ([&[][..], &[], &[-0.1], &[]], "denoise -0.1 is not 0 or from 0 to 1"),
            ([&[], &[], &[f32::NAN], &[]], "denoise NaN is not"),
            ([&[], &[0.5], &[], &[]], "upsample 0.5 is not 0 or from 1 to 100"),
            ([&[], &[], &[], &[101.0]], "dejpeg 101 is not"),
            ([&[1.0], &[2.0], &[0.1], &[]], "not of 3"),
            ([&[1.0; 40], &[], &[0.1; 40], &[]], "1600 pictures is too long"),
        ] {
            let error = prompts(numbers).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
