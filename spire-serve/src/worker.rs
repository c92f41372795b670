//! The thread that owns the models. It restores one picture of a job at a time, then lets the next client have its turn.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use spire_core::checksum::sha256;
use spire_core::message::with_causes;
use spire_core::{Picture, png_text};
use spire_eval::psnr::psnr;
use spire_eval::ssim::ssim;
use spire_eval::{noise_level, sharpness};
use spire_model::restore::{Request, RestoringStep, restore_watched};
use spire_restore::files::Input;
use spire_restore::provenance::KEYWORD;

use crate::jobs::order::CellPlan;
use crate::jobs::queue::Queue;
use crate::jobs::{Job, State};
use crate::models::{Model, without_paths};

/// Predictions may take this share of the time of a restoration: decoding them is not free.
const PREVIEW_SHARE: f64 = 0.2;

/// Predictions are at least this far apart.
const PREVIEW_INTERVAL: Duration = Duration::from_millis(80);

/// Restores until the queue is closed.
pub fn work(queue: &Queue, models: &[Model]) {
    let mut opened: Option<Opened> = None;
    while let Some(job) = queue.pop() {
        if job.is_cancelled() {
            continue;
        }
        // A panic must end this job alone.
        let turn = catch_unwind(AssertUnwindSafe(|| take_turn(&job, models, &mut opened)));
        let more = turn.unwrap_or_else(|_| {
            opened = None;
            Err(anyhow::anyhow!("the restoration failed because of an error in this program"))
        });
        match more {
            Ok(true) => queue.put_back(job),
            Ok(false) => opened = None,
            // Its pictures were dropped before its turn.
            Err(_) if job.is_cancelled() => opened = None,
            Err(error) => {
                let reason = with_causes(error.as_ref());
                tracing::warn!("a job failed: {reason}");
                job.finish(State::Failed, Some(reason));
                opened = None;
            }
        }
    }
}

/// The decoded pictures of the job that had the last turn.
struct Opened {
    job: String,
    input: Input,
    sha256: String,
    truth: Option<Picture>,
}

impl Opened {
    fn open(job: &Job) -> Result<Self> {
        let uploads = job.uploads().context("the job was cancelled")?;
        let input = Input::decode(&uploads.picture, Path::new("the picture"), job.plan.upscale)?;
        let decode = |bytes: &Bytes| Picture::decode_with_alpha(bytes, Path::new("the clean picture"));
        let truth = uploads.truth.as_ref().map(decode).transpose()?.map(|(truth, _)| truth);
        Ok(Self { job: job.id.clone(), input, sha256: sha256(&uploads.picture), truth })
    }
}

/// Restores the next picture of `job`; returns whether there are more.
fn take_turn(job: &Job, models: &[Model], last: &mut Option<Opened>) -> Result<bool> {
    let opened = match last {
        Some(opened) if opened.job == job.id => opened,
        _ => last.insert(Opened::open(job)?),
    };
    let (total, place) = {
        let progress = job.progress();
        (progress.cells.len(), progress.cells.iter().position(|cell| !cell.done))
    };
    let Some(place) = place else { return Ok(false) };
    job.update(|progress| progress.state = State::Running);
    let began = Instant::now();
    let plan = &job.plan.cells[place];
    let restored = match &plan.restoration {
        Some(restoration) => restore_cell(job, place, plan, restoration, models, opened, began)?,
        None => Some(opened.input.degraded.clone()),
    };
    let Some(restored) = restored else { return Ok(false) };
    let picture = encode(job, plan, models, opened, &restored)?;
    let against = |measure: fn(&Picture, &Picture) -> Option<f64>| {
        opened.truth.as_ref().and_then(|truth| measure(truth, &restored)).filter(|value| value.is_finite())
    };
    let (psnr, ssim) = (against(|a, b| psnr(a, b).ok()), against(|a, b| ssim(a, b).ok()));
    let walk = job.plan.cells.iter().any(|cell| cell.restoration != plan.restoration || cell.semantic != plan.semantic);
    let (sharpness, noise_level) = match walk {
        true => (Some(sharpness(&restored)), Some(noise_level(&restored))),
        false => (None, None),
    };
    job.update(|progress| {
        let cell = &mut progress.cells[place];
        cell.step = cell.steps;
        cell.version += 1;
        cell.done = true;
        cell.picture = picture;
        (cell.psnr, cell.ssim, cell.sharpness, cell.noise_level) = (psnr, ssim, sharpness, noise_level);
    });
    if place + 1 == total {
        job.finish(State::Done, None);
    }
    Ok(place + 1 < total)
}

/// The restored picture; `None` if the job was cancelled.
fn restore_cell(
    job: &Job,
    place: usize,
    plan: &CellPlan,
    restoration: &str,
    models: &[Model],
    opened: &Opened,
    began: Instant,
) -> Result<Option<Picture>> {
    let chosen = &job.plan.models[plan.model];
    let restorer = &models[chosen.index].restorer;
    let request = Request {
        degraded: opened.input.degraded.clone(),
        semantic: plan.semantic.clone(),
        restoration: restoration.to_owned(),
        seed: plan.seed,
    };
    let left = job.plan.cells[place..].iter().filter(|cell| cell.restoration.is_some()).count();
    let mut previews = Previews { last: began, cost: Duration::ZERO };
    let mut watch = |step: &RestoringStep| {
        if job.is_cancelled() {
            return ControlFlow::Break(());
        }
        let picture = previews.picture(step, opened);
        let of_cell = began.elapsed().as_secs_f64() / step.done as f64 * step.steps as f64;
        let seconds = of_cell * left as f64 - began.elapsed().as_secs_f64();
        job.update(|progress| {
            progress.seconds_left = Some(seconds);
            let cell = &mut progress.cells[place];
            (cell.step, cell.steps) = (step.done, step.steps);
            if let Some(picture) = picture {
                cell.version += 1;
                cell.picture = picture;
            }
        });
        ControlFlow::Continue(())
    };
    let restored = restore_watched(&restorer.base, &restorer.control, &chosen.sampling, &[request], &mut watch)?;
    Ok(restored.and_then(|pictures| pictures.into_iter().next()))
}

/// When to show predictions.
struct Previews {
    last: Instant,
    /// The time that the last one took.
    cost: Duration,
}

impl Previews {
    /// The prediction of `step` as a PNG, if it is time for one.
    fn picture(&mut self, step: &RestoringStep, opened: &Opened) -> Option<Bytes> {
        let pause = PREVIEW_INTERVAL.max(self.cost.mul_f64(1.0 / PREVIEW_SHARE - 1.0));
        // The result follows the last step at once.
        if step.done == step.steps || (self.cost > Duration::ZERO && self.last.elapsed() < pause) {
            return None;
        }
        let began = Instant::now();
        let picture = step.predicted().into_iter().next()?;
        let png = png_text::encode(&picture, opened.input.alpha.as_deref(), &[]).ok()?;
        self.last = Instant::now();
        self.cost = began.elapsed();
        Some(png.into())
    }
}

/// The PNG of a result, with its provenance, or of the degraded picture.
fn encode(job: &Job, plan: &CellPlan, models: &[Model], opened: &Opened, restored: &Picture) -> Result<Bytes> {
    let chosen = &job.plan.models[plan.model];
    let text = match &plan.restoration {
        None => None,
        Some(restoration) => {
            let restorer = &models[chosen.index].restorer;
            let sampling = without_paths(chosen.sampling.clone());
            let upscale = job.plan.upscale;
            Some(serde_json::to_string(&restorer.provenance(
                &opened.sha256,
                &plan.semantic,
                restoration,
                plan.seed,
                upscale,
                &sampling,
            ))?)
        }
    };
    let texts: Vec<(&str, &str)> = text.iter().map(|text| (KEYWORD, text.as_str())).collect();
    Ok(png_text::encode(restored, opened.input.alpha.as_deref(), &texts)?.into())
}

/// Starts the worker's thread.
///
/// # Errors
/// The system can't start a thread.
pub fn start(queue: Arc<Queue>, models: Arc<Vec<Model>>) -> Result<std::thread::JoinHandle<()>> {
    let builder = std::thread::Builder::new().name("restoring".into());
    Ok(builder.spawn(move || work(&queue, &models))?)
}
