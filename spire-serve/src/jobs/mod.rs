//! Jobs: what a client orders ([`order`]), the waiting line ([`queue`]), what is kept ([`store`]).

pub mod order;
pub mod queue;
pub mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use order::Plan;

/// The pictures that a client sent, as files.
#[derive(Clone, Debug, Default)]
pub struct Uploads {
    /// The degraded picture.
    pub picture: Bytes,
    /// The clean picture, if it is known.
    pub truth: Option<Bytes>,
}

/// An order that was accepted.
#[derive(Debug)]
pub struct Job {
    /// Random, so that no other client can guess it.
    pub id: String,
    /// Whose turn the job takes.
    pub client: String,
    /// What to restore, and how.
    pub plan: Plan,
    /// Until the job is finished.
    uploads: Mutex<Option<Uploads>>,
    progress: watch::Sender<Progress>,
    cancelled: AtomicBool,
    /// When somebody last followed the job.
    followed: Mutex<Instant>,
}

/// The state of a job, as clients see it.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    pub id: String,
    pub state: State,
    /// Jobs that are served before this one gets its next turn, while it waits.
    pub ahead: usize,
    /// Cells per row.
    pub columns: usize,
    pub cells: Vec<Cell>,
    /// Seconds until the job is finished, once its speed is known; time in the queue is not counted.
    pub seconds_left: Option<f64>,
    /// Why the job failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub finished: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Waiting,
    Running,
    Done,
    Failed,
    Cancelled,
}

/// One picture of a job.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    pub title: String,
    pub model: String,
    pub semantic: String,
    /// `None`: the degraded picture itself.
    pub restoration: Option<String>,
    pub seed: u64,
    /// Steps done.
    pub step: usize,
    /// Steps of the restoration; 0 until it starts.
    pub steps: usize,
    /// Counts the pictures that this cell has shown: predictions first, then the result. 0: there is none yet.
    pub version: u32,
    /// Whether the picture is the result.
    pub done: bool,
    /// Against the clean picture in dB, if it is known and has the same size; the same for SSIM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
    /// Sharpness and noise level of a walk's picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<f64>,
    /// A PNG.
    #[serde(skip)]
    pub picture: Bytes,
}

impl State {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl Job {
    pub fn new(client: String, plan: Plan, uploads: Uploads) -> Self {
        let id = format!("{:032x}", rand::random::<u128>());
        let cells = plan.cells.iter().map(|cell| Cell {
            title: cell.title.clone(),
            model: plan.models[cell.model].name.clone(),
            semantic: cell.semantic.clone(),
            restoration: cell.restoration.clone(),
            seed: cell.seed,
            ..Cell::default()
        });
        let progress = Progress {
            id: id.clone(),
            state: State::Waiting,
            ahead: 0,
            columns: plan.columns,
            cells: cells.collect(),
            seconds_left: None,
            error: None,
            finished: None,
        };
        Self {
            id,
            client,
            plan,
            uploads: Mutex::new(Some(uploads)),
            progress: watch::Sender::new(progress),
            cancelled: AtomicBool::new(false),
            followed: Mutex::new(Instant::now()),
        }
    }

    /// The uploaded pictures, until the job is finished.
    pub fn uploads(&self) -> Option<Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the job: the receiver sees every later change.
    pub fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The state now.
    pub fn progress(&self) -> watch::Ref<'_, Progress> {
        self.progress.borrow()
    }

    /// Changes the state, unless it is final.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_if_modified(|progress| {
            let open = !progress.state.is_final();
            if open {
                change(progress);
            }
            open
        });
    }

    /// Ends the job and frees the uploads. Later changes are ignored.
    pub fn finish(&self, state: State, error: Option<String>) {
        self.update(|progress| {
            progress.state = state;
            progress.error = error;
            progress.seconds_left = None;
            progress.ahead = 0;
            progress.finished = Some(Instant::now());
        });
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks for the end of the job: the worker stops at its next step. Clients see it at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.finish(State::Cancelled, None);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// When somebody last followed the job. Ask regularly: this is also where it is found out.
    pub fn last_followed(&self, now: Instant) -> Instant {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.progress.receiver_count() > 0 {
            *followed = now;
        }
        *followed
    }

    /// Bytes that the job keeps in memory.
    pub fn bytes(&self) -> usize {
        let of_uploads =
            |uploads: &Uploads| uploads.picture.len() + uploads.truth.as_ref().map_or(0, |truth| truth.len());
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let results: usize = self.progress.borrow().cells.iter().map(|cell| cell.picture.len()).sum();
        uploads.as_ref().map_or(0, of_uploads) + results
    }
}
