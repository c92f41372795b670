//! Orders and their jobs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Request, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Site;
use super::problem::Problem;
use super::reply::{self, Reply, content, empty, json};
use super::server::Peer;
use super::upload::Form;
use crate::jobs::order::Order;
use crate::jobs::queue::Full;
use crate::jobs::{Job, Progress, State};

/// An event stream without changes sends a comment after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// `POST /api/restore`: accepts an order. Answers with the job; or, if the client accepts `image/png` alone, waits and
/// answers with the restored picture.
pub async fn order(site: &Site, request: Request<Incoming>) -> Result<Reply, Problem> {
    let headers = request.headers().clone();
    let peer = request.extensions().get::<Peer>().copied();
    let Form { fields, uploads } = site.gate.form::<Order>(request).await?;
    let plan = fields.plan(&site.described).map_err(Problem::bad)?;
    let waits = headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == b"image/png");
    if waits && plan.cells.len() > 1 {
        let message = "an order of several pictures is answered with a job: leave \"Accept: image/png\" out";
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    site.gate.check(&uploads.picture, "the picture", plan.upscale).await?;
    if let Some(truth) = &uploads.truth {
        site.gate.check(truth, "the clean picture", 1.0).await?;
    }
    let job = Arc::new(Job::new(client(&headers, peer), plan, uploads));
    if !site.store.insert(job.clone()) {
        return Err(Problem::busy("too many pictures are waiting; try again in a few seconds"));
    }
    if let Err(full) = site.queue.push(job.clone()) {
        site.store.remove(&job.id);
        return Err(Problem::busy(match full {
            Full::All(bound) => format!("{bound} jobs are waiting already; try again in a few seconds"),
            Full::Client(bound) => format!("{bound} jobs of yours are waiting already; let them finish first"),
        }));
    }
    if waits {
        return wait(site, &job).await;
    }
    let mut reply = json(StatusCode::ACCEPTED, &*job.progress());
    if let Ok(place) = HeaderValue::from_str(&format!("/api/jobs/{}", job.id)) {
        reply.headers_mut().insert(header::LOCATION, place);
    }
    Ok(reply)
}

/// Whose turn a job takes: an address, and a visit of the page there.
fn client(headers: &HeaderMap, peer: Option<Peer>) -> String {
    let visit = headers.get("x-visit").and_then(|visit| visit.to_str().ok()).unwrap_or_default();
    let visit: String = visit.chars().take(40).collect();
    format!("{} {visit}", peer.map_or_else(String::new, |Peer(address)| address.to_string()))
}

/// Waits for the result of a job with one picture. If the client goes away, the job is cancelled.
async fn wait(site: &Site, job: &Arc<Job>) -> Result<Reply, Problem> {
    struct Waiting<'a>(&'a Site, &'a Job);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            // Nobody else knows the job.
            self.1.cancel();
            self.0.queue.sweep();
            self.0.store.remove(&self.1.id);
        }
    }
    let _waiting = Waiting(site, job);
    let mut follower = job.follow();
    let ended = follower.wait_for(|progress| progress.state.is_final()).await;
    let progress = ended.map_err(|_| Problem::no_such("job"))?.clone();
    match progress.state {
        State::Done => Ok(content("image/png", progress.cells[0].picture.clone())),
        State::Failed => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, progress.error.unwrap_or_default())),
        _ => Err(Problem::new(StatusCode::GONE, "the job was cancelled")),
    }
}

fn find(site: &Site, id: &str) -> Result<Arc<Job>, Problem> {
    site.store.get(id).ok_or_else(|| Problem::no_such("job; finished jobs are forgotten after a while"))
}

/// `GET /api/jobs/{id}`
pub fn job(site: &Site, id: &str) -> Result<Reply, Problem> {
    Ok(json(StatusCode::OK, &*find(site, id)?.progress()))
}

/// `DELETE /api/jobs/{id}`: cancels the job; the device is free after its present step. Results are dropped.
pub fn cancel(site: &Site, id: &str) -> Result<Reply, Problem> {
    find(site, id)?.cancel();
    site.queue.sweep();
    site.store.remove(id);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /api/jobs/{id}/pictures/{n}`: the result of a cell, or what it shows so far.
pub fn picture(site: &Site, id: &str, n: usize) -> Result<Reply, Problem> {
    let job = find(site, id)?;
    let picture = job.progress().cells.get(n).map(|cell| cell.picture.clone());
    match picture {
        Some(picture) if !picture.is_empty() => Ok(content("image/png", picture)),
        Some(_) => Err(Problem::new(StatusCode::NOT_FOUND, "this picture is not there yet")),
        None => Err(Problem::no_such("picture")),
    }
}

/// `GET /api/jobs/{id}/events`: the job's state at once and after each change, as server-sent events, to its end.
pub fn events(site: &Site, id: &str) -> Result<Reply, Problem> {
    let mut follower = find(site, id)?.follow();
    follower.mark_changed();
    let states = stream::unfold(Some(follower), |follower| async {
        let mut follower: watch::Receiver<Progress> = follower?;
        match timeout(KEEP_ALIVE, follower.changed()).await {
            // Writing to a connection finds out that it is gone.
            Err(_) => Some((":\n\n".to_owned(), Some(follower))),
            Ok(changed) => {
                changed.ok()?;
                let progress = follower.borrow_and_update().clone();
                let event = format!("data: {}\n\n", serde_json::to_string(&progress).unwrap_or_default());
                Some((event, (!progress.state.is_final()).then_some(follower)))
            }
        }
    });
    Ok(reply::events(states))
}
